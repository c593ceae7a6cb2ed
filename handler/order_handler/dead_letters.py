"""The dead-letter queue: where an order goes that cannot be processed, a paused queue from which it can be replayed.

Owns an entry's name, content and due time, and what may be concluded from what the service answers: an order counts as
safe only if its entry is known to be there. The official client is loaded at the first use, since it costs a second and
50 MB; most instances never need it.
"""

import asyncio
import enum
import hashlib
import importlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from order_handler.delivery import Delivery

MARGIN_SECONDS = 60
"""Beyond the handler's timeout, until a reserve may be replayed: its run must be over."""

_REASON_LENGTH = 200


class Outcome(enum.Enum):
    STORED = "stored"
    LIVE = "live"
    """This very message was there already."""
    NOT_STORED = "not stored"
    """Or not known to be."""


class Stored(NamedTuple):
    outcome: Outcome
    reason: str | None = None
    """Why it is not stored."""


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    """`projects/P/locations/L/queues/Q/tasks/T`."""
    body: bytes = field(repr=False)
    headers: dict[str, str]
    due: datetime | None
    """None: at once."""
    deadline: timedelta
    """For a replay's answer."""


class Api(Protocol):
    async def create(self, entry: Entry) -> Stored: ...
    async def delete(self, name: str) -> str | None: ...
    async def close(self) -> None: ...


class DeadLetters:
    def __init__(self, queue: str, timeout: int, emulator_host: str | None) -> None:
        """`timeout` is the handler's, in seconds."""
        self._queue = queue
        self._queue_id = queue.rpartition("/")[2]
        self._reserved_for = timedelta(seconds=timeout + MARGIN_SECONDS)
        # What the service takes; its default of ten minutes may be less than the handler's timeout.
        self._deadline = timedelta(seconds=min(max(timeout, 15), 1800))
        self._emulator_host = emulator_host
        self._opening = asyncio.Lock()
        self._api: Api | None = None

    def sent(self, delivery: Delivery) -> bool:
        """Whether this delivery is a replay of an entry."""
        return delivery.queue == self._queue_id

    def name(self, delivery: Delivery, body: bytes) -> str:
        """The entry's short name: the same for each attempt of a task, another for another body."""
        return hashlib.sha256(b"\0".join([(delivery.queue or "").encode(), delivery.task.encode(), body])).hexdigest()

    async def store(self, delivery: Delivery, body: bytes, reason: str) -> Stored:
        """Keeps what no retry can cure."""
        return await self._create(delivery, body, reason, None)

    async def reserve(self, delivery: Delivery, body: bytes) -> Stored:
        """Keeps what is about to run for the last time, so that no end of that run can lose it."""
        reason = "The last attempt failed, or did not end: the log of this task says more"
        return await self._create(delivery, body, reason, datetime.now(UTC) + self._reserved_for)

    async def release(self, delivery: Delivery, body: bytes) -> str | None:
        """Deletes the entry of what is done. None, or why it may still be there: a replay does nothing then."""
        try:
            api = await self._open()
            return await api.delete(self._path(delivery, body))
        except Exception as error:
            return repr(error)

    async def close(self) -> None:
        if self._api:
            await self._api.close()

    async def _create(self, delivery: Delivery, body: bytes, reason: str, due: datetime | None) -> Stored:
        headers = {
            "Content-Type": "application/json",
            "X-Dead-Letter-Reason": _header(reason)[:_REASON_LENGTH],
            "X-Dead-Letter-Task": _header(delivery.task),
            "X-Dead-Letter-Attempts": str(delivery.attempt or "unknown"),
        }
        try:
            api = await self._open()
            return await api.create(Entry(self._path(delivery, body), body, headers, due, self._deadline))
        # No credentials, no memory for the client: whatever it is, the order is not safe.
        except Exception as error:
            return Stored(Outcome.NOT_STORED, repr(error))

    def _path(self, delivery: Delivery, body: bytes) -> str:
        return f"{self._queue}/tasks/{self.name(delivery, body)}"

    async def _open(self) -> Api:
        async with self._opening:
            if self._api is None:
                # In a thread: the loop has other orders to serve meanwhile.
                await asyncio.to_thread(importlib.import_module, "order_handler.cloud_tasks")
                from order_handler.cloud_tasks import CloudTasks

                self._api = await CloudTasks.open(self._emulator_host)
            return self._api


def _header(text: str) -> str:
    """ASCII on one line."""
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())
