"""What became of one order: its tasks, its dead letters, its rows in the database, and what the handler's log says."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from order_tasks.contract import contract
from order_tasks.operations.entry import Entry
from order_tasks.operations.log import HandlerLog, LogLine
from order_tasks.operations.queues import Queues
from order_tasks.outbox import task_prefix

if TYPE_CHECKING:
    from order_tasks.operations.database import Database, LedgerRow, OutboxRow

_READABLE = 30
"""Characters of an order's id that its tasks' names contain in any case, unless the action's name is very long."""


@dataclass(frozen=True, slots=True)
class Story:
    order_id: str
    is_known: bool
    """Whether a queue or the database knows the order."""
    summary: str
    tasks: tuple[Entry, ...]
    dead_letters: tuple[Entry, ...]
    outbox: "tuple[OutboxRow, ...] | None"
    """None: no database was given."""
    ledger: "tuple[LedgerRow, ...] | None"
    log: Sequence[LogLine]
    """Oldest first."""
    log_command: str
    log_url: str | None
    """The page of Cloud Logging; None for a local cloud."""
    log_trouble: str | None
    """Why the log was not read."""


def tell(queues: Queues, log: HandlerLog, database: "Database | None", order_id: str) -> Story:
    """Ask the database, the queues and the log, in this order: a row that is sent meanwhile is then found as a task."""
    outbox, ledger = database.rows(order_id) if database else (None, None)
    tasks = tuple(tasks_of(queues, order_id))
    letters = tuple(letter for letter in queues.entries(queues.dead_letters, full=True) if letter.order == order_id)
    lines, trouble = log.of_order(order_id)
    states = [
        *("failing" if task.fails else "in the queue" for task in tasks),
        *("dead" for _ in letters),
        *("refused in the outbox" if row.refused else "in the outbox" for row in outbox or ()),
        *(row.state for row in ledger or ()),
    ]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    nothing = f"Nothing of this order is in the queues{' or in the database' if database else ''}"
    command, url = log.command(order_id), log.url(order_id)
    return Story(
        order_id, bool(states), counts or nothing, tasks, letters, outbox, ledger, lines, command, url, trouble
    )


def tasks_of(queues: Queues, order_id: str) -> Iterator[Entry]:
    """The order's tasks in the main queue. Only those whose names allow it are read in full."""
    prefixes = tuple(task_prefix(order_id, action) for action in contract())
    part = re.sub("[^A-Za-z0-9_-]", "-", order_id)[:_READABLE]
    for entry in queues.entries(queues.main, full=False):
        is_ours = re.match("[0-9a-f]{16}-", entry.id)
        if not is_ours or part in entry.id or entry.id.startswith(prefixes):
            whole = queues.find(entry.path)
            if whole and whole.order == order_id:
                yield whole
