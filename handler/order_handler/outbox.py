"""The relay: sends the rows of the outbox that the web app did not send itself.

A web app commits each order with a row for each of its tasks, creates the tasks, and deletes the rows. Whatever it did
not get to, because it died or Cloud Tasks was away, a pass of the relay does. A row holds the name of its task, so that
two passes at once, or a pass and the web app, create one task: ALREADY_EXISTS means that this very row was sent.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, select, text

from order_handler import logs, orders
from order_handler.database import Database
from order_handler.errors import BlockedError, PermanentError, TransientError
from order_handler.tables import now

if TYPE_CHECKING:
    from order_handler.cloud_tasks import CloudTasks

YOUNG_SECONDS = 15
"""A row of this age is still the web app's to send."""
LATE_SECONDS = 300
"""A row that waits longer than this is an error."""
HORIZON_SECONDS = 30 * 24 * 3600 - 3600
"""How far ahead Cloud Tasks schedules, less an hour for clocks that differ. A row that is due later waits."""
PASS_SECONDS = 40.0
"""After this time a pass reads no more rows."""
MAX_BODY = 1000 * 1024
"""Bytes. The whole task is limited to 1 MiB."""
MAX_HEADERS = 50_000
"""Characters."""

_LAST_SECOND = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_COLUMNS: list[tuple[str, Any, bool]] = [
    ("task_id", Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,500}$(?!\n)")], True),
    ("body", Annotated[str, Meta(max_length=MAX_BODY)], True),
    ("headers", Annotated[str, Meta(max_length=MAX_HEADERS)] | None, False),
    ("due", Annotated[float, Meta(ge=-_LAST_SECOND, le=_LAST_SECOND)] | None, False),
]

# Rows with an impossible time, such as milliseconds, count as old and as due: they can be sent, or named.
_OPEN = f"refused IS NULL AND (due IS NULL OR due <= :horizon OR due > {_LAST_SECOND})"
_OLDER = "NOT added_at BETWEEN :now - :age AND :now + :age"
_NEXT = (
    f"SELECT task_id, substr(body, 1, {MAX_BODY + 1}), substr(headers, 1, {MAX_HEADERS + 1}), due, added_at "
    f"FROM outbox WHERE {_OPEN} AND {_OLDER}{{after}} ORDER BY added_at, task_id LIMIT 50"
)
_AFTER = " AND (added_at, task_id) > (:added_at, :task)"
_DELETE = text("DELETE FROM outbox WHERE task_id = :task")
_REFUSE = text("UPDATE outbox SET refused = :reason WHERE task_id = :task AND refused IS NULL")
_COUNT = text(
    f"SELECT count(*) FILTER (WHERE {_OPEN}) AS waiting, count(*) FILTER (WHERE {_OPEN} AND {_OLDER} "
    "AND (due IS NULL OR due <= :horizon - :age)) AS late, "
    "count(*) FILTER (WHERE refused IS NOT NULL) AS refused FROM outbox"
)


class Row(NamedTuple):
    """A row of the table, with values as the database holds them. Texts end after one character too many."""

    task_id: object
    body: object
    headers: object
    due: object
    added_at: object


@dataclass(slots=True)
class Pass:
    """What a pass did."""

    sent: int = 0
    left: Mapping[str, int] = field(default_factory=dict)
    """The rows that are `waiting` for a later pass, those of them that are `late`, and the `refused` ones; empty if not
    known."""
    failure: str | None = None
    """Why it ended early."""

    def counts(self) -> dict[str, int]:
        """What its caller is told."""
        return {"sent": self.sent, **self.left}


class Relay:
    def __init__(
        self,
        database: Database,
        queue: str,
        open_api: Callable[[], Awaitable["CloudTasks"]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`queue`: `projects/P/locations/L/queues/Q`. `open_api` is called before rows are sent.

        `monotonic`: the clock that limits a pass.
        """
        self._database = database
        self._queue = queue
        self._open_api = open_api
        self._monotonic = monotonic

    async def run(self) -> Pass:
        """Sends the rows that wait, oldest first, and logs what it did. Raises nothing."""
        done = Pass()
        try:
            clock = await self._database.run(lambda connection: float(connection.scalar(select(now())) or 0))
            await self._send_all(clock, done)
            done.left = await self._database.run(partial(_count, clock=clock))
        except TransientError as error:
            done.failure = str(error)
        except Exception as error:
            done.failure = repr(error)
        _log(done)
        return done

    async def _send_all(self, clock: float, done: Pass) -> None:
        end = self._monotonic() + PASS_SECONDS
        last: Row | None = None
        while done.failure is None and self._monotonic() < end:
            rows = await self._database.run(partial(_next, clock=clock, after=last))
            if not rows:
                return
            last = rows[-1]
            try:
                api = await self._open_api()
            except Exception as error:
                done.failure = repr(error)
                return
            results = await asyncio.gather(*(self._send(api, row, clock) for row in rows))
            failures = {row.task_id: failure for row, failure in zip(rows, results, strict=True) if failure}
            sent = [row.task_id for row in rows if row.task_id not in failures]
            refused = {task: str(failure) for task, failure in failures.items() if isinstance(failure, PermanentError)}
            await self._database.run(partial(_note, sent=sent, refused=refused))
            done.sent += len(sent)
            for task, failure in failures.items():
                if isinstance(failure, BlockedError):
                    done.failure = str(failure)
                else:
                    _log_failure(task, failure)

    async def _send(self, api: "CloudTasks", row: Row, clock: float) -> Exception | None:
        try:
            name, body, headers, due = _task(row, clock)
            await api.send(f"{self._queue}/tasks/{name}", body, headers, due)
        except Exception as error:
            return error
        return None


def _next(connection: Connection, clock: float, after: Row | None) -> list[Row]:
    """The next rows to send, after this one."""
    values: dict[str, object] = {"now": clock, "age": YOUNG_SECONDS, "horizon": clock + HORIZON_SECONDS}
    if after is not None:
        values |= {"added_at": after.added_at, "task": after.task_id}
    return [Row(*row) for row in connection.execute(text(_NEXT.format(after=_AFTER if after else "")), values)]


def _count(connection: Connection, clock: float) -> dict[str, int]:
    values = {"now": clock, "age": LATE_SECONDS, "horizon": clock + HORIZON_SECONDS}
    return dict(connection.execute(_COUNT, values).mappings().one())


def _note(connection: Connection, sent: Sequence[object], refused: Mapping[object, str]) -> None:
    """Deletes the rows that are sent, and marks those that can never be."""
    if sent:
        connection.execute(_DELETE, [{"task": task} for task in sent])
    if refused:
        connection.execute(_REFUSE, [{"task": task, "reason": reason[:500]} for task, reason in refused.items()])


def _task(row: Row, clock: float) -> tuple[str, bytes, dict[str, str], datetime | None]:
    """The task's id, body, headers and schedule. PermanentError if the row can never become a task."""
    if wrong := orders.problems(_COLUMNS, row._asdict()):
        raise PermanentError(wrong)
    columns: Any = row
    body = columns.body.encode()
    if len(body) > MAX_BODY:
        raise PermanentError(f"body: {len(body)} bytes, more than {MAX_BODY}")
    orders.parse(body)
    try:
        headers = msgspec.json.decode("{}" if row.headers is None else columns.headers, type=dict[str, str])
    except (ValueError, RecursionError) as error:
        raise PermanentError(f"headers: not valid JSON: {error}") from error
    due = datetime.fromtimestamp(columns.due, UTC) if row.due is not None and columns.due > clock else None
    return columns.task_id, body, {"Content-Type": "application/json", **headers}, due


def _log_failure(task: object, error: Exception) -> None:
    level, verdict = logging.WARNING, "was not sent"
    if isinstance(error, PermanentError):
        level, verdict = logging.ERROR, "can never be sent"
    logs.write(level, f"A row of the outbox {verdict}: {error}", {"task": str(task)[:100]})


def _log(done: Pass) -> None:
    """One line a pass. Alerting reads `relayed`, `outboxLate` and `outboxRefused`."""
    late, refused = done.left.get("late"), done.left.get("refused")
    level = logging.ERROR if late or refused else logging.WARNING if done.failure else logging.INFO
    message = f"The relay sent {done.sent}"
    if done.left:
        message += f"; {done.left['waiting']} wait, {late} of them for over {LATE_SECONDS} s; {refused} are refused"
    if done.failure:
        message += f"; it ended early: {done.failure}"
    fields = {"relayed": done.failure is None, "outboxLate": late or None, "outboxRefused": refused or None}
    logs.write(level, message, fields)
