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
class QueueStatus:
    """A queue's state and figures, times in seconds."""

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


@dataclass(frozen=True, slots=True)
class NextTask:
    """A task that is waiting or running."""

    name: str
    due: str
    """ISO 8601."""
    attempts: int
    last_status: str | None


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the status as one line of JSON")


def _run(args: argparse.Namespace, clock: Clock) -> int:
    config = read_config(args, dead_letters=True)
    assert config.dead_letter_queue is not None, "read_config requires it"
    with connection.connect(config) as api:
        listing = tasks_v2.ListTasksRequest(parent=config.queue, page_size=_MAX_COUNTED)
        listed = api.list_tasks(listing, retry=connection.RETRY, timeout=connection.ATTEMPT_TIMEOUT)
        tasks, more_tasks = _take(listed)
        letters, more_letters = _take(DeadLetters(api, config.dead_letter_queue).entries(full=True))
        letters.sort(key=lambda letter: (letter.due, letter.path))
        queues = (
            _queue_status(_queue(api, config.queue), len(tasks), more_tasks),
            _queue_status(_queue(api, config.dead_letter_queue), len(letters), more_letters),
        )
    if args.json:
        sys.stdout.write(f"{json.dumps(_to_json(queues, tasks, letters, clock.now()))}\n")
    else:
        _print(queues, tasks, letters, clock.now())
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
    found = list(islice(items, _MAX_COUNTED + 1))
    return found[:_MAX_COUNTED], len(found) > _MAX_COUNTED


def _queue(api: tasks_v2.CloudTasksClient, path: str) -> tasks_v2.Queue:
    return api.get_queue(name=path, retry=connection.RETRY, timeout=connection.ATTEMPT_TIMEOUT)


def _queue_status(queue: tasks_v2.Queue, tasks: int, more: bool) -> QueueStatus:
    return QueueStatus(
        name=queue.name,
        state=queue.state.name,
        dispatches_per_second=queue.rate_limits.max_dispatches_per_second,
        concurrent_dispatches=queue.rate_limits.max_concurrent_dispatches,
        max_attempts=queue.retry_config.max_attempts,
        min_backoff=to_timedelta(queue.retry_config.min_backoff).total_seconds(),
        max_backoff=to_timedelta(queue.retry_config.max_backoff).total_seconds(),
        max_doublings=queue.retry_config.max_doublings,
        tasks=tasks,
        more_tasks=more,
    )


def _next(tasks: Sequence[tasks_v2.Task], now: datetime) -> list[tasks_v2.Task]:
    return sorted(tasks, key=lambda task: (to_datetime(task.schedule_time) or now, task.name))[:_NEXT_TASKS]


def _to_json(
    queues: tuple[QueueStatus, QueueStatus],
    tasks: Sequence[tasks_v2.Task],
    letters: Sequence[DeadLetter],
    now: datetime,
) -> dict[str, object]:
    next_tasks = [
        NextTask(
            task.name, (to_datetime(task.schedule_time) or now).isoformat(), task.dispatch_count, last_status(task)
        )
        for task in _next(tasks, now)
    ]
    return {
        "queue": asdict(queues[0]),
        "dead_letter_queue": asdict(queues[1]),
        "next_tasks": [asdict(task) for task in next_tasks],
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
    queues: tuple[QueueStatus, QueueStatus],
    tasks: Sequence[tasks_v2.Task],
    letters: Sequence[DeadLetter],
    now: datetime,
) -> None:
    show_table(
        ["queue", "state", "per second", "at once", "attempts", "backoff", "tasks"],
        [_figures(queue) for queue in queues],
    )
    queue, dead_letter_queue = queues
    if dead_letter_queue.state == "RUNNING":
        command = pause_command(dead_letter_queue.name)
        sys.stdout.write(f"\nThe dead-letter queue is RUNNING. Unless a replay is in progress, pause it: {command}\n")
    if tasks:
        counted = f" of the first {_MAX_COUNTED}" if queue.more_tasks else ""
        sys.stdout.write(f"\nnext tasks{counted}\n")
        rows = [
            [
                task.name.rpartition("/")[2],
                format_due(to_datetime(task.schedule_time) or now, now),
                str(task.dispatch_count),
                last_status(task) or "-",
            ]
            for task in _next(tasks, now)
        ]
        show_table(["task", "due", "attempts", "last status"], rows)
    sys.stdout.write(f"\ndead letters: {_count(dead_letter_queue)}\n")
    for letter in letters[:_SHOWN_LETTERS]:
        sys.stdout.write(f"\n{describe(letter, now)}")
    if len(letters) > _SHOWN_LETTERS:
        sys.stdout.write(f"\nand {len(letters) - _SHOWN_LETTERS} more: --json lists them\n")


def _figures(queue: QueueStatus) -> list[str]:
    return [
        queue.name.rpartition("/")[2],
        queue.state,
        f"{queue.dispatches_per_second:g}",
        str(queue.concurrent_dispatches),
        "unlimited" if queue.max_attempts < 0 else str(queue.max_attempts),
        f"{_seconds(queue.min_backoff)} to {_seconds(queue.max_backoff)}, {queue.max_doublings} doublings",
        _count(queue),
    ]


def _seconds(number: float) -> str:
    return format_duration(timedelta(seconds=number))


def _count(queue: QueueStatus) -> str:
    return f"{queue.tasks}{'+' if queue.more_tasks else ''}"


STATUS = Command(
    "status", "show both queues, the next tasks and the dead letters", "Changes nothing.", _add_arguments, _run
)
