import pytest

from local.cloud_tasks.schedule import RateLimits, RetryConfig, Schedule


def test_backoff_of_any_retry_stays_within_its_maximum() -> None:
    assert RetryConfig(max_backoff=1e9, max_doublings=10_000).backoff(9_999) == 1e9


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
