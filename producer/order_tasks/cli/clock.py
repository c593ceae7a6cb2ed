"""Time, as the commands read it, wait for it and say it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Clock:
    """What a test replaces, so that it never waits."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], object] = time.sleep
    """Takes seconds."""


SYSTEM_CLOCK = Clock()

_UNITS = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1)))


def span(length: timedelta) -> str:
    """In the largest unit that gives at least 2: `90 s`, `5 min`, `36 h`, `3 d`."""
    for unit, one in _UNITS:
        if length >= 2 * one:
            return f"{length // one} {unit}"
    seconds = max(0.0, length.total_seconds())
    return f"{round(seconds, 0 if seconds >= 1 else 1):g} s"


def ahead(time: datetime, now: datetime) -> str:
    """`now`, or `in 5 min`."""
    return f"in {span(time - now)}" if time > now else "now"


def moment(value: object) -> datetime | None:
    """A timestamp of the official client, which declares another type than it gives."""
    return value if isinstance(value, datetime) else None


def length(value: object) -> timedelta:
    """A duration of the official client, likewise; none counts as zero."""
    return value if isinstance(value, timedelta) else timedelta()
