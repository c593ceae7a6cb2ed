from dataclasses import replace

import pytest

from docs.pages.cost import Assumptions, Month

ONCE = Assumptions(attempts=1)


# By hand: what a month of these tasks costs, item by item.
@pytest.mark.parametrize(
    ("month", "item", "dollars"),
    [
        (Month(500_000, ONCE), "Cloud Tasks", 0),
        (Month(3_000_000, ONCE), "Cloud Tasks", 5 * 0.40),
        (Month(3_000_000, replace(ONCE, task_bytes=32 * 1024 + 1)), "Cloud Tasks", 11 * 0.40),
        (Month(2_000_000, ONCE), "Cloud Run, requests", 0),
        (Month(5_000_000, ONCE), "Cloud Run, requests", 3 * 0.40),
        # 100 a second, each of 0.06 s that is billed as 0.1 s: 10 at once, of which an instance takes 5
        (
            Month(259_200_000, replace(ONCE, seconds=0.06, concurrency=5, cpus=2)),
            "Cloud Run, time",
            (2 * 2_592_000 * 10 / 3 - 180_000) * 0.000024 + (0.5 * 2_592_000 * 10 / 3 - 360_000) * 0.0000025,
        ),
        (Month(10 * 2**20, ONCE), "Logging", 0),
        (Month(20 * 2**20, ONCE), "Logging", 50 * 0.50),
        (Month(50 * 2**20, replace(ONCE, log_ratio=0)), "Logging", 50 * 0.50),
        (Month(1, ONCE), "Artifact Registry", 0.05),
    ],
)
def test_a_month_costs_what_is_beyond_the_free_tier(month: Month, item: str, dollars: float) -> None:
    assert month.dollars()[item] == pytest.approx(dollars)


def test_an_instance_is_billed_once_for_all_requests_that_share_it() -> None:
    alone, crowd = Month(1000, ONCE), Month(10_000_000, ONCE)
    assert alone.instance_seconds == pytest.approx(1000 * 0.2, rel=0.01)
    assert crowd.instance_seconds < 10_000_000 * 0.2 * 0.7


@pytest.mark.parametrize(("tasks", "queues"), [(1000, 1), (1_296_000_000 / 3, 1), (1_296_000_003 / 3, 2), (10**9, 3)])
def test_a_queue_ends_at_500_dispatches_in_the_busiest_second(tasks: float, queues: int) -> None:
    assert Month(tasks, ONCE).queues == queues


def test_orders_a_day_are_three_tasks_each_for_thirty_days() -> None:
    assert [Month.of_orders(orders).tasks for orders in (100, 20_000)] == [9000, 1_800_000]
