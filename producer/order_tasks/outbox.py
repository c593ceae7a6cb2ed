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
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Unpack

import msgspec
from google.cloud import tasks_v2
from msgspec import Meta

from order_tasks import trace
from order_tasks.config import Config
from order_tasks.contract import problems
from order_tasks.errors import InvalidOrderError
from order_tasks.message import MAX_BODY_BYTES, Message, TaskOptions, create_request, due_time, task_id
from order_tasks.order import NEW_ORDER_ACTIONS, Order

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

CLOCK = {
    "postgresql": "extract(epoch from clock_timestamp())::float8",
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
}
"""Epoch seconds by the database's clock, by SQLAlchemy's name of the database."""

TABLE = {
    database: f"""\
CREATE TABLE IF NOT EXISTS outbox (
    task_id TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL,
    headers TEXT,
    due DOUBLE PRECISION,
    added_at DOUBLE PRECISION NOT NULL DEFAULT {clock},
    refused TEXT
)"""
    for database, clock in CLOCK.items()
}
"""The statement that creates the table. The handler creates it too."""

INDEX = "CREATE INDEX IF NOT EXISTS ix_outbox_added_at ON outbox (added_at)"
"""The statement that creates its index: the relay sends the oldest rows first."""

INSERT = "INSERT INTO outbox (task_id, body, headers, due) VALUES (%s, %s, %s, %s)"
"""For drivers that mark parameters with `%s`, such as Django's and psycopg's. Its parameters are a Row."""

HORIZON_SECONDS = 30 * 24 * 3600 - 3600
"""How far ahead Cloud Tasks schedules, less an hour for clocks that differ."""

PUBLISH_SECONDS = 5.0
"""How long `publish` retries transient errors: somebody may be waiting, and the relay tries again anyway."""

PUBLISHED_AT_ONCE = 50
"""Calls in flight of one `publish`."""

_LAST_SECOND = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_COLUMNS: list[tuple[str, Any, bool]] = [
    ("task_id", Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,500}$(?!\n)")], True),
    ("body", Annotated[str, Meta(max_length=MAX_BODY_BYTES)], True),
    ("headers", Annotated[str, Meta(max_length=50_000)] | None, False),
    ("due", Annotated[float, Meta(ge=-_LAST_SECOND, le=_LAST_SECOND)] | None, False),
]
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
        if wrong := problems(_COLUMNS, self._asdict()):
            raise InvalidOrderError(wrong)
        _decode("body", self.body)
        if len(body := self.body.encode()) > MAX_BODY_BYTES:
            raise InvalidOrderError(f"body: {len(body)} bytes, more than {MAX_BODY_BYTES}")
        headers = _decode("headers", "{}" if self.headers is None else self.headers, dict[str, str])
        when = datetime.fromtimestamp(self.due, UTC) if self.due is not None and self.due > time.time() else None
        return create_request(config, self.task_id, body, headers, when)


class Rows(tuple[Row, ...]):
    """The rows of one commit. Those of `add` know their database, so that `publish` can delete them."""

    engine: "Engine | None" = None


class RowOptions(TaskOptions, total=False):
    """See `create_task`; `at` may be any time."""

    headers: Mapping[str, str] | None


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
    return Rows(_row(message, due, headers) for message in Order(order_id, customer_email, tuple(actions)).messages)


def task_row(action: str, fields: Mapping[str, Any], **options: Unpack[RowOptions]) -> Row:
    """The outbox row of a task of any action. Takes what `create_task` takes, and `headers`."""
    due = due_time(datetime.now(UTC), options.get("at"), options.get("delay"))
    return _row(Message(action, fields, options.get("key")), due, options.get("headers"))


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
    return insert(connection, rows(order_id, customer_email, actions, due=due, headers=headers))


def add_task(connection: "Connection", action: str, fields: Mapping[str, Any], **options: Unpack[RowOptions]) -> Rows:
    """Insert the row of a task of any action, as `add` does. Takes what `create_task` takes, and `headers`."""
    return insert(connection, [task_row(action, fields, **options)])


def insert(connection: "Connection", rows: Iterable[Row]) -> Rows:
    """Insert rows with one statement, in the transaction of this SQLAlchemy connection. See `add`."""
    from sqlalchemy import text

    added = Rows(rows)
    values = ", ".join(f"(:id{n}, :body{n}, :headers{n}, :due{n})" for n in range(len(added)))
    parameters = {
        f"{name}{n}": value
        for n, row in enumerate(added)
        for name, value in zip(("id", "body", "headers", "due"), row, strict=True)
    }
    connection.execute(text(f"INSERT INTO outbox (task_id, body, headers, due) VALUES {values}"), parameters)
    added.engine = connection.engine
    return added


def task_prefix(order_id: str, action: str, key: str | None = None) -> str:
    """What the ids of all tasks of this order, action and key begin with, and no others."""
    return task_id(order_id, action, key)[:17]


def requests(
    rows: Sequence[Row], config: Config
) -> tuple[dict[str, tasks_v2.CreateTaskRequest], dict[str, Exception | None]]:
    """The requests to send now, and why each other row waits, by task id."""
    found: dict[str, tasks_v2.CreateTaskRequest] = {}
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
            found[row.task_id] = request
    return found, waiting


def published(tasks: Iterable[str], results: Iterable[object], waiting: dict[str, Exception | None]) -> Published:
    """Sorts the tasks by the results of their calls, and logs why rows wait."""
    sent = []
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, Exception):
            waiting[task] = result
        else:
            sent.append(task)
    for task, reason in waiting.items():
        if reason is not None:
            log.warning("Task %s is not created, the relay tries again: %s", task, reason)
    return Published(sent, waiting)


@contextmanager
def deleting() -> Iterator[None]:
    """A failure to delete rows is logged: the relay deletes them."""
    try:
        yield
    except Exception as error:
        log.warning("The tasks are created, but their rows are not deleted; the relay deletes them: %s", error)


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


def _delete(connection: "Connection", ids: Sequence[str]) -> None:
    from sqlalchemy import text

    connection.execute(text("DELETE FROM outbox WHERE task_id = :id"), [{"id": task} for task in ids])


def _row(message: Message, due: datetime | None, headers: Mapping[str, str] | None) -> Row:
    headers = {**trace.headers(), **(headers or {})}
    return Row(
        f"{message.task_id[:_READABLE]}-{secrets.token_hex(4)}",
        message.body().decode(),
        json.dumps(headers) if headers else None,
        None if due is None else due.timestamp(),
    )


def _decode(column: str, text: str, kind: Any = Any) -> Any:  # noqa: ANN401
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        raise InvalidOrderError(f"{column}: not valid JSON: {error}") from error
