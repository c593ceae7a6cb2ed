"""Faults for the drill: wherever one can happen, a kind is drawn and recorded, and then really happens.

The seed determines the order of the draws. When each fault happens also depends on the machine.
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
"""The kinds of fault at each place. A lost or late answer belongs to a call that succeeded."""
LATE_SECONDS = 25
"""Delay of a late answer; no caller waits so long."""
_RARE = ("answered late",)


class Faults:
    """Draws faults. Without a seed it draws none."""

    def __init__(self, seed: int | None, log: Path, share: float = 0.2) -> None:
        """`share`: the share of draws that yield a fault. `log`: gets a line for each fault; kept across restarts."""
        self._random = None if seed is None else random.Random(seed)
        self._share = share
        self._log = Journal(log)

    def draw(self, place: str) -> str | None:
        """Draws and records the fault that shall happen now at a place, or None."""
        if self._random is None or self._random.random() > self._share:
            return None
        kinds = KINDS[place]
        kind = self._random.choices(kinds, [1 if kind in _RARE else 10 for kind in kinds])[0]
        self._log.add({"place": place, "kind": kind})
        return kind

    def delay(self, longest: float) -> float:
        """Returns a random number of seconds, at most `longest`."""
        return self._random.uniform(0, longest) if self._random else 0.0

    async def late(self) -> None:
        """Waits longer than any caller does."""
        await asyncio.sleep(LATE_SECONDS)
