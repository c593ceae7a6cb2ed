"""What a person at a terminal reads of a situation and of an order's story. 80 columns hold it."""

import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from order_tasks.operations import Entry, Situation, Story
from order_tasks.operations.log import LogLine
from order_tasks.operations.situation import QueueState
from order_tasks.operations.times import format_time

if TYPE_CHECKING:
    from order_tasks.operations.database import OutboxRow

_WIDTH = 80
_SHOWN = 5
"""Dead letters of one reason."""
_LOG_LINES = 20


def write(text: str, indent: int = 0, hanging: int | None = None) -> None:
    """Print a text with line breaks. `hanging`: the indentation of the lines after the first."""
    after = " " * (indent if hanging is None else hanging)
    wrapped = textwrap.wrap(text, _WIDTH, initial_indent=" " * indent, subsequent_indent=after, break_on_hyphens=False)
    sys.stdout.write("".join(f"{line}\n" for line in wrapped))


def show_situation(situation: Situation) -> None:
    now = situation.time
    write(situation.headline)
    headings = ["", "state", "waiting", "in flight", "failing", "oldest due", "rate"]
    sys.stdout.write("\n")
    _table([headings, *map(_queue, ("queue", "dead letters"), situation.queues, [now, now])])
    if situation.failures:
        sys.stdout.write("\nfailing\n")
    for failures in situation.failures:
        write(f"{failures.count:5}  {failures.reason}", hanging=7)
        more = failures.count - len(failures.orders)
        last = failures.first_last_attempt
        soon = f"; first last attempt {format_time(last, now)}" if last else ""
        write(f"{', '.join(failures.orders)}{f' and {more} more' if more else ''}{soon}", 7)
    if situation.failures:
        _log_hint(situation)
    if situation.dead_letters:
        sys.stdout.write("\ndead letters\n")
    for group in situation.dead_letters:
        write(f"{group.count:5}  {group.reason}{f' ({group.kind})' if group.kind else ''}", hanging=7)
        _table([["     ", *_letter(entry, now)] for entry in group.entries[:_SHOWN]])
        if group.count > _SHOWN:
            write(f"and {group.count - _SHOWN} more", 7)


def show_story(story: Story, now: datetime) -> None:
    write(f"{story.order_id}: {story.summary}")
    if story.outbox is None:
        write("Neither outbox nor ledger was read: ORDER_TASKS_DATABASE_URL is not set.")
    _section("queue", [_task(task, now) for task in story.tasks])
    _section("dead letters", [_letter(letter, now) for letter in story.dead_letters])
    for letter in story.dead_letters:
        write(f"{letter.short}: {letter.reason or 'unknown'}", 2, 4)
    _section("outbox", [_outbox_row(row, now) for row in story.outbox or ()])
    _section("ledger", [[row.effect, row.state, format_time(row.time, now)] for row in story.ledger or ()])
    _section("log", [_log_line(line) for line in story.log[-_LOG_LINES:]])
    _log_hint(story)


def describe(letters: Iterable[Entry], now: datetime) -> None:
    """Show dead letters one by one, before they are dropped."""
    for letter in letters:
        _table([_letter(letter, now)])
        write(letter.reason or "unknown", 14)


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns. The last column gets what is left of the line."""
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        line = "  ".join([*cells, row[-1]]).rstrip()
        sys.stdout.write(f"{line if len(line) <= _WIDTH else f'{line[: _WIDTH - 1]}…'}\n")


def _section(heading: str, rows: Sequence[Sequence[str]]) -> None:
    if rows:
        sys.stdout.write(f"\n{heading}\n")
        _table([["", *row] for row in rows])


def _log_hint(found: Situation | Story) -> None:
    if found.log_trouble:
        write(f"The handler's log was not read: {found.log_trouble}. To read it: {found.log_command}")


def _queue(label: str, queue: QueueState, now: datetime) -> list[str]:
    rate = "" if queue.rate is None else f"{queue.rate:.3g} of "
    return [
        label,
        queue.state,
        f"{queue.waiting}{'+' if queue.more else ''}",
        str(queue.in_flight),
        str(queue.failing),
        "-" if queue.oldest_due is None else format_time(queue.oldest_due, now),
        f"{rate}{queue.allowed_rate:g}/s",
    ]


def _letter(letter: Entry, now: datetime) -> list[str]:
    tried = f", replayed {letter.tries}x" if letter.tries else ""
    order, effect = letter.order_id or "unknown", letter.effect or "no action"
    return [letter.short, order, effect, f"{letter.describe_state(now)}{tried}"]


def _task(task: Entry, now: datetime) -> list[str]:
    tries = f"{task.tries} attempt{'s' if task.tries != 1 else ''}"
    return [task.effect or "no action", tries, task.describe_state(now), task.last_status or ""]


def _outbox_row(row: "OutboxRow", now: datetime) -> list[str]:
    state = f"refused: {row.refused}" if row.refused else f"due {format_time(row.due, now)}" if row.due else "waits"
    return [row.effect or "no action", f"added {format_time(row.added, now)}", state]


def _log_line(line: LogLine) -> list[str]:
    return [f"{line.time.astimezone():%H:%M:%S}", line.attempt or "", line.action or "", line.message]
