"""The web app's side of the database: the orders that it commits before it creates their tasks, and the stock."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import sqlalchemy as sql

STOCK = 10
"""Initial stock of each item. Each order has its own item, so that one error cannot hide another."""

TASKS_PER_ORDER = 3
"""Of an order that names no action."""
NOTEBOOK = "notebook"
"""The item of the shop's orders that name none."""
NOTEBOOKS = 1_000_000

_STOCK_UP = sql.text("INSERT INTO stock (item, quantity) VALUES (:item, :stock)")
_COMMIT = (
    _STOCK_UP,
    sql.text("INSERT INTO orders (order_id) VALUES (:order)"),
    sql.text("INSERT INTO order_lines (order_id, item, quantity) VALUES (:order, :item, 1)"),
)
_ORDERS = sql.text("SELECT order_id FROM orders")


class Shop:
    """The orders and the stock in the handler's database. Its tables must exist."""

    def __init__(self, database_url: str) -> None:
        self._engine = sql.create_engine(
            database_url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sql.NullPool
        )

    def commit(self, orders: Iterable[str]) -> None:
        """Commits these orders, each of one piece of its own item. Skips orders that exist."""
        with self._engine.begin() as connection:
            known = set(connection.execute(_ORDERS).scalars())
            new = [_row(order) for order in dict.fromkeys(orders) if order not in known]
            for statement in _COMMIT if new else ():
                connection.execute(statement, new)

    def fill_shelf(self) -> None:
        """Puts the item of orders that name none into the stock, once."""
        statement = "INSERT INTO stock (item, quantity) VALUES (:item, :quantity) ON CONFLICT DO NOTHING"
        with self._engine.begin() as connection:
            connection.execute(sql.text(statement), {"item": NOTEBOOK, "quantity": NOTEBOOKS})

    def unsent(self) -> bool:
        """Returns whether rows of the outbox wait to be sent."""
        unsent = sql.text("SELECT 1 FROM outbox WHERE refused IS NULL LIMIT 1")
        with self._engine.connect() as connection:
            return sql.inspect(connection).has_table("outbox") and connection.execute(unsent).first() is not None

    def connection(self) -> contextlib.AbstractContextManager[sql.Connection]:
        """Opens a connection in a new transaction."""
        return self._engine.begin()

    def sold(self) -> list[int]:
        """Returns, for each item that was ordered, by how much its stock has fallen."""
        ordered = sql.text("SELECT item, quantity FROM stock WHERE item IN (SELECT item FROM order_lines)")
        with self._engine.connect() as connection:
            stock = connection.execute(ordered).all()
            return [(NOTEBOOKS if item == NOTEBOOK else STOCK) - quantity for item, quantity in stock]

    def stock_up(self, orders: Iterable[str]) -> None:
        """Puts the item of each of these orders into the stock."""
        with self._engine.begin() as connection:
            connection.execute(_STOCK_UP, [_row(order) for order in orders])

    def orders(self) -> list[str]:
        """Returns the ids of the orders that were committed."""
        with self._engine.connect() as connection:
            return list(connection.execute(_ORDERS).scalars())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lets nobody else write, and with PostgreSQL read, until the block ends."""
        with self._engine.connect() as connection:
            if self._engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                tables = ", ".join(sql.inspect(connection).get_table_names())
                connection.exec_driver_sql(f"LOCK TABLE {tables}")
            yield
            connection.rollback()

    def disturb(self, kind: str, seconds: float) -> None:
        """Makes other users' transactions fail for `seconds`; `kind` is one of `disturbances`."""
        if kind == "locked":
            with self.locked():
                time.sleep(seconds)
            return
        name = self._engine.url.database
        begin, end = {
            "connections cut": ("", ""),
            "read-only": ("SET default_transaction_read_only = on", "RESET default_transaction_read_only"),
            "restarted": ("WITH ALLOW_CONNECTIONS false", "WITH ALLOW_CONNECTIONS true"),
        }[kind]
        cut = sql.text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
        )
        # Through another database: the disturbed one may refuse connections.
        server = sql.create_engine(self._engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            try:
                if begin:
                    connection.exec_driver_sql(f'ALTER DATABASE "{name}" {begin}')
                connection.execute(cut, {"name": name})
                time.sleep(seconds if begin else 0)
            finally:
                if end:
                    connection.exec_driver_sql(f'ALTER DATABASE "{name}" {end}')
                    connection.execute(cut, {"name": name})
        server.dispose()

    @property
    def disturbances(self) -> tuple[str, ...]:
        """The kinds of faults that this database can have."""
        return (
            ("connections cut", "read-only", "restarted") if self._engine.dialect.name == "postgresql" else ("locked",)
        )


def item_of(order: str) -> str:
    """Returns the item that belongs to this order alone, so that no error hides another."""
    return f"SKU-{order}"


def _row(order: str) -> dict[str, str | int]:
    return {"order": order, "item": item_of(order), "stock": STOCK}


def orders_of(file: Path) -> tuple[list[str], int]:
    """Returns the ids of the orders in a file that only occur in lines with an action, whose tasks no shop creates, and
    the number of tasks of all its lines.

    Skips lines that are not orders: the producer reports them."""
    direct, placed, tasks = [], set(), 0
    with file.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                order = json.loads(line)
                order_id = order.get("orderId") if isinstance(order.get("orderId"), str) else None
                if "action" in order:
                    tasks += 1
                    direct.append(order_id)
                elif order_id is not None:
                    tasks += TASKS_PER_ORDER
                    placed.add(order_id)
    return [order for order in direct if order is not None and order not in placed], tasks
