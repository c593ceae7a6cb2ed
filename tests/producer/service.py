"""Cloud Tasks for the tests of the producer and its commands: two queues, faults on demand, and a virtual clock."""

import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
from google.cloud import tasks_v2
from google.cloud.tasks_v2 import Task
from order_tasks.cli.main import main
from order_tasks.operations.times import Clock

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.tasks import CloudTasks
from tests.local.cloud_tasks.serving import ACCOUNT, LOCATION, Fault, Received, Serving

QUEUE = f"{LOCATION}/queues/cloud-run-tasks"
DEAD_LETTER_QUEUE = f"{QUEUE}-dead-letters"
INVOKER = ACCOUNT
EMAIL = "ada@example.com"
NEVER = 0
"""The status of an attempt that does not end."""


class Service(Serving):
    """The service with both queues. Only the dead-letter queue delivers, and only when the virtual time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.fault = self._next_fault
        self.faults: dict[str, list[Fault | grpc.StatusCode]] = defaultdict(list)
        """Call or action -> the faults of its next calls."""
        self.before: dict[str, Callable[[], object]] = {}
        """Call -> what happens during each of these calls, before it takes effect."""
        self.statuses: dict[str, list[int]] = defaultdict(list)
        """Task id -> the statuses of its next attempts. Without any left: 200."""
        self.stalled = False
        """Whether a resumed queue delivers nothing."""
        self._running: list[Attempt] = []

    def __enter__(self) -> "Service":
        super().__enter__()
        retries = {"maxAttempts": -1, "minBackoff": "10s", "maxBackoff": "300s", "maxDoublings": 4}
        rates = {"maxDispatchesPerSecond": 50, "maxConcurrentDispatches": 20}
        self.declare(QUEUE, rateLimits=rates, retryConfig=retries)
        retries |= {"minBackoff": "3600s", "maxBackoff": "108000s"}
        rates = {"maxDispatchesPerSecond": 5, "maxConcurrentDispatches": 5}
        self.declare(DEAD_LETTER_QUEUE, state="PAUSED", rateLimits=rates, retryConfig=retries)
        return self

    def command(self, *arguments: str) -> int:
        """Run a command in the virtual time. Returns the exit code."""
        return main(arguments, Clock(lambda: self.time, self.tick))

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    @property
    def names(self) -> list[str]:
        """The name in each CreateTask call."""
        return [call.request.task.name for call in self.calls("CreateTask")]

    @property
    def called(self) -> list[str]:
        """The name of each call."""
        return [call.name for call in self.received]

    @property
    def state(self) -> str:
        """The dead-letter queue's state."""
        return str(self.do(lambda tasks: tasks_v2.Queue(tasks.queues[DEAD_LETTER_QUEUE].message).state.name))

    @property
    def letters(self) -> list[str]:
        """The ids of the dead letters."""
        return [task.name.rpartition("/")[2] for task in self.tasks(DEAD_LETTER_QUEUE)]

    def store(self, *names: str, order: str = "ORD-1", due: float = 0, reason: str = "no such item") -> None:
        """Add dead letters that were stored three hours ago and are due in so many seconds."""
        headers = {
            "X-Dead-Letter-Reason": reason,
            "X-Dead-Letter-Kind": "PermanentError",
            "X-Dead-Letter-Task": f"0123456789abcdef-notify_warehouse-{order}",
            "X-Dead-Letter-Attempts": "5",
        }
        self.now -= 3 * 3600
        self.enqueue(*names, queue=DEAD_LETTER_QUEUE, order=order, due=due + 3 * 3600, headers=headers)
        self.now += 3 * 3600

    def enqueue(self, *names: str, queue: str = QUEUE, order: str = "ORD-1", due: float = 0, **http: Any) -> None:  # noqa: ANN401
        """Add tasks that are due in so many seconds."""
        body = json.dumps({"orderId": order, "action": "notify_warehouse", "customerEmail": EMAIL}).encode()
        at = datetime.fromtimestamp(self.now + due, UTC)
        http |= {"url": "https://handler.example/process-order", "body": body}
        requests = [
            tasks_v2.CreateTaskRequest(
                parent=queue, task=Task(name=f"{queue}/tasks/{name}", schedule_time=at, http_request=http)
            )
            for name in names
        ]

        def create(tasks: CloudTasks) -> None:
            for request in requests:
                tasks.create_task(tasks_v2.CreateTaskRequest.pb(request))

        self.do(create)

    def start(self, path: str) -> None:
        """Begin an attempt at a task."""
        self.do(lambda tasks: tasks.run_task(tasks_v2.RunTaskRequest.pb()(name=path)))

    def drop(self, path: str) -> None:
        """Delete a task."""
        self.do(lambda tasks: tasks.delete_task(tasks_v2.DeleteTaskRequest.pb()(name=path)))

    def tick(self, seconds: float) -> None:
        """Let time pass: running attempts end, then a running dead-letter queue starts the next ones."""

        def pass_time(tasks: CloudTasks) -> None:
            self.now += seconds
            running, self._running = self._running, []
            for attempt in running:
                statuses = self.statuses[attempt.task] or [200]
                if statuses[0] == NEVER:
                    self._running.append(attempt)
                else:
                    tasks.end_attempt(attempt, statuses.pop(0))
            if not self.stalled:
                self._running += tasks.start_attempts(DEAD_LETTER_QUEUE)

        self.do(pass_time)

    def run_requested(self, attempt: Attempt) -> None:
        self._running.append(attempt)

    def _next_fault(self, received: Received) -> Fault | None:
        self.before.get(received.name, lambda: None)()
        task = received.request.task.name if received.name == "CreateTask" else ""
        for key, faults in list(self.faults.items()):
            if faults and (key == received.name or f"-{key}-" in task):
                fault = faults.pop(0)
                return fault if isinstance(fault, Fault) else Fault(fault)
        return None


@contextmanager
def process(*arguments: str, **pipes: Any) -> Iterator["subprocess.Popen[str]"]:  # noqa: ANN401
    """A command in a process of its own, which is killed after 60 seconds or at the end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes
    with subprocess.Popen([sys.executable, "-m", "order_tasks", *arguments], text=True, **pipes) as started:
        limit = threading.Timer(60, started.kill)
        limit.start()
        try:
            yield started
        finally:
            limit.cancel()
            started.kill()
