"""The last-attempt rule in every order of events: the handler's own code against a model of queue, ledger and operator.

An attempt is a function of the answers that it got so far: it is run once for each sequence of answers, up to its next
call. So all interleavings of two deliveries and a replay, with faults and kills anywhere, are a search of a graph.
"""

from collections.abc import Generator, Iterator
from contextvars import copy_context
from functools import cache
from typing import Any, NamedTuple

import pytest
from order_handler import logs
from order_handler.attempt import Attempt, Attempts, End
from order_handler.dead_letters import DeadLetters, Entry, Outcome, Stored
from order_handler.delivery import Delivery
from order_handler.effects import Effects
from order_handler.errors import AlreadyProcessedError, PermanentError, TransientError

from tests.handler.calls import message
from tests.handler.conftest import DEAD_LETTER_QUEUE
from tests.handler.test_attempt import again, failed, name

BODY = message(action="update_inventory")
EARLY, LAST = Delivery("cloud-run-tasks", "task-1", 3, None, 5), Delivery("cloud-run-tasks", "task-1", 4, None, 5)
ENTRIES = {name(): "R", failed(): "F", again(1): "R1", name(body=BODY + b"\0failed\x001"): "F1"}
REPLAYS = {entry: Delivery("dead-letters", entry, 9) for entry in ENTRIES.values()}
FAULTS = 2


class Call(NamedTuple):
    """What an attempt asks of the world."""

    what: str
    entry: str = ""
    """R, the reservation, or F, the entry of a failure. R1 and F1 follow one that was deleted."""

    def __await__(self) -> Generator["Call", Any, Any]:
        return (yield self)


class Api:
    async def create(self, entry: Entry) -> Stored:
        which = _which(entry.name)
        reason, kind = entry.headers["X-Dead-Letter-Reason"], entry.headers["X-Dead-Letter-Kind"]
        says_why = (reason, kind) in {
            *((why, "TransientError") for why in ("held", "down")),
            ("wrong", "PermanentError"),
        }
        if (kind == "Unfinished", entry.due is not None, not says_why) != (which[0] == "R",) * 3:
            pytest.fail(f"{which}: {entry}")
        return Stored(await Call("create", which))

    async def find(self, name: str) -> Stored:
        return Stored(await Call("find", _which(name)))

    async def delete(self, name: str) -> str | None:
        return str(found) if (found := await Call("delete", _which(name))) else None

    async def close(self) -> None:
        raise NotImplementedError


class Deed:
    """A stock under a ledger."""

    async def take(self, order_id: str, action: str) -> None:
        if failure := await Call("claim"):
            raise failure("held")
        if failure := await Call("effect"):
            raise failure("down" if failure is TransientError else "wrong")


def _which(entry: str) -> str:
    return ENTRIES[entry]


@cache
def step(delivery: Delivery, answers: tuple[Any, ...]) -> Call | Attempt:
    """What an attempt does after these answers: its next call, or its end."""

    async def open_api() -> Api:
        return Api()

    dead_letters = DeadLetters(DEAD_LETTER_QUEUE, 300, open_api)  # type: ignore[arg-type]
    dead_letters._api = Api()  # type: ignore[assignment]
    run = Attempts(Effects({"update_inventory": Deed()}), dead_letters).make(delivery, BODY)
    context = copy_context()
    try:
        call = context.run(run.send, None)
        for answer in answers:
            call = context.run(run.send, answer)
        run.close()
    except StopIteration as end:
        attempt: Attempt = end.value
        return attempt
    assert isinstance(call, Call)
    return call


class Run(NamedTuple):
    delivery: Delivery
    answers: tuple[Any, ...] = ()
    killed: bool = False

    @property
    def next(self) -> Call | Attempt | None:
        return None if self.killed else step(self.delivery, self.answers)


class World(NamedTuple):
    coming: tuple[Delivery, ...]
    """Deliveries of the task that may begin at any time."""
    runs: tuple[Run, ...] = ()
    live: frozenset[str] = frozenset()
    blocked: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    """Entries whose creates are still under way."""
    dropped: bool = False
    """An operator dropped an entry."""
    claim: int | None = None
    done: int = 0
    faults: int = 0

    def stored(self, entry: str) -> "World":
        free = entry not in self.live | self.blocked
        return self._replace(live=self.live | {entry} if free else self.live, late=self.late - {entry})

    def deleted(self, entry: str) -> "World":
        return self._replace(live=self.live - {entry}, blocked=self.blocked | (self.live & {entry}))

    def events(self) -> Iterator["World"]:
        """The worlds after whatever may happen next."""
        if self.coming:
            yield self._replace(coming=self.coming[1:], runs=(*self.runs, Run(self.coming[0])))
        for entry in self.late:
            yield self.stored(entry)
        running = [run.delivery for run in self.runs if isinstance(run.next, Call)]
        if not any(run.delivery in REPLAYS.values() for run in self.runs):
            # A reservation is due only when its run is over.
            for entry in self.live - ({"R", "R1"} if LAST in running else set()):
                yield self._replace(runs=(*self.runs, Run(REPLAYS[entry])))
        for entry in self.live if self.faults < FAULTS and not self.dropped else ():
            yield self.deleted(entry)._replace(dropped=True, faults=self.faults + 1)
        for number, run in enumerate(self.runs):
            call = run.next
            if not isinstance(call, Call):
                continue
            for answer, world in self.answers(call, number):
                yield world._with(number, run._replace(answers=(*run.answers, answer)))
            if self.faults < FAULTS:
                free = None if self.claim == number else self.claim
                yield self._replace(faults=self.faults + 1, claim=free)._with(number, run._replace(killed=True))

    def _with(self, number: int, run: Run) -> "World":
        world = self._replace(runs=(*self.runs[:number], run, *self.runs[number + 1 :]))
        # The queue deletes a dead letter whose replay was answered 200.
        replayed = [entry for entry, delivery in REPLAYS.items() if delivery == run.delivery]
        return world.deleted(replayed[0]) if replayed and _is_200(run) else world

    def answers(self, call: Call, number: int) -> Iterator[tuple[Any, "World"]]:
        fault = self._replace(faults=self.faults + 1)
        faulty = self.faults < FAULTS
        match call.what, call.entry:
            case "create", entry:
                free = entry not in self.live | self.blocked
                yield (Outcome.STORED if free else Outcome.EXISTS), self.stored(entry)
                if faulty:
                    yield Outcome.UNKNOWN, fault
                    yield Outcome.UNKNOWN, fault.stored(entry)
                    yield Outcome.UNKNOWN, fault._replace(late=self.late | {entry})
            case "find", entry:
                yield (Outcome.LIVE if entry in self.live else Outcome.BLOCKED), self
                if faulty:
                    yield Outcome.UNKNOWN, fault
            case "delete", entry:
                yield None, self.deleted(entry)
                if faulty:
                    yield "refused", fault
                    yield "lost", fault.deleted(entry)
            case "claim", _ if self.done:
                yield AlreadyProcessedError, self
            case "claim", _ if self.claim is not None:
                yield TransientError, self
            case "claim", _:
                yield None, self._replace(claim=number)
            case _:
                yield None, self._replace(claim=None, done=self.done + 1)
                for failure in (TransientError, PermanentError):
                    yield failure, self._replace(claim=None)


def _is_200(run: Run) -> bool:
    return isinstance(run.next, Attempt) and run.next.end is not End.FAILED


@pytest.mark.parametrize("coming", [(LAST, LAST), (EARLY, LAST), (LAST, EARLY)], ids=["last", "early", "late"])
def test_no_interleaving_loses_an_order_or_repeats_its_effect(
    coming: tuple[Delivery, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "write", lambda *_: None)
    seen = {World(coming)}
    ahead = list(seen)
    while ahead:
        world = ahead.pop()
        acknowledged = [run for run in world.runs if run.delivery in coming and _is_200(run)]
        assert world.done <= 1, world
        assert not acknowledged or world.done or world.live or world.dropped, f"lost: {world}"
        ended = not any(isinstance(run.next, Call) for run in world.runs)
        if not world.faults and set(coming) == {LAST} and ended:
            # Without faults each last attempt is answered 200, and a failure leaves its own entry alone.
            assert len(acknowledged) == sum(run.delivery == LAST for run in world.runs), world
            assert not world.runs or world.live == (set() if world.done else {"F"}), world
        following = set(world.events()) - seen
        seen |= following
        ahead += following
    assert len(seen) > 10_000
