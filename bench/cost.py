"""What a month costs on paper: orders a day -> billed quantities -> US dollars.

`python -m bench.cost ORDERS_A_DAY...` prints a column for each; without a number, the table of docs/cost.md. Owns the
price list, the assumptions and the formula. Leaves out what depends on the shop: database, mail, warehouse, network to
the outside, secrets, alerts; and every discount but the free tier, which is a billing account's and not a project's.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

PRICES_OF = "2025"
"""The year of the list prices, for Cloud Run those of us-central1 and billed by request."""

MILLION, GIBI, DAY = 10**6, 2**30, 24 * 3600
MONTH_DAYS = 30
TASKS_AN_ORDER = 3
QUEUE_LIMIT = 500
"""Dispatches a second, of one queue."""


@dataclass(frozen=True, slots=True)
class Price:
    dollars: float
    """Of one unit beyond the free ones."""
    free: float
    """Units a month."""

    def of(self, units: float) -> float:
        return max(0.0, units - self.free) * self.dollars


OPERATION = Price(0.40 / MILLION, 1 * MILLION)
"""Cloud Tasks: an API call or an attempt, for each 32 KiB of the task. Up to 5 billion a month; then by contract."""
REQUEST = Price(0.40 / MILLION, 2 * MILLION)
CPU_SECOND = Price(0.000024, 180_000)
GIBIBYTE_SECOND = Price(0.0000025, 360_000)
LOG_GIBIBYTE = Price(0.50, 50)
IMAGE_GIGABYTE = Price(0.10, 0.5)


@dataclass(frozen=True, slots=True)
class Assumptions:
    attempts: float = 1.01
    """Of a task: one in a hundred is tried twice."""
    task_bytes: int = 1024
    seconds: float = 0.2
    """Of an attempt: a mail or a call to the warehouse."""
    cpus: float = 1
    memory_gibibytes: float = 0.5
    concurrency: int = 20
    """Requests that one instance takes; Cloud Run adds another at 60 % of that."""
    log_bytes: int = 1024
    """Of one entry as it is billed, with the resource's labels."""
    log_ratio: float = 1
    """The setting attemptLogRatio."""
    images: int = 10
    """That are kept, as if no two shared a layer."""
    image_gigabytes: float = 0.1
    peak: float = 3
    """Tasks in the busiest second, times those in an average one."""


@dataclass(frozen=True, slots=True)
class Month:
    """Tasks that are spread evenly, which is dearest: requests at one time share an instance."""

    tasks: float
    given: Assumptions = Assumptions()

    @property
    def attempts(self) -> float:
        return self.tasks * self.given.attempts

    @property
    def rate(self) -> float:
        """Attempts a second."""
        return self.attempts / (MONTH_DAYS * DAY)

    @property
    def operations(self) -> float:
        return (self.tasks + self.attempts) * math.ceil(self.given.task_bytes / (32 * 1024))

    @property
    def instances(self) -> float:
        """Busy on average: while there is any request, or as many as all requests at one time need.

        Time is billed in steps of 0.1 s. Requests arrive independently: with n of them under way on average, none is
        for exp(-n) of the time.
        """
        under_way = self.rate * math.ceil(self.given.seconds * 10) / 10
        return max(1 - math.exp(-under_way), under_way / (0.6 * self.given.concurrency))

    @property
    def instance_seconds(self) -> float:
        return self.instances * MONTH_DAYS * DAY

    @property
    def log_gibibytes(self) -> float:
        """An attempt: the handler's line and Cloud Run's own; Cloud Tasks logs dispatch, answer, and each creation."""
        entries = 2 * self.attempts + self.given.log_ratio * (self.tasks + 2 * self.attempts)
        return entries * self.given.log_bytes / GIBI

    def dollars(self) -> dict[str, float]:
        seconds = self.instance_seconds
        compute = CPU_SECOND.of(seconds * self.given.cpus) + GIBIBYTE_SECOND.of(seconds * self.given.memory_gibibytes)
        return {
            "Cloud Tasks": OPERATION.of(self.operations),
            "Cloud Run, requests": REQUEST.of(self.attempts),
            "Cloud Run, time": compute,
            "Logging": LOG_GIBIBYTE.of(self.log_gibibytes),
            "Artifact Registry": IMAGE_GIGABYTE.of(self.given.images * self.given.image_gigabytes),
        }

    @property
    def queues(self) -> int:
        """That the busiest second takes without anything waiting."""
        return max(1, math.ceil(self.rate * self.given.peak / QUEUE_LIMIT))


def table(months: Sequence[Month]) -> str:
    """In Markdown, a column a month."""
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


def main(arguments: Sequence[str]) -> int:
    try:
        tasks = [int(argument) * MONTH_DAYS * TASKS_AN_ORDER for argument in arguments] or [10**3, 10**6, 10**9]
    except ValueError as error:
        sys.stderr.write(f"{error}: pass orders a day as a whole number, such as 10000\n")
        return 2
    if min(tasks) < 1:
        sys.stderr.write("No orders cost nothing: pass orders a day as a whole number, such as 10000\n")
        return 2
    sys.stdout.write(f"{table([Month(each) for each in tasks])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
