"""`drop`: deletes dead letters for good, once a person has seen what they are.

Refuses to delete where nobody can confirm, unless told to: what is dropped is an order that will not be processed.
"""

import sys
from collections.abc import Sequence

from order_tasks.cli.clock import Clock
from order_tasks.cli.dead_letters import DeadLetters
from order_tasks.cli.status import describe


def drop(letters: DeadLetters, paths: Sequence[str], clock: Clock, *, confirmed: bool) -> int:
    """Show and delete the entries at `paths`; return the exit code."""
    found = []
    for path in dict.fromkeys(paths):
        if (letter := letters.find(path)) is None:
            sys.stderr.write(f"{path.rpartition('/')[2]} is not there: it was processed or dropped, or never stored\n")
        else:
            found.append(letter)
            sys.stdout.write(f"{describe(letter, clock.now())}\n")
    missing = len(found) < len(set(paths))
    if not found:
        return 1
    if not confirmed and not _confirm(len(found)):
        sys.stdout.write("nothing dropped\n")
        return 1
    for letter in found:
        letters.drop(letter.path)
    sys.stdout.write(f"{len(found)} dropped\n")
    return int(missing)


def _confirm(count: int) -> bool:
    these = "this dead letter" if count == 1 else f"these {count} dead letters"
    sys.stdout.write(f"Drop {these} for good? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
