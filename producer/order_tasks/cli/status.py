"""`status`: shows both queues, the next tasks, and the dead letters.

Changes nothing. Counts tasks by listing them, up to a limit, because Cloud Tasks has no call that counts.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

from google.cloud import tasks_v2

from order_tasks import connection
from order_tasks.cli.command import Command, read_config
from order_tasks.cli.dead_letter import DeadLetter, last_status
from order_tasks.cli.dead_letters import DeadLetters, pause_command
from order_tasks.cli.table import show_table
from order_tasks.cli.times import Clock, format_due, format_duration, to_datetime, to_timedelta

_MAX_COUNTED = 1000
_NEXT_TASKS = 5
_SHOWN_LETTERS = 20

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class _Queue:
    """A queue as `--json` prints it. Times are in seconds."""

    name: str
    state: str
    dispatches_per_second: float
    concurrent_dispatches: int
    max_attempts: int
    """-1: unlimited."""
    min_backoff: float
    max_backoff: float
    max_doublings: int
    tasks: int
    more_tasks: bool
    """Whether there are more than were counted."""

    @property
    def count(self) -> str:
        return f"{self.tasks}{'+' if self.more_tasks else ''}"

    @property
    def row(self) -> list[str]:
        """Its row in the table."""
        backoff = [format_duration(timedelta(seconds=seconds)) for seconds in (self.min_backoff, self.max_backoff)]
        return [
            self.name.rpartition("/")[2],
            self.state,
            f"{self.dispatches_per_second:g}",
            str(self.concurrent_dispatches),
            "unlimited" if self.max_attempts < 0 else str(self.max_attempts),
            f"{' to '.join(backoff)}, {self.max_doublings} doublings",
            self.count,
        ]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the status as one line of JSON")


def _run(args: argparse.Namespace, clock: Clock) -> int:
    config = read_config(args, dead_letters=True)
    options = connection.call_options(config)
    with connection.connect(config) as api:
        listing = tasks_v2.ListTasksRequest(parent=config.queue, page_size=_MAX_COUNTED)
        listed = api.list_tasks(listing, **options)
        tasks, more_tasks = _take(listed)
        dead_letters = DeadLetters(api, config)
        letters, more_letters = _take(dead_letters.entries(full=True))
        queue = _describe_queue(api.get_queue(name=config.queue, **options), len(tasks), more_tasks)
        dead_letter_queue = _describe_queue(
            api.get_queue(name=dead_letters.queue, **options), len(letters), more_letters
        )
    now = clock.now()
    tasks = sorted(tasks, key=lambda task: (to_datetime(task.schedule_time) or now, task.name))[:_NEXT_TASKS]
    letters.sort(key=lambda letter: (letter.due, letter.path))
    if args.json:
        sys.stdout.write(f"{json.dumps(_to_json(queue, dead_letter_queue, tasks, letters, now))}\n")
    else:
        _print(queue, dead_letter_queue, tasks, letters, now)
    return 0


def describe(letter: DeadLetter, now: datetime) -> str:
    """A dead letter as text: its id, which `replay` and `drop` take, then one line for each fact."""
    attempts = "" if letter.attempts is None else f", attempts: {letter.attempts}"
    lines = {
        "order": f"{letter.order_id or 'unknown'}, {letter.action or 'no action'}",
        "reason": letter.reason or "unknown",
        "task": f"{letter.task or 'unknown'}{attempts}",
        "stored": f"{format_duration(now - letter.stored)} ago",
        "due": letter.format_state(now),
    }
    if letter.tries:
        lines["replays"] = f"{letter.tries}{f', last: {letter.last_status}' if letter.last_status else ''}"
    return f"{letter.id}\n" + "".join(f"  {noun:<8}{line}\n" for noun, line in lines.items())


def _take(items: Iterable[_Item]) -> tuple[list[_Item], bool]:
    """At most _MAX_COUNTED items, and whether there are more."""
    found = list(islice(items, _MAX_COUNTED + 1))
    return found[:_MAX_COUNTED], len(found) > _MAX_COUNTED


def _describe_queue(queue: tasks_v2.Queue, tasks: int, more_tasks: bool) -> _Queue:
    return _Queue(
        name=queue.name,
        state=queue.state.name,
        dispatches_per_second=queue.rate_limits.max_dispatches_per_second,
        concurrent_dispatches=queue.rate_limits.max_concurrent_dispatches,
        max_attempts=queue.retry_config.max_attempts,
        min_backoff=to_timedelta(queue.retry_config.min_backoff).total_seconds(),
        max_backoff=to_timedelta(queue.retry_config.max_backoff).total_seconds(),
        max_doublings=queue.retry_config.max_doublings,
        tasks=tasks,
        more_tasks=more_tasks,
    )


def _to_json(
    queue: _Queue,
    dead_letter_queue: _Queue,
    tasks: Sequence[tasks_v2.Task],
    letters: Sequence[DeadLetter],
    now: datetime,
) -> dict[str, object]:
    return {
        "queue": asdict(queue),
        "dead_letter_queue": asdict(dead_letter_queue),
        "next_tasks": [
            {
                "name": task.name,
                "due": (to_datetime(task.schedule_time) or now).isoformat(),
                "attempts": task.dispatch_count,
                "last_status": last_status(task),
            }
            for task in tasks
        ],
        "dead_letters": [
            {
                "name": letter.path,
                "state": letter.state(now),
                "order_id": letter.order_id,
                "action": letter.action,
                "reason": letter.reason,
                "task": letter.task,
                "attempts": letter.attempts,
                "stored": letter.stored.isoformat(),
                "due": letter.due.isoformat(),
                "tries": letter.tries,
                "last_status": letter.last_status,
            }
            for letter in letters
        ],
    }


def _print(
    queue: _Queue,
    dead_letter_queue: _Queue,
    tasks: Sequence[tasks_v2.Task],
    letters: Sequence[DeadLetter],
    now: datetime,
) -> None:
    show_table(
        ["queue", "state", "per second", "at once", "attempts", "backoff", "tasks"], [queue.row, dead_letter_queue.row]
    )
    if dead_letter_queue.state == "RUNNING":
        command = pause_command(dead_letter_queue.name)
        sys.stdout.write(f"\nThe dead-letter queue is RUNNING. Unless a replay is in progress, pause it: {command}\n")
    if tasks:
        sys.stdout.write(f"\nnext tasks{f' of the first {_MAX_COUNTED}' if queue.more_tasks else ''}\n")
        rows = [
            [
                task.name.rpartition("/")[2],
                format_due(to_datetime(task.schedule_time) or now, now),
                str(task.dispatch_count),
                last_status(task) or "-",
            ]
            for task in tasks
        ]
        show_table(["task", "due", "attempts", "last status"], rows)
    sys.stdout.write(f"\ndead letters: {dead_letter_queue.count}\n")
    for letter in letters[:_SHOWN_LETTERS]:
        sys.stdout.write(f"\n{describe(letter, now)}")
    if len(letters) > _SHOWN_LETTERS:
        sys.stdout.write(f"\nand {len(letters) - _SHOWN_LETTERS} more: --json lists them\n")


STATUS = Command(
    "status", "show both queues, the next tasks and the dead letters", "Changes nothing.", _add_arguments, _run
)
