"""The order database: SQLite, whose every statement, commit and answer may fail."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from local.simulate.loop import PROCESS, KilledError, current_process
from local.simulate.world import World


@contextmanager
def breaking_statements(world: World) -> Iterator[str]:
    """Lets the connections of all engines fail as the world wants it. Yields the URL of an empty database."""

    def connect(_: object, __: object, arguments: Any, more: dict[str, Any]) -> Connection:  # noqa: ANN401
        connection = sqlite3.connect(*arguments, factory=Connection, **more)
        connection.world = world
        opened.append(connection)
        return connection

    opened: list[Connection] = []

    event.listen(Engine, "do_connect", connect)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        try:
            yield f"sqlite:///{folder}/orders.sqlite"
        finally:
            event.remove(Engine, "do_connect", connect)
            for connection in opened:
                connection.close()


class Connection(sqlite3.Connection):
    world: World

    def cursor(self, *_: object) -> "Cursor":  # type: ignore[override]
        return super().cursor(Cursor)

    def execute(self, *arguments: Any) -> "Cursor":  # noqa: ANN401
        return self.cursor().execute(*arguments)

    def create_function(self, name: str, *arguments: Any, **more: Any) -> None:  # noqa: ANN401
        super().create_function(name, *arguments, **more)
        # the default of a column calls it
        super().create_function("julianday", 1, lambda _: self.world.database_now() / 86400 + 2440587.5)

    def commit(self) -> None:
        if self.in_transaction:
            fault = self.fault("COMMIT")
            super().commit()
            self.afterwards(fault)

    def rollback(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # a process died with it, and it was closed since
            super().rollback()

    def die(self) -> None:
        """The process dies, and the database rolls its transaction back."""
        self.world.kill(current_process())
        super().rollback()
        raise KilledError

    def fault(self, sql: str) -> str | None:
        """Draws the fault of a statement, and begins it. Raises OperationalError if it fails."""
        world, process = self.world, PROCESS.get()
        if process is None or not world.breaking:
            return None
        now = world.loop.now
        fault = world.draw("statement", 0.25)
        if fault == "caller dies":
            self.die()
        if fault == "store restarts":
            world.store_away_until = now + world.chance("statement").uniform(0, 20)
        if fault == "disk full":
            world.disk_full_until = now + world.chance("statement").uniform(1, 60)
        if now < world.store_away_until or fault == "fails":
            process.met.append((now, now))
            raise sqlite3.OperationalError(f"away at {sql[:30]!r}")
        if now < world.disk_full_until and not sql.lstrip().startswith("SELECT"):
            process.met.append((now, now))
            raise sqlite3.OperationalError("database or disk is full")
        return fault

    def afterwards(self, fault: str | None) -> None:
        world, process = self.world, PROCESS.get()
        if fault is None or process is None:
            return
        if fault == "caller dies after":
            self.die()
        if fault == "caller freezes":
            world.freeze(process)
        if fault == "answer lost":
            process.met.append((world.loop.now, world.loop.now))
            raise sqlite3.OperationalError("connection lost")


class Cursor(sqlite3.Cursor):
    connection: Connection

    def execute(self, sql: str, *parameters: Any) -> "Cursor":  # noqa: ANN401
        fault = self.connection.fault(sql)
        super().execute(sql, *parameters)
        try:
            if fault and not self.connection.in_transaction and fault != "caller freezes":
                self.fetchall()  # ends the transaction of this statement
            self.connection.afterwards(fault)
        except BaseException:
            self.close()  # a statement that is not at its end locks its table
            raise
        return self
