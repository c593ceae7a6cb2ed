"""What several commands read from their arguments and the environment."""

import argparse
import json
import os
import sys
from pathlib import Path

from order_tasks.config import Config
from order_tasks.errors import ConfigError


class UsageError(Exception):
    """Arguments that do not fit together."""


def read_config(args: argparse.Namespace, *, dead_letters: bool = False) -> Config:
    """The configuration, from `--outputs` or the environment. `dead_letters`: require the dead-letter queue."""
    outputs = args.outputs
    if outputs is None:
        return Config.from_environment(dead_letters=dead_letters)
    try:
        values = json.loads(sys.stdin.read() if outputs == "-" else Path(outputs).read_text())
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"--outputs {outputs} is not a JSON object ({error}): pass the output of `pulumi stack output --json`"
        ) from error
    return Config.from_outputs(values, dead_letters=dead_letters)


def database_url(args: argparse.Namespace) -> str | None:
    """The order database, from `--database-url` or the environment."""
    return getattr(args, "database_url", None) or os.environ.get("ORDER_TASKS_DATABASE_URL") or None
