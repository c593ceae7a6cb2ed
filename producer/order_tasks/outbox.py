"""The outbox: a table in which an order's tasks are committed together with the order.

    with engine.begin() as connection:
        connection.execute(...)  # the order
        rows = outbox.add(connection, "ORD-1001", "ada@example.com")
    tasks.publish(rows)

`publish` creates the tasks after the commit and deletes their rows. If it does not get that far, a relay does it later.
Each row holds the name of its task, and no other row has that name. So creating the task again changes nothing, and
ALREADY_EXISTS means that this very row was sent before. `add` needs SQLAlchemy; the rest of this module does not.
"""

import asyncio
import inspect
import json
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from google.api_core.exceptions import AlreadyExists
from google.cloud import tasks_v2

from order_tasks import trace
from order_tasks.config import Config
from order_tasks.connection import async_call_options, call_options
from order_tasks.errors import InvalidOrderError
from order_tasks.message import MAX_BODY_BYTES, create_request, task_id
from order_tasks.order import NEW_ORDER_ACTIONS, Order

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

TABLE = {
    "postgresql": """\
CREATE TABLE IF NOT EXISTS outbox (
    task_id TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    headers TEXT,
    due DOUBLE PRECISION,
    added_at DOUBLE PRECISION NOT NULL DEFAULT extract(epoch from clock_timestamp())::float8,
    refused TEXT
)""",
    "sqlite": """\
CREATE TABLE IF NOT EXISTS outbox (
    task_id TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL,
    headers TEXT,
    due DOUBLE PRECISION,
    added_at DOUBLE PRECISION NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    refused TEXT
)""",
}
"""The statement that creates the table, by SQLAlchemy's name of the database. The handler creates it too."""

INDEX = "CREATE INDEX IF NOT EXISTS ix_outbox_added_at ON outbox (added_at)"
"""The statement that creates its index: the relay sends the oldest rows first."""

INSERT = "INSERT INTO outbox (task_id, body, headers, due) VALUES (%s, %s, %s, %s)"
"""For drivers that mark parameters with `%s`, such as Django's and psycopg's. Its parameters are a Row."""

HORIZON_SECONDS = 30 * 24 * 3600 - 3600
"""How far ahead Cloud Tasks schedules, less an hour for clocks that differ."""

PUBLISH_SECONDS = 5.0
"""How long `publish` retries transient errors: somebody may be waiting, and the relay tries again anyway."""

_IN_FLIGHT = 50
_NOT_DELETED = "The tasks are created, but their rows are not deleted; the relay deletes them: %s"
_MAX_EPOCH_SECONDS = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")
_READABLE = 80  # characters of a task id; the random ones follow

Delete = Callable[[Sequence[str]], object]
"""Deletes the rows with these task ids. In asyncio code it may return an awaitable."""

log = logging.getLogger("order_tasks.outbox")


class Row(NamedTuple):
    """One task in the outbox, in the order of the parameters of INSERT."""

    task_id: str
    """The last part of the task's name."""
    body: str
    """The message, as JSON."""
    headers: str | None = None
    """Headers of the task's request, as a JSON object of texts."""
    due: float | None = None
    """Epoch seconds at which the task is to run. None: at once."""

    def request(self, config: Config) -> tasks_v2.CreateTaskRequest:
        """The CreateTask request. Raises InvalidOrderError if the row can never become a task."""
        if not isinstance(self.task_id, str) or not _TASK_ID.fullmatch(self.task_id):
            raise InvalidOrderError("task_id must be 1 to 500 letters, digits, hyphens and underscores")
        if not isinstance(self.body, str):
            raise InvalidOrderError("body must be text")
        if len(self.body) > MAX_BODY_BYTES or len(self.body.encode(errors="replace")) > MAX_BODY_BYTES:
            raise InvalidOrderError(f"body is over {MAX_BODY_BYTES} bytes")
        try:
            json.loads(self.body)
            body = self.body.encode()
        except (ValueError, RecursionError) as error:
            raise InvalidOrderError(f"body is not JSON: {error}") from error
        due = self.due
        if due is not None and not (
            isinstance(due, int | float) and math.isfinite(due) and abs(due) <= _MAX_EPOCH_SECONDS
        ):
            raise InvalidOrderError(f"due is {due!r}: it must be a time in epoch seconds")
        when = None if due is None or due <= time.time() else datetime.fromtimestamp(due, UTC)
        return create_request(config, self.task_id, body, _headers(self.headers), when)


class Rows(tuple[Row, ...]):
    """The rows of one commit. Those of `add` know their database, so that `publish` can delete them."""

    engine: "Engine | None" = None


@dataclass(frozen=True, slots=True)
class Published:
    """The result of one `publish`. Each row is in exactly one of the two."""

    sent: Sequence[str]
    """Ids of the tasks that were created now or earlier. Their rows are deleted, now or by the relay."""
    waiting: Mapping[str, Exception | None]
    """Task id -> why the row is left to the relay. None: it is due more than 30 days ahead."""


def rows(
    order_id: str,
    customer_email: str,
    actions: Sequence[str] = NEW_ORDER_ACTIONS,
    *,
    due: datetime | None = None,
    headers: Mapping[str, str] | None = None,
) -> Rows:
    """The outbox rows of an order, one for each action. Raises InvalidOrderError as `create_order_task` does.

    Insert them in the transaction that commits the order. Each call returns new rows with new task ids.
    """
    order = Order(order_id, customer_email, tuple(actions))
    headers = {**trace.headers(), **(headers or {})}
    return Rows(
        Row(
            f"{task_id(order_id, message.action)[:_READABLE]}-{secrets.token_hex(4)}",
            message.body().decode(),
            json.dumps(headers) if headers else None,
            None if due is None else due.timestamp(),
        )
        for message in order.messages
    )


def add(
    connection: "Connection",
    order_id: str,
    customer_email: str,
    actions: Sequence[str] = NEW_ORDER_ACTIONS,
    *,
    due: datetime | None = None,
    headers: Mapping[str, str] | None = None,
) -> Rows:
    """Insert the rows of an order with one statement, in the transaction of this SQLAlchemy connection.

    Pass the result to `publish` after the commit. Of an AsyncConnection, `run_sync(outbox.add, ...)` does the same.
    """
    from sqlalchemy import text

    added = rows(order_id, customer_email, actions, due=due, headers=headers)
    values = ", ".join(f"(:id{n}, :body{n}, :headers{n}, :due{n})" for n in range(len(added)))
    parameters = {
        f"{name}{n}": value
        for n, row in enumerate(added)
        for name, value in zip(("id", "body", "headers", "due"), row, strict=True)
    }
    connection.execute(text(f"INSERT INTO outbox (task_id, body, headers, due) VALUES {values}"), parameters)
    added.engine = connection.engine
    return added


def task_prefix(order_id: str, action: str) -> str:
    """What the ids of all tasks of this order and action begin with, and no others."""
    return task_id(order_id, action)[:17]


def publish(
    api: tasks_v2.CloudTasksClient, config: Config, rows: Sequence[Row], delete: Delete | None = None
) -> Published:
    """See `OrderTasks.publish`."""
    requests, waiting = _requests(rows, config)
    options = call_options(config, PUBLISH_SECONDS)

    def create(request: tasks_v2.CreateTaskRequest) -> Exception | None:
        try:
            api.create_task(request, **options)
        except AlreadyExists:
            return None
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(max(1, min(len(requests), _IN_FLIGHT))) as threads:
        published = _published(requests, threads.map(create, requests.values()), waiting)
    if delete is None and isinstance(rows, Rows) and rows.engine is not None:
        delete = partial(delete_from, rows.engine)
    if published.sent and delete is not None:
        try:
            delete(published.sent)
        except Exception as error:
            log.warning(_NOT_DELETED, error)
    return published


async def publish_async(
    api: tasks_v2.CloudTasksAsyncClient, config: Config, rows: Sequence[Row], delete: Delete | None = None
) -> Published:
    """See `AsyncOrderTasks.publish`."""
    requests, waiting = _requests(rows, config)
    options = async_call_options(config, PUBLISH_SECONDS)
    calls_in_flight = asyncio.Semaphore(_IN_FLIGHT)

    async def create(request: tasks_v2.CreateTaskRequest) -> Exception | None:
        try:
            async with calls_in_flight:
                await api.create_task(request, **options)
        except AlreadyExists:
            return None
        except Exception as error:
            return error
        return None

    published = _published(requests, await asyncio.gather(*map(create, requests.values())), waiting)
    if delete is None and isinstance(rows, Rows) and rows.engine is not None:
        delete = partial(delete_from_async, rows.engine)
    if published.sent and delete is not None:
        try:
            deleting = delete(published.sent)
            if inspect.isawaitable(deleting):
                await deleting
        except Exception as error:
            log.warning(_NOT_DELETED, error)
    return published


def delete_from(engine: "Engine", ids: Sequence[str]) -> None:
    """Delete rows with SQLAlchemy, in a transaction of its own."""
    with engine.begin() as connection:
        _delete(connection, ids)


async def delete_from_async(engine: "Engine", ids: Sequence[str]) -> None:
    """Delete rows from asyncio code, whether the engine's driver is asynchronous or not."""
    if engine.dialect.is_async:
        from sqlalchemy.ext.asyncio import AsyncEngine

        async with AsyncEngine(engine).begin() as connection:
            await connection.run_sync(_delete, ids)
    else:
        await asyncio.to_thread(delete_from, engine, ids)


def _requests(
    rows: Sequence[Row], config: Config
) -> tuple[dict[str, tasks_v2.CreateTaskRequest], dict[str, Exception | None]]:
    """The requests to send now, and why each other row waits, by task id."""
    requests: dict[str, tasks_v2.CreateTaskRequest] = {}
    waiting: dict[str, Exception | None] = {}
    for row in rows:
        try:
            request = row.request(config)
        except InvalidOrderError as error:
            waiting[row.task_id] = error
            continue
        if row.due is not None and row.due > time.time() + HORIZON_SECONDS:
            waiting[row.task_id] = None
        else:
            requests[row.task_id] = request
    return requests, waiting


def _published(
    requests: Iterable[str], errors: Iterable[Exception | None], waiting: dict[str, Exception | None]
) -> Published:
    sent = []
    for task, error in zip(requests, errors, strict=True):
        if error is None:
            sent.append(task)
        else:
            waiting[task] = error
    for task, reason in waiting.items():
        if reason is not None:
            log.warning("Task %s is not created, the relay tries again: %s", task, reason)
    return Published(sent, waiting)


def _delete(connection: "Connection", ids: Sequence[str]) -> None:
    from sqlalchemy import bindparam, text

    statement = text("DELETE FROM outbox WHERE task_id IN :ids").bindparams(bindparam("ids", expanding=True))
    connection.execute(statement, {"ids": list(ids)})


def _headers(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        headers = json.loads(text)
        if isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values()):
            json.dumps(headers, ensure_ascii=False).encode()
            return headers
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidOrderError(f"headers are not JSON: {error}") from error
    raise InvalidOrderError("headers must be a JSON object whose values are text")
