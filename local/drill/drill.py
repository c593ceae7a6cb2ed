"""The drill: customers order while everything breaks, then lost orders and repeated effects are counted.

Runs the prod stack in a local cloud of its own, the shop included, in three phases:

- strict: only faults that must repeat nothing; a single repeat fails the drill,
- all: every fault, and the local cloud itself is killed,
- poison: one order whose mail kills the handler at every attempt.

After each phase everything settles without faults and the dead letters are replayed. Only the waits are shorter than in
production.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import SQLAlchemyError

from local.cloud import prepare_database
from local.cloud_run.runtime import Processes
from local.drill.audit import account, table
from local.drill.customers import Customers
from local.faults import POISON, Faults, fault_times
from local.journal import Journal
from local.program import ROOT
from local.sinks.effects import Effects

SHORTER_WAITS = {
    "maxDispatchesPerSecond": "200",
    "minBackoffSeconds": "0.2",
    "maxBackoffSeconds": "2",
}
TASKS_PER_ORDER = 3
STRICT_SHARE = 1 / 3
"""Share of the orders in the strict phase."""
KILL_EVERY_SECONDS = (10.0, 20.0)
"""Shortest and longest time until the local cloud is killed."""
DATABASE_FAULT_SECONDS = (0.5, 8.0)
"""Shortest and longest fault of the database. The handler waits 5 s for it."""
FAULT_SECONDS = 120
"""Longest phase with faults, plus one second per order."""
REPLAY_WAITS_SECONDS = (0, 10, 25)
"""Waits before the rounds of the replay. Together they are longer than a claim in the ledger."""
START_SECONDS = 60
SETTLE_SECONDS = 300
"""Longest time until an order settles."""
_POISON_ORDER = "ORD-POISON"
_FAULTS = {
    "strict": ("--fault-mode", "strict", "--faults"),
    "all": ("--faults",),
    # The first attempt is the last one: a second would meet the claim of the first, and not run.
    "poison": ("--config", "maxAttempts=1", "--fault-mode", "poison", "--faults"),
}


class DrillError(Exception):
    """The drill cannot run, or an order never settles; the message says why."""


class Drill:
    """One drill. Everything that it leaves is in its folder."""

    def __init__(self, orders: int, seed: int, folder: Path, database_url: str, console: Console) -> None:
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
        self._starts = self._dead_letters = self._left = 0

    async def run(self) -> int:
        """Runs the drill. Returns 1 if something was lost, oversold, or repeated without a fault that explains it."""
        await self._prepare()
        strict = max(1, round(self._count * STRICT_SHARE))
        orders = iter(self._addresses.items())
        async with aiohttp.ClientSession() as self._http:
            await self._phase("strict", orders, strict, kills=False)
            if strict < self._count:
                await self._phase("all", orders, self._count - strict, kills=True)
            await self._phase("poison", iter([(_POISON_ORDER, POISON)]), 1, kills=False)
        faults = self._faults.entries()
        result = account(self._effects, self._addresses, faults, self._dead_letters, self._left)
        self._console.print(table(f"Drill with seed {self._seed}", result, faults, self._attempts()))
        return int(result.failed)

    async def _prepare(self) -> None:
        await prepare_database(Processes(ROOT / "handler"), self._effects.database_url)
        if await asyncio.to_thread(self._shop.orders):
            raise DrillError("the database contains orders; a drill breaks connections, so it needs an empty database")
        await asyncio.to_thread(self._shop.stock_up, self._addresses)

    async def _phase(self, mode: str, orders: Iterator[tuple[str, str]], count: int, *, kills: bool) -> None:
        """Places orders under faults, then lets all settle without faults and replays the dead letters."""
        customers = Customers(orders, count, self._http, self._random)
        until = time.monotonic() + FAULT_SECONDS + count
        breaking = asyncio.create_task(self._break_database()) if kills else None
        try:
            while time.monotonic() < until:
                async with self._cloud(*_FAULTS[mode], f"{self._seed + self._starts}") as at:
                    try:
                        async with asyncio.timeout(self._random.uniform(*KILL_EVERY_SECONDS) if kills else None):
                            await customers.place(at)
                            await self._settled(at, customers, f"{mode}: orders", note=self._note)
                        break
                    except TimeoutError:
                        self._process.kill()
                        self._note("local cloud", "killed")
        finally:
            if breaking:
                breaking.cancel()
                await asyncio.gather(breaking, return_exceptions=True)
        async with self._cloud() as at:
            await customers.place(at)
            await self._settled(at, customers, f"{mode}: settling", note=None)
            found = await self._replay(at)
        if mode == "poison" and not found:
            raise DrillError("the poison order is no dead letter, although it killed its handler at every attempt")

    @contextlib.asynccontextmanager
    async def _cloud(self, *arguments: str) -> AsyncIterator[dict[str, str]]:
        """Runs the local cloud in its own process, on the drill's state. Yields its addresses."""
        self._starts += 1
        settings = [part for key, value in SHORTER_WAITS.items() for part in ("--config", f"{key}={value}")]
        with (self._folder / "cloud.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "local", "up", "--stack", "prod", "--json", "--state", str(self._folder)),
                *("--database-url", self._database_url, *settings, *arguments),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        try:
            assert self._process.stdout is not None
            line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
            if not line:
                raise DrillError(f"the local cloud did not start; {self._folder}/cloud.log says why")
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

    async def _settled(
        self, at: dict[str, str], customers: Customers, doing: str, note: Callable[[str, str], None] | None
    ) -> None:
        """Waits until outbox and queue are empty. Shows the effects done so far."""
        with self._bar(doing) as show:
            try:
                async with asyncio.timeout(SETTLE_SECONDS), customers.relaying(at, note):
                    unsettled = True
                    while unsettled:
                        await asyncio.sleep(0.25)
                        unsettled = await self._unsettled(at, show)
            except TimeoutError:
                raise DrillError(f"an order never settles ({doing})") from None

    async def _unsettled(self, at: dict[str, str], show: Callable[[int], None]) -> bool:
        try:
            show(sum((await asyncio.to_thread(self._effects.done)).values()))
            unsent = await asyncio.to_thread(self._shop.unsent)
        except SQLAlchemyError:  # the database is one of the things that break
            return True
        return unsent or bool(await self._tasks(at, at["queue"]))

    async def _replay(self, at: dict[str, str]) -> int:
        """Runs every dead letter until none is left, and returns how many there were.

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
        self._dead_letters += len(letters)
        self._left += len(left)
        return len(letters)

    async def _tasks(self, at: dict[str, str], queue: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            async with self._http.get(f"{at['tasks_rest']}/v2/{queue}/tasks", params={"pageToken": token}) as answer:
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
