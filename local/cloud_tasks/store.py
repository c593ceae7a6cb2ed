"""The state of the local cloud in one SQLite file: tasks, queues, blocked names, keys and ports.

Each method that changes something has committed when it returns. With write-ahead logging and synchronous=NORMAL, a
commit survives the end of the process at any moment, including kill -9. A power cut may lose the last commits.
"""

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator
from pathlib import Path

_VERSION = 2
"""Version of the tables below. A file with another version is refused."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS queues (
    path TEXT PRIMARY KEY, declared INTEGER NOT NULL, message BLOB NOT NULL, policy BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS blocked_queues (path TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operations (name TEXT PRIMARY KEY, message BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    queue TEXT NOT NULL, id TEXT NOT NULL, due REAL NOT NULL, in_flight INTEGER NOT NULL,
    executions INTEGER NOT NULL, previous_status INTEGER NOT NULL, message BLOB NOT NULL, PRIMARY KEY (queue, id)
);
CREATE TABLE IF NOT EXISTS blocked_names (
    queue TEXT NOT NULL, id TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (queue, id)
) WITHOUT ROWID;
"""
_LAYOUT = ("SELECT count(*) FROM sqlite_master", "PRAGMA user_version")


@dataclasses.dataclass(slots=True)
class StoredTask:
    """One task as it is stored."""

    id: str
    message: bytes
    """google.cloud.tasks.v2.Task, serialized."""
    due: float
    """Due time in seconds since the epoch. An attempt in flight keeps its due time."""
    in_flight: bool = False
    executions: int = 0
    """Earlier attempts that got an answer other than 5xx."""
    previous_status: int = 0
    """HTTP status of the last attempt, or 0 before the first answer."""


@dataclasses.dataclass(slots=True)
class StoredQueue:
    """One queue as it is stored."""

    path: str
    declared: bool
    """Whether the program declares the queue; otherwise a call created it."""
    message: bytes
    """google.cloud.tasks.v2.Queue, serialized."""
    policy: bytes
    """google.iam.v1.Policy, serialized."""


class Store:
    """An open state file. Only one process may open it at a time."""

    def __init__(self, file: Path) -> None:
        """Opens or creates the file. Raises sqlite3.DatabaseError if it is not a state file of this version."""
        self._db = sqlite3.connect(file, timeout=1, isolation_level=None)
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        tables, version = (self._db.execute(sql).fetchone()[0] for sql in _LAYOUT)
        if tables and version != _VERSION:
            raise sqlite3.DatabaseError(
                f"it was made by another version of the local cloud ({version}, not {_VERSION})"
            )
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits all changes in the block together, or none of them. A nested block belongs to the outer one."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def fact(self, key: str) -> str | None:
        """Returns the value stored under `key`: the stack, the ports or the signing key."""
        row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def set_fact(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def queues(self) -> list[StoredQueue]:
        """Returns all queues, sorted by path."""
        rows = self._db.execute("SELECT path, declared, message, policy FROM queues ORDER BY path")
        return [StoredQueue(path, bool(declared), message, policy) for path, declared, message, policy in rows]

    def put_queue(self, queue: StoredQueue) -> None:
        """Stores the queue, and unblocks its name."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO queues VALUES (?, ?, ?, ?)",
                (queue.path, queue.declared, queue.message, queue.policy),
            )
            self._db.execute("DELETE FROM blocked_queues WHERE path = ?", (queue.path,))

    def delete_queue(self, path: str, blocked_until: float) -> None:
        """Remove the queue with its tasks and their names, and block its own."""
        with self.transaction():
            for table, column in (("tasks", "queue"), ("blocked_names", "queue"), ("queues", "path")):
                self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (path,))
            self._db.execute("INSERT OR REPLACE INTO blocked_queues VALUES (?, ?)", (path, blocked_until))

    def queue_blocked(self, path: str, now: float) -> bool:
        row = self._db.execute("SELECT until FROM blocked_queues WHERE path = ?", (path,)).fetchone()
        return row is not None and bool(row[0] > now)

    def operation(self, name: str) -> bytes | None:
        """A google.longrunning.Operation, serialized."""
        row = self._db.execute("SELECT message FROM operations WHERE name = ?", (name,)).fetchone()
        return row and bytes(row[0])

    def add_operation(self, name: str, message: bytes) -> None:
        self._db.execute("INSERT INTO operations VALUES (?, ?)", (name, message))

    def schedule(self, queue: str) -> Iterator[tuple[str, float, bool]]:
        """Every task's id, due time and whether it is in flight; no messages, since there may be many."""
        return iter(self._db.execute("SELECT id, due, in_flight FROM tasks WHERE queue = ? ORDER BY rowid", (queue,)))

    def task(self, queue: str, task: str) -> StoredTask | None:
        row = self._db.execute(
            "SELECT id, message, due, in_flight, executions, previous_status FROM tasks WHERE queue = ? AND id = ?",
            (queue, task),
        ).fetchone()
        return row and StoredTask(*row)

    def tasks(self, queue: str, after: str, limit: int) -> list[StoredTask]:
        """Up to `limit` tasks whose ids follow `after`, by id."""
        rows = self._db.execute(
            "SELECT id, message, due, in_flight, executions, previous_status FROM tasks"
            " WHERE queue = ? AND id > ? ORDER BY id LIMIT ?",
            (queue, after, limit),
        )
        return [StoredTask(*row) for row in rows]

    def open_tasks(self) -> int:
        """How many tasks there are, in all queues."""
        count: int = self._db.execute("SELECT count(*) FROM tasks").fetchone()[0]
        return count

    def add_task(self, queue: str, task: StoredTask, now: float) -> bool:
        """Whether it was added: its name may be blocked. Raises sqlite3.IntegrityError where there is one already."""
        added = self._db.execute(
            "INSERT INTO tasks SELECT ?, ?, ?, ?, ?, ?, ?"
            " WHERE NOT EXISTS (SELECT 1 FROM blocked_names WHERE queue = ? AND id = ? AND until > ?)",
            (
                *(queue, task.id, task.due, task.in_flight, task.executions, task.previous_status, task.message),
                *(queue, task.id, now),
            ),
        )
        return added.rowcount == 1

    def update_task(self, queue: str, task: StoredTask) -> None:
        self._db.execute(
            "UPDATE tasks SET due = ?, in_flight = ?, executions = ?, previous_status = ?, message = ?"
            " WHERE queue = ? AND id = ?",
            (task.due, task.in_flight, task.executions, task.previous_status, task.message, queue, task.id),
        )

    def end_task(self, queue: str, task: str, blocked_until: float) -> None:
        """Remove the task and block its name."""
        with self.transaction():
            self._db.execute("DELETE FROM tasks WHERE queue = ? AND id = ?", (queue, task))
            self._db.execute("INSERT OR REPLACE INTO blocked_names VALUES (?, ?, ?)", (queue, task, blocked_until))

    def end_all_tasks(self, queue: str, blocked_until: float) -> None:
        """Remove every task of the queue and block their names."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO blocked_names SELECT queue, id, ? FROM tasks WHERE queue = ?",
                (blocked_until, queue),
            )
            self._db.execute("DELETE FROM tasks WHERE queue = ?", (queue,))

    def forget_names(self, now: float) -> None:
        """Drop the names that are no longer blocked."""
        self._db.execute("DELETE FROM blocked_names WHERE until <= ?", (now,))

    def name_blocked(self, queue: str, task: str, now: float) -> bool:
        row = self._db.execute("SELECT until FROM blocked_names WHERE queue = ? AND id = ?", (queue, task)).fetchone()
        return row is not None and bool(row[0] > now)
