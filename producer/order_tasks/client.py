"""The two clients, blocking and asyncio. Both send the same requests through the official client.

They limit how many calls are in flight. They validate nothing: an `Order` and a request are always valid.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, Unpack

from google.api_core import exceptions
from google.cloud import tasks_v2

from order_tasks import connection, outbox
from order_tasks.config import Config
from order_tasks.errors import IncompleteOrderError
from order_tasks.message import Message, TaskOptions, message_request
from order_tasks.order import Order


class Sendable(Protocol):
    """An `Order`, a `Message`, or what wraps one."""

    @property
    def order_id(self) -> str | None: ...

    @property
    def messages(self) -> Sequence[Message]: ...


_Order = TypeVar("_Order", bound=Sendable)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[_Order]):
    """The result of sending one order. Each action is in exactly one of the two mappings."""

    order: _Order
    tasks: Mapping[str, tasks_v2.Task | None]
    """Action -> its task, or None if the task already existed."""
    failures: Mapping[str, Exception]
    """Action -> the error that prevented its task."""

    def all_tasks(self) -> Mapping[str, tasks_v2.Task | None]:
        """The tasks of every action. Raises IncompleteOrderError if any failed."""
        if self.failures:
            raise IncompleteOrderError(self.order.order_id, self.tasks, self.failures)
        return self.tasks


class OrderTasks:
    """Creates tasks from blocking code. Owns one gRPC channel: share it between threads, and close it at the end.

    A forked child may use it too: the fork waits up to 10 s for calls in flight, and the child gets its own channel.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._connection = connection.Connection(config)
        self._options = connection.call_options(config)

    def create_order_task(self, order_id: str, action: str, customer_email: str) -> tasks_v2.Task | None:
        """Like `order_tasks.create_order_task`."""
        return self.create_task(action, {"orderId": order_id, "customerEmail": customer_email})

    def create_task(
        self, action: str, fields: Mapping[str, Any], **options: Unpack[TaskOptions]
    ) -> tasks_v2.Task | None:
        """Like `order_tasks.create_task`."""
        return self._create(message_request(self._config, action, fields, **options))

    def process_new_order(self, order_id: str, email: str) -> Mapping[str, tasks_v2.Task | None]:
        """Like `order_tasks.process_new_order`."""
        order = Order(order_id, email)
        requests = [message.request(self._config) for message in order.messages]
        # Each call has its own threads: with shared threads, the orders of a busy web app would wait for each other.
        with ThreadPoolExecutor(len(requests)) as threads:
            return _outcome(order, list(threads.map(self._attempt, requests))).all_tasks()

    def publish(self, rows: Sequence[outbox.Row], delete: outbox.Delete | None = None) -> outbox.Published:
        """Create the tasks of committed outbox rows, and delete the rows whose tasks exist.

        Call it after the commit. Transient errors are retried for 5 s. Raises nothing: the result and a warning in the
        log name the rows that are left to the relay. `delete` deletes rows by their task ids; the default uses the
        database that `outbox.add` inserted them into. Rows that are never deleted here are deleted by the relay.
        """
        requests, waiting = outbox.requests(rows, self._config)
        options = connection.call_options(self._config, outbox.PUBLISH_SECONDS)
        with ThreadPoolExecutor(max(1, min(len(requests), outbox.PUBLISHED_AT_ONCE))) as threads:
            results = threads.map(lambda request: self._attempt(request, options), requests.values())
            published = outbox.published(requests, results, waiting)
        engine = getattr(rows, "engine", None)
        with outbox.deleting():
            if delete and published.sent:
                delete(published.sent)
            elif engine and published.sent:
                outbox.delete_from(engine, published.sent)
        return published

    def close(self) -> None:
        """Close the channel. Calls in flight fail."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _create(
        self, request: tasks_v2.CreateTaskRequest, options: connection.CallOptions | None = None
    ) -> tasks_v2.Task | None:
        try:
            with self._connection.client() as api:
                return api.create_task(request, **(options or self._options))
        except exceptions.AlreadyExists:
            return None

    def _attempt(
        self, request: tasks_v2.CreateTaskRequest, options: connection.CallOptions | None = None
    ) -> tasks_v2.Task | Exception | None:
        try:
            return self._create(request, options)
        except Exception as error:
            return error


class AsyncOrderTasks:
    """Creates tasks from asyncio code. Owns one gRPC channel of the running event loop: create and close it there.

    Fork before you create it: gRPC does not work in a child that inherits an open channel.
    """

    def __init__(self, config: Config) -> None:
        asyncio.get_running_loop()  # raises outside a loop, where gRPC would bind the channel to a loop that never runs
        self._config = config
        self._api = connection.connect_async(config)
        self._options = connection.async_call_options(config)

    async def create_order_task(self, order_id: str, action: str, customer_email: str) -> tasks_v2.Task | None:
        """Like `order_tasks.create_order_task`."""
        return await self.create_task(action, {"orderId": order_id, "customerEmail": customer_email})

    async def create_task(
        self, action: str, fields: Mapping[str, Any], **options: Unpack[TaskOptions]
    ) -> tasks_v2.Task | None:
        """Like `order_tasks.create_task`."""
        return await self._create(message_request(self._config, action, fields, **options))

    async def process_new_order(self, order_id: str, email: str) -> Mapping[str, tasks_v2.Task | None]:
        """Like `order_tasks.process_new_order`."""
        order = Order(order_id, email)
        return (await self._create_all(order, asyncio.Semaphore(len(order.messages)))).all_tasks()

    async def send_orders(
        self, orders: Iterable[_Order] | AsyncIterable[_Order], in_flight: int = 100, due: datetime | None = None
    ) -> AsyncGenerator[Outcome[_Order], None]:
        """Create the tasks of many orders or messages, with at most `in_flight` calls at a time.

        Yields one outcome for each order, in the order of completion. A failed order does not stop the others. Reads
        `orders` at most 2 x `in_flight` ahead of the caller. If `orders` raises an error, the outcomes of all earlier
        orders come first. Leaving the loop early cancels the calls in flight; sending the same orders again is safe.
        Pass orders that arrive slowly as an async iterable, since a blocking iterable blocks the event loop. The
        default of 100 is the number of calls that one HTTP/2 connection to Google carries at once. `due`: when to
        deliver the tasks.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}, so nothing could be sent: pass 1 or more")
        outcomes: asyncio.Queue[Outcome[_Order] | None] = asyncio.Queue(in_flight)
        calls = asyncio.Semaphore(in_flight)
        turn = asyncio.Lock()

        async def work(source: AsyncIterator[_Order]) -> None:
            while True:
                async with turn:
                    order = await anext(source, None)
                if order is None:
                    return
                await outcomes.put(await self._create_all(order, calls, due))

        async def work_together() -> None:
            async with aclosing(_each(orders)) as source:
                ended = await asyncio.gather(*(work(source) for _ in range(in_flight)), return_exceptions=True)
            await outcomes.put(None)
            for error in ended:
                if error is not None:
                    raise error

        working = asyncio.create_task(work_together())
        try:
            while (outcome := await outcomes.get()) is not None:
                yield outcome
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def publish(self, rows: Sequence[outbox.Row], delete: outbox.Delete | None = None) -> outbox.Published:
        """Like `OrderTasks.publish`; `delete` may be a coroutine function."""
        requests, waiting = outbox.requests(rows, self._config)
        options = connection.async_call_options(self._config, outbox.PUBLISH_SECONDS)
        calls = asyncio.Semaphore(outbox.PUBLISHED_AT_ONCE)
        attempts = (self._attempt(request, calls, options) for request in requests.values())
        published = outbox.published(requests, await asyncio.gather(*attempts), waiting)
        engine = getattr(rows, "engine", None)
        with outbox.deleting():
            if delete and published.sent:
                deleted = delete(published.sent)
                if inspect.isawaitable(deleted):
                    await deleted
            elif engine and published.sent:
                await outbox.delete_from_async(engine, published.sent)
        return published

    async def close(self) -> None:
        """Close the channel. Calls in flight fail."""
        await self._api.transport.close()  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _create(
        self, request: tasks_v2.CreateTaskRequest, options: connection.CallOptions | None = None
    ) -> tasks_v2.Task | None:
        try:
            return await self._api.create_task(request, **(options or self._options))
        except exceptions.AlreadyExists:
            return None

    async def _attempt(
        self,
        request: tasks_v2.CreateTaskRequest,
        calls: asyncio.Semaphore,
        options: connection.CallOptions | None = None,
    ) -> tasks_v2.Task | Exception | None:
        try:
            async with calls:
                return await self._create(request, options)
        except Exception as error:
            return error

    async def _create_all(
        self, order: _Order, calls: asyncio.Semaphore, due: datetime | None = None
    ) -> Outcome[_Order]:
        requests = [message.request(self._config, due) for message in order.messages]
        return _outcome(order, await asyncio.gather(*(self._attempt(request, calls) for request in requests)))


def _outcome(order: _Order, results: Sequence[tasks_v2.Task | Exception | None]) -> Outcome[_Order]:
    tasks: dict[str, tasks_v2.Task | None] = {}
    failures: dict[str, Exception] = {}
    for message, result in zip(order.messages, results, strict=True):
        if isinstance(result, Exception):
            failures[message.action] = result
        else:
            tasks[message.action] = result
    return Outcome(order, tasks, failures)


async def _each(orders: Iterable[_Order] | AsyncIterable[_Order]) -> AsyncGenerator[_Order, None]:
    if isinstance(orders, AsyncIterable):
        async for order in orders:
            yield order
    else:
        for order in orders:
            yield order
