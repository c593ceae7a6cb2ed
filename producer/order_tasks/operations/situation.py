"""What is going on: both queues, the failing tasks and the dead letters by reason, and one sentence of health.

Tasks are counted by listing them, up to a limit, where Cloud Tasks gives no statistics. A task's name begins with a
hash, so those that are listed first are a random sample.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal

from google.cloud import tasks_v2beta3

from order_tasks.operations.entry import Entry, general
from order_tasks.operations.log import HandlerLog, LogLine
from order_tasks.operations.queues import BASIC_PAGE, Queue, Queues
from order_tasks.operations.times import format_duration, format_time, to_datetime, to_timedelta

Level = Literal["ok", "warning", "error"]

_SAMPLES = 3
_MAX_SAMPLES = 12
"""Each takes a call."""
_LOG_MARGIN = timedelta(minutes=15)
_MAX_ATTEMPTS = 1000
"""A last attempt after more of them is too far away to be of interest."""
_LATE = timedelta(minutes=1)
"""A task that is due for longer waits for the queue's limits."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue's figures. Those of tasks are of at most 1000, unless there are statistics."""

    path: str
    name: str
    state: str
    tasks: int
    more: bool
    """Whether there are more than were counted."""
    waiting: int
    in_flight: int
    failing: int
    """Tasks that were tried and are not done."""
    oldest_due: datetime | None
    rate: float | None
    """Dispatches per second in the last minute; None without statistics."""
    executed_last_minute: int | None
    allowed_rate: float
    allowed_in_flight: int


@dataclass(frozen=True, slots=True)
class Failures:
    """Tasks of the main queue that fail for the same reason."""

    reason: str
    """From the handler's log if it names the task, otherwise the last status. ORDER stands for the order's id."""
    count: int
    orders: tuple[str, ...]
    """Up to three of their orders, or names of tasks that are gone meanwhile."""
    since: datetime | None
    """When the first of them was tried first."""
    next_due: datetime
    first_last_attempt: datetime | None
    """When the first of them reaches its last attempt. None: not known, or there is none."""


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters with the same reason, the next due first."""

    reason: str
    """`replay --reason` and `drop --reason` select them by it."""
    kind: str | None
    count: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Situation:
    headline: str
    level: Level
    time: datetime
    queues: tuple[QueueState, QueueState]
    """The main queue and the dead-letter queue."""
    failures: tuple[Failures, ...]
    dead_letters: tuple[DeadLetters, ...]
    log_command: str
    log_trouble: str | None
    """Why the log does not tell the reasons. None: it was read, or nothing fails."""


def look(queues: Queues, log: HandlerLog, now: datetime) -> Situation:
    """Ask both queues and the log. Changes nothing."""
    main, dead = queues.describe(queues.main), queues.describe(queues.dead_letters)
    tasks, more = _take(queues.entries(queues.main, full=False))
    letters, more_letters = _take(queues.entries(queues.dead_letters, full=True))
    states = (_queue_state(main, tasks, more), _queue_state(dead, letters, more_letters))
    failing = [task for task in tasks if task.fails]
    trouble = None
    failures: tuple[Failures, ...] = ()
    if failing:
        lines, trouble = log.failures(now - to_timedelta(main.retry_config.max_backoff) - _LOG_MARGIN)
        failures = _failures(queues, main, failing, {line.task: line for line in lines})
    groups = tuple(
        DeadLetters(reason, same[0].kind, len(same), tuple(same))
        for reason, same in _group(letters, lambda letter: letter.general_reason)
    )
    headline, level = _headline(*states, failures, groups, now)
    return Situation(headline, level, now, states, failures, groups, log.command(), trouble)


def _take(entries: Iterable[Entry]) -> tuple[list[Entry], bool]:
    """At most one page, and whether there are more."""
    found = list(islice(entries, BASIC_PAGE + 1))
    return found[:BASIC_PAGE], len(found) > BASIC_PAGE


def _group(entries: Iterable[Entry], reason: Callable[[Entry], str]) -> list[tuple[str, list[Entry]]]:
    """Entries by reason, the largest group and the next due first."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: (entry.due, entry.path)):
        groups[reason(entry)].append(entry)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))


def _queue_state(queue: Queue, entries: Sequence[Entry], more: bool) -> QueueState:
    waiting = [entry for entry in entries if entry.state != "running"]
    oldest_due = min((entry.due for entry in waiting), default=None)
    tasks, in_flight, executed = len(entries), len(entries) - len(waiting), None
    if isinstance(queue, tasks_v2beta3.Queue):
        if more:  # Google's are estimates: a complete list is better
            tasks = max(tasks, queue.stats.tasks_count)
            oldest_due = to_datetime(queue.stats.oldest_estimated_arrival_time) or oldest_due
        in_flight, executed = queue.stats.concurrent_dispatches_count, queue.stats.executed_last_minute_count
    return QueueState(
        path=queue.name,
        name=queue.name.rpartition("/")[2],
        state=queue.state.name,
        tasks=tasks,
        more=more and tasks == len(entries),
        waiting=max(0, tasks - in_flight),
        in_flight=in_flight,
        failing=sum(entry.fails for entry in entries),
        oldest_due=oldest_due,
        rate=None if executed is None else executed / 60,
        executed_last_minute=executed,
        allowed_rate=queue.rate_limits.max_dispatches_per_second,
        allowed_in_flight=queue.rate_limits.max_concurrent_dispatches,
    )


def _failures(
    queues: Queues, queue: Queue, failing: Iterable[Entry], lines: Mapping[str | None, LogLine]
) -> tuple[Failures, ...]:
    def reason(task: Entry) -> str:
        line = lines.get(task.id)
        return general(line.message, line.order_id) if line else task.last_status or "no answer yet"

    def order(task: Entry) -> str:
        line = lines.get(task.id)
        known = (line and line.order_id) or ((whole := queues.find(task.path)) and whole.order_id)
        return known or task.short

    found: list[Failures] = []
    for why, same in _group(failing, reason):
        samples = same[: min(_SAMPLES, _MAX_SAMPLES - sum(len(earlier.orders) for earlier in found))]
        lasts = [_last_attempt(task, lines.get(task.id), queue) for task in same]
        found.append(
            Failures(
                reason=why,
                count=len(same),
                orders=tuple(map(order, samples)),
                since=min((task.began for task in same if task.began), default=None),
                next_due=same[0].due,
                first_last_attempt=min((last for last in lasts if last), default=None),
            )
        )
    return tuple(found)


def _last_attempt(task: Entry, line: LogLine | None, queue: Queue) -> datetime | None:
    """When a task that waits for a retry makes its last attempt, if every attempt fails at once."""
    retries = queue.retry_config
    budget = line.attempt.partition(" of ")[2] if line and line.attempt else ""
    attempts = int(budget) if budget.isdecimal() else retries.max_attempts
    if not 1 <= attempts <= _MAX_ATTEMPTS:
        return None
    shortest, longest = to_timedelta(retries.min_backoff), to_timedelta(retries.max_backoff)
    at = task.due
    for retry in range(task.tries + 1, attempts):
        doubled = min(retry - 1, retries.max_doublings, 40)
        at += min(longest, shortest * 2**doubled * (1 + max(0, retry - 1 - retries.max_doublings)))
    return at


def _headline(
    main: QueueState, dead: QueueState, failures: Sequence[Failures], letters: Sequence[DeadLetters], now: datetime
) -> tuple[str, Level]:
    """What hurts most, in one sentence."""
    tasks = f"{main.tasks}{'+' if main.more else ''} task{'' if main.tasks == 1 else 's'}"
    late = now - main.oldest_due if main.oldest_due and now - main.oldest_due > _LATE else None
    since = f", the first since {format_duration(late)}" if late else ""
    if main.state != "RUNNING":
        return f"The queue is {main.state}: {tasks} wait{'s' if main.tasks == 1 else ''}{since}", "error"
    if dead.state == "RUNNING":
        return "The dead-letter queue is RUNNING: unless a replay is in progress, pause it", "error"
    if failures:
        began = f" since {failures[0].since.astimezone():%H:%M}" if failures[0].since else ""
        last = min((each.first_last_attempt for each in failures if each.first_last_attempt), default=None)
        soon = f"; first last attempt {format_time(last, now)}" if last else ""
        fail = "fails" if main.failing == 1 else "fail"
        looked_at = f"the first {BASIC_PAGE} tasks" if main.tasks > BASIC_PAGE or main.more else tasks
        return f"{main.failing} of {looked_at} {fail}{began}: {failures[0].reason}{soon}", "error"
    if letters:
        wait = "letter waits" if dead.tasks == 1 else "letters wait"
        return f"{dead.tasks}{'+' if dead.more else ''} dead {wait}: {letters[0].reason}", "warning"
    if late:
        allowed = f"the queue allows {main.allowed_rate:g} per second and {main.allowed_in_flight} at once"
        return f"{tasks} wait{since}: {allowed}", "warning"
    executed = "" if main.executed_last_minute is None else f", {main.executed_last_minute} attempts in the last minute"
    return f"All is well: {tasks} in the queue{executed}", "ok"
