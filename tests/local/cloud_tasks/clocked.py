"""Cloud Tasks without a network, on a real store, under a clock that a test sets."""

from pathlib import Path
from typing import Any

from google.protobuf import json_format

from local.cloud_tasks.api import Api
from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.batches import Batches
from local.cloud_tasks.calls import CALLS
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import Message, QueueMessage
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from tests.local.cloud_tasks.serving import LOCATION, START

QUEUE = f"{LOCATION}/queues/cloud-run-tasks"
TASK = f"{QUEUE}/tasks/order-1"
HANDLER = "serviceAccount:handler@shop.iam.gserviceaccount.com"
_CALLS = {call.name: call for call in CALLS}


class Clocked(Listener):
    """The service with one declared queue, which has the figures of the design."""

    def __init__(self, file: Path) -> None:
        self.now = START
        self._file = file
        self._open()

    def _open(self, **figures: Any) -> None:  # noqa: ANN401 - any field of a queue
        self.store = Store(self._file)
        self.events: list[Event] = []
        self.changed_queues: list[str] = []
        self.forced: list[Attempt] = []
        """What RunTask began."""
        self.tasks = CloudTasks(self.store, lambda: self.now, lambda *_: True, [self])
        self.queues = self.tasks.queues
        self.api = Api(self.tasks, Batches(self.tasks, self.store, lambda: self.now))
        declared = {
            "name": QUEUE,
            "rateLimits": {"maxDispatchesPerSecond": 50, "maxConcurrentDispatches": 20},
            "retryConfig": {"maxAttempts": 5, "minBackoff": "10s", "maxBackoff": "300s", "maxDoublings": 4},
        }
        message = json_format.ParseDict({**declared, **figures}, QueueMessage())
        self.queues.declare(message, [("roles/cloudtasks.enqueuer", HANDLER)])

    def reopen(self, **figures: Any) -> None:  # noqa: ANN401 - any field of a queue
        """As after the process died: nothing is closed in an orderly way but the file. `figures`: of the queue now."""
        self.store.close()
        self._open(**figures)

    def queue_changed(self, queue: str) -> None:
        self.changed_queues.append(queue)

    def run_requested(self, attempt: Attempt) -> None:
        self.forced.append(attempt)

    def task_changed(self, event: Event, _: Message) -> None:
        self.events.append(event)

    def do(self, name: str, /, **request: Any) -> Message:  # noqa: ANN401 - any field, in JSON
        """Make a call by its name in the proto; raises CallError."""
        call = _CALLS[name]
        return self.api.perform(call, json_format.ParseDict(request, call.request()))

    def create(self, name: str = TASK, **task: Any) -> Message:  # noqa: ANN401 - any field of a task, in JSON
        """Create a task with a body."""
        http = {"url": "http://task.example/own?a=1", "body": "e30=", **task.pop("httpRequest", {})}
        return self.do(
            "CreateTask", parent=name.partition("/tasks/")[0], task={"name": name, "httpRequest": http, **task}
        )

    def next_dispatch(self) -> float | None:
        return self.tasks.next_dispatch(QUEUE)

    def dispatch(self) -> Attempt:
        """Advance to the next dispatch and begin it."""
        at = self.next_dispatch()
        assert at is not None
        self.now = max(self.now, at)
        [attempt] = self.tasks.start_attempts(QUEUE)
        return attempt

    def end(self, status: int, attempt: Attempt | None = None) -> None:
        """End an attempt, by default the next one."""
        self.tasks.end_attempt(attempt or self.dispatch(), status)
