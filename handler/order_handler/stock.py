"""The stock, in the shop's own database: an order's lines leave it exactly once.

Refuses to go below zero: an order that finds too little of one item takes nothing of the others.
"""

import asyncio
import uuid

from sqlalchemy import Connection, bindparam, select, update

from order_handler import deadline, ledger
from order_handler.database import Database
from order_handler.errors import AlreadyProcessedError, PermanentError, TransientError
from order_handler.tables import order_lines, stock

# Here, since building a statement takes longer than running it.
_LINES = select(order_lines.c.item, order_lines.c.quantity).where(order_lines.c.order_id == bindparam("order"))
_TAKE = (
    update(stock)
    .where(stock.c.item == bindparam("of"), stock.c.quantity >= bindparam("pieces"))
    .values(quantity=stock.c.quantity - bindparam("pieces"))
)


class Stock:
    def __init__(self, database: Database, seconds: float = deadline.SECONDS) -> None:
        self._database = database
        self._seconds = seconds

    async def take(self, order_id: str, action: str) -> None:
        """Takes the order's lines out of the stock.

        AlreadyProcessedError; PermanentError names the item of which there is too little; TransientError if the
        database does not know the order's lines yet.
        """
        async with deadline.until(asyncio.get_running_loop().time() + self._seconds):
            await self._database.run(lambda connection: take(connection, order_id, action))


def take(connection: Connection, order_id: str, action: str) -> None:
    # First, so that a second run waits here until the first one's end is known.
    if not ledger.record(connection, order_id, action, uuid.uuid4().hex):
        raise AlreadyProcessedError(f"Already processed: {action} for {order_id}")
    lines = connection.execute(_LINES, {"order": order_id}).all()
    if not lines:
        raise TransientError(f"Order {order_id} is not yet known to the database")
    # Sorted, so that no two orders wait for each other's items.
    for item, quantity in sorted(lines):
        if not connection.execute(_TAKE, {"of": item, "pieces": quantity}).rowcount:
            raise PermanentError(f"Too little stock of {item} for {order_id}")
