"""The relay: sends the rows of the outbox that the web app did not send itself.

A web app commits each order with a row for each of its tasks, creates the tasks, and deletes the rows. Whatever it did
not get to, because it died or Cloud Tasks was away, a pass of the relay does. A row holds the name of its task, so that
two passes at once, or a pass and the web app, create one task: ALREADY_EXISTS means that this very row was sent.
"""

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, Protocol

import orjson
from sqlalchemy import Connection, bindparam, case, delete, func, or_, select, tuple_, update

from order_handler import logs
from order_handler.database import Database
from order_handler.errors import BlockedError, PermanentError, TransientError
from order_handler.tables import now, outbox

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

_BATCH = 50
_REASON_LENGTH = 500
_MAX_EPOCH_SECONDS = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")


class Api(Protocol):
    async def send(self, name: str, body: bytes, headers: Mapping[str, str], due: datetime | None) -> None:
        """Creates the task of this name, unless it was created before.

        PermanentError if it can never be created, BlockedError if no task can be created now; any other exception if
        this one may be created later.
        """

    async def close(self) -> None: ...


class Row(NamedTuple):
    """A row of the table, with values as the database holds them."""

    task_id: object
    body: object
    """None if it is too large."""
    headers: object
    """Empty if they are too large."""
    due: object
    added_at: object


class Backlog(NamedTuple):
    """The rows that are left."""

    waiting: int
    """To be sent in a later pass."""
    late: int
    """Of these, the ones that wait longer than they should."""
    refused: int


@dataclass(slots=True)
class Pass:
    """What a pass did."""

    sent: int = 0
    backlog: Backlog | None = None
    failure: str | None = None
    """Why it ended early."""

    def counts(self) -> dict[str, object]:
        """What its caller is told."""
        return {"sent": self.sent, **(self.backlog._asdict() if self.backlog else {})}


# Rows with an impossible time, such as milliseconds, count as old and as due: they can be sent, or named.
_OLDER = ~outbox.c.added_at.between(bindparam("now") - bindparam("age"), bindparam("now") + bindparam("age"))
_DUE = or_(outbox.c.due.is_(None), outbox.c.due <= bindparam("horizon"), outbox.c.due > _MAX_EPOCH_SECONDS)
_OPEN = outbox.c.refused.is_(None)
_NEXT = (
    select(
        outbox.c.task_id,
        case((func.length(outbox.c.body) <= MAX_BODY, outbox.c.body)),
        case(
            (or_(outbox.c.headers.is_(None), func.length(outbox.c.headers) <= MAX_HEADERS), outbox.c.headers), else_=""
        ),
        outbox.c.due,
        outbox.c.added_at,
    )
    .where(_OPEN, _OLDER, _DUE)
    .order_by(outbox.c.added_at, outbox.c.task_id)
    .limit(_BATCH)
)
_NEXT_AFTER = _NEXT.where(
    tuple_(outbox.c.added_at, outbox.c.task_id) > tuple_(bindparam("added_at"), bindparam("task"))
)
_DELETE = delete(outbox).where(outbox.c.task_id.in_(bindparam("tasks", expanding=True)))
_REFUSE = update(outbox).where(outbox.c.task_id == bindparam("task"), _OPEN).values(refused=bindparam("reason"))
_BACKLOG = select(
    func.count().filter(_OPEN, _DUE),
    func.count().filter(
        _OPEN, _OLDER, _DUE, or_(outbox.c.due.is_(None), outbox.c.due <= bindparam("horizon") - LATE_SECONDS)
    ),
    func.count().filter(~_OPEN),
)


class Relay:
    def __init__(
        self,
        database: Database,
        queue: str,
        open_api: Callable[[], Awaitable[Api]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`queue`: `projects/P/locations/L/queues/Q`. `monotonic`: the clock that limits a pass."""
        self._database = database
        self._queue = queue
        self._open_api = open_api
        self._monotonic = monotonic
        self._opening = asyncio.Lock()
        self._api: Api | None = None

    async def run(self) -> Pass:
        """Sends the rows that wait, oldest first, and logs what it did. Raises nothing."""
        done = Pass()
        try:
            clock = await self._database.run(lambda connection: float(connection.scalar(select(now())) or 0))
            await self._send_all(clock, done)
            done.backlog = await self._database.run(partial(_backlog, clock=clock))
        except TransientError as error:
            done.failure = str(error)
        except Exception as error:
            done.failure = repr(error)
        _log(done)
        return done

    async def close(self) -> None:
        if self._api:
            await self._api.close()

    async def _send_all(self, clock: float, done: Pass) -> None:
        end = self._monotonic() + PASS_SECONDS
        last: Row | None = None
        while done.failure is None and self._monotonic() < end:
            rows = await self._database.run(partial(_next, clock=clock, after=last))
            if not rows:
                return
            last = rows[-1]
            try:
                api = await self._open()
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

    async def _send(self, api: Api, row: Row, clock: float) -> Exception | None:
        try:
            name, body, headers, due = _task(row, clock)
            await api.send(f"{self._queue}/tasks/{name}", body, headers, due)
        except Exception as error:
            return error
        return None

    async def _open(self) -> Api:
        async with self._opening:
            if self._api is None:
                self._api = await self._open_api()
            return self._api


def _next(connection: Connection, clock: float, after: Row | None) -> list[Row]:
    """The next rows to send, after this one."""
    times = {"now": clock, "age": YOUNG_SECONDS, "horizon": clock + HORIZON_SECONDS}
    if after is None:
        return [Row(*row) for row in connection.execute(_NEXT, times)]
    position = {"added_at": after.added_at, "task": after.task_id}
    return [Row(*row) for row in connection.execute(_NEXT_AFTER, {**times, **position})]


def _backlog(connection: Connection, clock: float) -> Backlog:
    times = {"now": clock, "age": LATE_SECONDS, "horizon": clock + HORIZON_SECONDS}
    return Backlog(*connection.execute(_BACKLOG, times).one())


def _note(connection: Connection, sent: Sequence[object], refused: Mapping[object, str]) -> None:
    """Deletes the rows that are sent, and marks those that can never be."""
    if sent:
        connection.execute(_DELETE, {"tasks": sent})
    if refused:
        reasons = [{"task": task, "reason": reason[:_REASON_LENGTH]} for task, reason in refused.items()]
        connection.execute(_REFUSE, reasons)


def _task(row: Row, clock: float) -> tuple[str, bytes, dict[str, str], datetime | None]:
    """The task's id, body, headers and schedule. PermanentError if the row can never become a task."""
    if not isinstance(row.task_id, str) or not _TASK_ID.fullmatch(row.task_id):
        raise PermanentError("task_id must be 1 to 500 letters, digits, hyphens and underscores")
    body = row.body.encode() if isinstance(row.body, str) else row.body
    if body is None or (isinstance(body, bytes) and len(body) > MAX_BODY):
        raise PermanentError(f"body is over {MAX_BODY} bytes")
    if not isinstance(row.body, str) or not isinstance(body, bytes):
        raise PermanentError("body must be text")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PermanentError(f"body is not JSON: {error}") from error
    return row.task_id, body, _headers(row.headers), _schedule(row.due, clock)


def _schedule(due: object, clock: float) -> datetime | None:
    if due is None:
        return None
    if not isinstance(due, int | float) or not math.isfinite(due) or abs(due) > _MAX_EPOCH_SECONDS:
        raise PermanentError(f"due is {_short(due)}: it must be a time in epoch seconds")
    return datetime.fromtimestamp(due, UTC) if due > clock else None


def _headers(text: object) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if text is None:
        return headers
    try:
        more = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError as error:
        raise PermanentError(f"headers are not JSON of at most {MAX_HEADERS} characters: {error}") from error
    if not isinstance(more, dict) or not all(isinstance(value, str) for value in more.values()):
        raise PermanentError("headers must be a JSON object whose values are text")
    return {**headers, **more}


def _log_failure(task: object, error: Exception) -> None:
    level, verdict = logging.WARNING, "was not sent"
    if isinstance(error, PermanentError):
        level, verdict = logging.ERROR, "can never be sent"
    logs.write(level, f"A row of the outbox {verdict}: {error}", {"task": _short(task)})


def _log(done: Pass) -> None:
    """One line a pass. Alerting reads `relayed`, `outboxLate` and `outboxRefused`."""
    waiting, late, refused = done.backlog or Backlog(0, 0, 0)
    level = logging.ERROR if late or refused else logging.WARNING if done.failure else logging.INFO
    message = f"The relay sent {done.sent}"
    if done.backlog:
        message += f"; {waiting} wait, {late} of them for over {LATE_SECONDS} s; {refused} are refused"
    if done.failure:
        message += f"; it ended early: {done.failure}"
    fields = {"relayed": done.failure is None, "outboxLate": late or None, "outboxRefused": refused or None}
    logs.write(level, message, fields)


def _short(value: object) -> str:
    return str(value)[:100]
