"""`drop`: deletes dead letters for good, after showing them.

Refuses to delete without a confirmation, unless `--yes` is passed: the order of a dropped letter is never processed.
"""

import argparse
import sys

from order_tasks.cli.command import Command, UsageError, read_config
from order_tasks.cli.dead_letters import open_dead_letters
from order_tasks.cli.status import describe
from order_tasks.cli.times import Clock


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="a dead letter's id or full path")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _run(args: argparse.Namespace, clock: Clock) -> int:
    if not args.yes and not sys.stdin.isatty():
        raise UsageError("there is no terminal to confirm at, and a dropped order is lost: pass --yes")
    with open_dead_letters(read_config(args, dead_letters=True)) as letters:
        paths = letters.paths(args.names)
        found = []
        for path in paths:
            if (letter := letters.find(path)) is None:
                sys.stderr.write(f"{path.rpartition('/')[2]} not found: processed, dropped or never stored\n")
            else:
                found.append(letter)
                sys.stdout.write(f"{describe(letter, clock.now())}\n")
        if not found:
            return 1
        if not args.yes and not _confirm(len(found)):
            sys.stdout.write("nothing dropped\n")
            return 1
        for letter in found:
            letters.drop(letter.path)
        sys.stdout.write(f"{len(found)} dropped\n")
        return int(len(found) < len(paths))


def _confirm(count: int) -> bool:
    letters = "this dead letter" if count == 1 else f"these {count} dead letters"
    sys.stdout.write(f"Drop {letters} for good? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


DROP = Command("drop", "delete dead letters for good", "Their orders will not be processed.", _add_arguments, _run)
