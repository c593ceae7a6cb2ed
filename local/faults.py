"""Faults for the drill: wherever one can happen, a kind is drawn and recorded, and then really happens.

The seed determines the order of the draws. When each fault happens also depends on the machine.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from local.journal import Journal, order_of

log = logging.getLogger("local.faults")

LATE_SECONDS = 25
"""Delay of a late answer; no caller waits so long."""
FROZEN_SECONDS = 35
"""Longer than a claim in the handler's ledger."""
POISON = "poison@example.com"
"""In the mode `poison`, a mail to this address kills the handler."""

_RARE, _SOME, _OFTEN = 1, 3, 10
KINDS: Mapping[str, Mapping[str, int]] = {
    "create": {"refused": _OFTEN, "answer lost": _OFTEN, "web app killed": _OFTEN},
    "dispatch": {
        "connection refused": _OFTEN,
        "connection lost": _OFTEN,
        "answer lost": _OFTEN,
        "delivered twice": _OFTEN,
        "handler killed": _OFTEN,
        "handler frozen": _RARE,
        "disk full": _SOME,
        "clock jumped": _SOME,
    },
    "dead letter": {"refused": _OFTEN, "answer lost": _OFTEN, "answered late": _RARE},
    "scheduler": {"not called": _OFTEN, "called twice": _OFTEN, "answer lost": _OFTEN},
    "mail": {
        "refused": _OFTEN,
        "connection closed": _OFTEN,
        "silent": _RARE,
        "answer lost": _OFTEN,
        "answered late": _RARE,
    },
    "warehouse": {
        "error 500": _OFTEN,
        "error 429": _OFTEN,
        "429 to everyone": _RARE,
        "connection closed": _OFTEN,
        "silent": _RARE,
        "answer lost": _OFTEN,
        "answered late": _RARE,
    },
}
"""The kinds of fault at each place, with their weights. A lost or late answer belongs to a call that succeeded. A lost
connection ends a call that may yet succeed."""
REPEATING = frozenset(
    {
        ("dispatch", "handler killed"),
        ("dispatch", "handler frozen"),
        ("local cloud", "killed"),
        ("mail", "handlers killed"),
        *((place, kind) for place in ("mail", "warehouse") for kind in ("answer lost", "answered late")),
    }
)
"""The only faults after which a mail or a notification may be repeated: a run dies or stalls between the effect and its
record, or the answer to the effect is lost."""
_STRICT = {
    place: {kind: weight for kind, weight in kinds.items() if (place, kind) not in REPEATING and weight == _OFTEN}
    for place, kinds in KINDS.items()
}
_STALLS = {
    "dispatch": {"connection lost": _OFTEN, "handler frozen": _OFTEN, "disk full": _SOME, "clock jumped": _SOME},
    "mail": {"refused": _OFTEN, "silent": _SOME, "answered late": _SOME},
    "warehouse": {"error 500": _OFTEN, "429 to everyone": _SOME, "silent": _SOME, "answered late": _SOME},
}
MODES = {"all": KINDS, "strict": _STRICT, "stalls": _STALLS, "poison": {}}
"""`strict`: what may repeat no effect. `stalls`: everything is slow. `poison`: nothing, but see POISON."""
_BROKEN = {"mail": "refused", "warehouse": "error 500"}
_LASTS = {"handler frozen": FROZEN_SECONDS}
_TOLERANCE_SECONDS = 1.0
"""A process that has died may have left a request to its peer."""


class Faults:
    """Draws faults. Without a seed it draws none."""

    def __init__(self, seed: int | None, log: Path, share: float = 0.2, mode: str = "all") -> None:
        """`share`: the share of draws that yield a fault. `log`: gets a line for each fault; kept across restarts.
        `mode`: one of MODES."""
        self._random = None if seed is None else random.Random(seed)
        self._kinds = MODES[mode]
        self._poison = seed is not None and mode == "poison"
        self._share = share
        self._log = Journal(log)
        self._clock_offset = 0.0
        self._broken: set[str] = set()
        self.actions: dict[str, Callable[[], Iterable[bytes] | None]] = {}
        """How faults of these kinds happen to the processes of the local cloud. Each returns the bodies of the requests
        that it meets, or None if it could not happen."""

    def clock(self) -> float:
        """Seconds since the epoch, as a clock says that jumps."""
        return time.time() + self._clock_offset

    def draw(self, place: str, effect: str | None = None) -> str | None:
        """Draws, records and begins the fault that shall happen now at a place, or None.

        `effect`: the id of the effect that its call asks for."""
        if place in self._broken:
            return _BROKEN[place]
        kinds = self._kinds.get(place)
        if self._random is None or not kinds or self._random.random() > self._share:
            return None
        kind = self._random.choices(list(kinds), list(kinds.values()))[0]
        self._happen(place, kind, effect)
        return kind

    @contextlib.contextmanager
    def breaking(self, place: str) -> Iterator[None]:
        """Breaks mail or warehouse until the block ends."""
        self._broken.add(place)
        yield
        self._broken.discard(place)

    def poisons(self, address: str) -> bool:
        """Kills every handler because of this mail, if it is poison."""
        if self._poison and address == POISON:
            self._happen("mail", "handlers killed", None)
            return True
        return False

    def _happen(self, place: str, kind: str, effect: str | None) -> None:
        if kind in self.actions:
            # A moment later, so that it meets whatever the call has begun.
            asyncio.get_running_loop().call_later(self.delay(0.05), self._act, place, kind)
            return
        self._note({"place": place, "kind": kind, "effect": effect, **fault_times()})
        if kind == "clock jumped":
            self._clock_offset = self.delay(60) - 30

    def _act(self, place: str, kind: str) -> None:
        times = fault_times(_LASTS.get(kind, 0.0))
        met = self.actions[kind]()
        if met is not None:
            self._note({"place": place, "kind": kind, "runs": runs_of(met), **times})

    def _note(self, fault: dict[str, Any]) -> None:
        self._log.add(fault)
        log.warning("injected fault: %s: %s", fault["place"], fault["kind"], extra={"fields": {"event": "injected"}})

    def delay(self, longest: float) -> float:
        """Returns a random number of seconds, at most `longest`."""
        return self._random.uniform(0, longest) if self._random else 0.0

    async def late(self) -> None:
        """Waits longer than any caller does."""
        await asyncio.sleep(LATE_SECONDS)


def fault_times(seconds: float = 0.0) -> dict[str, float]:
    """When a fault begins, now, and when it ends at the latest, in seconds since the epoch."""
    return {"at": time.time(), "until": time.time() + seconds + _TOLERANCE_SECONDS}


def runs_of(bodies: Iterable[bytes]) -> list[str]:
    """Returns `ORDER ACTION` for each of these bodies that is an order."""
    orders = map(order_of, bodies)
    return [f"{order['orderId']} {order['action']}" for order in orders if len(order) == 2]
