"""An operator before two queues: what lies there, and the command line in the fake service's time."""

import json
from datetime import timedelta

from google.cloud.tasks_v2 import HttpRequest, Queue, Task
from order_tasks.cli.clock import Clock
from order_tasks.cli.main import main

from tests.producer.cli.fake_queues import FakeQueues

QUEUE = "projects/shop/locations/us-central1/queues/cloud-run-tasks"
DEAD_LETTER_QUEUE = f"{QUEUE}-dead-letters"
EMAIL = "ada@example.com"


class Operator:
    """Runs commands; `queues` holds what they find."""

    def __init__(self, queues: FakeQueues) -> None:
        self.queues = queues
        queues.queues[QUEUE] = _queue(QUEUE, Queue.State.RUNNING, 50, 20, -1, 10)
        queues.queues[DEAD_LETTER_QUEUE] = _queue(DEAD_LETTER_QUEUE, Queue.State.PAUSED, 1, 2, -1, 3600)

    def run(self, *arguments: str) -> int:
        return main(arguments, Clock(lambda: self.queues.now, self.queues.tick))

    @property
    def state(self) -> str:
        """The dead-letter queue's."""
        return str(self.queues.queues[DEAD_LETTER_QUEUE].state.name)

    @property
    def letters(self) -> list[str]:
        """The ids of what lies in the dead-letter queue."""
        return sorted(path.rpartition("/")[2] for path in self.queues.tasks if path.startswith(DEAD_LETTER_QUEUE))

    def store(self, name: str, order_id: str = "ORD-1", *, due: float = 0, reason: str = "no such item") -> Task:
        """Add a dead letter that is due in so many seconds."""
        message = {"orderId": order_id, "action": "notify_warehouse", "customerEmail": EMAIL}
        headers = {
            "X-Dead-Letter-Reason": reason,
            "X-Dead-Letter-Task": f"0123456789abcdef-notify_warehouse-{order_id}",
            "X-Dead-Letter-Attempts": "5",
        }
        return self._add(f"{DEAD_LETTER_QUEUE}/tasks/{name}", message, headers, due)

    def enqueue(self, name: str, *, due: float = 0) -> Task:
        """Add a task to the main queue."""
        return self._add(f"{QUEUE}/tasks/{name}", {"orderId": "ORD-1", "customerEmail": EMAIL}, {}, due)

    def _add(self, path: str, message: dict[str, str], headers: dict[str, str], due: float) -> Task:
        task = Task(
            name=path,
            create_time=self.queues.now - timedelta(hours=3),
            schedule_time=self.queues.now + timedelta(seconds=due),
            http_request=HttpRequest(body=json.dumps(message).encode(), headers=headers),
        )
        self.queues.tasks[path] = task
        return task


def _queue(path: str, state: int, rate: float, at_once: int, attempts: int, backoff: int) -> Queue:
    return Queue(
        name=path,
        state=Queue.State(state),
        rate_limits={"max_dispatches_per_second": rate, "max_concurrent_dispatches": at_once},
        retry_config={
            "max_attempts": attempts,
            "min_backoff": timedelta(seconds=backoff),
            "max_backoff": timedelta(seconds=30 * backoff),
            "max_doublings": 4,
        },
    )
