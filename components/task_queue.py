"""The queue between the web app and the handler, and the dead-letter queue.

Owns both queues, who may add to the first, and the handler's rights on the second. Writes every rate and retry figure,
because the server keeps the old value of a figure that is left out. A change of name or region replaces a queue, which
causes a warning. A dead-letter queue that is not paused is an error.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

import pulumi
from pulumi_gcp import cloudtasks

from components.apis import HandlerAccess, Scope, after

DEAD_LETTERS_PER_SECOND = 5.0
"""Low, because a replay adds to the load of the main queue."""
_DEAD_LETTER_ROLES = ("enqueuer", "taskDeleter", "viewer")


class TaskQueueArgs(Scope, HandlerAccess):
    """docs/settings.md says what each setting means."""

    max_dispatches_per_second: float
    max_concurrent_dispatches: int
    max_attempts: int
    retry_until_handled: bool
    min_backoff_seconds: float
    max_backoff_seconds: float
    max_doublings: int
    attempt_log_ratio: float
    handler_path: str
    producers: Sequence[str]
    dead_letter_concurrency: int
    """Dead letters that a replay sends at once."""


class TaskQueue(pulumi.ComponentResource):
    """cloud-run-tasks:index:TaskQueue. Produces: Queue `<name>`, Queue `<name>-dead-letters`, QueueIamMember
    `<name>-dead-letters-<role>` three times, and `<name>-enqueuer-<member>` per producer."""

    path: pulumi.Output[str]
    """`projects/P/locations/L/queues/Q`; known when the producers may add tasks."""
    name: pulumi.Output[str]
    """The queue's short name; known when the handler can store what fails. A new producer does not change it."""
    dead_letter_path: pulumi.Output[str]
    """Path of the dead-letter queue; known when the handler may use it."""

    def __init__(self, name: str, args: TaskQueueArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        # the path is an input so that the engine calls the hook with the old and the new one
        moved = pulumi.ResourceHook(f"{name}-moved", warn_of_a_move, pulumi.ResourceHookOptions(on_dry_run=True))
        super().__init__(
            "cloud-run-tasks:index:TaskQueue",
            name,
            {"path": f"projects/{args['project']}/locations/{args['location']}/queues/{args['queue_name']}"},
            pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(hooks=pulumi.ResourceHookBinding(before_update=[moved]))
            ),
        )
        child = pulumi.ResourceOptions(parent=self)
        for_queue = pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["cloudtasks"]])
        target: cloudtasks.QueueHttpTargetArgsDict = {
            "uri_override": pulumi.Output.from_input(args["service_url"]).apply(
                lambda url: _override(url, args["handler_path"])
            ),
            "oidc_token": {"service_account_email": args["invoker_email"], "audience": args["audience"]},
        }
        ratio = args["attempt_log_ratio"]
        # the provider never sends a ratio of 0, so the block would be a change in every preview
        logging: cloudtasks.QueueStackdriverLoggingConfigArgsDict | None = {"sampling_ratio": ratio} if ratio else None
        queue = cloudtasks.Queue(
            name,
            project=args["project"],
            location=args["location"],
            name=args["queue_name"],
            rate_limits={
                "max_dispatches_per_second": args["max_dispatches_per_second"],
                "max_concurrent_dispatches": args["max_concurrent_dispatches"],
            },
            retry_config={
                "max_attempts": -1 if args["retry_until_handled"] else args["max_attempts"],
                "min_backoff": _duration(args["min_backoff_seconds"]),
                "max_backoff": _duration(args["max_backoff_seconds"]),
                "max_doublings": args["max_doublings"],
                "max_retry_duration": "0s",
            },
            http_target=target,
            stackdriver_logging_config=logging,
            opts=for_queue,
        )
        dead_letters = cloudtasks.Queue(
            f"{name}-dead-letters",
            project=args["project"],
            location=args["location"],
            name=args["dead_letter_queue"].rpartition("/")[2],
            desired_state="PAUSED",
            rate_limits={
                "max_dispatches_per_second": DEAD_LETTERS_PER_SECOND,
                "max_concurrent_dispatches": args["dead_letter_concurrency"],
            },
            # a replay ends before the first retry, so it tries each entry once
            retry_config={
                "max_attempts": -1,
                "min_backoff": "3600s",
                "max_backoff": "86400s",
                "max_doublings": 5,
                "max_retry_duration": "0s",
            },
            http_target={"http_method": "POST", **target},
            stackdriver_logging_config=logging,
            opts=for_queue,
        )
        store = dead_letters.name
        if not pulumi.runtime.is_dry_run():
            # the provider creates the queue, then pauses it; Pulumi never notices if the second call failed
            store = pulumi.Output.all(dead_letters.id, dead_letters.state).apply(lambda found: _paused(*found))
        handler_grants = [
            cloudtasks.QueueIamMember(
                f"{name}-dead-letters-{role}",
                project=args["project"],
                location=args["location"],
                name=store,
                role=f"roles/cloudtasks.{role}",
                member=args["handler_member"],
                opts=child,
            )
            for role in _DEAD_LETTER_ROLES
        ]
        grants = [
            cloudtasks.QueueIamMember(
                f"{name}-enqueuer-{member}",
                project=args["project"],
                location=args["location"],
                name=queue.name,
                role="roles/cloudtasks.enqueuer",
                member=member,
                # nobody may add an order before the handler can store the ones that fail
                opts=pulumi.ResourceOptions(parent=self, depends_on=handler_grants),
            )
            for member in args["producers"]
        ]
        self.dead_letter_path = after(dead_letters.id, handler_grants)
        self.name = after(queue.name, handler_grants)
        self.path = after(queue.id, [*handler_grants, *grants])
        self.register_outputs({"path": self.path, "dead_letter_path": self.dead_letter_path})


def warn_of_a_move(hook: pulumi.ResourceHookArgs) -> None:
    """Called by the engine if a preview or an update changes the queue's path."""
    before, after = (inputs and inputs.get("path") for inputs in (hook.old_inputs, hook.new_inputs))
    if before and before != after:
        pulumi.log.warn(
            f"{before} will be replaced by {after}: the queue, its dead-letter queue and all their tasks are deleted, "
            "and both names stay blocked for 3 to 7 days. Let both queues run empty first"
        )


def _paused(path: str, state: str | None) -> str:
    """Return the short name of the dead-letter queue, or raise if the queue is not paused."""
    _, project, _, location, _, name = path.split("/")
    if state != "PAUSED":
        raise pulumi.RunError(
            f"Queue {path} is {state or 'in an unknown state'}: it retries dead letters instead of keeping them\n"
            f"  Pause it: gcloud tasks queues pause {name} --location={location} --project={project}\n"
            "  Then run: pulumi up --refresh"
        )
    return name


def _override(service_url: str, path: str) -> cloudtasks.QueueHttpTargetUriOverrideArgsDict:
    """Replace the URL of every task by the handler's."""
    url = urlsplit(service_url)
    override: cloudtasks.QueueHttpTargetUriOverrideArgsDict = {
        "scheme": url.scheme.upper(),
        "host": url.hostname or "",
        "uri_override_enforce_mode": "ALWAYS",
    }
    if path:
        override["path_override"] = {"path": path}
    if url.port:
        override["port"] = str(url.port)
    return override


def _duration(seconds: float) -> str:
    """Seconds as the service returns them, `10s` or `0.100s`; another form would be a change in every preview."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds:.3f}s"
