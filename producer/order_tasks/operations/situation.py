"""What is going on: both queues, the failing tasks and the dead letters by reason, and one sentence of health.

Tasks are counted by listing them, up to a limit, where Cloud Tasks gives no statistics. A task's name begins with a
hash, so those that are listed first are a random sample.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import Literal

from google.cloud import tasks_v2, tasks_v2beta3

from order_tasks.operations.entry import Entry
from order_tasks.operations.log import HandlerLog, LogError, LogLine
from order_tasks.operations.queues import BASIC_PAGE, Queues
from order_tasks.operations.times import format_duration, format_time, to_timedelta

UNFINISHED = "Unfinished"
"""The kind of a dead letter whose last attempt may still be running, or did not end."""
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
    max_attempts: int
    """-1: unlimited."""

    @property
    def count(self) -> str:
        return f"{self.tasks}{'+' if self.more else ''}"


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
    next_due: datetime | None
    first_last_attempt: datetime | None
    """When the first of them reaches its last attempt. None: not known, or there is none."""


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters with the same reason."""

    reason: str
    kind: str | None
    count: int
    entries: tuple[Entry, ...]

    @property
    def arguments(self) -> tuple[str, str]:
        """What selects them in `replay` and `drop`."""
        return "--reason", self.reason


@dataclass(frozen=True, slots=True)
class Situation:
    headline: str
    level: Literal["ok", "warning", "error"]
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
    main = queues.describe(queues.main)
    tasks, more = _take(queues.entries(queues.main, full=False))
    letters, more_letters = _take(queues.entries(queues.dead_letters, full=True))
    states = (
        _queue_state(main, tasks, more),
        _queue_state(queues.describe(queues.dead_letters), letters, more_letters),
    )
    failing = [task for task in tasks if task.fails]
    lines: Sequence[LogLine] = ()
    trouble = None
    if failing:
        try:
            lines = log.failures(now - to_timedelta(main.retry_config.max_backoff) - _LOG_MARGIN)
        except LogError as error:
            trouble = str(error)
    failures = _failures(queues, main, failing, {line.task: line for line in reversed(lines)})
    dead_letters = group(letters)
    headline, level = _headline(*states, failures, dead_letters, now)
    return Situation(headline, level, now, states, failures, dead_letters, log.command(), trouble)


def general(reason: str, order_id: str | None) -> str:
    """A reason without its order's id, so that orders share it."""
    return reason.replace(order_id, "ORDER") if order_id else reason


def reason_of(letter: Entry) -> str:
    """The reason that a dead letter shares with others."""
    return general(letter.reason or "unknown", letter.order_id)


def group(letters: Iterable[Entry]) -> tuple[DeadLetters, ...]:
    """Dead letters by reason, the largest group first."""
    ordered = sorted(letters, key=lambda letter: (reason_of(letter), letter.due, letter.path))
    groups = [(reason, tuple(same)) for reason, same in groupby(ordered, reason_of)]
    found = [DeadLetters(reason, same[0].kind, len(same), same) for reason, same in groups]
    return tuple(sorted(found, key=lambda group: -group.count))


def _take(entries: Iterable[Entry]) -> tuple[list[Entry], bool]:
    """At most one page, and whether there are more."""
    found = list(islice(entries, BASIC_PAGE + 1))
    return found[:BASIC_PAGE], len(found) > BASIC_PAGE


def _queue_state(queue: tasks_v2.Queue | tasks_v2beta3.Queue, entries: Sequence[Entry], more: bool) -> QueueState:
    running = sum(entry.state == "running" for entry in entries)
    tasks, in_flight, executed = len(entries), running, None
    if isinstance(queue, tasks_v2beta3.Queue):
        # Google's are estimates, so that a list that is complete counts more.
        tasks = max(tasks, queue.stats.tasks_count) if more else tasks
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
        oldest_due=min((entry.due for entry in entries if entry.state != "running"), default=None),
        rate=None if executed is None else executed / 60,
        executed_last_minute=executed,
        allowed_rate=queue.rate_limits.max_dispatches_per_second,
        allowed_in_flight=queue.rate_limits.max_concurrent_dispatches,
        max_attempts=queue.retry_config.max_attempts,
    )


def _failures(
    queues: Queues,
    queue: tasks_v2.Queue | tasks_v2beta3.Queue,
    failing: Iterable[Entry],
    lines: Mapping[str | None, LogLine],
) -> tuple[Failures, ...]:
    reasons = {}
    for task in failing:
        line = lines.get(task.id)
        reasons[task] = general(line.message, line.order_id) if line else task.last_status or "no answer yet"
    ordered = sorted(reasons, key=lambda task: (reasons[task], task.due, task.path))
    groups = sorted(([*same] for _, same in groupby(ordered, reasons.__getitem__)), key=len, reverse=True)
    left = _MAX_SAMPLES
    found = []
    for same in groups:
        samples = same[: min(_SAMPLES, left)]
        left -= len(samples)
        last = [_last_attempt(task, lines.get(task.id), queue) for task in same]
        found.append(
            Failures(
                reason=reasons[same[0]],
                count=len(same),
                orders=tuple(dict.fromkeys(_order(queues, task, lines.get(task.id)) for task in samples)),
                since=min((task.began for task in same if task.began), default=None),
                next_due=min((task.due for task in same if task.state != "running"), default=None),
                first_last_attempt=min(filter(None, last), default=None),
            )
        )
    return tuple(found)


def _order(queues: Queues, task: Entry, line: LogLine | None) -> str:
    if line and line.order_id:
        return line.order_id
    whole = queues.find(task.path)
    return (whole and whole.order_id) or task.short


def _last_attempt(task: Entry, line: LogLine | None, queue: tasks_v2.Queue | tasks_v2beta3.Queue) -> datetime | None:
    """When a task that waits for a retry makes its last attempt, if every attempt fails at once."""
    retries = queue.retry_config
    of = line.attempt.partition(" of ")[2] if line and line.attempt else ""
    attempts = int(of) if of.isdecimal() else retries.max_attempts
    if not 1 <= attempts <= _MAX_ATTEMPTS:
        return None
    shortest, longest = to_timedelta(retries.min_backoff), to_timedelta(retries.max_backoff)
    at = task.due
    for retry in range(task.tries + 1, attempts):
        doubled = min(retry - 1, retries.max_doublings, 40)
        at += min(longest, shortest * (2**doubled * (1 + max(0, retry - 1 - retries.max_doublings))))
    return at


def _headline(
    main: QueueState,
    dead: QueueState,
    failures: Sequence[Failures],
    dead_letters: Sequence[DeadLetters],
    now: datetime,
) -> tuple[str, Literal["ok", "warning", "error"]]:
    """What hurts most, in one sentence."""
    tasks = f"{main.count} task{'' if main.tasks == 1 else 's'}"
    late = main.oldest_due is not None and now - main.oldest_due > _LATE
    if main.state != "RUNNING":
        since = f", the first since {format_duration(now - main.oldest_due)}" if main.oldest_due and late else ""
        return f"The queue is {main.state}: {tasks} wait{'s' if main.tasks == 1 else ''}{since}", "error"
    if dead.state == "RUNNING":
        return "The dead-letter queue is RUNNING: unless a replay is in progress, pause it", "error"
    if failures:
        worst = failures[0]
        since = f" since {worst.since.astimezone():%H:%M}" if worst.since else ""
        last = min((each.first_last_attempt for each in failures if each.first_last_attempt), default=None)
        soon = f"; first last attempt {format_time(last, now)}" if last else ""
        fail = "fails" if main.failing == 1 else "fail"
        return f"{main.failing} of {tasks} {fail}{since}: {worst.reason}{soon}", "error"
    if dead_letters:
        waiting = f"{dead.count} dead letter{'s wait' if dead.tasks != 1 else ' waits'}"
        return f"{waiting}: {dead_letters[0].reason}", "warning"
    if late and main.oldest_due:
        allowed = f"the queue allows {main.allowed_rate:g} per second and {main.allowed_in_flight} at once"
        return f"{tasks} wait, the first since {format_duration(now - main.oldest_due)}: {allowed}", "warning"
    executed = "" if main.executed_last_minute is None else f", {main.executed_last_minute} attempts in the last minute"
    return f"All is well: {tasks} in the queue{executed}", "ok"
