"""The columns of docs/cost.md, calculated by hand from the formula that stands there."""

import pytest

from docs.pages.cost import month


@pytest.mark.parametrize(
    ("tasks", "item", "cell"),
    [
        (400_000, "Cloud Tasks", "$0.00"),
        (3_000_000, "Cloud Tasks", "$2.01"),  # 6,030,000 operations, 5,030,000 of them beyond the free ones
        (1_900_000, "Cloud Run, requests", "$0.00"),
        (5_000_000, "Cloud Run, requests", "$1.22"),  # 3,050,000 beyond the free ones
        (1000, "seconds of an instance", "202"),  # 1010 attempts of 0.2 s, of which hardly any two meet
        # 101 attempts a second of 0.2 s each: 20.2 at once, of which an instance takes 12
        (259_200_000, "seconds of an instance", f"{2_592_000 * 20.2 / 12:,.0f}"),
        (259_200_000, "Cloud Run, time", f"${4_183_200 * 0.000024 + (4_363_200 / 2 - 360_000) * 0.0000025:,.2f}"),
        (10_000_000, "Logging", "$0.00"),
        (20_000_000, "GiB of logs", "96.13"),  # 5.04 entries a task, of which the handler and Cloud Run write 2.02
        (20_000_000, "Logging", "$23.07"),
        (1, "Artifact Registry", "$0.05"),
        (1000, "queues that the busiest second fills", "1"),
        (427_000_000, "queues that the busiest second fills", "1"),  # 499 a second
        (428_000_000, "queues that the busiest second fills", "2"),  # 500.3 a second
        (1_800_000, "orders a day", "20,000"),
    ],
)
def test_a_month_costs_what_is_beyond_the_free_tier(tasks: float, item: str, cell: str) -> None:
    assert month(tasks)[item] == cell
