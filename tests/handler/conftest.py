"""The handler in this process, the local Cloud Tasks behind it, and real databases: SQLite and PostgreSQL."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud.tasks_v2 import CreateTaskRequest, DeleteTaskRequest, HttpRequest, Task
from order_handler.app import App
from order_handler.cloud_tasks import CloudTasks
from order_handler.database import Database
from order_handler.dead_letters import DeadLetters
from order_handler.effects import Effects
from order_handler.environment import Environment

from tests.handler.calls import Handler
from tests.local.cloud_tasks.serving import Serving

DEAD_LETTER_QUEUE = "projects/shop/locations/us-central1/queues/dead-letters"
PATIENCE = 30

Lines = Callable[[], list[dict[str, Any]]]
"""The orders' log lines so far."""


class DeadLetterQueue(Serving):
    """The local Cloud Tasks with the dead-letter queue alone."""

    def __init__(self) -> None:
        super().__init__(declared={DEAD_LETTER_QUEUE: []})
        # whole, as a create time is; an entry of a last attempt is due some minutes later
        self.now = float(int(time.time()))

    @property
    def names(self) -> list[str]:
        """The calls so far."""
        return [call.name for call in self.received]

    @property
    def entries(self) -> dict[str, Task]:
        """By name."""
        return {task.name: task for task in self.tasks(DEAD_LETTER_QUEUE)}

    @property
    def entry(self) -> Task:
        """The only one."""
        [task] = self.entries.values()
        return task

    def block(self, name: str) -> None:
        """As if an entry of this name had been deleted within a day."""
        task = Task(name=name, http_request=HttpRequest(url="https://shop.example"))
        create, delete = CreateTaskRequest(parent=DEAD_LETTER_QUEUE, task=task), DeleteTaskRequest(name=name)
        self.do(lambda tasks: tasks.create_task(CreateTaskRequest.pb(create)))
        self.do(lambda tasks: tasks.delete_task(DeleteTaskRequest.pb(delete)))


@pytest.fixture
def cloud() -> Iterator[DeadLetterQueue]:
    with DeadLetterQueue() as service:
        yield service


@pytest.fixture
def environment(cloud: DeadLetterQueue) -> Environment:
    return Environment(
        host="127.0.0.1",
        port=8080,
        max_attempts=5,
        timeout=300,
        dead_letter_queue=DEAD_LETTER_QUEUE,
        project="shop",
        emulator_host=cloud.grpc,
    )


@pytest.fixture
async def handler_with(environment: Environment) -> AsyncIterator[Callable[[Effects], Handler]]:
    """A handler with these effects."""
    opened = []

    def make(effects: Effects) -> Handler:
        dead_letters = DeadLetters(
            environment.dead_letter_queue, environment.timeout, lambda: CloudTasks.open(environment.emulator_host)
        )
        opened.append(dead_letters)
        return Handler(App(environment, effects, dead_letters))

    yield make
    for dead_letters in opened:
        await dead_letters.close()


@pytest.fixture
def handler(handler_with: Callable[[Effects], Handler]) -> Handler:
    """All its effects are simulated."""
    return handler_with(Effects())


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    found: list[dict[str, Any]] = []

    def read() -> list[dict[str, Any]]:
        found.extend(map(json.loads, capsys.readouterr().out.splitlines()))
        return found

    return read


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    """A new database, for tests that speak of something else."""
    opened = Database(f"sqlite:///{tmp_path / 'shop.db'}")
    await opened.prepare()
    yield opened
    opened.close()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()
