import pulumi
import pytest

from components.task_queue import warn_of_a_move
from local.program import evaluate
from tests.declared import DEVELOPERS, STACKS, WEB, declare

HANDLER = "serviceAccount:task-handler-sa-prod@shop-project.iam.gserviceaccount.com"
QUEUES = {"Queue queue", "Queue queue-dead-letters"}
GRANTS = {f"QueueIamMember queue-dead-letters-{role}" for role in ("enqueuer", "taskDeleter", "viewer")}
AUDIENCE = "https://handler.invalid/shop-project/prod"
PATH = "projects/shop-project/locations/europe-west1/queues/orders"
FIGURES = {
    "maxDispatchesPerSecond": "0.5",
    "maxConcurrentDispatches": "17",
    "maxAttempts": "9",
    "minBackoffSeconds": "2.5",
    "maxBackoffSeconds": "90",
    "maxDoublings": "3",
    "attemptLogRatio": "0.25",
}


@pytest.mark.parametrize(("retry_until_handled", "attempts"), [("false", 9), ("true", -1)])
def test_the_queue_writes_every_figure(retry_until_handled: str, attempts: int) -> None:
    """Cloud Tasks keeps the old value of a figure that is left out."""
    queue = declare(retryUntilHandled=retry_until_handled, **FIGURES)["Queue queue"]
    assert queue["rateLimits"] == {"maxDispatchesPerSecond": 0.5, "maxConcurrentDispatches": 17}
    assert queue["retryConfig"] == {
        "maxAttempts": attempts,
        "minBackoff": "2.500s",
        "maxBackoff": "90s",
        "maxDoublings": 3,
        "maxRetryDuration": "0s",
    }
    assert queue["stackdriverLoggingConfig"] == {"samplingRatio": 0.25}
    assert "stackdriverLoggingConfig" not in declare(attemptLogRatio="0")["Queue queue"]


@pytest.mark.parametrize(("seconds", "text"), [("0.001", "0.001s"), ("0.1", "0.100s"), ("1.0", "1s"), ("10", "10s")])
def test_durations_are_written_as_the_service_writes_them_back(seconds: str, text: str) -> None:
    retries = declare(minBackoffSeconds=seconds, maxBackoffSeconds=seconds)["Queue queue"]["retryConfig"]
    assert (retries["minBackoff"], retries["maxBackoff"]) == (text, text)


@pytest.mark.parametrize("retry_until_handled", ["false", "true"])
@pytest.mark.parametrize("stack", STACKS)
def test_the_dead_letter_queue_keeps_its_tasks_until_the_handler_succeeds(stack: str, retry_until_handled: str) -> None:
    declared = declare(stack, retryUntilHandled=retry_until_handled)
    queue = declared["Queue queue-dead-letters"]
    assert queue["name"] == declared["Queue queue"]["name"] + "-dead-letters"
    assert queue["desiredState"] == "PAUSED"
    assert "desiredState" not in declared["Queue queue"]
    assert queue["retryConfig"]["maxAttempts"] == -1
    assert queue["retryConfig"]["maxRetryDuration"] == "0s"
    assert queue["retryConfig"]["minBackoff"] == "3600s"  # a replay tries each entry once


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://x.run.app", {"scheme": "HTTPS", "host": "x.run.app"}),
        ("http://127.0.0.1:8080", {"scheme": "HTTP", "host": "127.0.0.1", "port": "8080"}),
    ],
)
@pytest.mark.parametrize("path", ["/process-order", "/v1/tasks", ""])
def test_every_task_is_sent_to_the_handler_with_the_invoker_s_token_whatever_it_carries(
    url: str, address: dict[str, str], path: str
) -> None:
    declared = declare(service_url=url, handlerPath=path)
    assert declared.exports["service_url"] == url
    kept = {"pathOverride": {"path": path}} if path else {}
    target = {
        "uriOverride": {**address, **kept, "uriOverrideEnforceMode": "ALWAYS"},
        "oidcToken": {"serviceAccountEmail": declared.exports["invoker_email"], "audience": AUDIENCE},
    }
    assert declared["Queue queue"]["httpTarget"] == target  # the method is the task's
    assert declared["Queue queue-dead-letters"]["httpTarget"] == {"httpMethod": "POST", **target}


def test_the_audience_of_queued_tokens_outlives_a_rename_of_the_service_and_differs_between_stacks() -> None:
    for declared in declare(), declare(serviceName="another", service_url="https://another.run.app"):
        assert declared["Service handler"]["customAudiences"] == [AUDIENCE]
        assert declared["Queue queue"]["httpTarget"]["oidcToken"]["audience"] == AUDIENCE
    assert declare("dev")["Service handler"]["customAudiences"] != [AUDIENCE]


def test_only_the_producers_may_add_to_the_queue_and_only_the_handler_may_use_its_dead_letters() -> None:
    declared = declare(queueName="orders")
    grants = declared.of("QueueIamMember").values()
    assert {(g["name"], g["role"].removeprefix("roles/cloudtasks."), g["member"]) for g in grants} == {
        ("orders", "enqueuer", WEB),
        ("orders", "enqueuer", DEVELOPERS),
        ("orders", "enqueuer", HANDLER),  # the relay
        *(("orders-dead-letters", role, HANDLER) for role in ("enqueuer", "taskDeleter", "viewer")),
    }
    assert declare(queueName="orders", producers="[]").of("QueueIamMember").keys() == GRANTS | {
        "QueueIamMember relay-enqueuer"
    }


@pytest.mark.parametrize("preview", [False, True])
def test_nobody_can_add_an_order_before_the_handler_can_store_what_fails(preview: bool) -> None:
    declared = declare(preview=preview)
    for producer in WEB, DEVELOPERS:
        assert GRANTS | {"Queue queue"} <= declared.after(f"QueueIamMember queue-enqueuer-{producer}")
    for grant in GRANTS:
        assert {"Queue queue-dead-letters", "Account handler-account"} <= declared.after(grant)


@pytest.mark.parametrize("protection", ["true", "false"])
@pytest.mark.parametrize("stack", STACKS)
def test_what_cannot_be_made_again_is_protected_and_a_producer_can_be_removed(stack: str, protection: str) -> None:
    declared = declare(stack, deletionProtection=protection)
    kept = ("Repository ", "Service handler", "Queue ", "Secret ", "Account ")
    assert declared.protected == {name for name in declared.resources if protection == "true" and name.startswith(kept)}


@pytest.mark.parametrize("stack", STACKS)
def test_the_engine_warns_of_another_path_and_destroys_without_the_program(stack: str) -> None:
    declared = declare(stack, queueName="orders", region="europe-west1")
    assert declared["TaskQueue queue"] == {"path": PATH}
    assert list(declared.resources["TaskQueue queue"].options.hooks.before_update) == ["queue-moved"]
    # a hook before a deletion would stop `pulumi destroy` without --run-program
    hooks = [kind.name for each in declared.resources.values() for kind, _ in each.options.hooks.ListFields()]
    assert set(hooks) == {"before_update", "after_create", "on_error"}
    assert hooks.count("before_update") == 1


MOVED = PATH.replace("europe-west1", "us-central1")


@pytest.mark.parametrize(
    ("before", "after", "warned"),
    [({"path": PATH}, {"path": MOVED}, True), ({"path": PATH}, {"path": PATH}, False), ({}, {"path": PATH}, False)],
)
def test_a_warning_precedes_the_loss_of_a_queue(
    caplog: pytest.LogCaptureFixture, before: dict[str, str], after: dict[str, str], warned: bool
) -> None:
    hook = pulumi.ResourceHookArgs("urn", "", "queue", "cloud-run-tasks:index:TaskQueue", after, before)
    evaluate(lambda: warn_of_a_move(hook), config={})
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (
        warnings
        == [
            f"{PATH} will be replaced by {MOVED}: the queue, its dead-letter queue and all their tasks are deleted, "
            "and both names stay blocked for 3 to 7 days. Let both queues run empty first"
        ]
        * warned
    )
