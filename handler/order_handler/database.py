"""The database: PostgreSQL, or SQLite for the local cloud; one transaction is one hop to a worker thread.

Owns connections, timeouts and the moment at which missing tables are created: at the start, or, if the database is down
then, at the first order that finds it up. Refuses to let a transaction outlive a claim.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from order_handler import tables
from order_handler.errors import TransientError

CONNECTIONS = 8
"""Of one instance: ten instances stay below PostgreSQL's default of 100."""

_CONNECT_SECONDS = 3
_STATEMENT_SECONDS = 5.0

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class Database:
    """Nothing connects before the first transaction. ValueError if the URL is none."""

    def __init__(self, url: str, connections: int = CONNECTIONS) -> None:
        self._engine = _engine(url, connections)
        # As many threads as connections: none waits for one, and what waits for a thread can still be cancelled.
        # SQLite has one writer, and lets those that wait starve: of one process, none waits for another.
        self._threads = ThreadPoolExecutor(1 if self._engine.dialect.name == "sqlite" else connections, "database")
        self._created = False

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """What `work` returns from a transaction of its own, rolled back if it raises. TransientError.

        A caller that is cancelled leaves behind a transaction that may still commit.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._transact, work)

    async def prepare(self) -> None:
        """Creates missing tables and deletes old rows; what cannot be done is a warning."""
        try:
            await self.run(lambda _: None)
            await self.run(tables.delete_old)
        except Exception as error:
            _logger.warning("The database is not prepared, the next order tries again: %s", error)

    def create_missing(self) -> None:
        """Blocks."""
        with self._engine.begin() as connection:
            tables.create_missing(connection)
        self._created = True

    def close(self) -> None:
        """Blocks until what was begun is over."""
        self._threads.shutdown()
        self._engine.dispose()

    def _transact(self, work: Callable[[Connection], _T]) -> _T:
        try:
            if not self._created:
                self.create_missing()
            with self._engine.begin() as connection:
                return work(connection)
        except OperationalError as error:
            raise TransientError(f"The database is away, or too slow: {error.orig}") from error


def _engine(text: str, connections: int) -> Engine:
    try:
        url = make_url(text)
    # Their own words could quote a password.
    except (ArgumentError, ValueError):
        raise ValueError(
            "DATABASE_URL is no URL that SQLAlchemy reads. Percent-encode what is special in it."
        ) from None
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _STATEMENT_SECONDS})
        event.listen(engine, "connect", _open_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    milliseconds = int(_STATEMENT_SECONDS * 1000)
    options = f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout={milliseconds}"
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        pool_size=connections,
        max_overflow=0,
        # A connection that died while idle must not fail the record of an effect that is done.
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "tcp_user_timeout": milliseconds,
            "application_name": "order-handler",
            # The operator's own options come last and win.
            "options": " ".join([options, *url.normalized_query.get("options", ())]),
        },
    )


def _open_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # The driver must not begin transactions by itself: its own are deferred, and fail when they come to write.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    # Safe against the death of a process, if not of the machine.
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
