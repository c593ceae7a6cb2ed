"""The state of the local cloud in one SQLite file: tasks, queues, blocked names, keys and ports.

Each method that changes something has committed when it returns, unless it is called within `transaction`. With
write-ahead logging and synchronous=NORMAL, a commit survives the end of the process at any moment, including kill -9.
A power cut may lose the last commits.
"""

import contextlib
import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.iam.v1 import policy_pb2

from local.cloud_tasks.messages import Message, QueueMessage, TaskMessage

_VERSION = 3
"""Version of the tables below. A file with another version is refused."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS queues (
    name TEXT PRIMARY KEY, declared INTEGER NOT NULL, message BLOB NOT NULL, policy BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS tasks (
    name TEXT PRIMARY KEY, due REAL NOT NULL, in_flight INTEGER NOT NULL, previous_status INTEGER NOT NULL,
    message BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS blocked_names (name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operations (name TEXT PRIMARY KEY, message BLOB NOT NULL);
"""


@dataclasses.dataclass(slots=True)
class StoredTask:
    """One task as it is stored."""

    message: Message
    in_flight: bool = False
    previous_status: int = 0
    """HTTP status of the last attempt; 0 before the first answer, and after an attempt without one."""

    @property
    def id(self) -> str:
        return str(self.message.name.rpartition("/")[2])

    @property
    def due(self) -> float:
        """In seconds since the epoch. An attempt in flight keeps its due time."""
        return float(self.message.schedule_time.seconds + self.message.schedule_time.nanos / 1e9)


class Store:
    """An open state file. Only one process may open it at a time."""

    def __init__(self, file: Path) -> None:
        """Opens or creates the file. Raises sqlite3.DatabaseError if it is not a state file of this version."""
        self._db = sqlite3.connect(file, timeout=1, isolation_level=None)
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA wal_autocheckpoint=10000")  # 40 MB: a checkpoint costs as much as many creates
        tables, version = self._value("SELECT count(*) FROM sqlite_master"), self._value("PRAGMA user_version")
        if tables and version != _VERSION:
            text = f"it was made by another version of the local cloud ({version}, not {_VERSION})"
            raise sqlite3.DatabaseError(text)
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._after_commit: list[Callable[[], object]] = []

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
            with self._db:
                yield
        except BaseException:
            self._after_commit.clear()
            raise
        while self._after_commit:
            self._after_commit.pop(0)()

    def after_commit(self, action: Callable[[], object]) -> None:
        """Does the action once all that was changed so far is committed, or never."""
        if self._db.in_transaction:
            self._after_commit.append(action)
        else:
            action()

    def _value(self, query: str, *parameters: object) -> Any:  # noqa: ANN401 - as the table has it
        """Returns the first column of the first row, or None."""
        row = self._db.execute(query, parameters).fetchone()
        return row and row[0]

    def fact(self, key: str) -> str | None:
        """Returns the value stored under `key`: the stack, the ports or the signing key."""
        value: str | None = self._value("SELECT value FROM facts WHERE key = ?", key)
        return value

    def set_fact(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def queues(self) -> list[tuple[Message, Message, bool]]:
        """Returns queue and policy of each, and whether the program declares it; otherwise a call created it."""
        rows = self._db.execute("SELECT message, policy, declared FROM queues ORDER BY name")
        return [(QueueMessage.FromString(row[0]), policy_pb2.Policy.FromString(row[1]), bool(row[2])) for row in rows]

    def put_queue(self, queue: Message, policy: Message, *, declared: bool) -> None:
        """Stores the queue, and unblocks its name."""
        with self.transaction():
            row = (queue.name, declared, queue.SerializeToString(), policy.SerializeToString())
            self._db.execute("INSERT OR REPLACE INTO queues VALUES (?, ?, ?, ?)", row)
            self._db.execute("DELETE FROM blocked_names WHERE name = ?", (queue.name,))

    def delete_queue(self, queue: str, blocked_until: float) -> None:
        """Remove the queue with its tasks and their names, and block its own."""
        with self.transaction():
            for table in ("tasks", "blocked_names"):
                self._db.execute(f"DELETE FROM {table} WHERE name > ? AND name < ?", _tasks_of(queue))
            self._db.execute("DELETE FROM queues WHERE name = ?", (queue,))
            self._db.execute("INSERT OR REPLACE INTO blocked_names VALUES (?, ?)", (queue, blocked_until))

    def name_blocked(self, name: str, now: float) -> bool:
        """Whether a queue or task of this name existed too recently."""
        return bool(self._value("SELECT 1 FROM blocked_names WHERE name = ? AND until > ?", name, now))

    def forget_names(self, now: float) -> None:
        """Drop the names that are no longer blocked."""
        self._db.execute("DELETE FROM blocked_names WHERE until <= ?", (now,))

    def operation(self, name: str) -> bytes | None:
        """A google.longrunning.Operation, serialized."""
        message: bytes | None = self._value("SELECT message FROM operations WHERE name = ?", name)
        return message

    def add_operation(self, name: str, message: bytes) -> None:
        self._db.execute("INSERT INTO operations VALUES (?, ?)", (name, message))

    def schedule(self, queue: str) -> Iterator[tuple[str, float, bool]]:
        """Every task's id, due time and whether it is in flight; no messages, since there may be many."""
        query = "SELECT name, due, in_flight FROM tasks WHERE name > ? AND name < ? ORDER BY rowid"
        return ((name.rpartition("/")[2], due, flies) for name, due, flies in self._db.execute(query, _tasks_of(queue)))

    def task(self, name: str) -> StoredTask | None:
        query = "SELECT message, in_flight, previous_status FROM tasks WHERE name = ?"
        row = self._db.execute(query, (name,)).fetchone()
        return row and _stored(row)

    def tasks(self, queue: str, after: str, limit: int) -> list[StoredTask]:
        """Up to `limit` tasks whose names follow `after`, by name; all of them for -1."""
        first, end = _tasks_of(queue)
        query = (
            "SELECT message, in_flight, previous_status FROM tasks WHERE name > ? AND name < ? ORDER BY name LIMIT ?"
        )
        return [_stored(row) for row in self._db.execute(query, (max(first, after), end, limit))]

    def open_tasks(self) -> int:
        """How many tasks there are, in all queues."""
        return int(self._value("SELECT count(*) FROM tasks"))

    def add_task(self, task: StoredTask, now: float) -> bool:
        """Whether it was added: its name may be blocked. Raises sqlite3.IntegrityError where there is one already."""
        name = task.message.name
        added = self._db.execute(
            "INSERT INTO tasks SELECT ?, ?, ?, ?, ?"
            " WHERE NOT EXISTS (SELECT 1 FROM blocked_names WHERE name = ? AND until > ?)",
            (name, task.due, task.in_flight, task.previous_status, task.message.SerializeToString(), name, now),
        )
        return added.rowcount == 1

    def update_task(self, task: StoredTask) -> None:
        self._db.execute(
            "UPDATE tasks SET due = ?, in_flight = ?, previous_status = ?, message = ? WHERE name = ?",
            (task.due, task.in_flight, task.previous_status, task.message.SerializeToString(), task.message.name),
        )

    def end_task(self, name: str, blocked_until: float) -> None:
        """Remove the task and block its name."""
        with self.transaction():
            self._db.execute("DELETE FROM tasks WHERE name = ?", (name,))
            self._db.execute("INSERT OR REPLACE INTO blocked_names VALUES (?, ?)", (name, blocked_until))

    def end_all_tasks(self, queue: str, blocked_until: float) -> None:
        """Remove every task of the queue and block their names."""
        with self.transaction():
            of_queue = "FROM tasks WHERE name > ? AND name < ?"
            block = f"INSERT OR REPLACE INTO blocked_names SELECT name, ? {of_queue}"
            self._db.execute(block, (blocked_until, *_tasks_of(queue)))
            self._db.execute(f"DELETE {of_queue}", _tasks_of(queue))


def _tasks_of(queue: str) -> tuple[str, str]:
    """What the names of a queue's tasks lie between."""
    return f"{queue}/tasks/", f"{queue}/tasks0"


def _stored(row: tuple[bytes, int, int]) -> StoredTask:
    return StoredTask(TaskMessage.FromString(row[0]), bool(row[1]), row[2])
