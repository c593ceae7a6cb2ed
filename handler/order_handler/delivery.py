"""What Cloud Tasks says about this attempt: headers -> Delivery.

The headers are information, never identity: whoever may invoke the service can send them. A count that is missing or
malformed stays unknown, and an attempt that is unknown is the last one: nothing promises another.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

# Cloud Tasks counts in 32 bits: ten digits.
_COUNT = re.compile(r"[0-9]{1,10}")
_TIME = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


class Delivery(NamedTuple):
    queue: str | None
    """Short id; None if the header is missing."""
    task: str
    """Short id."""
    retry_count: int | None
    """All earlier attempts, whatever became of them; None if missing or malformed."""
    due: float | None = None
    """When the attempt was due, in epoch seconds; None if missing or malformed."""
    max_attempts: int | None = None
    """The attempt budget of the order. None for a replay, which somebody can always repeat."""

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> Self | None:
        """The delivery in these headers (lower-case names), or None: a direct call."""
        task = headers.get("x-cloudtasks-taskname")
        if task is None:
            return None
        # Never ExecutionCount, which does not count attempts that ended in 5xx.
        count = headers.get("x-cloudtasks-taskretrycount", "")
        return cls(
            queue=headers.get("x-cloudtasks-queuename"),
            task=task,
            retry_count=int(count) if _COUNT.fullmatch(count) else None,
            due=float(due) if _TIME.fullmatch(due := headers.get("x-cloudtasks-tasketa", "")) else None,
        )

    @property
    def attempt(self) -> int | None:
        """1 for the first."""
        return None if self.retry_count is None else self.retry_count + 1

    @property
    def is_last(self) -> bool:
        """Whether nobody brings the order again if this attempt fails."""
        return self.max_attempts is not None and (self.attempt is None or self.attempt >= self.max_attempts)

    @property
    def progress(self) -> str:
        """`2 of 5`; `2` for a replay."""
        budget = "" if self.max_attempts is None else f" of {self.max_attempts}"
        return f"{self.attempt or '?'}{budget}"
