"""`python -m order_tasks send | status | replay | drop | relay`: the command line of producers and operators.

Exit codes: 0 success, 1 a task or dead letter is missing, failed or was skipped, 2 wrong usage or configuration, 130
interrupted.
"""

import argparse
import sys
from collections.abc import Sequence

from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from order_tasks.cli.command import Command, UsageError
from order_tasks.cli.drop import DROP
from order_tasks.cli.relay import RELAY
from order_tasks.cli.replay import REPLAY
from order_tasks.cli.send import SEND
from order_tasks.cli.status import STATUS
from order_tasks.cli.times import SYSTEM_CLOCK, Clock
from order_tasks.errors import ConfigError, InvalidOrderError

COMMANDS = (SEND, STATUS, REPLAY, DROP, RELAY)


def main(argv: Sequence[str] | None = None, clock: Clock = SYSTEM_CLOCK) -> int:
    """Run the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m order_tasks", description="Create the tasks of orders, and handle the dead letters."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    args = parser.parse_args(argv)
    chosen: Command = args.command
    try:
        return chosen.run(args, clock)
    except UsageError as error:
        args.parser.print_usage(sys.stderr)
        sys.stderr.write(f"{error}\n")
        return 2
    except (ConfigError, InvalidOrderError, GoogleAuthError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except GoogleAPIError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
