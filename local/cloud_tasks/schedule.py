"""One queue: which task may be dispatched when.

Pure logic on seconds since the epoch, passed in: no clock, no I/O, no messages. Sources: the service's reference for
the figures and recorded answers for the burst and the backoff.
"""

import dataclasses
import heapq
import itertools
import math


@dataclasses.dataclass(frozen=True, slots=True)
class RateLimits:
    """How fast a queue dispatches; the defaults are the service's."""

    max_dispatches_per_second: float = 500.0
    max_concurrent_dispatches: int = 1000

    @property
    def max_burst_size(self) -> int:
        """Dispatches that a rested queue may make at once; the service derives it and lets nobody set it."""
        return max(10, math.floor(self.max_dispatches_per_second / 5))


@dataclasses.dataclass(frozen=True, slots=True)
class RetryConfig:
    """When a failed task is tried again, in seconds; the defaults are the service's."""

    max_attempts: int = 100
    """The first one included; -1 for no limit."""
    max_retry_duration: float = 0.0
    """From the first attempt on; 0 where it does not apply."""
    min_backoff: float = 0.1
    max_backoff: float = 3600.0
    max_doublings: int = 16

    def backoff(self, retry: int) -> float:
        """The wait before retry 1, 2, ...: doubles `max_doublings` times, then grows linearly."""
        doublings = min(retry - 1, self.max_doublings)
        linear = max(0, retry - 1 - self.max_doublings)
        if doublings > 63:  # past every max_backoff, and 2.0 ** 1024 would overflow
            return self.max_backoff
        return min(self.max_backoff, self.min_backoff * (2.0**doublings + linear * 2.0**doublings))

    def gives_up(self, attempts: int, first_attempt: float, now: float) -> bool:
        """Whether both limits are reached after `attempts` failures, the last one ending now."""
        tried = self.max_attempts != -1 and attempts >= self.max_attempts
        return tried and now - first_attempt >= self.max_retry_duration


class Schedule:
    """The waiting and the dispatched tasks of one queue, by task id."""

    def __init__(self, limits: RateLimits, now: float, *, rested: bool) -> None:
        """`rested`: the bucket starts full, as a new queue's does; else empty, as after a restart, when nobody
        knows what was dispatched just before."""
        self._limits = limits
        self.paused = False
        self._waiting: dict[str, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._in_flight: set[str] = set()
        # the bucket as one moment, at which it is full again: exact for any rate, and no tokens to round
        self._full_at = now if rested else now + limits.max_burst_size / limits.max_dispatches_per_second

    def set_limits(self, limits: RateLimits, now: float) -> None:
        """Go on with these figures; the bucket keeps its tokens, as far as it still holds them."""
        if limits == self._limits:
            return
        missing = max(0.0, self._full_at - now) * self._limits.max_dispatches_per_second
        tokens = min(self._limits.max_burst_size - missing, limits.max_burst_size)
        self._limits = limits
        self._full_at = now + (limits.max_burst_size - tokens) / limits.max_dispatches_per_second

    def __len__(self) -> int:
        """Tasks, waiting or dispatched."""
        return len(self._waiting) + len(self._in_flight)

    def add(self, task: str, due: float) -> None:
        """Schedule a task; one that waits already gets the new time."""
        if len(self._heap) > 2 * len(self._waiting) + 64:  # mostly entries of tasks that were removed
            self._heap = [(*entry, task) for task, entry in self._waiting.items()]
            heapq.heapify(self._heap)
        entry = (due, next(self._order))
        self._waiting[task] = entry
        heapq.heappush(self._heap, (*entry, task))

    def remove(self, task: str) -> None:
        """Forget a waiting task. One in flight keeps its place until `finish`: its request is still out."""
        self._waiting.pop(task, None)

    def clear(self) -> None:
        """Forget every waiting task."""
        self._waiting.clear()
        self._heap.clear()

    def take(self, now: float) -> list[str]:
        """The tasks to dispatch now; they count as in flight until `finish`."""
        taken: list[str] = []
        interval = 1 / self._limits.max_dispatches_per_second
        while (at := self.next_dispatch()) is not None and at <= now:
            task = heapq.heappop(self._heap)[2]
            del self._waiting[task]
            self._in_flight.add(task)
            self._full_at = max(self._full_at, now) + interval
            taken.append(task)
        return taken

    def next_dispatch(self) -> float | None:
        """When `take` next yields a task, other things being equal; None when only a change can make it."""
        while self._heap and self._waiting.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)  # removed or rescheduled since
        if not self._heap or self.paused or len(self._in_flight) >= self._limits.max_concurrent_dispatches:
            return None
        slack = (self._limits.max_burst_size - 1) / self._limits.max_dispatches_per_second
        return max(self._heap[0][0], self._full_at - slack)

    def force(self, task: str) -> None:
        """Put a task in flight past rate, concurrency and pause."""
        self._waiting.pop(task, None)
        self._in_flight.add(task)

    def finish(self, task: str) -> None:
        """End a dispatch."""
        self._in_flight.discard(task)
