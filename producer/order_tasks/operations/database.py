"""The order database as operators need it: an order's rows in the outbox and in the handler's ledger.

Needs SQLAlchemy.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Text, column, create_engine, delete, inspect, or_, select, table, text
from sqlalchemy.exc import SQLAlchemyError

from order_tasks.errors import ConfigError
from order_tasks.operations.entry import effect, read_message
from order_tasks.outbox import CLOCK

URL = "ORDER_TASKS_DATABASE_URL"

_OUTBOX = table("outbox", column("task_id", Text), *map(column, ("body", "due", "added_at", "refused")))
_EFFECTS = table("effects", *map(column, ("action", "token", "claimed_until", "done_at", "order_id")))
_CANCELLED = "cancelled"
"""The handler answers `cancelled` to a task whose row in the ledger has this token."""
_CANCEL = """
INSERT INTO effects (order_id, action, token, claimed_until, done_at)
VALUES (:order_id, :effect, 'cancelled', {now}, {now})
ON CONFLICT (order_id, action) DO UPDATE
SET token = excluded.token, claimed_until = excluded.claimed_until, done_at = excluded.done_at
WHERE effects.done_at IS NULL AND effects.claimed_until <= excluded.claimed_until
"""

EffectState = Literal["done", "cancelled", "running", "unknown"]


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A task that is committed and not known to be created."""

    task_id: str
    effect: str | None
    """The action, with `#key` if it has one."""
    added: datetime
    due: datetime | None
    refused: str | None
    """Why it can never be sent."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """An effect of an order, as the handler records it."""

    effect: str
    state: EffectState
    """`unknown`: a run that began it did not end, so that it may have happened."""
    time: datetime
    """When it was done or cancelled, or until when its run holds it."""


class Database:
    """Raises OSError if the database does not answer, or is another one."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError if the URL cannot be used."""
        try:
            self.engine = create_engine(url)
        except (SQLAlchemyError, ValueError, ImportError) as error:
            raise ConfigError(f"{URL} cannot be used: {error}") from error
        if self.engine.dialect.name not in CLOCK:
            raise ConfigError(f"{URL} is of {self.engine.dialect.name}: use PostgreSQL or SQLite")

    @property
    def now(self) -> str:
        """The SQL expression of its clock."""
        return CLOCK[self.engine.dialect.name]

    def rows(self, order_id: str) -> tuple[tuple[OutboxRow, ...], tuple[LedgerRow, ...]]:
        """An order's rows in the outbox and in the ledger. A table that is missing has none."""
        with self._transaction() as connection:
            tables = set(inspect(connection).get_table_names())
            outbox = _outbox(connection, order_id) if "outbox" in tables else ()
            return outbox, self._ledger(connection, order_id) if "effects" in tables else ()

    def cancel(self, order_id: str, effects: Iterable[str]) -> None:
        """Delete an order's rows in the outbox, and note these effects and theirs as cancelled, in one transaction.

        An effect that is done or running stays as it is.
        """
        with self._transaction() as connection:
            rows = _outbox(connection, order_id)
            connection.execute(delete(_OUTBOX).where(_OUTBOX.c.task_id.in_([row.task_id for row in rows])))
            # Sorted, so that two transactions never wait for each other.
            noted = sorted({*effects, *(row.effect for row in rows if row.effect)})
            statement = text(_CANCEL.format(now=self.now))
            connection.execute(statement, [{"order_id": order_id, "effect": each} for each in noted])

    def execute(self, statement: str, **values: object) -> Sequence[Any]:
        """Run one statement in a transaction of its own. Returns the rows that it gives."""
        with self._transaction() as connection:
            result = connection.execute(text(statement), values)
            return result.all() if result.returns_rows else ()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise OSError(f"the order database: {error}") from error

    def _ledger(self, connection: Connection, order_id: str) -> tuple[LedgerRow, ...]:
        now = connection.execute(text(f"SELECT {self.now}")).scalar_one()
        found = connection.execute(select(_EFFECTS).where(_EFFECTS.c.order_id == order_id).order_by(_EFFECTS.c.action))
        return tuple(_ledger_row(row.action, row.token, row.claimed_until, row.done_at, now) for row in found)


def _ledger_row(effect: str, token: str, claimed_until: float, done_at: float | None, now: float) -> LedgerRow:
    state: EffectState = "running" if claimed_until > now else "unknown"
    if done_at is not None:
        state = "cancelled" if token == _CANCELLED else "done"
    return LedgerRow(effect, state, datetime.fromtimestamp(claimed_until if done_at is None else done_at, UTC))


def _outbox(connection: Connection, order_id: str) -> tuple[OutboxRow, ...]:
    # Not by the task's id alone: other programs name their tasks differently.
    written = {json.dumps(order_id, ensure_ascii=escaped)[1:-1] for escaped in (True, False)}
    bodies = or_(*(_OUTBOX.c.body.contains(order, autoescape=True) for order in written))
    found = []
    for row in connection.execute(select(_OUTBOX).where(bodies).order_by(_OUTBOX.c.added_at, _OUTBOX.c.task_id)):
        message = read_message(row.body)
        if message.get("orderId") == order_id:
            due = None if row.due is None else datetime.fromtimestamp(row.due, UTC)
            added = datetime.fromtimestamp(row.added_at, UTC)
            found.append(OutboxRow(row.task_id, effect(message), added, due, row.refused))
    return tuple(found)
