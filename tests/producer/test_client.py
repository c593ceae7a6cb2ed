"""Both clients against Cloud Tasks: what they create, retry, await and raise."""

import asyncio
import threading
import time
from types import SimpleNamespace

import grpc
import pytest
from google.api_core import exceptions
from google.api_core.retry import retry_base, retry_unary, retry_unary_async
from google.cloud import tasks_v2
from order_tasks import (
    NEW_ORDER_ACTIONS,
    AsyncOrderTasks,
    Config,
    IncompleteOrderError,
    InvalidOrderError,
    Order,
    OrderTasks,
    connection,
)

from tests.local.cloud_tasks.serving import Fault
from tests.producer.conftest import Client
from tests.producer.service import QUEUE, Service


async def test_what_arrives_is_the_request_of_the_order(client: Client, service: Service, config: Config) -> None:
    task = await client.create_order_task("ORD-1", "send_confirmation", "ada@example.com")
    [message] = Order("ORD-1", "ada@example.com", ("send_confirmation",)).messages
    expected = message.request(config)
    assert [call.request for call in service.calls("CreateTask")] == [expected]
    assert task is not None
    assert task.name == expected.task.name


async def test_none_means_that_the_task_is_there(client: Client, service: Service) -> None:
    assert await client.create_order_task("ORD-1", "send_confirmation", "ada@example.com") is not None
    assert await client.create_order_task("ORD-1", "send_confirmation", "ada@example.com") is None
    assert len(set(service.names)) == 1


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL"])
async def test_a_transient_error_is_retried_under_the_same_name(client: Client, service: Service, code: str) -> None:
    service.faults["update_inventory"] = [grpc.StatusCode[code]] * 2
    assert await client.create_order_task("ORD-1", "update_inventory", "ada@example.com") is not None
    assert len(service.names) == 3
    assert len(set(service.names)) == 1


async def test_a_lost_answer_ends_in_none_and_one_task(client: Client, service: Service) -> None:
    service.faults["update_inventory"] = [Fault(after=True)]
    assert await client.create_order_task("ORD-1", "update_inventory", "ada@example.com") is None
    assert len(service.names) == 2
    assert len(set(service.names)) == 1


async def test_a_refusal_is_raised_at_once(client: Client, service: Service) -> None:
    service.faults["update_inventory"] = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(exceptions.PermissionDenied, match="on command"):
        await client.create_order_task("ORD-1", "update_inventory", "ada@example.com")
    assert len(service.names) == 1


class VirtualTime:
    """Replaces the time of google.api_core's retries."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    time = VirtualTime()
    for module in (retry_base, retry_unary, retry_unary_async):
        monkeypatch.setattr(module, "time", time)
    monkeypatch.setattr(retry_unary_async, "asyncio", SimpleNamespace(sleep=time.sleep_async))
    return time


@pytest.mark.parametrize(("seconds", "shown"), [(None, "30.0"), (7, "7.0")])
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_an_outage_of_google_is_an_error_after_30_seconds_of_retries(
    virtual_time: VirtualTime, kind: str, seconds: float | None, shown: str
) -> None:
    google = Config(QUEUE, call_timeout=seconds)
    attempts = []

    def fail() -> None:
        attempts.append(virtual_time.now)
        raise exceptions.ServiceUnavailable("away")  # type: ignore[no-untyped-call]

    async def fail_async() -> None:
        fail()

    async def call() -> None:
        if kind == "blocking":
            connection.call_options(google)["retry"](fail)()
        else:
            await connection.async_call_options(google)["retry"](fail_async)()

    with pytest.raises(exceptions.RetryError, match=f"Timeout of {shown}s exceeded, last exception: 503 away"):
        await call()
    assert float(shown) - 5 <= virtual_time.now <= float(shown)  # no delay is longer than 5 s
    assert len(attempts) >= float(shown) / 5


@pytest.mark.parametrize("config", [{"attempt_timeout": None}, {"attempt_timeout": 0.7}], indirect=True)
async def test_each_attempt_has_a_time_of_its_own(client: Client, service: Service, config: Config) -> None:
    service.faults["update_inventory"] = [grpc.StatusCode.UNAVAILABLE] * 2
    await client.create_order_task("ORD-1", "update_inventory", "ada@example.com")
    expected = config.attempt_timeout or 2.0  # with a local cloud
    assert [call.seconds for call in service.received] == pytest.approx([expected] * 3, abs=0.2)


def test_an_attempt_at_google_has_ten_seconds() -> None:
    assert str(connection.call_options(Config(QUEUE))["timeout"]) == "<ConstantTimeout timeout=10.0>"


@pytest.mark.parametrize("config", [{"call_timeout": None}, {"call_timeout": 0.5}], indirect=True)
@pytest.mark.parametrize("answer", ["none", "UNAVAILABLE"])
async def test_a_local_cloud_that_does_not_answer_is_an_error_that_says_how_to_start_one(
    client: Client, service: Service, config: Config, answer: str
) -> None:
    service.fault = lambda _: Fault(hangs=answer == "none")
    begin = time.monotonic()
    with pytest.raises(exceptions.RetryError, match="start one with `python -m local up`, or unset CLOUD_TASKS_EMUL"):
        await client.create_order_task("ORD-1", "update_inventory", "ada@example.com")
    seconds = time.monotonic() - begin
    expected = config.call_timeout or 2.0
    if answer == "none":
        assert seconds >= expected - 0.1
    assert seconds <= expected + 2.0


async def test_a_new_orders_three_calls_are_in_flight_together(client: Client, service: Service) -> None:
    service.before["CreateTask"] = threading.Barrier(3, timeout=10).wait
    tasks = await client.process_new_order("ORD-1", "ada@example.com")
    assert list(tasks) == list(NEW_ORDER_ACTIONS)
    assert sorted(task.name for task in tasks.values() if task) == sorted(service.names)


async def test_all_three_are_awaited_before_the_failed_are_named(client: Client, service: Service) -> None:
    service.faults["send_confirmation"] = [grpc.StatusCode.NOT_FOUND]
    service.faults["update_inventory"] = [grpc.StatusCode.UNAVAILABLE] * 2
    service.faults["notify_warehouse"] = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(
        IncompleteOrderError, match=r"'ORD-1': 2 of 3 .*send_confirmation: 404.*notify_warehouse: 403"
    ) as e:
        await client.process_new_order("ORD-1", "ada@example.com")
    assert len(service.names) == 5  # the slowest, retried twice, was not given up
    assert list(e.value.tasks) == ["update_inventory"]
    assert {action: type(error) for action, error in e.value.failures.items()} == {
        "send_confirmation": exceptions.NotFound,
        "notify_warehouse": exceptions.PermissionDenied,
    }
    assert isinstance(e.value.__cause__, ExceptionGroup)
    again = await client.process_new_order("ORD-1", "ada@example.com")
    assert [action for action, task in again.items() if task] == ["send_confirmation", "notify_warehouse"]


async def test_an_invalid_order_is_refused_before_any_call(client: Client, service: Service) -> None:
    with pytest.raises(InvalidOrderError):
        await client.create_order_task("ORD-1", "", "ada@example.com")
    with pytest.raises(InvalidOrderError):
        await client.process_new_order("", "ada@example.com")
    assert service.received == []


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
