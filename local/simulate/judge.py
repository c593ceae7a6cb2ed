"""The judge: sees every effect, and says what was lost, repeated without a cause, done without an order, or left."""

import collections
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sql
from order_handler import tables
from order_handler.ledger import CANCELLED
from order_tasks import NEW_ORDER_ACTIONS

from local.simulate.cloud import DEAD_LETTERS, Service, dead_letters
from local.simulate.loop import Process
from local.simulate.world import World
from local.sinks.shop import NOTEBOOK, STOCK, item_of

Duty = tuple[str, str]
"""An order and an action."""
_STALL_SECONDS = 20.0
"""The limit of an effect: a run that froze within it may have lost its claim."""


@dataclass
class Effect:
    """A mail or a notification that was sent."""

    duty: Duty
    process: Process
    sent: float
    at: float = 0.0
    """When it arrived."""
    sent_by_database: float = 0.0
    claimed_until: float = 0.0
    """When the claim of its run ends. Both by the database's clock."""
    known: bool = False
    """Its run has heard of it."""
    given_up: bool = False
    """Its run was told that it failed, and has released its claim."""


class Judge:
    def __init__(self, world: World, database_url: str, acknowledged: Mapping[str, bool]) -> None:
        """`acknowledged`: of orders without outbox, whether the creation of their tasks was."""
        self.explained = 0
        self.dropped: set[Duty] = set()
        self._world = world
        self._acknowledged = acknowledged
        self._engine = sql.create_engine(database_url, poolclass=sql.StaticPool)
        self._effects: dict[Duty, list[Effect]] = collections.defaultdict(list)
        self._problems: list[str] = []
        self._notebooks = 0

    # The database

    def prepare(self, items: list[str]) -> None:
        """Creates the tables."""
        with self._engine.begin() as connection:
            tables.create_missing(connection)
            connection.execute(sql.insert(tables.stock), [{"item": item, "quantity": STOCK} for item in items])
            connection.execute(sql.insert(tables.stock), {"item": NOTEBOOK, "quantity": 0})

    def deliver_notebooks(self, pieces: int) -> None:
        """Adds to the item that all orders share."""
        self._notebooks += pieces
        more = sql.update(tables.stock).where(tables.stock.c.item == NOTEBOOK)
        with self._engine.begin() as connection:
            connection.execute(more.values(quantity=tables.stock.c.quantity + pieces))

    def waiting(self) -> list[str]:
        """The rows of the outbox."""
        return [row[0] for row in self._rows(sql.select(tables.outbox.c.task_id))]

    def committed(self) -> list[str]:
        return [row[0] for row in self._rows(sql.select(tables.orders.c.order_id))]

    def _rows(self, statement: sql.Select[*tuple[str, ...]]) -> list[tuple[str, ...]]:
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(statement)]

    # Output

    def write(self, text: str) -> None:
        """A log line of a handler, or what a command prints."""
        if '"stack_trace"' in text and "CancelledError" not in text:
            self._problems.append(f"an exception that nothing foresees: {text}")

    def flush(self) -> None:
        """Nothing is kept back."""

    def isatty(self) -> bool:
        return False

    # Effects

    def happened(self, effect: Effect) -> None:
        """A mail or a notification arrives."""
        order, action = effect.duty
        self._world.note(f"{action} of {order} happens, sent by {effect.process.name}")
        columns = (tables.effects.c.token, tables.effects.c.claimed_until)
        row = self._rows(sql.select(*columns).filter_by(order_id=order, action=action))
        effect.at = self._world.loop.now
        effect.claimed_until = float(row[0][1]) if row else 0.0
        effect.sent_by_database = self._world.database_now() - effect.at + effect.sent
        stalled = effect.given_up or _met(effect.process, effect.sent - _STALL_SECONDS, effect.at)
        if row and row[0][0] == CANCELLED and not stalled:
            self._problems.append(f"{action} of {order} happened although it was cancelled")
        self._effects[effect.duty].append(effect)

    # The verdict

    def problems(self, service: Service) -> list[str]:
        """Everything that is not as promised."""
        committed = set(self.committed())
        ledger = {(row[0], row[1]): row[2] for row in self._rows(_DONE)}
        cancelled = {duty for duty, token in ledger.items() if token == CANCELLED}
        excused = self.dropped | cancelled
        done = {*self._effects, *(duty for duty in ledger if duty[1] == "update_inventory" and duty not in cancelled)}
        allowed = {(order, action) for order in committed for action in NEW_ORDER_ACTIONS}
        duties = {duty for duty in allowed if self._acknowledged.get(duty[0], True)}
        found = [
            *self._problems,
            *(f"LOST: {action} of {order}" for order, action in sorted(duties - done - excused)),
            *(f"{action} of {order} happened without an order" for order, action in sorted(done - allowed)),
            *self._stock(done),
            *self._tasks(service, committed),
        ]
        for duty, effects in sorted(self._effects.items()):
            effects.sort(key=lambda effect: effect.sent)
            for first, second in itertools.pairwise(effects):
                reason = _unexplained(first, second)
                self.explained += reason is None
                if reason:
                    found.append(f"REPEATED: {duty[1]} of {duty[0]} at {second.at:.3f} s: {reason}")
        return found

    def _stock(self, done: set[Duty]) -> list[str]:
        sold = {order for order, action in done if action == "update_inventory"}
        right = {item_of(order): STOCK - 1 for order in sold} | {NOTEBOOK: self._notebooks - len(sold)}
        rows = self._rows(sql.select(tables.stock.c.item, tables.stock.c.quantity))
        return [
            f"STOCK: {item} is {quantity}, not {right.get(item, STOCK)}"
            for item, quantity in rows
            if quantity != right.get(item, STOCK)  # type: ignore[comparison-overlap]
        ]

    def _tasks(self, service: Service, committed: set[str]) -> list[str]:
        bodies = {body for name, body in service.bodies.items() if f"{DEAD_LETTERS}/" not in name}
        return [
            *(f"not paused: {queue}" for queue in map(dead_letters, service.queues) if not service.is_paused(queue)),
            *(f"left: {task.name} {task.http_request.body!r}" for task in service.dead_letters()),
            *(f"a task without an order: {body!r}" for body in bodies if json.loads(body)["orderId"] not in committed),
            *(f"a dead letter without a task: {body!r}" for body in {*service.bodies.values()} - bodies),
        ]


_DONE = sql.select(tables.effects.c.order_id, tables.effects.c.action, tables.effects.c.token).where(
    tables.effects.c.done_at.is_not(None)
)


def _met(process: Process, since: float, until: float) -> bool:
    """Whether a fault met the process in this time."""
    return any(begin <= until and end >= since for begin, end in process.met)


def _unexplained(first: Effect, second: Effect) -> str | None:
    """Why nothing that README admits explains the second effect, or None."""
    if _met(first.process, first.sent - _STALL_SECONDS, first.at) or _met(
        second.process, second.sent - _STALL_SECONDS, second.at
    ):
        return None  # a run stalled between claim and effect
    if first.known and not _met(first.process, first.at, second.sent):
        return "the first run knew of its effect, and no fault met it"
    if not first.given_up and second.sent_by_database < first.claimed_until:
        return "the claim of the first run had not ended"
    return None
