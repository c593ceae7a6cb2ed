"""The queue between the web app and the handler.

Owns the queue and who may add to it. Writes every rate and retry figure, since a figure that is left out later keeps
its old value on the server.
"""

from collections.abc import Sequence
from typing import TypedDict

import pulumi
from pulumi_gcp import cloudtasks


class TaskQueueArgs(TypedDict):
    api: pulumi.Resource
    """The enabled Cloud Tasks API."""
    project: str
    location: str
    queue_name: str
    max_dispatches_per_second: float
    max_concurrent_dispatches: int
    max_attempts: int
    """Attempts, the first included, after which Cloud Tasks deletes the task."""
    min_backoff_seconds: float
    max_backoff_seconds: float
    max_doublings: int
    producers: Sequence[str]
    """Members that may create tasks."""


class TaskQueue(pulumi.ComponentResource):
    """cloud-run-tasks:index:TaskQueue. Produces: Queue `<name>`,
    one QueueIamMember `<name>-enqueuer-<member>` a producer."""

    path: pulumi.Output[str]
    """`projects/P/locations/L/queues/Q`, usable once the producers may add to it."""

    def __init__(self, name: str, args: TaskQueueArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cloud-run-tasks:index:TaskQueue", name, None, opts)
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
                "max_attempts": args["max_attempts"],
                "min_backoff": _duration(args["min_backoff_seconds"]),
                "max_backoff": _duration(args["max_backoff_seconds"]),
                "max_doublings": args["max_doublings"],
                "max_retry_duration": "0s",
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["api"]]),
        )
        grants = [
            cloudtasks.QueueIamMember(
                f"{name}-enqueuer-{member}",
                project=args["project"],
                location=args["location"],
                name=queue.name,
                role="roles/cloudtasks.enqueuer",
                member=member,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for member in args["producers"]
        ]
        self.path = pulumi.Output.all(queue.id, *(grant.id for grant in grants)).apply(lambda ids: str(ids[0]))
        self.register_outputs({"path": self.path})


def _duration(seconds: float) -> str:
    """Seconds as the service writes them back: `10s`, `0.1s`; another form would show as a change for ever."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
