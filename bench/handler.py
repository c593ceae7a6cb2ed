"""The handler against the tutorial's stack: Node and Express with the same contract and the same log lines.

What: bench/express/ does what handler/ does with every effect simulated, and main() first holds both to the same
answers and log lines. Both validate, read the delivery's headers and write a JSON line an order to a file. The last two
rows have effects, on a PostgreSQL that shares the caller's core, with the same statements in the same transactions: the
stock (one transaction) and the warehouse (claim, a POST to a server that answers 204, record).
How: one core for the server, the other for wrk, with keep-alive and as many callers as an instance takes by default.
Each caller sends its next order when the last one is answered, as a busy queue does, so both sides have the same
concurrency. Each run is a new process: its start until the first 200, a warm-up that does not count (Node compiles),
the load, and the memory that is resident after it.
Threats to validity: a Python built without optimisation, unlike the image's, costs us a fifth; NODE_ENV other than
production; logs to a terminal or a slow pipe, which both sides wait for; a server that shares its core with wrk.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from bench.rows import ROOT, Row, Tool, in_turn
from tests.postgresql import server

PYTHON = str(ROOT / "handler/.venv/bin/python")
TOOLS = (
    Tool("Python", [PYTHON, "--version"], "make setup"),
    Tool("wrk", ["wrk", "-v"], "apt-get install wrk"),
    Tool("Node", ["node", "--version"], "apt-get install nodejs"),
    Tool(
        "Express",
        ["node", "-p", "require('./bench/express/node_modules/express/package.json').version"],
        "npm ci --prefix bench/express",
    ),
)

HANDLER = [PYTHON, "-m", "order_handler"]
EXPRESS = ["node", "bench/express/index.js"]
SERVER_CORE, CALLER_CORE = 0, 1
CALLERS = 20
WARM_UP_SECONDS = 3
SECONDS = 5
PORT = 9480
VARIABLES = {
    "HOST": "127.0.0.1",
    "PORT": str(PORT),
    "NODE_ENV": "production",
    "MAX_ATTEMPTS": "5",
    "HANDLER_TIMEOUT_SECONDS": "300",
    "DEAD_LETTER_QUEUE": "projects/shop/locations/us-central1/queues/cloud-run-tasks-dead-letters",
    "GOOGLE_CLOUD_PROJECT": "shop",
    "SIMULATE_EFFECTS": "true",
}
WAREHOUSE = "require('http').createServer((q, a) => q.resume().on('end', () => a.writeHead(204).end())).listen(%d)"
"""Answers 204 to everything."""
ORDERS = 60_000
"""Committed before the load: more than the handler can process in SECONDS."""


Process = subprocess.Popen[bytes]


class Run(NamedTuple):
    start: float
    """Milliseconds until the first 200."""
    rate: float
    """Orders a second."""
    p99: float
    """Milliseconds."""
    memory: float
    """MiB, resident, after the load."""


def main() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        answers = [_answers_and_lines(side, Path(folder)) for side in (HANDLER, EXPRESS)]
        assert answers[0] == answers[1], "the two sides differ in an answer or in a log line"
        ours, theirs = in_turn(lambda: _run(HANDLER, Path(folder)), lambda: _run(EXPRESS, Path(folder)))
        yield Row("handler: throughput", "orders/s", "≥", 1.7, [r.rate for r in ours], [r.rate for r in theirs])
        yield Row("handler: 99th percentile", "ms", "≤", 0.5, [r.p99 for r in ours], [r.p99 for r in theirs])
        yield Row("handler: memory", "MiB", "≤", 0.4, [r.memory for r in ours], [r.memory for r in theirs])
        yield Row("handler: start to first 200", "ms", "≤", 1.5, [r.start for r in ours], [r.start for r in theirs])
        with server() as postgresql:
            for action in ("update_inventory", "notify_warehouse"):
                one, other = in_turn(
                    partial(_with_effects, HANDLER, action, postgresql, Path(folder)),
                    partial(_with_effects, EXPRESS, action, postgresql, Path(folder)),
                )
                yield Row(f"handler: {action} on PostgreSQL", "orders/s", "≥", 1.5, one, other)


def _run(command: Sequence[str], folder: Path) -> Run:
    with _serving(command, VARIABLES, folder) as (process, start):
        _load(WARM_UP_SECONDS)
        rate, p99 = _load(SECONDS)
        [resident] = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmRSS" in line]
    return Run(start, rate, p99, int(resident.split()[1]) / 1024)


def _with_effects(command: Sequence[str], action: str, postgresql: str, folder: Path) -> float:
    """Orders a second whose effects happened, on a new database."""
    url = f"{postgresql}bench"
    variables = {
        **VARIABLES,
        "DATABASE_URL": url,
        "DATABASE_POOL": "4",
        "WAREHOUSE_URL": f"http://127.0.0.1:{PORT + 1}/" if action == "notify_warehouse" else "",
        "WAREHOUSE_SECRET": "a-secret-of-the-warehouse",
    }
    warehouse = ["node", "-e", WAREHOUSE % (PORT + 1)]
    with _started(CALLER_CORE, warehouse, {}, folder / "warehouse.log"):
        _run_sql(postgresql + "postgres", "DROP DATABASE IF EXISTS bench", "CREATE DATABASE bench")
        subprocess.run([PYTHON, "-m", "order_handler.schema"], env={**os.environ, **variables}, check=True)
        _run_sql(
            url,
            f"INSERT INTO orders SELECT 'ORD-' || i FROM generate_series(1, {ORDERS}) i",
            f"INSERT INTO order_lines SELECT 'ORD-' || i, 'SKU-' || i, 1 FROM generate_series(1, {ORDERS}) i",
            f"INSERT INTO stock SELECT 'SKU-' || i, 10 FROM generate_series(1, {ORDERS}) i",
            "ANALYZE",
        )
        with _serving(command, variables, folder):
            rate, _ = _load(SECONDS, action)
        [done] = _run_sql(url, "SELECT count(*) FROM effects WHERE done_at IS NOT NULL")
    assert done >= rate * SECONDS * 0.99, f"only {done} effects happened"
    return rate


def _run_sql(url: str, *statements: str) -> list[int]:
    """Runs each statement, and returns the first value of each that has one."""
    with psycopg.connect(url, autocommit=True) as connection:
        ran = [connection.execute(statement) for statement in statements]
        return [row[0] for each in ran if each.description and (row := each.fetchone())]


@contextmanager
def _started(core: int, command: Sequence[str], variables: Mapping[str, str], log: Path) -> Iterator[Process]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], cwd=ROOT, env={**os.environ, **variables}, stdout=output
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _serving(command: Sequence[str], variables: Mapping[str, str], folder: Path) -> Iterator[tuple[Process, float]]:
    """A new server process, and the milliseconds until its first answer."""
    begin = time.perf_counter()
    with _started(SERVER_CORE, command, variables, folder / "log") as process:
        while not _answers():
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
            time.sleep(0.001)
        yield process, (time.perf_counter() - begin) * 1000


def _answers() -> bool:
    try:
        return _call("GET", "/")[0] == 200
    except OSError:
        return False


def _call(method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Status, media type and text of an answer."""
    with closing(HTTPConnection("127.0.0.1", PORT)) as connection:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"].partition(";")[0], response.read().decode()


def _load(seconds: int, action: str = "update_inventory") -> tuple[float, float]:
    """Orders a second, and milliseconds below which 99 of 100 were answered."""
    threads = ["-t1", f"-c{CALLERS}", f"-d{seconds}s", "--timeout", "10s"]
    wrk = ["wrk", *threads, "-s", "bench/order.lua", f"http://127.0.0.1:{PORT}", action]
    command = ["taskset", "-c", str(CALLER_CORE), *wrk]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    went = json.loads(ended.stdout.splitlines()[-1])
    assert went["failed"] == 0, f"{went['failed']} of {went['orders']} orders failed"
    return went["orders"] / went["seconds"], went["p99"]


def _answers_and_lines(command: Sequence[str], folder: Path) -> list[Any]:
    delivered = {
        "X-CloudTasks-TaskName": "task-1",
        "X-CloudTasks-QueueName": "cloud-run-tasks",
        "X-CloudTasks-TaskRetryCount": "2",
        "traceparent": "00-105445aa7843bc8bf206b12000100000-00f067aa0ba902b7-01",
    }
    order = {"orderId": "ORD-ü", "action": "send_confirmation", "customerEmail": "ada@example.com"}
    requests: list[tuple[object, dict[str, str]]] = [
        (order, delivered),
        (order, {}),
        ({"orderId": "ORD-1"}, {}),
        ({**order, "action": "fly"}, {}),
        ({"orderId": "ada@example.com", "action": "update_inventory"}, delivered),
    ]
    answers: list[Any] = []
    with _serving(command, VARIABLES, folder):
        for body, headers in requests:
            status, media_type, text = _call("POST", "/process-order", json.dumps(body), headers)
            answers.append((status, media_type, json.loads(text)))
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    orders = [{name: line[name] for name in line if name != "time"} for line in lines if "status" in line]
    assert len(orders) == len(requests)
    return answers + orders
