"""The local cloud against what a queue declares: rate, latency, depth, memory and start.

Rate and latency: a queue of 5, 50 or 500/s with a backlog sends to a real handler through the front door. At least 100
dispatches after the first burst are timed. The latency of a dispatch runs from the time at which the queue may start it
to the time at which its request is made.
Depth: 100,000 tasks wait for tomorrow. Meanwhile a client with 64 calls in flight creates other tasks over gRPC, and
tasks are dispatched without their HTTP requests, in turn with an empty queue. CreateTask shall create tasks four times
as fast as a queue can dispatch them, 500/s.
Start: from `python -m local up` to its line of addresses.
Threats to validity: a handler that answers without reading the request; effects that wait (they are simulated); tasks
due now among the waiting ones; bytecode that is not yet compiled.
"""

import asyncio
import contextlib
import itertools
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from aiohttp import web
from google.cloud.tasks_v2 import types

from bench.rows import ROOT, RUNS, Row, Tool, in_turn, show
from local.cloud_run.front_door import FrontDoor, Service
from local.cloud_run.instances import Instances
from local.cloud_run.runtime import Processes
from local.cloud_tasks.api import Api
from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.batches import Batches
from local.cloud_tasks.dispatch import Dispatcher
from local.cloud_tasks.listener import Listener
from local.cloud_tasks.messages import Message, QueueMessage
from local.cloud_tasks.schedule import RateLimits
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from local.faults import Faults
from local.identity import Identity, new_key
from local.ports import listen

TOOLS: Sequence[Tool] = ()

RATES = {5: 100, 50: 200, 500: 1000}
"""Dispatches a second -> number of dispatches to measure after the burst."""
WAITING, CREATED, DISPATCHED = 100_000, 6000, 5000
AT_ONCE, BATCH = 64, 100

PARENT = "projects/shop/locations/us-central1"
QUEUE = f"{PARENT}/queues/q"
ACCOUNT = "invoker@shop.iam.gserviceaccount.com"
ENVIRONMENT = {
    "SIMULATE_EFFECTS": "true",
    "MAX_ATTEMPTS": "5",
    "HANDLER_TIMEOUT_SECONDS": "300",
    "DEAD_LETTER_QUEUE": f"{QUEUE}-dead-letters",
    "GOOGLE_CLOUD_PROJECT": "shop",
}
BODY = b'{"orderId":"ORD-2026-10483","action":"send_confirmation","customerEmail":"ada@example.com"}'


def main() -> Iterator[Row]:
    for rate, count in RATES.items():
        runs = [asyncio.run(_dispatch(rate, count)) for _ in range(RUNS)]
        errors = [abs(_achieved(moments, rate) / rate - 1) * 100 for moments, _ in runs]
        above = [_most_above(moments, rate) for moments, _ in runs]
        yield Row(f"queue of {rate}/s: dispatches a second, off by", "%", "≤", 2, errors)
        yield Row(f"queue of {rate}/s: most above burst + rate x t in a window", "", "≤", 0, above)
        if rate == 50:
            waits = [median(waits[_burst(rate) :]) * 1000 for _, waits in runs]
            yield Row("due to dispatch at 50/s, median", "ms", "≤", 5, waits)
    with _served() as (port, pid):
        one_by_one = [asyncio.run(_create(port, 1)) for _ in range(RUNS)]
        batches = [asyncio.run(_create(port, BATCH)) for _ in range(RUNS)]
        yield Row(f"CreateTask beside {WAITING:,} waiting tasks", "tasks/s", "≥", 2000, one_by_one)
        yield Row(f"BatchCreateTasks of {BATCH} beside {WAITING:,}", "tasks/s", "≥", 10_000, batches)
        yield Row(f"memory with {WAITING:,} waiting tasks and these", "MiB", "≤", 250, [_memory(pid)])
    with _queue(WAITING) as deep, _queue(0) as empty:
        ours, theirs = in_turn(lambda: _time_dispatches(deep), lambda: _time_dispatches(empty))
        yield Row(f"a dispatch beside {WAITING:,} waiting tasks, and beside none", "us", "≤", 1.1, ours, theirs)
    yield Row("`local up` to its addresses", "s", "≤", 2.5, [_time_start() for _ in range(RUNS)])


class _Clock:
    """Real time; remembers its first reading since `first` was cleared."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self) -> float:
        now = time.time()
        self.first = self.first or now
        return now


class _Tasks(CloudTasks):
    """Records when each dispatch starts, and when it was due."""

    def __init__(self, store: Store, listener: Listener) -> None:
        self.clock = _Clock()
        super().__init__(store, self.clock, lambda *_: True, (listener,))
        self.over = asyncio.Event()
        """Set when no task is left."""
        self.moments: list[float] = []
        self.due: dict[str, float] = {}

    def start_attempts(self, path: str) -> list[Attempt]:
        due = self.next_dispatch(path)
        self.clock.first = None
        started = super().start_attempts(path)
        if due is not None and self.clock.first is not None:
            self.moments += [self.clock.first] * len(started)
            self.due |= dict.fromkeys((attempt.task for attempt in started), due)
        return started

    def end_attempt(self, attempt: Attempt, status: int) -> None:
        assert status == 200, f"the handler answered {status}"
        super().end_attempt(attempt, status)
        if not self.queues.busy():
            self.over.set()


class _Dispatcher(Dispatcher):
    """Records how long after its due time each request is made."""

    def __init__(self, identity: Identity, faults: Faults) -> None:
        super().__init__(identity, time.time, faults)
        self.waits: list[float] = []
        self.due: dict[str, float] = {}

    async def _request(self, attempt: Attempt) -> tuple[int, str]:
        self.waits.append(time.time() - self.due[attempt.task])
        return await super()._request(attempt)


async def _dispatch(rate: int, count: int) -> tuple[list[float], list[float]]:
    """Returns when each dispatch started, and how long after its due time its request was made; burst included."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = stack.enter_context(contextlib.closing(Store(folder / "state.sqlite")))
        listener = stack.enter_context(listen(0, "the service"))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        identity = Identity("http://issuer.example", "shop", [ACCOUNT], new_key(), time.time)
        dispatcher = _Dispatcher(identity, Faults(None, folder / "faults"))
        tasks = _Tasks(store, dispatcher)
        limits = types.RateLimits(max_dispatches_per_second=rate, max_concurrent_dispatches=200)
        tasks.queues.declare(types.Queue.pb(types.Queue(name=QUEUE, rate_limits=limits, state="PAUSED")), ())
        for number in range(_burst(rate) + count):
            tasks.create_task(_task(str(number), url))
        runtime = Processes(ROOT / "handler")
        instances = Instances(runtime, ENVIRONMENT, max_instances=1, concurrency=200)
        service = Service("handler", 300, 1, 200, ENVIRONMENT, frozenset([f"serviceAccount:{ACCOUNT}"]))
        door = FrontDoor(service, url, identity, instances)
        runner = web.AppRunner(door.application(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        dispatcher.due = tasks.due
        dispatcher.start(tasks)
        async with instances.slot():  # the handler is up before the first dispatch
            tasks.queues.resume_queue(types.ResumeQueueRequest.pb()(name=QUEUE))
            await tasks.over.wait()
        await dispatcher.stop()
        await instances.stop()
        await door.close()
        await runner.cleanup()
        return tasks.moments, dispatcher.waits


def _burst(rate: int) -> int:
    return RateLimits(rate).max_burst_size


def _achieved(moments: Sequence[float], rate: int) -> float:
    """Dispatches a second after the burst."""
    after = moments[_burst(rate) :]
    return (len(after) - 1) / (after[-1] - after[0])


def _most_above(moments: Sequence[float], rate: int) -> int:
    """Returns by how many dispatches the fullest window exceeds burst + rate x t; 0 if no window does."""
    lowest, most = float("inf"), 0
    for count, moment in enumerate(moments):
        level = count - rate * (moment - moments[0])
        lowest = min(lowest, level)
        most = max(most, math.ceil(level - lowest + 1 - _burst(rate) - 1e-3))
    return most


def _task(task_id: str, url: str = "http://127.0.0.1:1", due: float = 0) -> Message:
    """Returns a CreateTask request such as the producer's, due at this time."""
    http = {
        "url": f"{url}/process-order",
        "headers": {"Content-Type": "application/json"},
        "body": BODY,
        "oidc_token": {"service_account_email": ACCOUNT, "audience": url},
    }
    task = {"name": f"{QUEUE}/tasks/{task_id}", "http_request": http, "schedule_time": {"seconds": int(due)}}
    return types.CreateTaskRequest.pb()(parent=QUEUE, task=task)


def _fill(tasks: CloudTasks, store: Store, waiting: int) -> None:
    """Creates this many tasks that are due tomorrow."""
    with store.transaction():
        for number in range(waiting):
            tasks.create_task(_task(f"w{number}", due=_tomorrow()))


def _serve(folder: str, ready: Any) -> None:  # noqa: ANN401 - a connection
    """Serves Cloud Tasks with WAITING tasks until the process is killed."""

    async def serve() -> None:
        store = Store(Path(folder) / "state.sqlite")
        tasks = CloudTasks(store, time.time, lambda *_: True)
        tasks.queues.declare(QueueMessage(name=QUEUE, state=types.Queue.State.PAUSED), ())
        _fill(tasks, store, WAITING)
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers(Api(tasks, Batches(tasks, store, time.time)).grpc_handlers())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        ready.send(port)
        await server.wait_for_termination()

    asyncio.run(serve())


@contextlib.contextmanager
def _served() -> Iterator[tuple[int, int]]:
    """Yields the port and process id of a service with WAITING tasks."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = spawn.Process(target=_serve, args=(folder, there))
        process.start()
        try:
            assert process.pid is not None
            yield here.recv(), process.pid
        finally:
            process.kill()
            process.join()


async def _create(port: int, batch: int) -> float:
    """Returns tasks created a second, with this many in one call."""
    tasks = [_task(f"{time.time_ns()}-{number}", due=_tomorrow()) for number in range(CREATED)]
    if batch == 1:
        name, calls = "CreateTask", [task.SerializeToString() for task in tasks]
    else:
        name = "BatchCreateTasks"
        batches = [tasks[start : start + batch] for start in range(0, CREATED, batch)]
        calls = [types.BatchCreateTasksRequest.pb()(parent=QUEUE, requests=b).SerializeToString() for b in batches]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(f"/google.cloud.tasks.v2.CloudTasks/{name}")
        routing = (("x-goog-request-params", f"parent={QUEUE}"),)
        await call(calls.pop(), metadata=routing)
        left = iter(calls)

        async def work() -> None:
            for request in left:
                await call(request, metadata=routing)

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return batch * len(calls) / (time.perf_counter() - start)


@contextlib.contextmanager
def _queue(waiting: int) -> Iterator[CloudTasks]:
    """Yields a queue in this process with this many tasks that are due tomorrow."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Store(Path(folder) / "state.sqlite")) as store:
        tasks = CloudTasks(store, _later(), lambda *_: True)
        tasks.queues.declare(QueueMessage(name=QUEUE), ())
        _fill(tasks, store, waiting)
        yield tasks


def _later() -> Callable[[], float]:
    """Returns a clock that advances 10 ms at each reading, so that no rate limit delays a dispatch."""
    return itertools.count(time.time(), 0.01).__next__


def _time_dispatches(tasks: CloudTasks) -> float:
    """Returns the microseconds that one dispatch and its answer take."""
    for number in range(DISPATCHED):
        tasks.create_task(_task(f"{time.time_ns()}-{number}"))
    start, left = time.perf_counter(), DISPATCHED
    while left:
        for attempt in tasks.start_attempts(QUEUE):
            tasks.end_attempt(attempt, 200)
            left -= 1
    return (time.perf_counter() - start) / DISPATCHED * 1e6


def _time_start() -> float:
    """Returns the seconds until a new local cloud prints its addresses."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "local", "up", "--json", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        seconds = time.perf_counter() - start
        process.terminate()
    return seconds


def _tomorrow() -> float:
    return time.time() + 24 * 3600


def _memory(pid: int) -> float:
    """Returns the process's resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    show(main())
