"""`python -m order_tasks send | status | replay | drop`: the producer's and the operator's command line.

Owns the arguments, where the configuration comes from, and the exit codes: 0 all there or all gone, 1 something
missing, failed or skipped, 2 usage or configuration, 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.cloud.tasks_v2 import CloudTasksClient

from order_tasks import calls
from order_tasks.cli.clock import SYSTEM_CLOCK, Clock
from order_tasks.cli.dead_letters import DeadLetters
from order_tasks.cli.drop import drop
from order_tasks.cli.replay import replay
from order_tasks.cli.send import send_file, send_order
from order_tasks.cli.status import status
from order_tasks.config import Config
from order_tasks.errors import ConfigError, InvalidOrderError
from order_tasks.order import NEW_ORDER_ACTIONS, Order


def main(argv: Sequence[str] | None = None, clock: Clock = SYSTEM_CLOCK) -> int:
    """Run the command line; return its exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.command(args, clock)  # type: ignore[no-any-return]
    except (ConfigError, InvalidOrderError, GoogleAuthError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m order_tasks", description="Creates the tasks of orders, and looks after those that failed."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace, Clock], int], text: str, more: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}")
        added.add_argument(
            "--outputs",
            metavar="FILE",
            help="what `pulumi stack output --json` printed, instead of the environment; -: standard input",
        )
        added.set_defaults(command=command, error=added.error)
        return added

    send = add(
        "send",
        _send,
        "create the tasks of one order, or of each order in a file",
        "Sending an order again is safe: tasks that exist stay as they are.",
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
    send.add_argument("--json", action="store_true", help="print the counts as one line of JSON")

    shown = add("status", _status, "show both queues, the next tasks and the dead letters", "Changes nothing.")
    shown.add_argument("--json", action="store_true", help="print it as one line of JSON")

    replayed = add(
        "replay",
        _replay,
        "deliver dead letters again, and wait for what becomes of them",
        "One that is not yet due is skipped: the run that reserved it may still be going.",
    )
    replayed.add_argument("names", nargs="*", metavar="NAME", help="a dead letter's id or full path; run one by one")
    replayed.add_argument(
        "--all",
        action="store_true",
        help="all that are due: the dead-letter queue is resumed until each was tried, then paused again",
    )
    replayed.add_argument("--json", action="store_true", help="print what became of them as one line of JSON")

    dropped = add("drop", _drop, "delete dead letters for good", "Their orders will not be processed.")
    dropped.add_argument("names", nargs="+", metavar="NAME", help="a dead letter's id or full path")
    dropped.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _send(args: argparse.Namespace, _: Clock) -> int:
    if (args.file is None) == (args.order_id is None):
        args.error("name a FILE of orders, or one order by --order-id and --email")
    if args.order_id is None and (args.email is not None or args.action is not None):
        args.error("--email and --action belong to --order-id; a FILE has them in each line")
    if args.order_id is not None and args.email is None:
        args.error("--order-id needs --email")
    if args.file == args.outputs == "-":
        args.error("FILE and --outputs cannot both be standard input")
    config = _config(args.outputs, dead_letters=False)
    if args.file is not None:
        return send_file(config, args.file, as_json=args.json)
    actions = NEW_ORDER_ACTIONS if args.action is None else (args.action,)
    return send_order(config, Order(args.order_id, args.email, actions), as_json=args.json)


def _status(args: argparse.Namespace, clock: Clock) -> int:
    return _operate(args, lambda api, queue, letters: status(api, queue, letters, clock, as_json=args.json))


def _replay(args: argparse.Namespace, clock: Clock) -> int:
    if args.all == bool(args.names):
        args.error("name dead letters, or pass --all")
    return _operate(
        args,
        lambda api, queue, letters: replay(
            letters, None if args.all else _paths(args, letters), clock, as_json=args.json
        ),
    )


def _drop(args: argparse.Namespace, clock: Clock) -> int:
    if not args.yes and not sys.stdin.isatty():
        args.error("nobody can confirm here, and what is dropped is lost: pass --yes")
    return _operate(args, lambda api, queue, letters: drop(letters, _paths(args, letters), clock, confirmed=args.yes))


def _operate(args: argparse.Namespace, work: Callable[[CloudTasksClient, str, DeadLetters], int]) -> int:
    config = _config(args.outputs, dead_letters=True)
    assert config.dead_letter_queue is not None
    api = calls.connect(config)
    try:
        return work(api, config.queue, DeadLetters(api, config.dead_letter_queue))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except GoogleAPIError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        api.transport.close()  # type: ignore[no-untyped-call]


def _paths(args: argparse.Namespace, letters: DeadLetters) -> list[str]:
    try:
        return [letters.path(name) for name in args.names]
    except ValueError as error:
        args.error(str(error))
        raise


def _config(outputs: str | None, *, dead_letters: bool) -> Config:
    if outputs is None:
        return Config.from_environment(dead_letters=dead_letters)
    try:
        values = json.loads(sys.stdin.read() if outputs == "-" else Path(outputs).read_text())
    except ValueError as error:
        raise ConfigError(
            f"--outputs {outputs} is not JSON ({error}): `pulumi stack output --json` prints it"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"--outputs {outputs} is not a JSON object: `pulumi stack output --json` prints one")
    return Config.from_outputs(values, dead_letters=dead_letters)
