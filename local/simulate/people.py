"""Everything that reaches the pipeline from outside: the shop and its customers, Cloud Scheduler, and an operator."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql
from order_tasks import NEW_ORDER_ACTIONS, AsyncOrderTasks, Config, IncompleteOrderError, outbox
from order_tasks.cli.main import main as order_tasks
from order_tasks.operations import open_database
from order_tasks.operations.times import Clock
from sqlalchemy.util import await_, greenlet_spawn

from examples.shop import app as shop
from local.simulate.cloud import Client, dead_letters
from local.simulate.handlers import CloudRun
from local.simulate.loop import Process
from local.simulate.world import World
from local.sinks.shop import NOTEBOOK, item_of


class Shop:
    """The web app: it commits orders and publishes their tasks."""

    def __init__(self, world: World, database_url: str, queues: Sequence[str], direct: float) -> None:
        """`queues`: of which the last is in use. `direct`: the share of orders that do without the outbox."""
        self.acknowledged: dict[str, bool] = {}
        """For each order without outbox, whether the creation of its tasks was acknowledged."""
        self._world = world
        self._queues, self._direct = queues, direct
        self._database = open_database(database_url)
        self._process: Process | None = None
        self._started = 0

    def receive(self, number: int, *, again: bool = False) -> None:
        """A customer sends an order, or the shop adds the tasks of one `again`."""
        self._in_process(self._place(f"ORD-{number}", again=again))

    def cancel(self, number: int) -> None:
        self._in_process(self._cancel(f"ORD-{number}"))

    def _in_process(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        if not self._process or not self._process.alive:
            self._started += 1
            self._process = self._world.process(f"shop {self._started}")
        self._process.start(work)

    async def _place(self, order: str, *, again: bool) -> None:
        fields = {
            "orderId": order,
            "customerEmail": f"{order}@example.com",
            "lines": [{"item": item_of(order)}, {"item": NOTEBOOK}],
        }
        new = shop.NewOrder.model_validate(fields)
        direct = not again and self._world.chance("direct").random() < self._direct

        if direct:
            self.acknowledged[order] = False

        def commit() -> outbox.Rows | None:
            with self._database.engine.begin() as connection:
                if not shop.insert(connection, new) and not again:
                    return None
                return outbox.Rows() if direct else outbox.add(connection, order, new.customer_email)

        try:
            rows = await asyncio.to_thread(commit)
        except sql.exc.SQLAlchemyError as error:
            self._world.note(f"cannot answer {order}: {type(error).__name__}")
            return
        if rows is None:
            return
        self._world.note(f"committed {order}")
        tasks = AsyncOrderTasks(Config(self._queues[-1]))
        if direct:
            with contextlib.suppress(IncompleteOrderError):
                await tasks.process_new_order(order, new.customer_email)
                self.acknowledged[order] = True
        else:
            await tasks.publish(rows)

    async def _cancel(self, order: str) -> None:
        try:
            await asyncio.to_thread(self._database.cancel, order, NEW_ORDER_ACTIONS)
            self._world.note(f"cancelled {order}")
        except OSError:
            self._world.note(f"cannot cancel {order}")


async def scheduler(world: World, cloud_run: CloudRun) -> None:
    """Calls the relay every minute."""
    while True:
        await asyncio.sleep(60)
        kind = world.draw("relay")
        for _ in range({"called twice": 2, "not called": 0}.get(kind or "", 1)):
            world.loop.start(cloud_run.request("/relay", {}, b""))


async def operate(world: World, queue: str, *arguments: str) -> int:
    """Runs one of the operators' own commands, such as `replay --all`. Returns its exit code."""
    world.note(f"operator: {' '.join(arguments)[:80]}")
    os.environ["ORDER_TASKS_QUEUE"], os.environ["ORDER_TASKS_DEAD_LETTER_QUEUE"] = queue, dead_letters(queue)
    now = lambda: datetime.fromtimestamp(world.wall(), UTC)  # noqa: E731
    clock = Clock(now, sleep=lambda seconds: await_(asyncio.sleep(seconds)))
    code: int = await greenlet_spawn(order_tasks, arguments, clock)
    return code


class Blocking:
    """The official blocking client, for code that runs in a greenlet."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.transport = self
        self.grpc_channel = None

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(request: Any = None, *, retry: Any = None, timeout: Any = None, **fields: Any) -> Any:  # noqa: ANN401
            response = await_(getattr(self._client, method)(request, **fields))
            return response.tasks if method == "list_tasks" else response

        return call
