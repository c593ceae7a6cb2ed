"""update_inventory: takes the order's lines out of the stock, in the shop's own database, exactly once.

Never goes below zero: an order that finds too little of one item takes nothing of the others.
"""

import asyncio
import uuid
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from order_handler import deadline
from order_handler.action import Action, OrderMessage
from order_handler.delivery import Delivery
from order_handler.errors import PermanentError, TransientError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from order_handler.database import Database

# Everything in one statement: one round trip. Its parts run in the order in which they read each other: rows of the
# stock are locked in sorted order, so that no two orders wait for each other's items; then the effect is recorded,
# where a second run waits for the first one's end; then the stock is taken, if this run is the one that recorded.
_TAKE = """
WITH lines AS (
    SELECT item, quantity FROM order_lines WHERE order_id = :order_id
), locked AS (
    SELECT stock.item, stock.quantity FROM stock JOIN lines USING (item) ORDER BY stock.item FOR UPDATE OF stock
), short AS (
    SELECT min(lines.item) AS item FROM lines LEFT JOIN locked USING (item)
    WHERE locked.quantity IS NULL OR locked.quantity < lines.quantity
), recorded AS (
    INSERT INTO effects (order_id, action, token, claimed_until, done_at)
    SELECT :order_id, :action, :token, epoch_now(), epoch_now()
    WHERE EXISTS (SELECT FROM lines) AND (SELECT item FROM short) IS NULL
    ON CONFLICT (order_id, action) DO UPDATE SET done_at = excluded.done_at WHERE effects.done_at IS NULL
    RETURNING token
), taken AS (
    UPDATE stock SET quantity = stock.quantity - lines.quantity FROM lines
    WHERE stock.item = lines.item AND EXISTS (SELECT FROM recorded)
)
SELECT EXISTS (SELECT FROM recorded), EXISTS (SELECT FROM lines), (SELECT item FROM short)
"""
_LINES = "SELECT item, quantity FROM order_lines WHERE order_id = :order_id ORDER BY item"
_TAKE_ITEM = "UPDATE stock SET quantity = quantity - :pieces WHERE item = :item AND quantity >= :pieces"


async def run(message: OrderMessage, stock: "Stock | None", delivery: Delivery | None) -> str:
    if stock is None:
        return f"Stock for {message.order_id} updated (simulated)"
    await stock.take(message.order_id, message.effect)
    return f"Stock for {message.order_id} updated"


class Stock:
    def __init__(self, database: "Database", seconds: float = deadline.SECONDS) -> None:
        from order_handler.ledger import Ledger

        self._database = database
        self._ledger = Ledger(database)
        self._seconds = seconds

    async def take(self, order_id: str, action: str) -> None:
        """Takes the order's lines out of the stock.

        AlreadyProcessedError; PermanentError names the item of which there is too little; TransientError if the
        database does not know the order's lines yet.
        """
        values = {"order_id": order_id, "action": action, "token": uuid.uuid4().hex}
        async with deadline.until(asyncio.get_running_loop().time() + self._seconds):
            if self._database.dialect == "sqlite":
                await self._database.run(partial(_take_in_steps, values=values))
                return
            recorded, known, short = await self._database.fetch(_TAKE, values)
            if recorded:
                return
            # A second run may find too little because the first one has just taken it.
            if known:
                await self._ledger.refuse_if_done(order_id, action)
            raise _refusal(order_id, known=known, short=short)


def _take_in_steps(connection: "Connection", values: Mapping[str, str]) -> None:
    """The same on SQLite, whose transactions run one after the other."""
    from sqlalchemy import text

    from order_handler.ledger import DONE_BY, RECORD, nothing_to_do

    order_id = values["order_id"]
    if not connection.execute(text(RECORD), values).first():
        done_by = connection.execute(text(DONE_BY), values).scalar_one()
        raise nothing_to_do(order_id, values["action"], done_by)
    lines = connection.execute(text(_LINES), {"order_id": order_id}).all()
    for item, pieces in lines:
        if not connection.execute(text(_TAKE_ITEM), {"item": item, "pieces": pieces}).rowcount:
            raise _refusal(order_id, known=True, short=item)
    if not lines:
        raise _refusal(order_id, known=False, short=None)


def _refusal(order_id: str, *, known: bool, short: str | None) -> Exception:
    if not known:
        return TransientError(f"Order {order_id} is not yet known to the database")
    # Another run may have released what this one waited for.
    if short is None:
        return TransientError(f"Another run is at the stock for {order_id}")
    return PermanentError(f"Too little stock of {short} for {order_id}")


ACTION = Action(OrderMessage, run, lambda opening: Stock(opening.database))
