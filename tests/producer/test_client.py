"""Both clients against the fake service: what is created, repeated, awaited and raised."""

import asyncio
import threading

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2
from order_tasks import (
    NEW_ORDER_ACTIONS,
    AsyncOrderTasks,
    Config,
    IncompleteOrderError,
    InvalidOrderError,
    Order,
    OrderTasks,
    calls,
)

from tests.producer.conftest import Client
from tests.producer.fake_cloud_tasks import FakeCloudTasks


async def test_what_arrives_is_the_request_of_the_order(client: Client, cloud: FakeCloudTasks, config: Config) -> None:
    task = await client.create_order_task("ORD-1", "send_confirmation", "ada@example.com")
    [expected] = Order("ORD-1", "ada@example.com", ("send_confirmation",)).requests(config).values()
    assert cloud.requests == [expected]
    assert task is not None
    assert task.name == expected.task.name


async def test_none_means_that_the_task_is_there(client: Client, cloud: FakeCloudTasks) -> None:
    assert await client.create_order_task("ORD-1", "send_confirmation", "ada@example.com") is not None
    assert await client.create_order_task("ORD-1", "send_confirmation", "ada@example.com") is None
    assert len(set(cloud.names)) == 1


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL"])
async def test_a_transient_error_is_retried_under_the_same_name(
    client: Client, cloud: FakeCloudTasks, code: str
) -> None:
    cloud.faults["update_inventory"] = [grpc.StatusCode[code]] * 2
    assert await client.create_order_task("ORD-1", "update_inventory", "ada@example.com") is not None
    assert len(cloud.names) == 3
    assert len(set(cloud.names)) == 1


async def test_a_lost_answer_ends_in_none_and_one_task(client: Client, cloud: FakeCloudTasks) -> None:
    cloud.faults["update_inventory"] = [grpc.StatusCode.UNAVAILABLE]
    cloud.lose_answers = True
    assert await client.create_order_task("ORD-1", "update_inventory", "ada@example.com") is None
    assert len(cloud.names) == 2
    assert len(set(cloud.names)) == 1


async def test_a_refusal_is_raised_at_once(client: Client, cloud: FakeCloudTasks) -> None:
    cloud.faults["update_inventory"] = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(exceptions.PermissionDenied, match="on command"):
        await client.create_order_task("ORD-1", "update_inventory", "ada@example.com")
    assert len(cloud.requests) == 1


async def test_an_outage_ends_in_an_error_that_names_it(
    client: Client, cloud: FakeCloudTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "RETRY", calls.RETRY.with_timeout(0.2))
    monkeypatch.setattr(calls, "ASYNC_RETRY", calls.ASYNC_RETRY.with_timeout(0.2))
    cloud.faults["update_inventory"] = [grpc.StatusCode.UNAVAILABLE] * 100
    with pytest.raises(exceptions.RetryError, match="503 on command"):
        await client.create_order_task("ORD-1", "update_inventory", "ada@example.com")


async def test_each_attempt_has_ten_seconds_of_its_own(client: Client, cloud: FakeCloudTasks) -> None:
    cloud.faults["update_inventory"] = [grpc.StatusCode.UNAVAILABLE] * 3
    await client.create_order_task("ORD-1", "update_inventory", "ada@example.com")
    assert len(cloud.timeouts) == 4
    assert cloud.timeouts == pytest.approx([10.0] * 4, abs=0.1)


async def test_a_new_orders_three_calls_are_in_flight_together(client: Client, cloud: FakeCloudTasks) -> None:
    cloud.before_answer = threading.Barrier(3, timeout=10).wait
    tasks = await client.process_new_order("ORD-1", "ada@example.com")
    assert list(tasks) == list(NEW_ORDER_ACTIONS)
    assert sorted(task.name for task in tasks.values() if task) == sorted(cloud.names)


async def test_a_new_order_again_creates_nothing(client: Client) -> None:
    await client.process_new_order("ORD-1", "ada@example.com")
    assert await client.process_new_order("ORD-1", "ada@example.com") == dict.fromkeys(NEW_ORDER_ACTIONS)


async def test_all_three_are_awaited_before_the_failed_are_named(client: Client, cloud: FakeCloudTasks) -> None:
    cloud.faults["send_confirmation"] = [grpc.StatusCode.NOT_FOUND]
    cloud.faults["update_inventory"] = [grpc.StatusCode.UNAVAILABLE] * 2
    cloud.faults["notify_warehouse"] = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(
        IncompleteOrderError, match=r"'ORD-1': 2 of 3 .*send_confirmation: 404.*notify_warehouse: 403"
    ) as e:
        await client.process_new_order("ORD-1", "ada@example.com")
    assert len(cloud.requests) == 5  # the slowest, retried twice, was not given up
    assert list(e.value.tasks) == ["update_inventory"]
    assert {action: type(error) for action, error in e.value.failures.items()} == {
        "send_confirmation": exceptions.NotFound,
        "notify_warehouse": exceptions.PermissionDenied,
    }
    assert isinstance(e.value.__cause__, ExceptionGroup)
    again = await client.process_new_order("ORD-1", "ada@example.com")
    assert [action for action, task in again.items() if task] == ["send_confirmation", "notify_warehouse"]


async def test_an_invalid_order_is_refused_before_any_call(client: Client, cloud: FakeCloudTasks) -> None:
    with pytest.raises(InvalidOrderError):
        await client.create_order_task("ORD-1", "", "ada@example.com")
    with pytest.raises(InvalidOrderError):
        await client.process_new_order("", "ada@example.com")
    assert cloud.requests == []


def test_google_is_called_unless_there_is_an_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(tasks_v2, "CloudTasksClient", lambda **given: built.append(f"blocking {given}"))
    monkeypatch.setattr(tasks_v2, "CloudTasksAsyncClient", lambda **given: built.append(f"asyncio {given}"))
    config = Config("projects/p/locations/l/queues/q", "https://handler.run.app", "invoker@p.iam")
    OrderTasks(config)

    async def build() -> None:
        AsyncOrderTasks(config)

    asyncio.run(build())
    assert built == ["blocking {}", "asyncio {}"]


async def test_a_proxy_does_not_hide_the_emulator(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "RETRY", None)
    monkeypatch.setattr(calls, "ASYNC_RETRY", None)
    for variable in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with OrderTasks(config) as tasks:
        assert tasks.create_order_task("ORD-1", "send_confirmation", "ada@example.com") is not None
    async with AsyncOrderTasks(config) as async_tasks:
        assert await async_tasks.create_order_task("ORD-2", "send_confirmation", "ada@example.com") is not None


def test_the_asyncio_client_is_refused_outside_its_loop(config: Config) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncOrderTasks(config)
