"""The fault drill: orders go through while everything breaks, then it is counted what was lost or happened twice.

Runs the prod stack in a local cloud of its own, with faults at every seam, and kills that cloud too. Then lets it
settle without faults, replays the dead letters, and compares what reached mail server, stock and warehouse with what
was ordered. Only the waits are shorter than in production.
"""

import asyncio
import collections
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
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from local.cloud import prepare_database
from local.cloud_run.runtime import Processes
from local.faults import Faults
from local.journal import Journal
from local.program import ROOT
from local.sinks.effects import Effects

SHORTER_WAITS = {
    "maxDispatchesPerSecond": "200",
    "minBackoffSeconds": "0.2",
    "maxBackoffSeconds": "2",
}
TASKS_AN_ORDER = 3
KILL_EVERY_SECONDS = (6.0, 12.0)
"""The local cloud itself, at random between these."""
DATABASE_FAULT_SECONDS = (0.5, 8.0)
"""A lock's; the handler waits 5 for one."""
FAULT_SECONDS = 120
"""And one more for each order: then the faults end, whatever is left."""
REPLAY_WAITS_SECONDS = (0, 10, 25)
"""Before each round of the replay; together longer than a claim."""
SETTLE_SECONDS = 600
"""After which something is taken to be stuck."""


class DrillError(Exception):
    """The drill could not be held; the message says why."""


class Drill:
    """One drill; everything it leaves is in its folder."""

    def __init__(self, orders: int, seed: int, folder: Path, database_url: str, console: Console) -> None:
        self._orders = {f"ORD-{number:06}": f"customer-{number}@example.com" for number in range(orders)}
        self._seed = seed
        self._random = random.Random(seed)
        self._folder = folder
        self._faults = Journal(folder / "faults.jsonl")
        self._database_url = database_url
        self._effects = Effects(folder, Faults(None, folder / "faults.jsonl"), database_url)
        self._shop = self._effects.shop
        self._console = console
        self._starts = 0

    async def run(self) -> int:
        """Drill; 1 if an effect was lost or happened twice, else 0."""
        orders = self._folder / "orders.jsonl"
        orders.write_text(
            "".join(json.dumps({"orderId": i, "customerEmail": e}) + "\n" for i, e in self._orders.items())
        )
        await self._commit()
        async with aiohttp.ClientSession(raise_for_status=True) as self._http:
            sent = await self._with_faults(orders)
            async with self._cloud() as at:
                if not sent and not await self._send(orders, at):
                    raise DrillError("the orders cannot be sent")
                await self._settled(at, "settling")
                letters, replayed = await self._replay(at)
        return self._audit(letters, replayed)

    async def _with_faults(self, orders: Path) -> bool:
        """Send all orders and wait until their queue is empty, while things break, but not for ever; whether all were
        sent: from then on nothing is sent again, or an order that was lost would come back unseen."""
        breaking = asyncio.create_task(self._break_database())
        until = time.monotonic() + FAULT_SECONDS + len(self._orders)
        try:
            sent = False
            while time.monotonic() < until:
                async with self._cloud("--faults", str(self._seed + self._starts)) as at:
                    kill_in = self._random.uniform(*KILL_EVERY_SECONDS)
                    try:
                        async with asyncio.timeout(kill_in):
                            while not sent:
                                sent = await self._send(orders, at)
                            await self._settled(at, "orders, with faults")
                            return True
                    except TimeoutError:
                        self._process.kill()
                        self._faults.add({"place": "local cloud", "kind": "killed"})
            return sent
        finally:
            breaking.cancel()
            await asyncio.gather(breaking, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _cloud(self, *arguments: str) -> AsyncIterator[dict[str, str]]:
        """The local cloud in a process of its own, on the drill's state; its addresses."""
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
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise DrillError(f"the local cloud did not start; {self._folder}/cloud.log says why")
        try:
            yield json.loads(line)
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()

    async def _commit(self) -> None:
        """Put the orders into the database, as the web app does before it creates tasks."""
        await prepare_database(Processes(ROOT / "handler"), self._effects.database_url)
        if not await asyncio.to_thread(self._shop.is_empty):
            raise DrillError(
                "the database has orders already; a drill cuts connections and counts: give it an empty one"
            )
        await asyncio.to_thread(self._shop.commit, self._orders)

    async def _send(self, orders: Path, at: dict[str, str]) -> bool:
        """Create the tasks; True when all are there."""
        producer = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "order_tasks", "send", str(orders), "--outputs", "-"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await producer.communicate(json.dumps(at).encode())
        finally:
            if producer.returncode is None:
                producer.kill()
                await producer.wait()
        return producer.returncode == 0

    async def _break_database(self) -> None:
        """Lock SQLite, or cut PostgreSQL's connections, for a moment now and then."""
        while True:
            await asyncio.sleep(self._random.uniform(2, 6))
            with contextlib.suppress(SQLAlchemyError):
                kind = await asyncio.to_thread(self._shop.disturb, self._random.uniform(*DATABASE_FAULT_SECONDS))
                self._faults.add({"place": "database", "kind": kind})

    async def _settled(self, at: dict[str, str], doing: str) -> None:
        """Wait until the queue is empty, showing the effects done so far."""
        async with asyncio.timeout(SETTLE_SECONDS):
            with self._bar(doing) as show:
                while await self._tasks(at, at["queue"]):
                    show(sum(self._done().values()))
                    await asyncio.sleep(0.25)

    async def _replay(self, at: dict[str, str]) -> tuple[int, int]:
        """Run every dead letter until none is left; how many there were and how many went.

        One whose effect a killed run had claimed fails until the claim is over, so each is run more than once."""
        letters = left = await self._tasks(at, at["dead_letter_queue"])
        with self._bar("replaying dead letters", len(letters)) as show:
            for wait in REPLAY_WAITS_SECONDS:
                await asyncio.sleep(wait if left else 0)
                for some in [left[start : start + 50] for start in range(0, len(left), 50)]:
                    for letter in some:
                        async with self._http.post(f"{at['tasks_rest']}/v2/{letter['name']}:run", json={}):
                            pass
                    async with asyncio.timeout(SETTLE_SECONDS):
                        names = {letter["name"] for letter in some}
                        while True:
                            left = await self._tasks(at, at["dead_letter_queue"])
                            show(len(letters) - len(left))
                            mine = [letter for letter in left if letter["name"] in names]
                            if all("responseTime" in letter.get("lastAttempt", {}) for letter in mine):
                                break
                            await asyncio.sleep(0.1)
        return len(letters), len(letters) - len(left)

    async def _tasks(self, at: dict[str, str], queue: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            async with self._http.get(f"{at['tasks_rest']}/v2/{queue}/tasks", params={"pageToken": token}) as answer:
                page = await answer.json()
            found += page.get("tasks", [])
            token = page.get("nextPageToken", "")
            if not token:
                return found

    @contextlib.contextmanager
    def _bar(self, doing: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            bar = progress.add_task(doing, total=total or TASKS_AN_ORDER * len(self._orders))
            yield lambda completed: progress.update(bar, completed=completed)

    def _done(self) -> dict[str, int]:
        return {
            "mails": len({mail["to"] for mail in self._effects.mail_server.mails.entries()}),
            "notifications": len(
                {notification["order"] for notification in self._effects.warehouse.notifications.entries()}
            ),
            "pieces sold": sum(self._shop.sold()),
        }

    def _audit(self, letters: int, replayed: int) -> int:
        """Compare what was ordered with what happened; print it."""
        mails = _ids(self._effects.mail_server.mails.entries(), "to")
        notifications = _ids(self._effects.warehouse.notifications.entries(), "order")
        sold = self._shop.sold()
        lost = (
            len(set(self._orders.values()) - set(mails))
            + len(set(self._orders) - set(notifications))
            + sum(pieces < 1 for pieces in sold)
        )
        twice = (
            sum(len(set(ids)) - 1 for ids in (*mails.values(), *notifications.values()))
            + sum(max(0, pieces - 1) for pieces in sold)
        )  # fmt: skip
        repeated = sum(len(ids) - len(set(ids)) for ids in (*mails.values(), *notifications.values()))
        faults = collections.Counter(f"{fault['place']}: {fault['kind']}" for fault in self._faults.entries())
        table = Table(title=f"Drill with seed {self._seed}", show_header=False)
        for name, number in (
            ("orders", len(self._orders)),
            ("tasks", TASKS_AN_ORDER * len(self._orders)),
            ("attempts answered by the handler", self._attempts()),
            ("faults injected", faults.total()),
            *((f"  {kind}", number) for kind, number in sorted(faults.items())),
            ("dead letters", letters),
            ("replayed", replayed),
            ("effects done", sum(self._done().values())),
            ("repeated under the same id, for the receiver to drop", repeated),
        ):
            table.add_row(name, str(number))
        table.add_section()
        table.add_row("lost", str(lost), style="bold red" if lost else "bold green")
        table.add_row("twice", str(twice), style="bold red" if twice else "bold green")
        self._console.print(table)
        return int(lost + twice > 0 or replayed < letters)

    def _attempts(self) -> int:
        """Lines of handlers about a delivery."""
        with (self._folder / "cloud.log").open(encoding="utf-8", errors="replace") as log:
            return sum(line.startswith("{") and '"task":' in line and '"status":' in line for line in log)


def _ids(entries: list[dict[str, str]], key: str) -> dict[str, list[str]]:
    """Each receiver's ids, repetitions included."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for entry in entries:
        found[entry[key]].append(entry["id"])
    return found
