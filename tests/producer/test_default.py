"""The functions that a web app imports: configured by the environment at the first call, one client for all threads."""

import asyncio
import importlib.resources
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import order_tasks
import pytest
from order_tasks import ConfigError, OrderTasks, default

from tests.producer.service import Service


@pytest.fixture(autouse=True)
def _first_call(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(default, "_client", None)
    monkeypatch.setattr(default, "_async_clients", {})
    yield
    if default._client:
        default._client.close()


@pytest.mark.usefixtures("environment")
def test_import_and_call_is_all_that_a_web_app_does(service: Service) -> None:
    assert order_tasks.create_order_task("ORD-1", "send_confirmation", "ada@example.com") is not None
    tasks = order_tasks.process_new_order("ORD-1", "ada@example.com")
    assert [action for action, task in tasks.items() if task] == ["update_inventory", "notify_warehouse"]
    assert len(service.names) == 4


@pytest.mark.usefixtures("environment")
def test_each_event_loop_has_its_own_asyncio_client() -> None:
    async def call() -> bool:
        await order_tasks.create_order_task_async("ORD-1", "send_confirmation", "ada@example.com")
        again = await order_tasks.process_new_order_async("ORD-1", "ada@example.com")
        await default._async_default().close()
        return again["send_confirmation"] is None

    assert asyncio.run(call())
    assert asyncio.run(call())
    assert len(default._async_clients) == 1


@pytest.mark.usefixtures("environment")
def test_threads_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[OrderTasks] = []

    class Counted(OrderTasks):
        def __init__(self, config: order_tasks.Config) -> None:
            built.append(self)
            time.sleep(0.05)  # long enough for every thread to arrive meanwhile
            super().__init__(config)

    monkeypatch.setattr(default, "OrderTasks", Counted)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: order_tasks.create_order_task(f"ORD-{n}", "send_confirmation", "a@b.c"), range(8)))
    assert len(built) == 1


def test_without_configuration_the_first_call_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ORDER_TASKS_QUEUE", "ORDER_TASKS_SERVICE_URL", "ORDER_TASKS_INVOKER_EMAIL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match="pulumi stack output queue"):
        order_tasks.create_order_task("ORD-1", "send_confirmation", "ada@example.com")


def test_the_public_names_are_these_and_typed() -> None:
    assert order_tasks.__all__ == [
        "NEW_ORDER_ACTIONS",
        "AsyncOrderTasks",
        "Config",
        "ConfigError",
        "IncompleteOrderError",
        "InvalidOrderError",
        "Order",
        "OrderTasks",
        "OrderTasksError",
        "Outcome",
        "create_order_task",
        "create_order_task_async",
        "create_task",
        "create_task_async",
        "process_new_order",
        "process_new_order_async",
        "traceparent",
    ]
    assert importlib.resources.files(order_tasks).joinpath("py.typed").is_file()
