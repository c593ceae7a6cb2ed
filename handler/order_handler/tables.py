"""What stands in the database, how missing tables appear, and the clock by which claims expire.

The handler fills `effects` alone; the web app fills `orders` and `order_lines`, the shop fills `stock`. Times are epoch
seconds of the database's own clock, because the instances' clocks differ.
"""

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    Text,
    delete,
    func,
    select,
    tuple_,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

KEPT_SECONDS = 62 * 24 * 3600
"""A task may come back for 31 days in the queue and 31 more in the dead-letter queue."""

POSTGRESQL_NOW = "extract(epoch from clock_timestamp())::float8"

_DELETED_AT_ONCE = 1000
# Any number will do that no other program locks in this database.
_ADVISORY_LOCK = 0x6F726465

metadata = MetaData()


class database_clock(FunctionElement[float]):  # noqa: N801  # reads as the SQL function that it is
    """The database's clock as any client's INSERT can use it."""

    type = Double()
    inherit_cache = True


class now(FunctionElement[float]):  # noqa: N801  # reads as the SQL function that it is
    """The database's clock at this statement, not at the start of its transaction."""

    type = Double()
    inherit_cache = True


@compiles(database_clock, "postgresql")
@compiles(now, "postgresql")
def _(element: FunctionElement[float], compiler: SQLCompiler, **_: object) -> str:
    return POSTGRESQL_NOW


@compiles(database_clock, "sqlite")
def _(element: database_clock, compiler: SQLCompiler, **_: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "sqlite")
def _(element: now, compiler: SQLCompiler, **_: object) -> str:
    return "epoch_now()"


effects = Table(
    "effects",
    metadata,
    Column("order_id", Text, primary_key=True),
    Column("action", Text, primary_key=True),
    Column("token", Text, nullable=False, comment="the run that claimed it"),
    Column("claimed_until", Double, nullable=False, index=True, comment="when another run may take it over"),
    Column("done_at", Double, comment="null: not done, or not known to be"),
)
orders = Table("orders", metadata, Column("order_id", Text, primary_key=True))
order_lines = Table(
    "order_lines",
    metadata,
    Column("order_id", Text, ForeignKey(orders.c.order_id), primary_key=True),
    Column("item", Text, primary_key=True),
    Column("quantity", Integer, CheckConstraint("quantity > 0"), nullable=False),
)
stock = Table(
    "stock",
    metadata,
    Column("item", Text, primary_key=True),
    Column("quantity", Integer, CheckConstraint("quantity >= 0"), nullable=False),
)
outbox = Table(
    "outbox",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("headers", Text),
    Column("due", Double),
    Column("added_at", Double, nullable=False, server_default=database_clock(), index=True),
    Column("refused", Text),
)


def create_missing(connection: Connection) -> None:
    """Creates the tables that are missing.

    Any number of processes may call it at once: on SQLite the transaction itself holds the others off.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    metadata.create_all(connection)


def delete_old(connection: Connection) -> None:
    """Deletes some rows of the ledger that nobody can ask for any more."""
    # asked for first: a clock in the condition would keep PostgreSQL from using the index
    cutoff = connection.execute(select(now())).scalar_one() - KEPT_SECONDS
    key = tuple_(effects.c.order_id, effects.c.action)
    old = select(effects.c.order_id, effects.c.action).where(effects.c.claimed_until < cutoff)
    connection.execute(delete(effects).where(key.in_(old.limit(_DELETED_AT_ONCE))))
