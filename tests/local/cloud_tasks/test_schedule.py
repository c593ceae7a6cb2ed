import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.cloud_tasks.schedule import RateLimits, RetryConfig, Schedule

DECLARED = RetryConfig(max_attempts=5, min_backoff=10, max_backoff=300, max_doublings=4)


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 10), (50, 10), (54, 10), (77, 15), (333, 66), (500, 100)])
def test_burst_is_derived_from_the_rate(rate: float, burst: int) -> None:
    assert RateLimits(rate).max_burst_size == burst


@pytest.mark.parametrize(
    ("config", "delays"),
    [
        (DECLARED, [10, 20, 40, 80, 160, 300, 300]),
        (RetryConfig(min_backoff=1, max_backoff=7, max_doublings=1), [1, 2, 4, 6, 7]),
        (RetryConfig(min_backoff=0.5, max_backoff=100, max_doublings=2), [0.5, 1, 2, 4, 6, 8]),
    ],
)
def test_backoff_doubles_then_grows_linearly_up_to_its_maximum(config: RetryConfig, delays: list[float]) -> None:
    assert [config.backoff(retry) for retry in range(1, len(delays) + 1)] == delays


def test_backoff_of_any_retry_stays_within_its_maximum() -> None:
    assert RetryConfig(max_backoff=1e9, max_doublings=10_000).backoff(9_999) == 1e9


@pytest.mark.parametrize(
    ("max_attempts", "duration", "attempts", "elapsed", "over"),
    [
        (5, 0, 4, 1e6, False),
        (5, 0, 5, 0, True),
        (5, 60, 5, 59.9, False),  # both limits have to be reached
        (5, 60, 5, 60, True),
        (-1, 60, 1000, 59.9, False),
        (-1, 60, 1, 60, True),  # the duration alone ends it
        (-1, 0, 1000, 1e6, False),
    ],
)
def test_retrying_stops_when_every_limit_is_reached(
    max_attempts: int, duration: float, attempts: int, elapsed: float, over: bool
) -> None:
    config = RetryConfig(max_attempts=max_attempts, max_retry_duration=duration)
    assert config.gives_up(attempts, 1000.0, 1000.0 + elapsed) is over


def test_a_rested_queue_dispatches_its_burst_then_its_rate() -> None:
    queue = Schedule(RateLimits(5, 1000), 0.0, rested=True)
    for task in range(20):
        queue.add(str(task), 0.0)
    assert [len(queue.take(at, at)) for at in (0.0, 0.1, 0.2, 0.3, 1.21)] == [10, 0, 1, 0, 5]


def test_a_restarted_queue_begins_without_a_burst() -> None:
    queue = Schedule(RateLimits(5, 1000), 100.0, rested=False)
    queue.add("a", 0.0)
    queue.add("b", 0.0)
    assert queue.take(100.19, 100.19) == []
    assert queue.take(100.2, 100.2) == ["a"]
    assert queue.next_dispatch(100.2, 100.2) == pytest.approx(100.4)


def test_a_task_leaves_when_due_in_the_order_of_time() -> None:
    queue = Schedule(RateLimits(), 0.0, rested=True)
    queue.add("late", 9.0)
    queue.add("early", 3.0)
    queue.add("late", 4.0)
    assert queue.next_dispatch(0.0, 0.0) == 3.0
    assert queue.take(2.9, 2.9) == []
    assert queue.take(5.0, 5.0) == ["early", "late"]
    assert queue.take(9.0, 9.0) == []


def test_a_paused_queue_dispatches_nothing_but_what_is_forced() -> None:
    queue = Schedule(RateLimits(), 0.0, rested=True)
    queue.add("a", 0.0)
    queue.paused = True
    assert queue.take(1.0, 1.0) == []
    assert queue.next_dispatch(1.0, 1.0) is None
    queue.force("a")
    queue.paused = False
    assert queue.take(1.0, 1.0) == []
    assert len(queue) == 1


def test_a_removed_task_is_not_dispatched_and_keeps_its_place_while_its_request_is_out() -> None:
    queue = Schedule(RateLimits(max_concurrent_dispatches=1), 0.0, rested=True)
    queue.add("waiting", 0.0)
    queue.remove("waiting")
    queue.add("dispatched", 0.0)
    assert queue.take(0.0, 0.0) == ["dispatched"]
    queue.remove("dispatched")
    queue.add("next", 0.0)
    assert queue.take(0.0, 0.0) == []
    queue.finish("dispatched")
    assert queue.take(0.0, 0.0) == ["next"]


def test_removed_tasks_do_not_pile_up_behind_an_early_one() -> None:
    queue = Schedule(RateLimits(), 0.0, rested=True)
    queue.add("early", 1.0)
    for number in range(10_000):
        queue.add(str(number), 2.0)
        queue.remove(str(number))
    assert len(queue._heap) < 200
    assert queue.take(3.0, 3.0) == ["early"]


def test_a_clock_that_is_set_forward_and_back_neither_stops_a_queue_nor_lifts_its_rate() -> None:
    queue = Schedule(RateLimits(10, 1000), 0.0, rested=True)
    for task in range(40):
        queue.add(str(task), 0.0)
    assert len(queue.take(0.0, 0.0)) == 10
    assert len(queue.take(7200.0, 1.0)) == 10
    assert len(queue.take(1.0, 2.0)) == 10
    assert len(queue.take(1.5, 2.5)) == 5


def test_a_retry_waits_no_longer_than_its_backoff_when_the_clock_is_set_back() -> None:
    queue = Schedule(RateLimits(), 0.0, rested=True)
    queue.add("retry", due=7210.0, due_tick=20.0)  # it failed at tick 10, with the clock two hours ahead
    queue.add("scheduled", due=7210.0)
    assert queue.take(18.0, 18.0) == []
    assert queue.next_dispatch(18.0, 18.0) == pytest.approx(20.0)
    assert queue.take(20.0, 20.0) == ["retry"]
    assert queue.take(7209.0, 7209.0) == []
    assert queue.take(7210.0, 7210.0) == ["scheduled"]


def test_a_task_that_a_clock_set_forward_makes_due_is_dispatched() -> None:
    queue = Schedule(RateLimits(), 0.0, rested=True)
    queue.add("a", 3600.0)
    assert queue.next_dispatch(0.0, 0.0) == 3600.0
    assert queue.take(3600.0, 1.0) == ["a"]


@given(
    rate=st.floats(0.01, 500),
    concurrency=st.integers(1, 30),
    tasks=st.lists(st.floats(0, 50), min_size=1, max_size=60),
    service_time=st.floats(0, 20),
    rested=st.booleans(),
)
def test_no_window_exceeds_rate_or_concurrency_and_nothing_leaves_early(
    rate: float, concurrency: int, tasks: list[float], service_time: float, rested: bool
) -> None:
    limits = RateLimits(rate, concurrency)
    queue = Schedule(limits, 0.0, rested=rested)
    for number, due in enumerate(tasks):
        queue.add(str(number), due)
    log: list[float] = []
    running: list[tuple[float, str]] = []
    now = 0.0
    while len(queue):
        moments = [end for end, _ in running]
        dispatch = queue.next_dispatch(now, now)
        now = min([*moments, *([] if dispatch is None else [dispatch])])
        for end, task in list(running):
            if end <= now:
                running.remove((end, task))
                queue.finish(task)
        for task in queue.take(now, now):
            assert tasks[int(task)] <= now + 1e-6
            log.append(now)
            running.append((now + service_time, task))
        assert len(running) <= concurrency
    assert len(log) == len(tasks)
    allowance = limits.max_burst_size if rested else 0
    for first, last in itertools.combinations(range(len(log)), 2):
        dispatched, seconds = last - first + 1, log[last] - log[first]
        assert dispatched <= math.ceil(limits.max_burst_size + rate * seconds + 1e-6)
    for number, at in enumerate(log, 1):
        assert number <= math.ceil(allowance + rate * at + 1e-6)
