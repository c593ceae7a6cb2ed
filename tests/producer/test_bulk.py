"""Sending many orders: limited in flight and in memory, with one outcome for each."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from order_tasks import NEW_ORDER_ACTIONS, AsyncOrderTasks, Config, Order

from tests.producer.service import Service


@pytest.fixture
async def tasks(config: Config) -> AsyncIterator[AsyncOrderTasks]:
    async with AsyncOrderTasks(config) as client:
        yield client


def orders(count: int, *actions: str) -> Iterator[Order]:
    return (Order(f"ORD-{n}", "ada@example.com", actions or NEW_ORDER_ACTIONS) for n in range(count))


@pytest.mark.parametrize("actions", [(), ("send_confirmation",)])
async def test_exactly_in_flight_calls_run_at_a_time(
    tasks: AsyncOrderTasks, service: Service, actions: tuple[str, ...]
) -> None:
    together = threading.Barrier(4, timeout=10)  # with fewer calls in flight it would break
    lock = threading.Lock()
    running = most = 0

    def watch() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        with lock:
            running -= 1

    service.before["CreateTask"] = watch
    sent = [outcome async for outcome in tasks.send_orders(orders(12, *actions), in_flight=4)]
    assert len(sent) == 12
    assert most == 4
    assert all(task is not None for outcome in sent for task in outcome.tasks.values())


async def test_a_failed_order_is_an_outcome_and_the_others_are_sent(tasks: AsyncOrderTasks, service: Service) -> None:
    service.faults["update_inventory"] = [grpc.StatusCode.INVALID_ARGUMENT]
    sent = [outcome async for outcome in tasks.send_orders(orders(20), in_flight=4)]
    assert sorted(outcome.order.order_id for outcome in sent) == sorted(order.order_id for order in orders(20))
    [failed] = [outcome for outcome in sent if outcome.failures]
    assert list(failed.failures) == ["update_inventory"]
    assert list(failed.tasks) == ["send_confirmation", "notify_warehouse"]


async def test_a_slow_caller_holds_back_what_is_read(tasks: AsyncOrderTasks) -> None:
    read = 0

    def counted() -> Iterator[Order]:
        nonlocal read
        for order in orders(1000, "send_confirmation"):
            read += 1
            yield order

    sending = tasks.send_orders(counted(), in_flight=4)
    await anext(sending)
    await asyncio.sleep(0.2)
    assert read <= 1 + 2 * 4
    await sending.aclose()


async def test_an_error_of_the_source_comes_after_the_orders_before_it(tasks: AsyncOrderTasks) -> None:
    def broken() -> Iterator[Order]:
        yield from orders(5)
        raise OSError("the disk is gone")

    sending = tasks.send_orders(broken())
    assert len([await anext(sending) for _ in range(5)]) == 5
    with pytest.raises(OSError, match="the disk is gone"):
        await anext(sending)


async def test_orders_may_arrive_one_by_one(tasks: AsyncOrderTasks) -> None:
    seen = asyncio.Event()

    async def arriving() -> AsyncIterator[Order]:
        yield Order("ORD-1", "ada@example.com")
        await seen.wait()  # set only once the first one's outcome is out
        yield Order("ORD-2", "ada@example.com")

    sent = []
    async for outcome in tasks.send_orders(arriving()):
        sent.append(outcome.order.order_id)
        seen.set()
    assert sent == ["ORD-1", "ORD-2"]


async def test_leaving_early_leaves_nothing_running(tasks: AsyncOrderTasks) -> None:
    sending = tasks.send_orders(orders(1000))
    await anext(sending)
    await sending.aclose()
    assert not [task for task in asyncio.all_tasks() if "order_tasks" in str(task.get_coro())]


async def test_no_orders_are_no_outcomes(tasks: AsyncOrderTasks) -> None:
    assert [outcome async for outcome in tasks.send_orders(list[Order]())] == []


async def test_nothing_in_flight_is_refused_rather_than_lost(tasks: AsyncOrderTasks) -> None:
    with pytest.raises(ValueError, match="in_flight is 0"):
        await anext(tasks.send_orders(orders(1), in_flight=0))
