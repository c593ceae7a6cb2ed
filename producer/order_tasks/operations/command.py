"""The command line that does what an action of the operations does."""

import shlex


def command(verb: str, *arguments: str) -> str:
    """Such as `python -m order_tasks replay --action send_confirmation`."""
    return f"python -m order_tasks {shlex.join([verb, *arguments])}"
