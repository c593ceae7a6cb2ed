"""A day in a queue's life, under a virtual clock: whatever its settings and its failures, it keeps to them."""

import dataclasses
import heapq
import itertools
import random
from collections import defaultdict
from pathlib import Path

from google.cloud.tasks_v2 import types
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import Message, QueueMessage
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks

QUEUE = "projects/shop/locations/us-central1/queues/q"
START, DAY = 1_800_000_000.0, 24 * 3600.0
TASKS, MOST_FAILURES = 60, 25


@dataclasses.dataclass(frozen=True)
class Figures:
    rate: float
    concurrency: int
    max_attempts: int
    max_retry_duration: int
    min_backoff: float
    max_backoff: float
    max_doublings: int


@dataclasses.dataclass
class Dispatch:
    task: str
    number: int
    eta: float
    start: float
    end: float
    status: int


def seconds(low: float, high: float) -> st.SearchStrategy[float]:
    """In whole microseconds, as the service keeps them."""
    return st.integers(round(low * 1e6), round(high * 1e6)).map(lambda microseconds: microseconds / 1e6)


FIGURES = st.builds(
    Figures,
    rate=st.one_of(st.floats(0.005, 1), st.floats(1, 500)),
    concurrency=st.integers(1, 20),
    max_attempts=st.one_of(st.just(-1), st.integers(1, MOST_FAILURES + 5)),
    max_retry_duration=st.one_of(st.just(0), st.integers(1, 20_000)),
    min_backoff=seconds(0.1, 60),
    max_backoff=seconds(60, 3600),
    max_doublings=st.integers(1, 16),
)


def live_through_a_day(figures: Figures, seed: int) -> tuple[list[Dispatch], dict[str, Event]]:
    """What is dispatched in a day, and how each task ended; pauses in between."""
    now = START
    events: dict[str, Event] = {}
    store = Store(Path(":memory:"))

    class LastEvent(Listener):
        def task_changed(self, event: Event, task: Message) -> None:
            events[task.name.rpartition("/")[2]] = event

    tasks = CloudTasks(store, lambda: now, lambda *_: True, [LastEvent()])
    tasks.queues.declare(
        json_format.ParseDict(
            {
                "name": QUEUE,
                "rateLimits": {
                    "maxDispatchesPerSecond": figures.rate,
                    "maxConcurrentDispatches": figures.concurrency,
                },
                "retryConfig": {
                    "maxAttempts": figures.max_attempts,
                    "maxRetryDuration": f"{figures.max_retry_duration}s",
                    "minBackoff": f"{figures.min_backoff:.6f}s",
                    "maxBackoff": f"{figures.max_backoff:.6f}s",
                    "maxDoublings": figures.max_doublings,
                },
            },
            QueueMessage(),
        ),
        (),
    )
    chance = random.Random(seed)
    failures = {f"t{number}": chance.choice((0, 0, 1, 3, MOST_FAILURES)) for number in range(TASKS)}
    crowd = chance.uniform(0, DAY / 2)
    order = itertools.count()
    ahead: list[tuple[float, int, str, object]] = []

    def plan(at: float, what: str, about: object = None) -> None:
        heapq.heappush(ahead, (at, next(order), what, about))

    for name in failures:  # half of them all at once
        plan(START + chance.choice((crowd, chance.uniform(0, DAY / 2))), "create", name)
    for _ in range(3):
        pause = START + chance.uniform(0, DAY / 2)
        plan(pause, "pause")
        plan(pause + chance.uniform(0, 3600), "resume")
    dispatches: list[Dispatch] = []
    while True:
        at = tasks.next_dispatch(QUEUE)
        now = min(max(now, at) if at is not None else START + DAY, ahead[0][0] if ahead else START + DAY)
        if now >= START + DAY:
            store.close()
            return dispatches, events
        while ahead and ahead[0][0] <= now:
            _, _, what, about = heapq.heappop(ahead)
            if what == "create":
                http = {"url": "https://handler.example/"}
                task = {"name": f"{QUEUE}/tasks/{about}", "http_request": http}
                tasks.create_task(types.CreateTaskRequest.pb(types.CreateTaskRequest(parent=QUEUE, task=task)))
            elif what == "pause":
                tasks.queues.pause_queue(types.PauseQueueRequest.pb()(name=QUEUE))
            elif what == "resume":
                tasks.queues.resume_queue(types.ResumeQueueRequest.pb()(name=QUEUE))
            else:
                assert isinstance(about, tuple)
                tasks.end_attempt(*about)
        for attempt in tasks.start_attempts(QUEUE):
            status = chance.choice((400, 404, 429, 500, 503, 504))
            status = status if attempt.number <= failures[attempt.task] else 200
            end = now + chance.uniform(0, 120)
            dispatches.append(dispatched(attempt, now, end, status))
            plan(end, "answer", (attempt, status))


def dispatched(attempt: Attempt, start: float, end: float, status: int) -> Dispatch:
    eta = float(attempt.headers["X-CloudTasks-TaskETA"])
    return Dispatch(attempt.task, attempt.number, eta, start, end, status)


def delay(figures: Figures, retry: int) -> float:
    """Before a retry, as the reference describes it: doubled so many times, then by equal steps, up to the maximum."""
    wait = figures.min_backoff
    for earlier in range(1, retry):
        wait += wait if earlier <= figures.max_doublings else figures.min_backoff * 2**figures.max_doublings
        if wait > figures.max_backoff:
            return figures.max_backoff
    return wait


@settings(max_examples=25, deadline=None)
@given(figures=FIGURES, seed=st.integers(0, 2**32))
def test_a_day_of_dispatches_keeps_to_the_queues_figures(figures: Figures, seed: int) -> None:
    dispatches, events = live_through_a_day(figures, seed)
    assert dispatches

    burst = max(10, int(figures.rate / 5))
    lowest = float("inf")
    for count, dispatch in enumerate(dispatches):  # in any window: at most burst + rate x its seconds
        level = count - figures.rate * (dispatch.start - START)
        lowest = min(lowest, level)
        assert level - lowest + 1 <= burst + 1e-3, (count, dispatch)

    under_way: list[float] = []
    for dispatch in dispatches:
        while under_way and under_way[0] <= dispatch.start:
            heapq.heappop(under_way)
        heapq.heappush(under_way, dispatch.end)
        assert len(under_way) <= figures.concurrency

    of_task: dict[str, list[Dispatch]] = defaultdict(list)
    for dispatch in dispatches:
        of_task[dispatch.task].append(dispatch)
        assert dispatch.start >= dispatch.eta - 1e-6
    for task, attempts in of_task.items():
        assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
        for retry, (failed, again) in enumerate(itertools.pairwise(attempts), 1):
            assert abs(again.eta - (failed.end + delay(figures, retry))) < 1e-3, (retry, failed, again)
        last = attempts[-1]
        over = [
            (figures.max_attempts != -1 or figures.max_retry_duration > 0)
            and attempt.number >= figures.max_attempts
            and attempt.end - attempts[0].start >= figures.max_retry_duration
            for attempt in attempts
            if attempt.status != 200
        ]
        assert not any(over[:-1]), "it went on after every limit was reached"
        if last.end < START + DAY:
            expected = Event.PROCESSED if last.status == 200 else Event.GONE if over[-1] else Event.RETRIED
            assert events[task] is expected
