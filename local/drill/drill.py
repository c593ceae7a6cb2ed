"""The drill: customers order while everything breaks, then lost orders and repeated effects are counted.

Runs the prod stack in a local cloud of its own, the shop included, in four phases:

- strict: only faults that must repeat nothing,
- all: every fault, and the local cloud itself is killed,
- poison: one order whose mail kills the handler,
- stalls: handlers freeze for longer than a claim, peers are silent, the disk is full, the clock jumps.

Then everything settles without faults and the dead letters are replayed. Only the waits are shorter than in production.
"""

import asyncio
import base64
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import SQLAlchemyError

from local.cloud import prepare_database
from local.cloud_run.runtime import Processes
from local.drill.audit import account, table
from local.drill.customers import Customers, relaying
from local.faults import FROZEN_SECONDS, POISON, Faults, fault_times
from local.journal import Journal
from local.program import ROOT
from local.sinks.effects import Effects
from local.sinks.shop import TASKS_PER_ORDER

SHORTER_WAITS = {
    "maxDispatchesPerSecond": "200",
    "minBackoffSeconds": "0.2",
    "maxBackoffSeconds": "2",
    # Several handlers, so that one that is frozen or killed does not take all tasks with it.
    "containerConcurrency": "5",
}
KILL_EVERY_SECONDS = (5.0, 15.0)
"""Shortest and longest time until the local cloud is killed."""
DATABASE_FAULT_SECONDS = (0.5, 8.0)
"""Shortest and longest fault of the database. The handler waits 5 s for it."""
FAULT_SECONDS = 120
"""Longest phase with faults, plus one second per order."""
POISON_SECONDS = 120
"""Longest time until the poison order kills its handler, and until its task has left the queue."""
REPLAY_WAITS_SECONDS = (0, 10, 25)
"""Waits before the rounds of the replay. Together they are longer than a claim in the ledger."""
START_SECONDS = 120
SETTLE_SECONDS = 300
"""Longest time until an order settles."""
_POISON_ORDER = "ORD-POISON"
PHASES: Mapping[str, tuple[str, ...]] = {
    "strict": (),
    "all": (),
    # The first attempt is the last one: a second would meet the claim of the first, and not run.
    "poison": ("--config", "maxAttempts=1", "--config", "minBackoffSeconds=2"),
    "stalls": (),
}
"""What each phase adds to the settings of the local cloud."""


class DrillError(Exception):
    """The drill cannot run, or an order never settles; the message says why."""


class Drill:
    """One drill. Everything that it leaves is in its folder."""

    def __init__(
        self, orders: int, seed: int, folder: Path, database_url: str, console: Console, phases: Sequence[str]
    ) -> None:
        """`orders`: how many are to be committed in all. `phases`: some of PHASES."""
        self._count = orders
        # More than are accepted: a customer whose order fails does not send it again, but another one orders.
        self._addresses = {f"ORD-{n:06}": f"customer-{n}@example.com" for n in range(3 * orders + 100)}
        self._addresses[_POISON_ORDER] = POISON
        self._seed = seed
        self._random = random.Random(seed)
        self._folder = folder
        self._faults = Journal(folder / "faults.jsonl")
        self._database_url = database_url
        self._effects = Effects(folder, Faults(None, folder / "faults.jsonl"), database_url)
        self._shop = self._effects.shop
        self._console = console
        self._phases = phases
        self._starts = 0
        # Below the ports that systems give to clients: between two starts, one of those could be taken.
        self._port = random.SystemRandom().randrange(10_000, 32_000, 4)

    async def run(self) -> int:
        """Runs the drill. Returns 1 if something was lost, oversold, or repeated without a fault that explains it."""
        await self._prepare()
        ordinary = ((order, address) for order, address in self._addresses.items() if order != _POISON_ORDER)
        breaking = [phase for phase in self._phases if phase != "poison"]
        async with aiohttp.ClientSession() as self._http:
            all_customers = [
                Customers(ordinary, (self._count + n) // len(breaking), self._http, self._random)
                for n in range(len(breaking))
            ]
            remaining = iter(all_customers)
            for phase in self._phases:
                if phase == "poison":
                    await self._poison(Customers(iter([(_POISON_ORDER, POISON)]), 1, self._http, self._random))
                else:
                    await self._break(phase, next(remaining))
            async with self._cloud() as at:
                for customers in all_customers:
                    await customers.place(at)
                async with relaying(at, self._http, self._random):
                    await self._wait("settling", lambda: self._waiting(at, outbox=True))
                letters, left = await self._replay(at)
        faults = self._faults.entries()
        result = account(self._effects, self._addresses, faults, letters, left)
        self._console.print(table(f"Drill with seed {self._seed}", result, faults, self._attempts()))
        return int(result.failed)

    async def _prepare(self) -> None:
        await prepare_database(Processes(ROOT / "handler"), self._effects.database_url)
        if await asyncio.to_thread(self._shop.orders):
            raise DrillError("the database contains orders; a drill breaks connections, so it needs an empty database")
        await asyncio.to_thread(self._shop.stock_up, self._addresses)

    async def _break(self, mode: str, customers: Customers) -> None:
        """Places orders under faults until the queue is empty."""
        kills = mode == "all"
        until = time.monotonic() + FAULT_SECONDS + self._count
        # A handler that is frozen has to wake up.
        least = time.monotonic() + (FROZEN_SECONDS + 5 if mode == "stalls" else 0)
        breaking = asyncio.create_task(self._break_database()) if kills else None
        try:
            while time.monotonic() < until:
                async with self._cloud(mode) as at:
                    try:
                        async with asyncio.timeout(self._random.uniform(*KILL_EVERY_SECONDS) if kills else None):
                            await customers.place(at)
                            async with relaying(at, self._http, self._random, self._note):
                                await self._wait(f"orders, {mode}", lambda: self._waiting(at, outbox=False))
                            await asyncio.sleep(least - time.monotonic())
                        break
                    except TimeoutError:
                        self._process.kill()
                        self._note("local cloud", "killed")
        finally:
            if breaking:
                breaking.cancel()
                await asyncio.gather(breaking, return_exceptions=True)

    async def _poison(self, customers: Customers) -> None:
        """Lets an order kill its handler. Raises DrillError if the order is not stored by then, or kills for ever."""
        async with self._cloud("poison") as at:
            await customers.place(at)
            try:
                async with asyncio.timeout(POISON_SECONDS), relaying(at, self._http, self._random):
                    await self._until_killed()
                    letters = await self._tasks(at, at["dead_letter_queue"])
                    if not any(POISON in _body(letter) for letter in letters):
                        raise DrillError("the poison order killed its handler before it was stored as a dead letter")
                    await self._wait("poison", lambda: self._waiting(at, outbox=False))
            except TimeoutError:
                raise DrillError(
                    "the poison order never leaves the queue: it kills one handler after another"
                ) from None

    async def _until_killed(self) -> None:
        async def alive() -> bool:
            return not any(fault["kind"] == "handlers killed" for fault in self._faults.entries())

        await self._wait("poison", alive)

    @contextlib.asynccontextmanager
    async def _cloud(self, mode: str = "") -> AsyncIterator[dict[str, str]]:
        """Runs the local cloud in its own process, on the drill's state, with the faults of a mode. Yields its
        addresses."""
        self._starts += 1
        arguments = [*PHASES[mode], "--fault-mode", mode, "--faults", f"{self._seed + self._starts}"] if mode else []
        settings = [part for key, value in SHORTER_WAITS.items() for part in ("--config", f"{key}={value}")]
        with (self._folder / "cloud.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "local", "up", "--stack", "prod", "--json", "--port", str(self._port)),
                *("--state", str(self._folder), "--database-url", self._database_url, *settings, *arguments),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        try:
            assert self._process.stdout is not None
            line = b""
            with contextlib.suppress(TimeoutError):
                line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
            if not line:
                raise DrillError(
                    f"the local cloud did not start within {START_SECONDS} s; see {self._folder}/cloud.log"
                )
            yield json.loads(line)
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()

    def _note(self, place: str, kind: str, seconds: float = 0.0) -> None:
        self._faults.add({"place": place, "kind": kind, "effect": None, **fault_times(seconds)})

    async def _break_database(self) -> None:
        """Makes the database fail for a moment, again and again."""
        while True:
            await asyncio.sleep(self._random.uniform(2, 6))
            kind = self._random.choice(self._shop.disturbances)
            seconds = self._random.uniform(*DATABASE_FAULT_SECONDS)
            self._note("database", kind, seconds)
            with contextlib.suppress(SQLAlchemyError):
                await asyncio.to_thread(self._shop.disturb, kind, seconds)

    async def _wait(self, doing: str, unsettled: Callable[[], Awaitable[bool]]) -> None:
        """Waits, and shows the effects done so far. Raises DrillError after a while."""
        until = time.monotonic() + SETTLE_SECONDS + self._count
        with self._bar(doing) as show:
            while await unsettled():
                if time.monotonic() > until:
                    raise DrillError(f"an order never settles ({doing})")
                with contextlib.suppress(SQLAlchemyError):
                    show(sum((await asyncio.to_thread(self._effects.done)).values()))
                await asyncio.sleep(0.25)

    async def _waiting(self, at: dict[str, str], *, outbox: bool) -> bool:
        unsent = outbox and await asyncio.to_thread(self._shop.unsent)
        return unsent or bool(await self._tasks(at, at["queue"]))

    async def _replay(self, at: dict[str, str]) -> tuple[int, int]:
        """Runs every dead letter until none is left. Returns how many there were, and how many are left.

        One whose effect a killed run had claimed fails until the claim is over, so each is run more than once."""
        letters = left = await self._tasks(at, at["dead_letter_queue"])
        with self._bar("replaying dead letters", len(letters)) as show:
            for wait in REPLAY_WAITS_SECONDS:
                await asyncio.sleep(wait if left else 0)
                for some in [left[start : start + 50] for start in range(0, len(left), 50)]:
                    for letter in some:
                        async with self._http.post(f"{at['tasks_rest']}/v2/{letter['name']}:run", json={}):
                            pass
                    names = {letter["name"] for letter in some}
                    async with asyncio.timeout(SETTLE_SECONDS):
                        while True:
                            left = await self._tasks(at, at["dead_letter_queue"])
                            show(len(letters) - len(left))
                            mine = [letter for letter in left if letter["name"] in names]
                            if all("responseTime" in letter.get("lastAttempt", {}) for letter in mine):
                                break
                            await asyncio.sleep(0.1)
        return len(letters), len(left)

    async def _tasks(self, at: dict[str, str], queue: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            async with self._http.get(
                f"{at['tasks_rest']}/v2/{queue}/tasks", params={"pageToken": token, "responseView": "FULL"}
            ) as answer:
                answer.raise_for_status()
                page = await answer.json()
            found += page.get("tasks", [])
            token = page.get("nextPageToken", "")
            if not token:
                return found

    @contextlib.contextmanager
    def _bar(self, doing: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            bar = progress.add_task(doing, total=total or TASKS_PER_ORDER * (self._count + 1))
            yield lambda completed: progress.update(bar, completed=completed)

    def _attempts(self) -> int:
        """Returns the number of deliveries that handlers logged."""
        with (self._folder / "cloud.log").open(encoding="utf-8", errors="replace") as log:
            return sum(line.startswith("{") and '"task":' in line and '"status":' in line for line in log)


def _body(task: dict[str, Any]) -> str:
    return base64.b64decode(task["httpRequest"].get("body", "")).decode(errors="replace")
