"""Faults for the drill: at each seam a kind is drawn, noted, and then really happens.

The order of draws follows from the seed; when each happens also depends on the machine.
"""

import asyncio
import random
from pathlib import Path

from local.journal import Journal

KINDS = {
    "dispatch": ("connection refused", "answer lost", "delivered twice", "handler killed"),
    "dead letter": ("refused", "answer lost", "answered late"),
    "scheduler": ("not called", "called twice", "answer lost"),
    "mail": ("refused", "connection closed", "answer lost", "answered late"),
    "warehouse": ("error 500", "error 429", "connection closed", "answer lost", "answered late"),
}
"""What may go wrong where. `answer lost` and `answered late`: it has been done, but the caller is not told in time."""
LATE_SECONDS = 25
"""Longer than any caller waits."""
_RARE = ("answered late",)


class Faults:
    """A source of faults; without a seed there are none."""

    def __init__(self, seed: int | None, log: Path, share: float = 0.2) -> None:
        """`share`: of the passages that something happens to. `log`: a line for each, kept across restarts."""
        self._random = None if seed is None else random.Random(seed)
        self._share = share
        self._log = Journal(log)

    def draw(self, place: str) -> str | None:
        """What goes wrong here and now, if anything."""
        if self._random is None or self._random.random() > self._share:
            return None
        kinds = KINDS[place]
        kind = self._random.choices(kinds, [1 if kind in _RARE else 10 for kind in kinds])[0]
        self._log.add({"place": place, "kind": kind})
        return kind

    def moment(self, longest: float) -> float:
        """Some seconds, at most `longest`."""
        return self._random.uniform(0, longest) if self._random else 0.0

    async def late(self) -> None:
        """Wait longer than any caller does."""
        await asyncio.sleep(LATE_SECONDS)
