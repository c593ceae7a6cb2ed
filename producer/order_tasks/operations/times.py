"""Times: the clock of the commands, and how times in messages are read and printed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of the commands. Tests pass one that does not wait."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], object] = time.sleep
    """Takes seconds."""


SYSTEM_CLOCK = Clock()

_UNITS = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1)))


def format_duration(duration: timedelta) -> str:
    """In the largest unit that gives at least 2: `90 s`, `5 min`, `36 h`, `3 d`."""
    for name, unit in _UNITS:
        if duration >= 2 * unit:
            return f"{duration // unit} {name}"
    seconds = max(0.0, duration.total_seconds())
    return f"{round(seconds, 0 if seconds >= 1 else 1):g} s"


def format_time(time: datetime, now: datetime) -> str:
    """For example `in 5 min` or `3 h ago`."""
    return f"in {format_duration(time - now)}" if time > now else f"{format_duration(now - time)} ago"


def to_datetime(field: object) -> datetime | None:
    """A message's timestamp, or None if it is not set. The client's type hints name another type than it returns."""
    return field if isinstance(field, datetime) else None


def to_timedelta(field: object) -> timedelta:
    """A message's duration, or zero if it is not set."""
    return field if isinstance(field, timedelta) else timedelta()
