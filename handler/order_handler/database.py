"""The database: PostgreSQL, or SQLite for the local cloud. Each call is one hop to a worker thread.

Owns connections, time limits, and when missing tables are created: at the start or, if the database is down then, by
the first order that finds it up. No call outlives its limit: if the database does not answer in time, or the caller is
cancelled, the connection is shut down, which frees its thread.
"""

import asyncio
import logging
import os
import re
import select
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from order_handler import tables
from order_handler.errors import TransientError

CONNECTIONS = 4
CALL_SECONDS = 8.0
"""The limit of a call. It includes the wait for a thread, and the time to connect."""

_CONNECT_SECONDS = 3
_STATEMENT_SECONDS = 5.0
_IDLE_SECONDS = 5.0
"""A connection that was idle for this long is tested before it is used."""
_STUCK_SECONDS = 30.0
"""A thread that is still busy this long after its call was given up never comes back."""

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class _Session:
    """A thread's own connection."""

    def __init__(self, engine: Engine) -> None:
        self.connection = engine.connect()
        # SQLAlchemy takes longer to pass a statement on than PostgreSQL takes to run it.
        driver: Any = self.connection.connection.driver_connection
        self.driver = driver
        self.used_at = time.monotonic()
        self._is_postgresql = engine.dialect.name == "postgresql"
        self._poll = select.poll()
        if self._is_postgresql:
            self._poll.register(self.driver.fileno(), select.POLLIN)

    @property
    def broken(self) -> bool:
        # SQLite keeps a transaction whose COMMIT failed, and with it the lock that every other transaction waits for.
        return bool(self.driver.closed if self._is_postgresql else self.driver.in_transaction)

    def answers(self) -> bool:
        """Whether the connection is still good. Asks the server only if there is reason to doubt it."""
        if not self._is_postgresql:
            return True
        try:
            # A server that ends a connection says so, or closes it: there is something to read.
            if self._poll.poll(0) or time.monotonic() - self.used_at > _IDLE_SECONDS:
                self.driver.execute("SELECT 1")
        except Exception:
            return False
        return True

    def shut_down(self) -> None:
        """Makes the thread that waits for the server fail at once."""
        if self._is_postgresql:
            with suppress(Exception), socket.socket(fileno=os.dup(self.driver.fileno())) as connected:
                connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(Exception):
            self.connection.close()


class _Call:
    """A call on a thread. Its caller may give it up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self.given_up_at: float | None = None

    def use(self, session: _Session | None) -> None:
        """Says which session the thread uses now. TransientError if the caller gave the call up."""
        with self._lock:
            self._session = session
            if session and self.given_up_at is not None:
                raise TransientError("The call to the database was given up")

    def give_up(self) -> None:
        with self._lock:
            self.given_up_at = time.monotonic()
            if self._session:
                self._session.shut_down()


class Database:
    """Connects at the first call. ValueError if the URL is malformed."""

    def __init__(
        self,
        url: str,
        connections: int = CONNECTIONS,
        executor: Executor | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`executor`: runs the calls, each of its threads with a connection of its own. `now`: SQLite's clock."""
        self._engine = _engine(url, now)
        # SQLite has one writer at a time, and lets the others wait in no order.
        self._connections = 1 if self._engine.dialect.name == "sqlite" else connections
        self._executor = executor or ThreadPoolExecutor(self._connections, "database")
        self._thread = threading.local()
        self._sessions: set[_Session] = set()
        self._calls: set[_Call] = set()
        self._sql: dict[str, str] = {}
        self._created = False
        self._closed = False

    @property
    def dialect(self) -> str:
        """`postgresql` or `sqlite`."""
        return self._engine.dialect.name

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """Returns what `work` returns. It is called in a transaction of its own, and rolled back if it raises.

        TransientError. After one, or if the caller is cancelled, the transaction may have been committed.
        """

        def transact(session: _Session) -> _T:
            with session.connection.begin():
                return work(session.connection)

        return await self._call(transact)

    async def fetch(self, statement: str, values: Mapping[str, object]) -> Any:  # noqa: ANN401 - a row, or None
        """Returns the first row of this statement, or None. It is a transaction of its own, in one round trip.

        `:name` in the statement stands for a value, `epoch_now()` for the database's clock. TransientError as `run`.
        """
        sql = self._sql.get(statement)
        if sql is None:
            sql = self._sql[statement] = self._translated(statement)

        def execute(session: _Session) -> Any:  # noqa: ANN401 - a row, or None
            rows = session.driver.execute(sql, values).fetchall()
            return rows[0] if rows else None

        return await self._call(execute)

    async def prepare(self) -> None:
        """Creates missing tables and deletes old rows. Logs a warning if it cannot."""
        try:
            await self.run(tables.delete_old)
        except Exception as error:
            _logger.warning("The database is not prepared. The next order tries again: %s", error)

    def create_missing(self) -> None:
        """Creates missing tables. Blocks."""
        with self._engine.connect() as connection, connection.begin():
            tables.create_missing(connection)

    def is_stuck(self) -> bool:
        """Whether every thread waits for something that cannot be ended, so that no call will be answered again."""
        limit = time.monotonic() - _STUCK_SECONDS
        lost = [call for call in list(self._calls) if call.given_up_at is not None and call.given_up_at < limit]
        return len(lost) >= self._connections

    def close(self) -> None:
        """Ends the calls and closes the connections, without waiting for either."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        for call in list(self._calls):
            call.give_up()
        if not self._calls:
            for session in list(self._sessions):
                session.close()

    async def _call(self, work: Callable[[_Session], _T]) -> _T:
        call = _Call()
        running = asyncio.get_running_loop().run_in_executor(self._executor, self._on_thread, call, work)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await running
        except TimeoutError:
            call.give_up()
            raise TransientError(f"The database did not answer within {CALL_SECONDS:g} s") from None
        except asyncio.CancelledError:
            call.give_up()
            raise

    def _on_thread(self, call: _Call, work: Callable[[_Session], _T]) -> _T:
        self._calls.add(call)
        try:
            session = self._session(call)
            result = work(session)
            session.used_at = time.monotonic()
            return result
        except Exception as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            dbapi: Any = self._engine.dialect.loaded_dbapi
            if isinstance(cause, dbapi.OperationalError | dbapi.InternalError | dbapi.InterfaceError):
                raise TransientError(f"The database is away, read-only or too slow: {cause}") from error
            raise
        finally:
            call.use(None)
            self._calls.discard(call)
            current: _Session | None = getattr(self._thread, "session", None)
            if current and (self._closed or current.broken):
                self._leave(current)

    def _session(self, call: _Call) -> _Session:
        """The thread's session, with a connection that works and tables that exist."""
        session: _Session | None = getattr(self._thread, "session", None)
        if session:
            call.use(session)
            if not session.answers():
                call.use(None)
                self._leave(session)
                session = None
        if session is None:
            session = self._thread.session = _Session(self._engine)
            self._sessions.add(session)
            call.use(session)
        if not self._created:
            with session.connection.begin():
                tables.create_missing(session.connection)
            self._created = True
        return session

    def _leave(self, session: _Session) -> None:
        self._thread.session = None
        self._sessions.discard(session)
        session.close()

    def _translated(self, statement: str) -> str:
        """The statement as the driver reads it."""
        if self.dialect == "sqlite":
            return statement
        return re.sub(r":(\w+)", r"%(\1)s", statement).replace("epoch_now()", tables.POSTGRESQL_NOW)


def _engine(text: str, now: Callable[[], float]) -> Engine:
    try:
        url = make_url(text)
    # The exception's text may contain the password.
    except (ArgumentError, ValueError):
        raise ValueError("DATABASE_URL is not a valid URL. Percent-encode its special characters.") from None
    if url.get_backend_name() == "sqlite":
        arguments = {"timeout": _STATEMENT_SECONDS, "isolation_level": None, "check_same_thread": False}
        engine = create_engine(url, hide_parameters=True, poolclass=NullPool, connect_args=arguments)

        def open_sqlite(connection: sqlite3.Connection, _: object) -> None:
            connection.create_function("epoch_now", 0, now)
            connection.execute("PRAGMA journal_mode = WAL")
            # A commit survives the death of the process, but not that of the machine.
            connection.execute("PRAGMA synchronous = NORMAL")

        event.listen(engine, "connect", open_sqlite)
        # A deferred transaction would fail when it comes to write.
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine
    milliseconds = int(_STATEMENT_SECONDS * 1000)
    options = f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout={milliseconds}"
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        poolclass=NullPool,
        connect_args={
            "autocommit": True,
            "connect_timeout": _CONNECT_SECONDS,
            # A host that dies while a statement runs is noticed after 5 s + 2 s.
            "keepalives": 1,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": milliseconds,
            "application_name": "order-handler",
            # The operator's own options come last and win.
            "options": " ".join([options, *url.normalized_query.get("options", ())]),
        },
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine
