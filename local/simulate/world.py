"""The world of a simulation: its clock, its chance, its faults, its network and its trace."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from local.simulate.loop import PROCESS, Loop, Process

_T = TypeVar("_T")
EPOCH = 1_800_000_000.0
_CALL = ("refused", "never arrives", "arrives late", "answer lost", "answer late", "caller dies", "caller dies after",
         "caller freezes")  # fmt: skip
KINDS: Mapping[str, tuple[str, ...]] = {
    "cloud tasks": _CALL,
    "mail": (*_CALL, "refused for good"),
    "warehouse": (*_CALL, "refused for good"),
    "statement": ("fails", "answer lost", "caller dies", "caller dies after", "caller freezes", "store restarts",
                  "disk full"),
    "delivery": ("refused", "token refused", "busy", "connection lost", "answer lost", "twice at once", "twice",
                 "handler dies", "handler freezes"),
    "relay": ("not called", "called twice", "answer lost"),
    "step": ("process dies", "process freezes"),
    "trouble": ("replay all", "replay one", "drop", "pause", "rename", "deploy", "clock", "order twice", "cancel",
                "restart", "disk full"),
}  # fmt: skip
"""The kinds of fault at each place. The seed chooses some of them."""
FREEZES = (0.5, 9.0, 25.0, 45.0, 400.0)
"""Longest freezes in seconds: shorter and longer than the limits of a call, an effect, a claim and a request."""


class NoAnswerError(Exception):
    """The peer did not answer."""


class Event(NamedTuple):
    """What happened, in words."""

    at: float
    process: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:11.3f} s  {self.process:<12} {self.text}"


class World:
    def __init__(self, seed: int, without: frozenset[int] = frozenset(), most_faults: int | None = None) -> None:
        """`without`: numbers of faults that are left out. `most_faults`: no fault happens after so many."""
        self.seed = seed
        self.loop = Loop(self._step)
        self.breaking = False
        self.events: list[Event] = []
        self.drawn = 0
        """Faults so far."""
        self.processes: list[Process] = []
        self.disk_full_until = self.store_away_until = 0.0
        self.slow = 0.5
        """Longest delay of a message, in seconds."""
        self.database_offset = self.service_offset = 0.0
        self._digest = hashlib.sha256()
        self._without, self._most_faults = without, most_faults
        self._chances: dict[str, random.Random] = {}
        chance = self.chance("figures")
        self._share = chance.choice((0.01, 0.03, 0.1, 0.2))
        self._slow_faulty = chance.choice((0.5, 3.0, 12.0))
        self._steps_between = chance.choice((300, 1000, 5000))
        """Mean number of steps until the next fault at one."""
        self._steps = 0
        self._kinds = {place: [kind for kind in kinds if chance.random() < 0.5] for place, kinds in KINDS.items()}

    def end(self) -> None:
        """Lets go of the processes, whose connections SQLAlchemy would keep, and everything with them."""
        self.loop.close()
        self.loop.tasks.clear()
        self.processes.clear()

    def chance(self, purpose: str) -> random.Random:
        """A source of chance for each purpose, so that a fault that is left out changes few others."""
        if purpose not in self._chances:
            self._chances[purpose] = random.Random(f"{self.seed} {purpose}")
        return self._chances[purpose]

    # Time

    def wall(self) -> float:
        """The clock of the current process."""
        process = PROCESS.get()
        return EPOCH + self.loop.now + (process.clock_offset if process else 0.0)

    def service_now(self) -> float:
        return EPOCH + self.loop.now + self.service_offset

    def database_now(self) -> float:
        return EPOCH + self.loop.now + self.database_offset

    def pause(self) -> float:
        """How long a message takes."""
        chance = self.chance("delays")
        return chance.uniform(0.001, 0.03) if chance.random() < 0.97 else chance.uniform(0.03, self.slow)

    # Faults

    def begin_breaking(self) -> None:
        self.breaking, self.slow = True, self._slow_faulty

    def end_breaking(self) -> None:
        self.breaking, self.slow = False, 0.5
        self.disk_full_until = self.store_away_until = 0.0

    def draw(self, place: str, part: float = 1.0) -> str | None:
        """The fault that happens now at this place, or None. `part`: of the share of calls that fail."""
        if not self.breaking or self.chance(place).random() >= self._share * part:
            return None
        return self.draw_one(place)

    def draw_one(self, place: str) -> str | None:
        """One of the faults of this place, unless it is left out."""
        kinds = self._kinds[place]
        if not kinds:
            return None
        kind, number = self.chance(place).choice(kinds), self.drawn
        self.drawn += 1
        if number in self._without or (self._most_faults is not None and number >= self._most_faults):
            return None
        self.note(f"FAULT {number}: {place}: {kind}")
        return kind

    def _step(self, process: Process) -> None:
        """A process goes on after any `await`, unless a fault meets it here."""
        if not self.breaking:
            return
        self._steps -= 1
        if self._steps > 0:
            return
        if self._steps == 0:
            match self.draw_one("step"):
                case "process dies":
                    self.kill(process)
                case "process freezes":
                    self.freeze(process)
        self._steps = 1 + int(self.chance("step").expovariate(1 / self._steps_between))

    def process(self, name: str) -> Process:
        """Starts a process."""
        process = Process(name, self.loop, self.pause)
        self.processes.append(process)
        self.note(f"{name} starts")
        return process

    def freeze(self, process: Process) -> None:
        seconds = self.chance("freezes").uniform(0.1, self.chance("freezes").choice(FREEZES))
        self.note(f"{process.name} freezes for {seconds:.1f} s")
        process.met.append((self.loop.now, self.loop.now + seconds))
        process.freeze(seconds)

    def kill(self, process: Process) -> None:
        if process.alive:
            self.note(f"{process.name} dies")
            process.met.append((self.loop.now, self.loop.now))
            process.kill()

    # Network

    async def call(self, place: str, serve: Callable[[], _T], seconds: float | None = None) -> _T:
        """Sends a request of the current process to a peer, which serves it at one instant. NoAnswerError."""
        process = PROCESS.get()
        fault = self.draw(place)
        if fault == "caller dies" and process:
            self.kill(process)
        answer = self.loop.create_future()
        self.loop.outside(
            self.chance("delays").uniform(1, 60) if fault == "arrives late" else self.pause(),
            self._arrive, serve, fault, process, answer,
        )  # fmt: skip
        try:
            async with asyncio.timeout(seconds):
                return await answer  # type: ignore[no-any-return]
        except TimeoutError:
            raise NoAnswerError(f"no answer within {seconds} s") from None

    def _arrive(
        self, serve: Callable[[], object], fault: str | None, process: Process | None, answer: "asyncio.Future[Any]"
    ) -> None:
        if fault == "never arrives":
            return
        result: object = None
        refusals = {"refused": NoAnswerError("refused"), "refused for good": PermissionError()}
        error: Exception | None = refusals.get(fault or "")
        if not error:
            try:
                result = serve()
            except Exception as failure:
                error = failure
        if fault == "caller dies after" and process:
            self.kill(process)
        if fault == "caller freezes" and process:
            self.freeze(process)
        if fault == "answer lost":
            error = NoAnswerError("connection reset")
        late = self.chance("delays").uniform(5, 40) if fault == "answer late" else 0.0
        self.loop.outside(late + self.pause(), _settle, answer, result, error)

    # The trace

    def note(self, text: str) -> None:
        process = PROCESS.get()
        event = Event(self.loop.now, process.name if process else "", text)
        self.events.append(event)
        self._digest.update(f"{event.at:.6f} {event.process} {text}\n".encode())

    def digest(self) -> str:
        """A hash of everything that happened so far."""
        return self._digest.hexdigest()[:8]


def _settle(answer: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
    if answer.done():
        return
    if error:
        answer.set_exception(error)
    else:
        answer.set_result(result)
