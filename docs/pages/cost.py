"""What a month costs, calculated: orders a day -> billed quantities -> US dollars.

`python -m docs.pages.cost ORDERS_A_DAY...` prints a column for each number.
Contains the price list, the assumptions and the formula. Leaves out what depends on the shop (database, mail,
warehouse, outgoing network, secrets, alerts) and every discount except the free tier.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

PRICES_OF = "2025"
"""Year of the list prices. Cloud Run: us-central1, billed per request."""

MILLION, GIBI, DAY = 10**6, 2**30, 24 * 3600
MONTH_DAYS = 30
TASKS_AN_ORDER = 3
QUEUE_LIMIT = 500
"""Highest dispatch rate of one queue, per second."""


@dataclass(frozen=True, slots=True)
class Price:
    dollars: float
    """Price of one unit beyond the free units."""
    free: float
    """Free units a month."""

    def of(self, units: float) -> float:
        return max(0.0, units - self.free) * self.dollars


OPERATION = Price(0.40 / MILLION, 1 * MILLION)
"""Cloud Tasks: an API call or an attempt, per 32 KiB of the task. Up to 5 billion a month; more needs a contract."""
REQUEST = Price(0.40 / MILLION, 2 * MILLION)
CPU_SECOND = Price(0.000024, 180_000)
GIBIBYTE_SECOND = Price(0.0000025, 360_000)
LOG_GIBIBYTE = Price(0.50, 50)
IMAGE_GIGABYTE = Price(0.10, 0.5)


@dataclass(frozen=True, slots=True)
class Assumptions:
    attempts: float = 1.01
    """Attempts per task: one task in a hundred needs a second attempt."""
    task_bytes: int = 1024
    seconds: float = 0.2
    """Duration of an attempt: a mail or a call to the warehouse."""
    cpus: float = 1
    memory_gibibytes: float = 0.5
    concurrency: int = 20
    """Requests per instance at once; Cloud Run starts another instance at 60 % of that."""
    log_bytes: int = 1024
    """Billed size of one log entry, with the resource's labels."""
    log_ratio: float = 1
    """Setting attemptLogRatio."""
    images: int = 10
    """Images kept, counted as if they shared no layer."""
    image_gigabytes: float = 0.1
    peak: float = 3
    """Tasks in the busiest second, divided by those in an average second."""


@dataclass(frozen=True, slots=True)
class Month:
    """A month of evenly spread tasks. Bursts cost less, because their requests share instances."""

    tasks: float
    assumptions: Assumptions = Assumptions()

    @classmethod
    def of_orders(cls, a_day: int) -> "Month":
        return cls(max(1, a_day) * MONTH_DAYS * TASKS_AN_ORDER)

    @property
    def attempts(self) -> float:
        return self.tasks * self.assumptions.attempts

    @property
    def rate(self) -> float:
        """Attempts a second."""
        return self.attempts / (MONTH_DAYS * DAY)

    @property
    def operations(self) -> float:
        return (self.tasks + self.attempts) * math.ceil(self.assumptions.task_bytes / (32 * 1024))

    @property
    def instances(self) -> float:
        """Average number of busy instances.

        Time is billed in steps of 0.1 s. Requests arrive independently: if n are in progress on average, none is in
        progress for a share exp(-n) of the time.
        """
        under_way = self.rate * math.ceil(self.assumptions.seconds * 10) / 10
        return max(1 - math.exp(-under_way), under_way / (0.6 * self.assumptions.concurrency))

    @property
    def instance_seconds(self) -> float:
        return self.instances * MONTH_DAYS * DAY

    @property
    def log_gibibytes(self) -> float:
        """Entries per attempt: handler 1, Cloud Run 1, Cloud Tasks 2; per creation, Cloud Tasks 1."""
        entries = 2 * self.attempts + self.assumptions.log_ratio * (self.tasks + 2 * self.attempts)
        return entries * self.assumptions.log_bytes / GIBI

    def dollars(self) -> dict[str, float]:
        seconds = self.instance_seconds
        compute = CPU_SECOND.of(seconds * self.assumptions.cpus) + GIBIBYTE_SECOND.of(
            seconds * self.assumptions.memory_gibibytes
        )
        return {
            "Cloud Tasks": OPERATION.of(self.operations),
            "Cloud Run, requests": REQUEST.of(self.attempts),
            "Cloud Run, time": compute,
            "Logging": LOG_GIBIBYTE.of(self.log_gibibytes),
            "Artifact Registry": IMAGE_GIGABYTE.of(self.assumptions.images * self.assumptions.image_gigabytes),
        }

    @property
    def queues(self) -> int:
        """Queues needed so that no task waits in the busiest second."""
        return max(1, math.ceil(self.rate * self.assumptions.peak / QUEUE_LIMIT))


EXAMPLES = [Month(10**3), Month(10**6), Month(10**9)]
"""The columns of docs/cost.md."""


def table(months: Sequence[Month]) -> str:
    """A Markdown table with a column per month."""
    dollars = [month.dollars() for month in months]
    rows = {
        "tasks a month": [f"{month.tasks:,.0f}" for month in months],
        "orders a day": [f"{month.tasks / TASKS_AN_ORDER / MONTH_DAYS:,.0f}" for month in months],
        "operations of Cloud Tasks": [f"{month.operations:,.0f}" for month in months],
        "requests to Cloud Run": [f"{month.attempts:,.0f}" for month in months],
        "seconds of an instance": [f"{month.instance_seconds:,.0f}" for month in months],
        "GiB of logs": [f"{month.log_gibibytes:,.2f}" for month in months],
        **{name: [f"${each[name]:,.2f}" for each in dollars] for name in dollars[0]},
        "**a month**": [f"**${sum(each.values()):,.2f}**" for each in dollars],
        "a million tasks": [
            f"${sum(each.values()) / month.tasks * MILLION:,.2f}" for each, month in zip(dollars, months, strict=True)
        ],
        "attempts a second, on average": [f"{month.rate:,.3g}" for month in months],
        "of one queue's 500": [f"{month.rate / QUEUE_LIMIT:.2%}" for month in months],
        "queues that the busiest second fills": [f"{month.queues}" for month in months],
    }
    lines = [[name, *cells] for name, cells in rows.items()]
    lines.insert(1, ["---", *["---:"] * len(months)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    orders = argparse.ArgumentParser(description="Print what a month costs.")
    orders.add_argument("orders", type=int, nargs="+", metavar="ORDERS_A_DAY")
    sys.stdout.write(f"{table([Month.of_orders(count) for count in orders.parse_args().orders])}\n")
