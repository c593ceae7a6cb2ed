"""The dead-letter queue: a paused queue that keeps the orders that cannot be processed, until somebody replays them.

Owns an entry's name, content and due time, and what an answer of the service means: an order counts as safe only if its
entry is known to be there. The official client is opened at the first use, since it costs a second and 50 MB. Most
instances never need it.
"""

import asyncio
import enum
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from order_handler.delivery import Delivery

MARGIN_SECONDS = 60
"""Added to the handler's timeout: an entry of a last attempt may be replayed only when its run is over."""

OPEN_SECONDS = 15.0
"""Limit of loading the official client and of the wait for its credentials."""

_REASON_LENGTH = 200
_TASK_LENGTH = 500
_LARGE_BODY = 2**20 - 2000
"""Bytes. An entry with a larger body may not fit with its headers and its whole name."""


class Outcome(enum.Enum):
    STORED = "stored"
    LIVE = "live"
    """It was there already, with this very message."""
    NOT_STORED = "not stored"
    """It is not known to be there."""
    INVALID = "invalid"
    """Cloud Tasks refuses it. It may be too large."""


class Stored(NamedTuple):
    outcome: Outcome
    reason: str | None = None
    """Why it is not stored."""
    name: str = ""
    """Short name of the entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    """`projects/P/locations/L/queues/Q/tasks/T`."""
    body: bytes = field(repr=False)
    headers: dict[str, str]
    due: datetime | None
    """When it may be replayed; None for at once."""
    deadline: timedelta
    """How long a replay may wait for its answer."""


class Api(Protocol):
    """Cloud Tasks, as far as dead letters need it."""

    async def create(self, entry: Entry) -> Stored: ...
    async def delete(self, name: str) -> str | None: ...
    async def close(self) -> None: ...


class DeadLetters:
    def __init__(self, queue: str, timeout: int, open_api: Callable[[], Awaitable[Api]]) -> None:
        """`timeout`: the handler's, in seconds. `open_api`: called before the first entry is stored."""
        self._queue = queue
        self._queue_id = queue.rpartition("/")[2]
        self._reserved_for = timedelta(seconds=timeout + MARGIN_SECONDS)
        # Within the service's limits. Its default of ten minutes may be less than the handler's timeout.
        self._deadline = timedelta(seconds=min(max(timeout, 15), 1800))
        self._open_api = open_api
        self._opening = asyncio.Lock()
        self._api: Api | None = None

    def is_replay(self, delivery: Delivery) -> bool:
        """Returns whether the delivery is a replay of an entry."""
        return delivery.queue == self._queue_id

    def names(self, delivery: Delivery, body: bytes) -> list[str]:
        """The entry's short name, and the shorter one that a large body may need.

        They are the same for each attempt of a task, and others for another body.
        """
        name = hashlib.sha256(b"\0".join([(delivery.queue or "").encode(), delivery.task.encode(), body])).hexdigest()
        return [name, name[:32]] if len(body) > _LARGE_BODY else [name]

    async def store(self, delivery: Delivery, body: bytes, reason: str) -> Stored:
        """Keeps an order that no retry can help."""
        return await self._create(delivery, body, reason, None)

    async def reserve(self, delivery: Delivery, body: bytes) -> Stored:
        """Keeps an order that is about to run for the last time, so that a crash of that run cannot lose it."""
        reason = "The last attempt failed or did not end. The log lines of this task say more"
        return await self._create(delivery, body, reason, datetime.now(UTC) + self._reserved_for)

    async def release(self, delivery: Delivery, body: bytes) -> str | None:
        """Deletes the entry of an order that is done. Returns why it may still be there, or None.

        The replay of an entry that is still there does nothing.
        """
        try:
            api = await self._open()
            troubles = [await api.delete(self._path(name)) for name in self.names(delivery, body)]
        except Exception as error:
            return repr(error)
        return next(filter(None, troubles), None)

    async def close(self) -> None:
        if self._api:
            await self._api.close()

    async def _create(self, delivery: Delivery, body: bytes, reason: str, due: datetime | None) -> Stored:
        headers = {
            "Content-Type": "application/json",
            "X-Dead-Letter-Reason": _header(reason[:_REASON_LENGTH])[:_REASON_LENGTH],
            "X-Dead-Letter-Task": _header(delivery.task[:_TASK_LENGTH]),
            "X-Dead-Letter-Attempts": str(delivery.attempt or "unknown"),
        }
        name, *shorter = self.names(delivery, body)
        # A task just below 1 MiB leaves no room for the headers, and perhaps not even for the whole name.
        variants = [(name, headers), *([(name, {})] if shorter else []), *((short, {}) for short in shorter)]
        try:
            api = await self._open()
            for name, kept in variants:
                entry = Entry(self._path(name), body, kept, due, self._deadline)
                stored = (await api.create(entry))._replace(name=name)
                if stored.outcome is not Outcome.INVALID:
                    return stored
            return stored
        # Also without credentials or memory: whatever the reason, the order is not safe.
        except Exception as error:
            return Stored(Outcome.NOT_STORED, repr(error))

    def _path(self, name: str) -> str:
        return f"{self._queue}/tasks/{name}"

    async def _open(self) -> Api:
        async with asyncio.timeout(OPEN_SECONDS), self._opening:
            if self._api is None:
                self._api = await self._open_api()
            return self._api


def _header(text: str) -> str:
    """ASCII on one line."""
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())
