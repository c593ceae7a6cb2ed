"""`python -m order_tasks COMMAND`: the command line of producers and operators.

Exit codes: 0 success, 1 a task or dead letter is missing, failed or was skipped, 2 wrong usage or configuration, 130
interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from order_tasks.cli import operate
from order_tasks.cli.arguments import UsageError
from order_tasks.cli.console import console
from order_tasks.cli.relay import relay
from order_tasks.cli.send import send
from order_tasks.errors import ConfigError, InvalidOrderError
from order_tasks.operations.times import SYSTEM_CLOCK, Clock
from order_tasks.order import NEW_ORDER_ACTIONS

_Run = Callable[[argparse.Namespace, Clock], int]


def main(argv: Sequence[str] | None = None, clock: Clock = SYSTEM_CLOCK) -> int:
    """Run the command line. Returns the exit code."""
    args = _parser().parse_args(argv)
    run: _Run = args.run
    try:
        code = run(args, clock)
        sys.stdout.flush()
        return code
    except UsageError as error:
        args.parser.print_usage(sys.stderr)
        sys.stderr.write(f"{error}\n")
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is written at the exit
        return 1
    except (ConfigError, InvalidOrderError, GoogleAuthError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except GoogleAPIError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m order_tasks",
        description="Create the tasks of orders, see what becomes of them, and operate the queues.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, arguments in _COMMANDS.items():
        summary = (run.__doc__ or "").partition(".")[0]
        command = commands.add_parser(
            run.__name__, help=summary, description=run.__doc__, parents=[*arguments, _OUTPUTS]
        )
        command.set_defaults(run=run, parser=command)
    return parser


def _argument(*names: str, **options: Any) -> argparse.ArgumentParser:  # noqa: ANN401
    """A parser to inherit one argument from."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(*names, **options)
    return parser


_OUTPUTS = _argument(
    "--outputs",
    metavar="FILE",
    help="read the output of `pulumi stack output --json` instead of the environment; -: standard input",
)
_JSON = _argument("--json", action="store_true", help="print the result as one line of JSON")
_YES = _argument("--yes", action="store_true", help="do not ask for confirmation")
_ORDER = _argument("order", metavar="ORDER", help="the order's id")
_DATABASE = _argument("--database-url", metavar="URL", help="the order database (default: ORDER_TASKS_DATABASE_URL)")
_LETTERS = (
    _argument("names", nargs="*", metavar="NAME", help="a dead letter's id, its beginning, or an order's id"),
    _argument("--reason", metavar="TEXT", help="only those with this reason, or with this text in it"),
    _argument("--action", help="only those of this action"),
    _argument("--all", action="store_true", help="every dead letter"),
)
_FORCE = _argument("--force", action="store_true", help="also those not yet due, whose run is known to be dead")
_SEND = (
    _argument(
        "file",
        nargs="?",
        metavar="FILE",
        help='one order on each line: {"orderId": "ORD-1", "customerEmail": "ada@example.com"}; an "action" makes it '
        "the message of one task; -: standard input",
    ),
    _argument("--order-id", metavar="ID", help="send this order instead of a file"),
    _argument("--email", metavar="E-MAIL", help="the order's customer"),
    _argument("--action", help=f"create only this task (default: {', '.join(NEW_ORDER_ACTIONS)})"),
    _argument("--in", dest="delay", metavar="TIME", help="deliver the tasks after this time: 90s, 10m, 2h or 3d"),
    _argument("--at", metavar="TIME", help="deliver the tasks at this time: 2026-12-24T18:00, local without a zone"),
)
_COMMANDS: dict[_Run, tuple[argparse.ArgumentParser, ...]] = {
    send: (*_SEND, _JSON),
    operate.status: (_JSON,),
    operate.find: (_ORDER, _DATABASE, _JSON),
    operate.replay: (*_LETTERS, _FORCE, _JSON),
    operate.drop: (*_LETTERS, _YES),
    operate.run: (_argument("name", metavar="NAME", help="a task's id, or an order's id"),),
    operate.cancel: (_ORDER, _DATABASE, _YES),
    operate.pause: (_argument("--dead-letters", action="store_true", help="pause the dead-letter queue instead"),),
    operate.resume: (),
    operate.rate: (
        _argument("per_second", type=float, metavar="N", help="deliveries per second, at most 500"),
        _argument("--in-flight", type=int, metavar="M", help="deliveries at once"),
    ),
    relay: (
        _DATABASE,
        _argument("--every", type=float, metavar="SECONDS", help="repeat, with this pause, until interrupted"),
        _argument("--refused", action="store_true", help="try refused rows again"),
    ),
    console: (
        _DATABASE,
        _argument("--port", type=int, default=8120, metavar="N", help="listen on 127.0.0.1:N (default: 8120)"),
        _argument("--fd", type=int, help=argparse.SUPPRESS),
    ),
}
"""Command -> its arguments. Its name and its help are those of the function."""
