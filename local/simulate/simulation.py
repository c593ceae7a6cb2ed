"""One simulation: orders arrive while things break, then everything settles, is replayed, and is judged."""

import asyncio
import contextlib
import gc
import json
import random
import secrets
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, tzinfo
from functools import partial
from typing import NamedTuple
from unittest.mock import Mock, patch

import aiosmtplib
import httpx
import order_handler.actions.send_confirmation
import order_handler.dead_letters
import order_tasks.operations.log
import order_tasks.operations.queues
import order_tasks.operations.replay
from google.cloud import tasks_v2beta3
from order_tasks import connection

from local.simulate.cloud import DEAD_LETTERS, Client, Service, dead_letters
from local.simulate.handlers import CloudRun, Smtp, Transport
from local.simulate.judge import Judge
from local.simulate.loop import StuckError
from local.simulate.people import Blocking, Shop, operate, scheduler
from local.simulate.store import breaking_statements
from local.simulate.world import Event, World
from local.sinks.shop import item_of

SETTLE_SECONDS = 4 * 3600
"""Longest time until everything has settled after the last fault."""


class Result(NamedTuple):
    """What became of a seed."""

    seed: int
    digests: tuple[str, ...]
    """A hash of everything until the end of each part: orders and faults, settling, replay."""
    orders: int
    """Orders that were committed."""
    repeats: int
    """Repeated effects that a fault explains."""
    faults: int
    problems: tuple[str, ...]
    events: tuple[Event, ...]


def simulate(
    seed: int, orders: int = 30, minutes: float = 10.0, without: frozenset[int] = frozenset(),
    most_faults: int | None = None,
) -> Result:  # fmt: skip
    """Runs a seed. `minutes`: for how long orders arrive and faults happen. See World for the others."""
    collecting = gc.isenabled()
    gc.disable()  # an object that is collected may do something: in every run at the same moment
    try:
        return _simulate(World(seed, without, most_faults), orders, minutes)
    finally:
        gc.collect()
        if collecting:
            gc.enable()


def _simulate(world: World, orders: int, minutes: float) -> Result:
    try:
        with breaking_statements(world) as url:
            simulation = Simulation(world, url, orders, minutes)
            with simulation.patches():
                return simulation.run()
    finally:
        world.end()


class Simulation:
    def __init__(self, world: World, database_url: str, orders: int, minutes: float) -> None:
        self._world = world
        self._orders, self._seconds = orders, minutes * 60
        self._digests: list[str] = []
        chance = world.chance("figures")
        self._attempts = chance.randint(1, 5)
        self._variables = {
            "HANDLER_TIMEOUT_SECONDS": str(chance.choice((60, 120, 300))),
            "DATABASE_URL": database_url,
            "SMTP_URL": "smtp://mail?from=orders@shop.example",
            "WAREHOUSE_URL": "https://warehouse.example/orders",
            "WAREHOUSE_SECRET": "the-simulated-warehouse",
        }
        self._figures = {
            "rateLimits": {
                "maxDispatchesPerSecond": chance.choice((5, 50)),
                "maxConcurrentDispatches": chance.choice((2, 20)),
            },
            "retryConfig": {
                "maxAttempts": -1,
                "minBackoff": f"{chance.choice((1, 10))}s",
                "maxBackoff": f"{chance.choice((30, 300))}s",
                "maxDoublings": 4,
            },
        }
        client = Client(world, lambda: self._service)
        self._blocking = Blocking(client)
        self._cloud_run = CloudRun(world, client, chance.randint(1, 4), chance.choice((1, 5, 20)))
        self._service = Service(world, self._figures, self._cloud_run.deliver)
        direct = chance.choice((0.0, 0.0, 0.3))
        self._shop = Shop(world, database_url, self._service.queues, direct)
        self._judge = Judge(world, database_url, self._shop.acknowledged)
        self._client = client
        self._poison = {f"ORD-{n}@example.com" for n in range(orders) if chance.random() < chance.choice((0, 0.1))}

    @contextlib.contextmanager
    def patches(self) -> Iterator[None]:
        """Replaces what is not the pipeline's: the clocks, chance, and the ways to mail server and warehouse."""
        world, chance = self._world, random.Random(f"{self._world.seed} ids")

        class Now(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.fromtimestamp(world.wall(), tz)

        transport = Transport(world, self._judge.happened)
        with contextlib.ExitStack() as stack:
            for target, name, new in (
                (time, "time", world.wall),
                (time, "monotonic", lambda: world.loop.now),
                (uuid, "uuid4", lambda: uuid.UUID(int=chance.getrandbits(128), version=4)),
                (secrets, "token_hex", lambda size: chance.randbytes(size).hex()),
                (random, "uniform", chance.uniform),
                (order_handler.dead_letters, "datetime", Now),
                (order_handler.actions.send_confirmation, "datetime", Now),
                (aiosmtplib, "SMTP", partial(Smtp, world, self._judge.happened, self._poison)),
                (order_tasks.operations.replay, "_POLL_SECONDS", 20.0),
                (order_tasks.operations.log, "_entries", lambda _: ()),
                (order_tasks.operations.queues, "CloudTasksGrpcTransport", Mock()),
                (tasks_v2beta3, "CloudTasksClient", Mock()),
                (httpx, "AsyncClient", partial(httpx.AsyncClient, transport=transport)),
                (connection, "connect", lambda _: self._blocking),
                (connection, "connect_async", lambda _: self._client),
                (sys, "stdout", self._judge),
                (sys, "stderr", self._judge),
            ):
                stack.enter_context(patch.object(target, name, new))
            stack.enter_context(patch.dict("os.environ"))  # each command of the operator sets its queues
            yield

    def run(self) -> Result:
        world = self._world
        problems: list[str] = []
        try:
            world.loop.run_until_complete(self._run())
        except StuckError as error:
            problems.append(str(error))
        digests = tuple(self._digests)
        problems += [*self._service.problems, *self._judge.problems(self._service), *world.loop.errors]
        for process in world.processes:
            process.bury()
        with contextlib.suppress(StuckError):
            world.loop.run_until_complete(world.loop.end())
        self._service.close()
        return Result(
            world.seed, digests, len(self._judge.committed()), self._judge.explained, world.drawn,
            tuple(problems), tuple(world.events),
        )  # fmt: skip

    async def _run(self) -> None:
        world = self._world
        self._service.start()
        self._deploy(self._attempts)
        chance = world.chance("customers")
        self._judge.prepare([item_of(f"ORD-{n}") for n in range(self._orders)])
        self._judge.deliver_notebooks(chance.choice((self._orders // 2, self._orders)))
        relay = world.loop.start(scheduler(world, self._cloud_run))
        world.begin_breaking()
        for number in range(self._orders):
            world.loop.outside(chance.uniform(0, self._seconds / 2), self._shop.receive, number)
        troubles = world.loop.start(self._trouble())
        await asyncio.sleep(self._seconds)
        troubles.cancel()
        world.end_breaking()
        self._end_part()
        for queue in self._service.queues:
            self._service.pause(dead_letters(queue))
        await self._settle()
        self._end_part()
        self._poison.clear()
        self._judge.deliver_notebooks(self._orders)
        for _ in range(5):
            await asyncio.sleep(700)
            for queue in self._service.queues:
                await operate(world, queue, "replay", "--all")
                if left := [letter.name for letter in self._service.listed(dead_letters(queue))]:
                    await operate(world, queue, "replay", *left)
            await self._settle()
            if not self._service.dead_letters():
                break
        relay.cancel()
        self._end_part()

    async def _settle(self) -> None:
        """Waits until every row and task is gone. StuckError if that does not happen."""
        end = self._world.loop.now + SETTLE_SECONDS
        while left := [*self._judge.waiting(), *self._service.waiting()]:
            if self._world.loop.now > end:
                raise StuckError(f"something waits for ever: {left}")
            await asyncio.sleep(30)

    async def _trouble(self) -> None:
        """What operators, customers and machines do in between."""
        world, chance = self._world, self._world.chance("troubles")
        while True:
            await asyncio.sleep(chance.uniform(1, 60))
            order, letters = chance.randrange(self._orders), self._service.dead_letters()
            letter = chance.choice(letters) if letters else None
            queue = letter.name.partition(DEAD_LETTERS)[0] if letter else self._service.queues[-1]
            running = [process for process in world.processes if process.alive]
            process = chance.choice(running) if running else None
            match world.draw_one("trouble"):
                case "replay all":
                    world.loop.start(operate(world, queue, "replay", "--all"))
                case "replay one" if letter:
                    world.loop.start(operate(world, queue, "replay", letter.name))
                case "drop" if letter:
                    message = json.loads(letter.http_request.body)
                    self._judge.dropped.add((message["orderId"], message["action"]))
                    world.loop.start(operate(world, queue, "drop", "--yes", letter.name))
                case "pause":
                    self._service.pause(queue)
                    world.loop.outside(chance.uniform(1, 100), self._service.resume, queue)
                case "rename" if len(self._service.queues) < 3:
                    self._service.rename()
                    self._deploy(self._attempts)
                case "deploy":
                    self._deploy(chance.randint(1, 5))
                case "clock" if process:
                    process.clock_offset, world.service_offset = chance.uniform(-30, 30), chance.uniform(-30, 30)
                    world.database_offset += chance.uniform(-3, 3)
                case "order twice":
                    self._shop.receive(order, again=True)
                case "cancel":
                    self._shop.cancel(order)
                case "restart":
                    self._service.restart()
                case "disk full":
                    self._service.fill(chance.uniform(1, 60))

    def _deploy(self, most_attempts: int) -> None:
        """A new revision of the handler, which works with the queues that are in use."""
        queue = self._service.queues[-1]
        queues = {"TASK_QUEUE": queue, "DEAD_LETTER_QUEUE": dead_letters(queue)}
        self._cloud_run.deploy({**self._variables, **queues, "MAX_ATTEMPTS": str(most_attempts)})

    def _end_part(self) -> None:
        self._digests.append(self._world.digest())
