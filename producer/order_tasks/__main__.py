"""`python -m order_tasks send`: one order, or a file of them.

Owns the command line, its exit codes (0 all there, 1 something missing, 2 usage or configuration, 130 interrupted) and
what a person reads. Loses nothing silently: what was not created is named on standard error with file, line and reason.
"""

import argparse
import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from google.auth.exceptions import GoogleAuthError

from order_tasks._client import AsyncOrderTasks, Outcome
from order_tasks._config import Config
from order_tasks._errors import ConfigError, InvalidOrderError
from order_tasks._order import NEW_ORDER_ACTIONS, Order
from order_tasks._orders_file import FileOrder, read_orders
from order_tasks._progress import Progress


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser, send = _parsers()
    args = parser.parse_args(argv)
    if (args.file is None) == (args.order_id is None):
        send.error("name a FILE of orders, or one order by --order-id and --email")
    if args.order_id is None and (args.email is not None or args.action is not None):
        send.error("--email and --action belong to --order-id; a FILE has them in each line")
    if args.order_id is not None and args.email is None:
        send.error("--order-id needs --email")
    if args.file == args.outputs == "-":
        send.error("FILE and --outputs cannot both be standard input")
    try:
        config = _config(args.outputs)
        if args.file is None:
            actions = NEW_ORDER_ACTIONS if args.action is None else (args.action,)
            return _Sending(args.json, "").run(config, [Order(args.order_id, args.email, actions)])
        with _open(args.file) as file:
            sending = _Sending(args.json, "<stdin>" if args.file == "-" else args.file, _size(file))
            return sending.run(config, read_orders(file, sending.malformed))
    except (ConfigError, InvalidOrderError, GoogleAuthError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="python -m order_tasks", description="Creates the tasks of orders.")
    send = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "send",
        help="create the tasks of one order, or of each order in a file",
        description="Create the tasks of orders. Sending an order again is safe: tasks that exist stay as they are.",
    )
    send.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help='orders, one a line: {"orderId": "ORD-1", "customerEmail": "ada@example.com"}; with an "action": that '
        "task only; -: standard input",
    )
    send.add_argument("--order-id", metavar="ID", help="one order instead of a file")
    send.add_argument("--email", metavar="E-MAIL", help="its customer's e-mail")
    send.add_argument("--action", help=f"only this task (default: {', '.join(NEW_ORDER_ACTIONS)})")
    send.add_argument(
        "--outputs",
        metavar="FILE",
        help="what `pulumi stack output --json` printed, instead of the environment; -: standard input",
    )
    send.add_argument("--json", action="store_true", help="print the counts as one line of JSON")
    return parser, send


def _config(outputs: str | None) -> Config:
    if outputs is None:
        return Config.from_environment()
    try:
        values = json.loads(sys.stdin.read() if outputs == "-" else Path(outputs).read_text())
    except ValueError as error:
        raise ConfigError(
            f"--outputs {outputs} is not JSON ({error}): `pulumi stack output --json` prints it"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"--outputs {outputs} is not a JSON object: `pulumi stack output --json` prints one")
    return Config.from_outputs(values)


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
        self._progress = Progress(size)

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


if __name__ == "__main__":
    sys.exit(main())
