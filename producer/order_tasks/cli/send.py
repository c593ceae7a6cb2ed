"""`send`: the tasks of one order, or of a file of them.

Loses nothing silently: what was not created is named on standard error with file, line and reason.
"""

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterable, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from io import FileIO

from order_tasks.cli.orders_file import FileOrder, read_orders
from order_tasks.cli.progress import Progress
from order_tasks.client import AsyncOrderTasks, Outcome
from order_tasks.config import Config
from order_tasks.order import Order


def send_file(config: Config, path: str, *, as_json: bool) -> int:
    """Create the tasks of each order in a file; return the exit code. Raises OSError if it cannot be opened."""
    with _open(path) as file:
        sending = _Sending(as_json, "<stdin>" if path == "-" else path, _size(file))
        return sending.run(config, read_orders(file, sending.malformed))


def send_order(config: Config, order: Order, *, as_json: bool) -> int:
    """Create the tasks of one order; return the exit code."""
    return _Sending(as_json, "").run(config, [order])


def _open(path: str) -> FileIO:
    # Unbuffered: a thread that waits in a buffered read of standard input crashes the interpreter at its end.
    return FileIO(0, closefd=False) if path == "-" else FileIO(path)


def _size(file: FileIO) -> int | None:
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@dataclass
class _Counts:
    orders: int = 0
    created: int = 0
    already: int = 0
    failed: int = 0
    malformed: int = 0


class _Sending:
    """One run of `send`: counts what happens and says what fails."""

    def __init__(self, as_json: bool, source: str, size: int | None = None) -> None:
        self._as_json = as_json
        self._source = source
        self._counts = _Counts()
        self._progress = Progress("sending orders", size)

    def run(self, config: Config, orders: Iterable[Order] | AsyncIterable[Order]) -> int:
        code = 0
        try:
            with self._progress:
                asyncio.run(self._send(config, orders))
        except KeyboardInterrupt:
            code = 130
            self._progress.say("interrupted: sending the same again creates what is missing")
        except OSError as error:
            code = 1
            self._progress.say(f"{self._source} cannot be read to its end: {error}")
        self._summarise()
        return code or int(self._counts.failed + self._counts.malformed > 0)

    def malformed(self, line: int, size: int, reason: str) -> None:
        self._counts.malformed += 1
        self._progress.say(f"{self._source}:{line}: {reason}")
        self._progress.advance(size)

    async def _send(self, config: Config, orders: Iterable[Order] | AsyncIterable[Order]) -> None:
        async with AsyncOrderTasks(config) as tasks, aclosing(tasks.send_orders(orders)) as outcomes:
            async for outcome in outcomes:
                self._record(outcome)

    def _record(self, outcome: Outcome) -> None:
        created = sum(task is not None for task in outcome.tasks.values())
        self._counts.orders += 1
        self._counts.created += created
        self._counts.already += len(outcome.tasks) - created
        self._counts.failed += len(outcome.failures)
        order = outcome.order
        where = f"{self._source}:{order.line}: " if isinstance(order, FileOrder) else ""
        for action, error in outcome.failures.items():
            self._progress.say(f"{where}order {order.order_id!r}, {action}: {error}")
        if isinstance(order, FileOrder):
            self._progress.advance(order.size)

    def _summarise(self) -> None:
        counts = self._counts
        if self._as_json:
            sys.stdout.write(f"{json.dumps(asdict(counts))}\n")
            return
        sys.stdout.write(
            f"{counts.orders} orders: {counts.created} tasks created, {counts.already} already there, "
            f"{counts.failed} failed; {counts.malformed} malformed lines\n"
        )
        if counts.failed:
            sys.stdout.write("Send the same again to create what failed: what exists stays as it is.\n")
