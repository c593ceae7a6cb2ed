"""The web app's side of the database: the orders it commits before it creates their tasks, and what became of stock."""

import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sql

STOCK = 10
"""Pieces of each item at first; each order has an item of its own, so that no error hides another."""

_METADATA = sql.MetaData()
_ORDERS = sql.Table("orders", _METADATA, sql.Column("order_id", sql.Text))
_LINES = sql.Table(
    "order_lines",
    _METADATA,
    sql.Column("order_id", sql.Text),
    sql.Column("item", sql.Text),
    sql.Column("quantity", sql.Integer),
)
_STOCK = sql.Table("stock", _METADATA, sql.Column("item", sql.Text), sql.Column("quantity", sql.Integer))


class Shop:
    """The orders and the stock in the handler's database, whose tables exist already."""

    def __init__(self, database_url: str) -> None:
        self._engine = sql.create_engine(
            database_url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sql.NullPool
        )

    def commit(self, orders: Iterable[str]) -> None:
        """Have these orders, of one piece of an item each; what is there already stays."""
        with self._engine.begin() as connection:
            known = set(connection.execute(sql.select(_ORDERS.c.order_id)).scalars())
            new = [order for order in dict.fromkeys(orders) if order not in known]
            if new:
                items = {order: f"SKU-{order}" for order in new}
                connection.execute(sql.insert(_STOCK), [{"item": item, "quantity": STOCK} for item in items.values()])
                connection.execute(sql.insert(_ORDERS), [{"order_id": order} for order in new])
                lines = [{"order_id": order, "item": item, "quantity": 1} for order, item in items.items()]
                connection.execute(sql.insert(_LINES), lines)

    def is_empty(self) -> bool:
        """Whether no order was ever committed here."""
        with self._engine.connect() as connection:
            return connection.execute(sql.select(_ORDERS.c.order_id).limit(1)).first() is None

    def connection(self) -> contextlib.AbstractContextManager[sql.Connection]:
        """A transaction of one's own."""
        return self._engine.begin()

    def sold(self) -> list[int]:
        """Pieces by which the stock of each item is lower than at first."""
        with self._engine.connect() as connection:
            return [STOCK - quantity for quantity in connection.execute(sql.select(_STOCK.c.quantity)).scalars()]

    def disturb(self, seconds: float) -> str:
        """Make the database fail its other users: cut PostgreSQL's connections, or lock SQLite for some seconds."""
        if self._engine.dialect.name == "postgresql":
            mine = "pid <> pg_backend_pid() AND datname = current_database()"
            with self._engine.begin() as connection:
                connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")
            return "connections cut"
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.rollback()
        return "locked"


def order_ids(file: Path) -> list[str]:
    """The ids in a file of orders, as far as its lines are orders: the producer names the ones that are not."""
    found = []
    for line in file.read_bytes().splitlines():
        try:
            found.append(json.loads(line)["orderId"])
        except (ValueError, TypeError, KeyError):
            continue
    return [order for order in found if isinstance(order, str)]
