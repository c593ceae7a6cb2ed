"""The handler in this process, the fake Cloud Tasks behind it, and real databases: SQLite and PostgreSQL."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from order_handler.app import App
from order_handler.cloud_tasks import CloudTasks
from order_handler.database import Database
from order_handler.dead_letters import DeadLetters
from order_handler.effects import Effects
from order_handler.environment import Environment

from tests.handler.calls import Handler
from tests.handler.fake_cloud_tasks import FakeCloudTasks

DEAD_LETTER_QUEUE = "projects/shop/locations/us-central1/queues/dead-letters"
PATIENCE = 30


@pytest.fixture
def cloud() -> Iterator[FakeCloudTasks]:
    fake = FakeCloudTasks()
    yield fake
    fake.stop()


@pytest.fixture
def environment(cloud: FakeCloudTasks) -> Environment:
    return Environment(
        host="127.0.0.1",
        port=8080,
        max_attempts=5,
        timeout=300,
        dead_letter_queue=DEAD_LETTER_QUEUE,
        project="shop",
        emulator_host=cloud.address,
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
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """The orders' log lines so far."""
    found: list[dict[str, Any]] = []

    def read() -> list[dict[str, Any]]:
        found.extend(map(json.loads, capsys.readouterr().out.splitlines()))
        return found

    return read


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shop.db'}"
    found: str = request.getfixturevalue("postgresql_url")
    return found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()
