"""The dead-letter queue: a paused queue that keeps the orders that cannot be processed, until somebody replays them.

An order has two entries: a reservation, which its last attempt stores before it runs, and the entry of a failure, with
the reason. Owns their names, content and due times, and what an answer of the service means: an order counts as safe
only if one of them is known to be there. The official client is opened at the first use, since it costs a second and
50 MB. Most instances never need it.
"""

import asyncio
import enum
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from order_handler import logs, trace
from order_handler.delivery import Delivery

if TYPE_CHECKING:
    from order_handler.cloud_tasks import CloudTasks

MARGIN_SECONDS = 60
"""Added to the handler's timeout: a reservation may be replayed only when its run is over."""

OPEN_SECONDS = 15.0
"""Limit of loading the official client and of the wait for its credentials."""

_MOST_NAMES = 5
"""How many names an entry of an order may have within a day. The next one is used if an operator dropped or replayed
the entry while its task was still in the main queue: the task would otherwise run without a reservation."""
_REASON_LENGTH = 200
_TASK_LENGTH = 500
_LARGE_BODY = 2**20 - 2000
"""Bytes. An entry with a larger body may not fit with its headers and its whole name."""


class Outcome(enum.Enum):
    STORED = "stored"
    EXISTS = "exists"
    """An entry of this name is there, or was deleted within a day."""
    LIVE = "live"
    """It is there, with this very message."""
    BLOCKED = "blocked"
    """It was deleted within a day, or was never there."""
    UNKNOWN = "unknown"
    """Cloud Tasks did not say, or refused."""
    INVALID = "invalid"
    """Cloud Tasks refuses such a task. It may be too large."""


class Stored(NamedTuple):
    outcome: Outcome
    reason: str | None = None
    """Why it is not known to be stored."""
    name: str = ""
    """Short name of the entry."""
    again: int = 0
    """How many earlier entries of the order were deleted within a day."""

    @property
    def safe(self) -> bool:
        """Whether the order cannot be lost any more."""
        return self.outcome in (Outcome.STORED, Outcome.LIVE)


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


class DeadLetters:
    def __init__(self, queue: str, timeout: int, open_api: Callable[[], Awaitable["CloudTasks"]]) -> None:
        """`timeout`: the handler's, in seconds. `open_api`: called once, before the first call of Cloud Tasks."""
        self._queue = queue
        self._queue_id = queue.rpartition("/")[2]
        self._reserved_for = timedelta(seconds=timeout + MARGIN_SECONDS)
        # Within the service's limits. Its default of ten minutes may be less than the handler's timeout.
        self._deadline = timedelta(seconds=min(max(timeout, 15), 1800))
        self._open_api = open_api
        self._opening = asyncio.Lock()
        self._api: CloudTasks | None = None

    def is_replay(self, delivery: Delivery) -> bool:
        """Returns whether the delivery is a replay of an entry."""
        return delivery.queue == self._queue_id

    async def reserve(self, delivery: Delivery, body: bytes) -> Stored:
        """Keeps an order that is about to run for the last time, so that a crash of that run cannot lose it.

        LIVE if an earlier last attempt stored it, whether that attempt did not end or failed.
        """
        reason = "The last attempt did not end, or its failure was not stored. The log lines of this task say more"
        due = datetime.now(UTC) + self._reserved_for
        for again in range(_MOST_NAMES):
            reserved = await self._create(_names(delivery, body, again), delivery, body, reason, "Unfinished", due)
            if reserved.outcome is not Outcome.BLOCKED:
                break
            failed = [await self._find(name) for name in _names(delivery, body, again, failed=True)]
            if live := next((entry for entry in failed if entry.outcome is Outcome.LIVE), None):
                return live
        return reserved._replace(again=again)

    async def store(self, delivery: Delivery, body: bytes, reason: str, kind: str) -> Stored:
        """Keeps an order that failed for good. It may be replayed at once. `kind`: the class of the error."""
        for again in range(_MOST_NAMES):
            stored = await self._create(_names(delivery, body, again, failed=True), delivery, body, reason, kind, None)
            if stored.outcome is not Outcome.BLOCKED:
                break
        return stored

    async def release(self, delivery: Delivery, body: bytes, again: int, *, failed: bool) -> str | None:
        """Deletes the reservation, and the entries of failures too unless the order `failed`. `again`: as stored.

        Returns why one may still be there, or None. The replay of an entry whose order is done does nothing.
        """
        names = _names(delivery, body, again)
        if not failed:
            names += [name for earlier in range(again + 1) for name in _names(delivery, body, earlier, failed=True)]
        try:
            api = await self.api()
            troubles = [await api.delete(self._path(name)) for name in names]
        except Exception as error:
            return repr(error)
        return next(filter(None, troubles), None)

    async def api(self) -> "CloudTasks":
        """The client, which the relay uses too."""
        if self._api is None:
            async with asyncio.timeout(OPEN_SECONDS), self._opening:
                if self._api is None:
                    self._api = await self._open_api()
        return self._api

    async def close(self) -> None:
        if self._api:
            await self._api.close()

    async def _create(
        self, names: list[str], delivery: Delivery, body: bytes, reason: str, kind: str, due: datetime | None
    ) -> Stored:
        headers = {
            "Content-Type": "application/json",
            "X-Dead-Letter-Reason": _header(logs.redacted(reason))[:_REASON_LENGTH],
            "X-Dead-Letter-Kind": kind,
            "X-Dead-Letter-Task": _header(delivery.task[:_TASK_LENGTH]),
            "X-Dead-Letter-Attempts": str(delivery.attempt or "unknown"),
            **trace.headers(),
        }
        name, *shorter = names
        # A task just below 1 MiB leaves no room for the headers, and perhaps not even for the whole name.
        variants = [(name, headers), *([(name, {})] if shorter else []), *((short, {}) for short in shorter)]
        try:
            api = await self.api()
            for name, kept in variants:
                stored = await api.create(Entry(self._path(name), body, kept, due, self._deadline))
                if stored.outcome is Outcome.EXISTS:
                    return await self._find(name)
                if stored.outcome is not Outcome.INVALID:
                    break
            return stored._replace(name=name)
        # Also without credentials or memory: whatever the reason, the order is not safe.
        except Exception as error:
            return Stored(Outcome.UNKNOWN, repr(error))

    async def _find(self, name: str) -> Stored:
        """LIVE, BLOCKED or UNKNOWN."""
        try:
            return (await (await self.api()).find(self._path(name)))._replace(name=name)
        except Exception as error:
            return Stored(Outcome.UNKNOWN, repr(error))

    def _path(self, name: str) -> str:
        return f"{self._queue}/tasks/{name}"


def _names(delivery: Delivery, body: bytes, again: int, *, failed: bool = False) -> list[str]:
    """The short name of the reservation, or of the entry of a failure, and the shorter one that a large body may need.

    They are the same for each attempt of a task, and others for another body. `again`: how many entries were deleted.
    """
    parts = [(delivery.queue or "").encode(), delivery.task.encode(), body]
    parts += [*([b"failed"] if failed else []), *([str(again).encode()] if again else [])]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()
    return [name, name[:32]] if len(body) > _LARGE_BODY else [name]


def _header(text: str) -> str:
    """ASCII on one line."""
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())
