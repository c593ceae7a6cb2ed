"""What a month costs, calculated: tasks -> billed quantities -> US dollars.

`python -m docs.pages.cost ORDERS_A_DAY...` prints a column for each number.
Contains the price list, the assumptions and the formula. Leaves out what depends on the shop (database, mail,
warehouse, outgoing network, secrets, alerts) and every discount except the free tier.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

MILLION, GIBI = 10**6, 2**30
MONTH_DAYS = 30
MONTH_SECONDS = MONTH_DAYS * 24 * 3600
TASKS_AN_ORDER = 3
QUEUE_LIMIT = 500
"""Highest dispatch rate of one queue, per second."""
EXAMPLES = (10**3, 10**6, 10**9)
"""Tasks a month in the columns of docs/cost.md."""

ATTEMPTS = 1.01
"""Attempts per task: one task in a hundred needs a second attempt."""
TASK_BYTES = 1024
ATTEMPT_SECONDS = 0.2
"""Duration of an attempt: a mail or a call to the warehouse. Billed in steps of 0.1 s."""
CPUS, MEMORY_GIBIBYTES = 1, 0.5
CONCURRENCY = 20
"""Requests per instance at once; Cloud Run starts another instance at 60 % of that."""
LOG_BYTES = 1024
"""Billed size of one log entry, with the resource's labels."""
LOG_RATIO = 1
"""Setting attemptLogRatio."""
IMAGE_GIGABYTES = 10 * 0.1
"""Images that are kept, counted as if they shared no layer."""
PEAK = 3
"""Tasks in the busiest second, divided by those in an average second."""


class Price(NamedTuple):
    """A list price of 2025. Cloud Run: us-central1, billed per request."""

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


def month(tasks: float) -> dict[str, str]:
    """A column of the table: a month of evenly spread tasks. Bursts cost less, because requests share instances."""
    attempts = tasks * ATTEMPTS
    rate = attempts / MONTH_SECONDS
    operations = (tasks + attempts) * math.ceil(TASK_BYTES / (32 * 1024))
    # requests arrive independently: if n are in progress on average, none is for a share exp(-n) of the time
    under_way = rate * math.ceil(ATTEMPT_SECONDS * 10) / 10
    seconds = MONTH_SECONDS * max(1 - math.exp(-under_way), under_way / (0.6 * CONCURRENCY))
    # per attempt: handler 1, Cloud Run 1, Cloud Tasks 2; per creation: Cloud Tasks 1
    logs = (2 * attempts + LOG_RATIO * (tasks + 2 * attempts)) * LOG_BYTES / GIBI
    dollars = {
        "Cloud Tasks": OPERATION.of(operations),
        "Cloud Run, requests": REQUEST.of(attempts),
        "Cloud Run, time": CPU_SECOND.of(seconds * CPUS) + GIBIBYTE_SECOND.of(seconds * MEMORY_GIBIBYTES),
        "Logging": LOG_GIBIBYTE.of(logs),
        "Artifact Registry": IMAGE_GIGABYTE.of(IMAGE_GIGABYTES),
    }
    total = sum(dollars.values())
    return {
        "tasks a month": f"{tasks:,.0f}",
        "orders a day": f"{tasks / TASKS_AN_ORDER / MONTH_DAYS:,.0f}",
        "operations of Cloud Tasks": f"{operations:,.0f}",
        "requests to Cloud Run": f"{attempts:,.0f}",
        "seconds of an instance": f"{seconds:,.0f}",
        "GiB of logs": f"{logs:,.2f}",
        **{name: f"${price:,.2f}" for name, price in dollars.items()},
        "**a month**": f"**${total:,.2f}**",
        "a million tasks": f"${total / tasks * MILLION:,.2f}",
        "attempts a second, on average": f"{rate:,.3g}",
        "of one queue's 500": f"{rate / QUEUE_LIMIT:.2%}",
        "queues that the busiest second fills": str(max(1, math.ceil(rate * PEAK / QUEUE_LIMIT))),
    }


def table(months: Sequence[float] = EXAMPLES) -> str:
    """A Markdown table with a column for each number of tasks a month."""
    columns = [month(tasks) for tasks in months]
    lines = [[name, *(column[name] for column in columns)] for name in columns[0]]
    lines.insert(1, ["---", *["---:"] * len(months)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print what a month costs.")
    parser.add_argument("orders", type=int, nargs="+", metavar="ORDERS_A_DAY")
    months = [max(1, orders) * TASKS_AN_ORDER * MONTH_DAYS for orders in parser.parse_args().orders]
    sys.stdout.write(f"{table(months)}\n")
