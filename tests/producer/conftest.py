"""The service, its configuration, and one interface to both clients: they keep the same promises."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import pytest
from google.cloud.tasks_v2 import Task
from order_tasks import AsyncOrderTasks, Config, OrderTasks

from tests.producer.service import DEAD_LETTER_QUEUE, INVOKER, QUEUE, Service


class Client(Protocol):
    async def create_order_task(self, order_id: str, action: str, customer_email: str) -> Task | None: ...

    async def create_task(self, action: str, fields: Mapping[str, Any], *, key: str | None = None) -> Task | None: ...

    async def process_new_order(self, order_id: str, email: str) -> Mapping[str, Task | None]: ...


class _Blocking:
    def __init__(self, tasks: OrderTasks) -> None:
        self._tasks = tasks

    async def create_order_task(self, order_id: str, action: str, customer_email: str) -> Task | None:
        return await asyncio.to_thread(self._tasks.create_order_task, order_id, action, customer_email)

    async def create_task(self, action: str, fields: Mapping[str, Any], *, key: str | None = None) -> Task | None:
        return await asyncio.to_thread(partial(self._tasks.create_task, action, fields, key=key))

    async def process_new_order(self, order_id: str, email: str) -> Mapping[str, Task | None]:
        return await asyncio.to_thread(self._tasks.process_new_order, order_id, email)


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as service:
        yield service


@pytest.fixture
def config(service: Service, request: pytest.FixtureRequest) -> Config:
    """The service's configuration, with the fields that a test gives as a parameter."""
    fields = getattr(request, "param", {})
    return Config(QUEUE, "https://task-handler-abc.a.run.app", INVOKER, service.grpc, DEAD_LETTER_QUEUE, **fields)


@pytest.fixture(params=["blocking", "asyncio"])
async def client(request: pytest.FixtureRequest, config: Config) -> AsyncIterator[Client]:
    if request.param == "blocking":
        with OrderTasks(config) as tasks:
            yield _Blocking(tasks)
    else:
        async with AsyncOrderTasks(config) as async_tasks:
            yield async_tasks


@pytest.fixture
def environment(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a web app that sends its tasks to the service."""
    monkeypatch.setenv("ORDER_TASKS_QUEUE", config.queue)
    monkeypatch.setenv("ORDER_TASKS_SERVICE_URL", str(config.service_url))
    monkeypatch.setenv("ORDER_TASKS_INVOKER_EMAIL", str(config.invoker_email))
    monkeypatch.setenv("ORDER_TASKS_DEAD_LETTER_QUEUE", str(config.dead_letter_queue))
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", str(config.emulator_host))
