"""The arguments of `python -m local`."""

import argparse
import contextlib
import ipaddress
from pathlib import Path

from local.breakages import NAMES
from local.drill.drill import PHASES
from local.faults import MODES
from local.program import PROJECT
from local.state import DEFAULT_PORT


def parse() -> argparse.Namespace:
    """The arguments of this process. Ends it with exit code 2 if they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m local", description="The program's cloud on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    drill = commands.add_parser(
        "drill", help="inject faults while orders are processed, and count lost orders and repeated effects"
    )
    drill.add_argument("--orders", type=int, default=100, metavar="N", help="number of orders (default: 100)")
    drill.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the faults (default: 1)")
    drill.add_argument("--database-url", default="", metavar="URL", help="use this empty PostgreSQL instead of SQLite")
    drill.add_argument(
        "--phase",
        dest="phases",
        action="append",
        choices=PHASES,
        help="run this phase; can be repeated (default: all phases)",
    )
    simulate = commands.add_parser("simulate", help="run the whole pipeline on one virtual clock, and judge each seed")
    simulate.add_argument(
        "--seeds",
        type=_seeds,
        default=range(100),
        metavar="N|A..B",
        help="run seeds 0 to N-1, or A to B (default: 100)",
    )
    simulate.add_argument("--orders", type=int, default=30, metavar="M", help="orders of each seed (default: 30)")
    simulate.add_argument(
        "--minutes", type=float, default=10, metavar="T", help="virtual minutes with faults (default: 10)"
    )
    simulate.add_argument("--trace", action="store_true", help="print every event")
    stack = argparse.ArgumentParser(add_help=False)
    stack.add_argument("--stack", default="dev", metavar="NAME", help="use Pulumi.NAME.yaml (default: dev)")
    stack.add_argument(
        "--config",
        action="append",
        default=[],
        type=_setting,
        metavar="KEY=VALUE",
        help="override a setting of the stack's file; works for secrets too",
    )
    commands.add_parser("preview", parents=[stack], help="print the resources and outputs that the program declares")
    again = commands.add_parser("reset", help="delete the state of a local cloud that has ended")
    again.add_argument("--state", type=Path, metavar="DIR", help="(default: what those without --state have left)")
    logs = commands.add_parser("logs", help="print the log: one line a request")
    logs.add_argument("--order", metavar="ID", help="of this order only")
    logs.add_argument("--state", type=Path, metavar="DIR", help="(default: that of the local cloud of ./local.env)")
    up = commands.add_parser("up", parents=[stack], help="run what the program declares until Ctrl-C")
    up.add_argument("--orders", type=Path, metavar="FILE", help="send these orders: one JSON object a line")
    up.add_argument("--exit-when-idle", action="store_true", help="exit when no running queue has a task left")
    up.add_argument("--json", action="store_true", help="print the addresses as one line of JSON when ready")
    up.add_argument("--state", type=Path, metavar="DIR", help="keep tasks and ports in DIR (default: a new folder)")
    up.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"listen on N to N+3, or for 0 on free ports (default: {DEFAULT_PORT}, or the next ten that are free)",
    )
    up.add_argument("--host", type=_address, metavar="IP", help="Cloud Tasks listens on IP too, for containers")
    up.add_argument(
        "--database-url", default="", metavar="URL", help="use this PostgreSQL instead of SQLite in the state folder"
    )
    handler = up.add_mutually_exclusive_group()
    handler.add_argument(
        "--handler", metavar="URL|COMMAND", help="a handler that runs already, or the command that starts one on $PORT"
    )
    handler.add_argument("--container", action="store_true", help="run the handler's image with Docker, on Linux")
    up.add_argument(
        "--break",
        dest="broken",
        action="append",
        default=[],
        choices=NAMES,
        help="break this on purpose; can be repeated",
    )
    up.add_argument("--faults", type=int, metavar="SEED", help="inject random faults, as the drill does")
    up.add_argument("--fault-mode", default="all", choices=MODES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.command in ("drill", "simulate") and arguments.orders < 1:
        parser.error("--orders must be at least 1")
    if arguments.command != "up":
        return arguments
    if not 0 <= (arguments.port or 0) <= 65532:
        parser.error("--port must be from 0 to 65532")
    if arguments.orders and not arguments.orders.is_file():
        parser.error(f"--orders: {arguments.orders} is not a file of orders")
    return arguments


def _seeds(text: str) -> range:
    first, separator, last = text.rpartition("..")
    try:
        return range(int(first or 0), int(last) + bool(separator))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a range such as 100..199") from None


def _address(text: str) -> str:
    with contextlib.suppress(ValueError):
        if not ipaddress.IPv4Address(text).is_unspecified:
            return text
    raise argparse.ArgumentTypeError(f"{text!r} is not one IPv4 address of this machine, such as docker0's")


def _setting(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key if ":" in key else f"{PROJECT}:{key}", value
