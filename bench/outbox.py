"""The outbox: the time that it adds to the shop's POST, and the rate of the relay.

What: `POST /orders` of examples/shop with the outbox, against the same without its statement; and the rows a second
that one pass of the handler's relay sends to the local Cloud Tasks. Both sides post the same orders to the same
application, and neither publishes. The relay reads, creates and deletes 2,000 rows on SQLite.
How: the shop runs in this process and takes one order after the other; a run is the median of 200. PostgreSQL syncs
each commit, as it does by default. The relay and the local Cloud Tasks share one process.
Threats to validity: a database without syncing would make the commit cheaper than it is, and so the statement dearer; a
disk that is slow or shared; orders of one line, where each further line would cost both sides the same.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from statistics import median
from types import ModuleType
from unittest.mock import patch

from fastapi.testclient import TestClient
from order_handler import tables
from order_handler.cloud_tasks import CloudTasks
from order_handler.database import Database
from order_handler.dead_letters import DeadLetters
from order_handler.outbox import Relay
from order_tasks import OrderTasks, outbox
from sqlalchemy import create_engine, insert

from bench.rows import ROOT, RUNS, Row, in_turn
from tests.local.cloud_tasks.serving import LOCATION, Serving
from tests.postgresql import server

TOOLS = ()

ORDERS = 200
ROWS = 2000
QUEUE = f"{LOCATION}/queues/orders"


def main() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        with_outbox, without = in_turn_on(f"sqlite:///{folder}/shop.sqlite")
        added = [ours - theirs for ours, theirs in zip(with_outbox, without, strict=True)]
        yield Row("outbox: added to the shop's POST on SQLite", "ms", "≤", 1, added)
        with server("-c", "fsync=on") as url:
            yield Row("outbox: the shop's POST on PostgreSQL", "ms", "≤", 1.2, *in_turn_on(f"{url}postgres"))
        rates = [asyncio.run(_relay(f"sqlite:///{folder}/relay-{run}.sqlite")) for run in range(RUNS)]
        yield Row("outbox: relay", "rows/s", "≥", 400, rates)


def in_turn_on(url: str) -> tuple[list[float], list[float]]:
    """Milliseconds of a POST with and without the outbox."""
    engine = create_engine(url)
    with engine.begin() as connection:
        tables.create_missing(connection)
    engine.dispose()
    with _shop(url) as client:
        _milliseconds(client)
        return in_turn(lambda: _milliseconds(client), lambda: _without_outbox(client))


@contextmanager
def _shop(url: str) -> Iterator[TestClient]:
    """The shop, which publishes nothing."""
    spec = spec_from_file_location("shop", ROOT / "examples/shop/app.py")
    assert spec is not None
    assert spec.loader is not None
    shop: ModuleType = module_from_spec(spec)
    spec.loader.exec_module(shop)
    variables = {"DATABASE_URL": url, "ORDER_TASKS_QUEUE": QUEUE, "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:1"}
    with (
        patch.dict(os.environ, variables),
        patch.object(OrderTasks, "publish", lambda *_: None),
        TestClient(shop.create()) as client,
    ):
        yield client


def _milliseconds(client: TestClient) -> float:
    times = []
    for _ in range(ORDERS):
        begin = time.perf_counter()
        assert client.post("/orders", json={"customerEmail": "ada@example.com"}).status_code == 201
        times.append(time.perf_counter() - begin)
    return median(times) * 1000


def _without_outbox(client: TestClient) -> float:
    with patch.object(outbox, "add", lambda *_, **__: outbox.Rows()):
        return _milliseconds(client)


async def _relay(url: str) -> float:
    """Rows a second of one pass."""
    database = Database(url)
    old = time.time() - 60
    body = '{"orderId": "ORD-1", "action": "update_inventory"}'
    rows = [{"task_id": f"row-{n}", "body": body, "added_at": old + n / 1000} for n in range(ROWS)]
    await database.run(lambda connection: connection.execute(insert(tables.outbox), rows))
    with Serving(declared={QUEUE: []}) as service:
        dead_letters = DeadLetters(QUEUE, 300, lambda: CloudTasks.open(service.grpc))
        relay = Relay(database, QUEUE, dead_letters.api)
        begin = time.perf_counter()
        done = await relay.run()
        seconds = time.perf_counter() - begin
        await dead_letters.close()
    assert done.sent == ROWS
    return ROWS / seconds
