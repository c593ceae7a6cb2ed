"""A command of the command line: its arguments, its configuration, and what runs."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from order_tasks.cli.times import Clock
from order_tasks.config import Config
from order_tasks.errors import ConfigError


class UsageError(Exception):
    """Arguments that do not fit together."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command, such as `send`."""

    name: str
    summary: str
    details: str
    """A sentence for the command's own help."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Clock], int]
    """Returns the exit code."""

    def add_to(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        """Add the command and its arguments to a parser."""
        description = f"{self.summary[0].upper()}{self.summary[1:]}. {self.details}"
        parser = commands.add_parser(self.name, help=self.summary, description=description)
        parser.add_argument(
            "--outputs",
            metavar="FILE",
            help="read the output of `pulumi stack output --json` instead of the environment; -: standard input",
        )
        self.add_arguments(parser)
        parser.set_defaults(command=self, parser=parser)


def read_config(args: argparse.Namespace, *, dead_letters: bool = False) -> Config:
    """The configuration, from `--outputs` or the environment. `dead_letters`: require the dead-letter queue."""
    outputs = args.outputs
    if outputs is None:
        return Config.from_environment(dead_letters=dead_letters)
    try:
        values = json.loads(sys.stdin.read() if outputs == "-" else Path(outputs).read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"--outputs {outputs} is not valid JSON ({error}): pass the output of `pulumi stack output --json`"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"--outputs {outputs} is not a JSON object: pass the output of `pulumi stack output --json`")
    return Config.from_outputs(values, dead_letters=dead_letters)
