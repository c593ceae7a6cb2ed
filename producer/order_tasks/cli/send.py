"""`send`: creates the tasks of one order, or of each order in a file.

Reports everything that was not created on standard error, with file, line and reason.
"""

import argparse
import asyncio
import json
import os
import stat
import sys
import time
from collections.abc import AsyncIterable, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from io import FileIO

from order_tasks.cli.arguments import UsageError, read_config
from order_tasks.cli.orders_file import Line, read_orders
from order_tasks.cli.shop import client
from order_tasks.client import Outcome
from order_tasks.config import Config
from order_tasks.operations.times import Clock
from order_tasks.order import NEW_ORDER_ACTIONS, Order

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_CLEAR_LINE = "\r\x1b[K"


def send(args: argparse.Namespace, clock: Clock) -> int:
    """Create the tasks of one order, or of each order in a file. Sending an order again is safe."""
    if (args.file is None) == (args.order_id is None):
        raise UsageError("pass either a FILE of orders, or one order with --order-id and --email")
    if args.order_id is None and (args.email is not None or args.action is not None):
        raise UsageError("--email and --action need --order-id; in a FILE they are fields of each line")
    if args.order_id is not None and args.email is None:
        raise UsageError("--order-id needs --email")
    if args.file == args.outputs == "-":
        raise UsageError("FILE and --outputs cannot both be standard input")
    due = _due(args, clock.now())
    config = read_config(args)
    if args.file is None:
        actions = NEW_ORDER_ACTIONS if args.action is None else (args.action,)
        return _Sending(args, "", due).run(config, [Order(args.order_id, args.email, actions)])
    with _open(args.file) as file:
        sending = _Sending(args, "<stdin>" if args.file == "-" else args.file, due, _size(file))
        return sending.run(config, read_orders(file, sending.count_invalid))


def _due(args: argparse.Namespace, now: datetime) -> datetime | None:
    """The time of `--in` or `--at`."""
    try:
        if args.at:
            return datetime.fromisoformat(args.at).astimezone()
        if args.delay:
            return now + timedelta(**{_UNITS[args.delay[-1:]]: float(args.delay[:-1])})
    except (ValueError, KeyError, OverflowError) as error:
        raise UsageError("--in is a time such as 90s, 10m, 2h or 3d, --at one such as 2026-12-24T18:00") from error
    return None


def _open(path: str) -> FileIO:
    # Unbuffered: a thread that waits in a buffered read of standard input crashes the interpreter at its end.
    return FileIO(0, closefd=False) if path == "-" else FileIO(path)


def _size(file: FileIO) -> int:
    """Bytes; 0 if they are not known."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


@dataclass
class _Counts:
    orders: int = 0
    created: int = 0
    already: int = 0
    failed: int = 0
    malformed: int = 0


class _Sending:
    """One run of `send`: sends the orders, counts the outcomes and reports the failures."""

    def __init__(self, args: argparse.Namespace, source: str, due: datetime | None, size: int = 0) -> None:
        self._as_json: bool = args.json
        self._outputs: str | None = args.outputs
        self._source = source
        self._due = due
        self._counts = _Counts()
        self._size = size if sys.stderr.isatty() else 0
        self._read = 0
        self._began = self._shown = time.monotonic()

    def run(self, config: Config, orders: Iterable[Order] | AsyncIterable[Line]) -> int:
        code = 0
        try:
            asyncio.run(self._send(config, orders))
        except KeyboardInterrupt:
            code = 130
            self._report("interrupted: send the same again to create the missing tasks")
        except OSError as error:
            code = 1
            self._report(f"{self._source} could not be read to its end: {error}")
        self._summarise()
        return code or int(self._counts.failed + self._counts.malformed > 0)

    def count_invalid(self, line: int, size: int, reason: str) -> None:
        self._counts.malformed += 1
        self._report(f"{self._source}:{line}: {reason}")
        self._advance(size)

    async def _send(self, config: Config, orders: Iterable[Order] | AsyncIterable[Line]) -> None:
        sendable: Iterable[Order | Line] | AsyncIterable[Order | Line] = orders
        async with (
            client(config, self._outputs) as tasks,
            aclosing(tasks.send_orders(sendable, due=self._due)) as outcomes,
        ):
            async for outcome in outcomes:
                self._count(outcome)

    def _count(self, outcome: Outcome[Order | Line]) -> None:
        created = sum(task is not None for task in outcome.tasks.values())
        self._counts.orders += 1
        self._counts.created += created
        self._counts.already += len(outcome.tasks) - created
        self._counts.failed += len(outcome.failures)
        order = outcome.order
        where = f"{self._source}:{order.number}: " if isinstance(order, Line) else ""
        for action, error in outcome.failures.items():
            self._report(f"{where}order {order.order_id!r}, {action}: {error}")
        if isinstance(order, Line):
            self._advance(order.size)

    def _advance(self, size: int) -> None:
        """Show on a terminal how much of the file is sent."""
        self._read += size
        now = time.monotonic()
        if self._size and (self._read >= self._size or now > self._shown + 0.1):
            self._shown = now
            left = (now - self._began) * (self._size - self._read) / self._read
            share = f"{100 * self._read // self._size}%, {self._counts.orders} orders, {left:.0f} s left"
            sys.stderr.write(f"{_CLEAR_LINE}sending {share}" + ("" if left else "\n"))
            sys.stderr.flush()

    def _report(self, text: str) -> None:
        sys.stderr.write(f"{_CLEAR_LINE if self._size else ''}{text}\n")

    def _summarise(self) -> None:
        counts = self._counts
        if self._as_json:
            sys.stdout.write(f"{json.dumps(asdict(counts))}\n")
            return
        sys.stdout.write(
            f"orders: {counts.orders}; tasks: {counts.created} created, {counts.already} already existed, "
            f"{counts.failed} failed; invalid lines: {counts.malformed}\n"
        )
        if counts.failed:
            sys.stdout.write("Send the same again to create the failed tasks. Existing tasks stay unchanged.\n")
