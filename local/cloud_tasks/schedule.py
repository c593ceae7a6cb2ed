"""One queue: which task may be dispatched when.

Pure logic: no clock, no I/O, no messages. It is given two times. `now` is in seconds since the epoch: a task is due by
it. `tick` is in seconds of a clock that never jumps: the rate and the waits before retries follow it, so that a clock
that is set forward or back neither stops a queue nor makes it exceed its rate.
"""

import collections
import dataclasses
import heapq
import itertools
import math

_ROUNDING = 1e-6
"""Seconds that a sum of a time and a tick may be off."""


@dataclasses.dataclass(frozen=True, slots=True)
class RateLimits:
    """How fast a queue dispatches; the defaults are the service's."""

    max_dispatches_per_second: float = 500.0
    max_concurrent_dispatches: int = 1000

    @property
    def max_burst_size(self) -> int:
        """Dispatches that a rested queue may make at once; the service derives it and nobody can set it."""
        return max(10, math.floor(self.max_dispatches_per_second / 5))

    @property
    def rate(self) -> float:
        """The dispatches per second, at least one in thirty years: a smaller rate would overflow."""
        return max(self.max_dispatches_per_second, 1e-9)


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
        """Whether retrying ends after `attempts` failures, the last one ending now: once both limits are reached.

        Without a limit of attempts the duration alone ends it; without either it never ends."""
        if self.max_attempts == -1 and not self.max_retry_duration:
            return False
        return attempts >= self.max_attempts and now - first_attempt >= self.max_retry_duration


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """The figures of a queue at one time."""

    tasks: int
    in_flight: int
    executed_last_minute: int
    rate: float
    next_due: float | None
    """In seconds since the epoch; None if no task waits."""


class Schedule:
    """The waiting and the dispatched tasks of one queue, by their ids."""

    def __init__(self, limits: RateLimits, tick: float, *, rested: bool) -> None:
        """`rested`: the bucket starts full, as a new queue's does. Otherwise it starts empty, as after a restart, when
        nobody knows what was dispatched just before."""
        self._limits = limits
        self.paused = False
        self._waiting: dict[str, tuple[float, int]] = {}
        # due time, order and id of each waiting task; due tick of those that wait for a retry. Outdated entries stay
        self._heap: list[tuple[float, int, str]] = []
        self._retries: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._in_flight: set[str] = set()
        self._finished: collections.deque[float] = collections.deque()  # ticks, of the last minute
        # the bucket as one tick, at which it is full again: exact for any rate, and no tokens to round
        self._full_at = tick if rested else tick + limits.max_burst_size / limits.rate

    def set_limits(self, limits: RateLimits, tick: float) -> None:
        """Change the figures; the bucket keeps its tokens, as far as it still holds them."""
        if limits == self._limits:
            return
        missing = max(0.0, self._full_at - tick) * self._limits.rate
        tokens = min(self._limits.max_burst_size - missing, limits.max_burst_size)
        self._limits = limits
        self._full_at = tick + (limits.max_burst_size - tokens) / limits.rate

    def __len__(self) -> int:
        """Tasks, waiting or dispatched."""
        return len(self._waiting) + len(self._in_flight)

    def add(self, task: str, due: float, due_tick: float = math.inf) -> None:
        """Schedule a task; one that waits already gets the new time. It is due as soon as either time has come."""
        if len(self._heap) > 2 * len(self._waiting) + 64:  # mostly entries of tasks that were removed
            self._heap = [(*entry, task) for task, entry in self._waiting.items()]
            heapq.heapify(self._heap)
            self._retries = [entry for entry in self._retries if self._waits(entry)]
            heapq.heapify(self._retries)
        order = next(self._order)
        self._waiting[task] = (due, order)
        heapq.heappush(self._heap, (due, order, task))
        if due_tick < math.inf:
            heapq.heappush(self._retries, (due_tick, order, task))

    def remove(self, task: str) -> None:
        """Forget a waiting task. One in flight keeps its place until `finish`: its request is still out."""
        self._waiting.pop(task, None)

    def clear(self) -> None:
        """Forget every waiting task."""
        self._waiting.clear()
        self._heap.clear()
        self._retries.clear()

    def take(self, now: float, tick: float) -> list[str]:
        """The tasks to dispatch now; they count as in flight until `finish`."""
        taken: list[str] = []
        while (at := self.next_dispatch(now, tick)) is not None and at <= now + _ROUNDING:
            due = self._heap if self._heap[0][0] <= now + _ROUNDING else self._retries
            task = heapq.heappop(due)[2]
            del self._waiting[task]
            self._in_flight.add(task)
            self._full_at = max(self._full_at, tick) + 1 / self._limits.rate
            taken.append(task)
        return taken

    def next_dispatch(self, now: float, tick: float) -> float | None:
        """When `take` next yields a task, in the terms of `now`; None if it takes a change to the queue first."""
        for heap in (self._heap, self._retries):
            while heap and not self._waits(heap[0]):
                heapq.heappop(heap)
        if not self._heap or self.paused or len(self._in_flight) >= self._limits.max_concurrent_dispatches:
            return None
        due = self._heap[0][0]
        if self._retries:
            due = min(due, now + self._retries[0][0] - tick)
        slack = (self._limits.max_burst_size - 1) / self._limits.rate
        return max(due, now + self._full_at - slack - tick)

    def _waits(self, entry: tuple[float, int, str]) -> bool:
        """Whether an entry is that of a waiting task, which was neither removed nor rescheduled since."""
        waiting = self._waiting.get(entry[2])
        return waiting is not None and waiting[1] == entry[1]

    def force(self, task: str) -> None:
        """Put a task in flight past rate, concurrency and pause."""
        self._waiting.pop(task, None)
        self._in_flight.add(task)

    def statistics(self, tick: float) -> Statistics:
        """The queue's figures now."""
        next_due = min((due for due, _ in self._waiting.values()), default=None)
        last_minute = sum(at > tick - 60 for at in self._finished)
        rate = self._limits.max_dispatches_per_second
        return Statistics(len(self), len(self._in_flight), last_minute, rate, next_due)

    def finish(self, task: str, tick: float = 0.0) -> None:
        """End a dispatch."""
        if task in self._in_flight:
            self._in_flight.remove(task)
            self._finished.append(tick)
            while self._finished[0] <= tick - 60:
                self._finished.popleft()
