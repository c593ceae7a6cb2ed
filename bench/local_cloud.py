"""The local cloud against what a queue declares: rate, latency, depth, memory and start.

Rate and latency: a queue of 5, 50 or 500/s with a backlog sends to a real handler, at a path that it answers with 404,
so that the tasks stay and tell when they were dispatched. At least 100 dispatches after the first burst are timed. A
dispatch is late by what it comes after the earliest schedule at the declared rate.
Depth: 100,000 tasks wait for tomorrow. Meanwhile a client with 64 calls in flight creates other tasks over gRPC; and
tasks are dispatched without their HTTP requests, in turn with an empty queue. CreateTask shall create tasks four times
as fast as a queue can dispatch them, 500/s.
Start: from `python -m local up` to its line of addresses.
Threats to validity: a dispatch is noted up to a millisecond after the queue allowed it, so a window that is above by
less than one dispatch does not count; tasks due now among the waiting ones; bytecode that is not yet compiled.
"""

import asyncio
import contextlib
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from google.cloud.tasks_v2 import types

from bench.rows import RUNS, Row, in_turn
from local.cloud_tasks.messages import Message, QueueMessage
from local.cloud_tasks.schedule import RateLimits
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from tests.local.running import LocalCloud, request, running, wait_for

TOOLS = ()

RATES = {5: 100, 50: 200, 500: 1000}
"""Dispatches a second -> number of dispatches to measure after the burst."""
WAITING, CREATED, DISPATCHED = 100_000, 6000, 5000
AT_ONCE, BATCH = 64, 100
QUEUE = "projects/shop/locations/us-central1/queues/q"
TOMORROW = time.time() + 24 * 3600


def main() -> Iterator[Row]:
    starts: list[float] = []
    for rate, count in RATES.items():
        runs = [_dispatches(rate, count, starts) for _ in range(RUNS)]
        errors = [abs(_achieved(moments, rate) / rate - 1) * 100 for moments in runs]
        yield Row(f"queue of {rate}/s: dispatches a second, off by", "%", "≤", 2, errors)
        above = [_most_above(moments, rate) for moments in runs]
        yield Row(f"queue of {rate}/s: most above burst + rate x t in a window", "", "≤", 0, above)
        if rate == 50:
            yield Row("due to dispatch at 50/s, median", "ms", "≤", 5, [_late(moments, rate) for moments in runs])
    with running() as cloud:
        asyncio.run(_create(cloud, BATCH, WAITING))
        one_by_one = [asyncio.run(_create(cloud, 1, CREATED)) for _ in range(RUNS)]
        batches = [asyncio.run(_create(cloud, BATCH, CREATED)) for _ in range(RUNS)]
        pages = int(Path(f"/proc/{cloud.process.pid}/statm").read_text().split()[1])
    yield Row(f"CreateTask beside {WAITING:,} waiting tasks", "tasks/s", "≥", 2000, one_by_one)
    yield Row(f"BatchCreateTasks of {BATCH} beside {WAITING:,}", "tasks/s", "≥", 10_000, batches)
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    yield Row(f"memory of `local up` with {WAITING:,} waiting tasks and these", "MiB", "≤", 250, [memory])
    with _queue(WAITING) as deep, _queue(0) as empty:
        ours, theirs = in_turn(lambda: _time_dispatches(deep), lambda: _time_dispatches(empty))
    yield Row(f"a dispatch beside {WAITING:,} waiting tasks, and beside none", "us", "≤", 1.1, ours, theirs)
    yield Row("`local up` to its addresses", "s", "≤", 2.5, starts)


def _dispatches(rate: int, count: int, starts: list[float]) -> list[float]:
    """Returns when a queue with this rate dispatched each task, burst included, and notes the cloud's start."""
    settings = {
        "maxDispatchesPerSecond": rate,
        "maxConcurrentDispatches": 200,
        "minBackoffSeconds": 3600,
        "maxBackoffSeconds": 3600,
        "maxInstances": 1,
        "containerConcurrency": 250,
    }
    begin = time.perf_counter()
    with running(*(f"--config={key}={value}" for key, value in settings.items())) as cloud:
        starts.append(time.perf_counter() - begin)
        queue = f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}"
        request(f"{cloud.at['service_url']}/", headers={"Authorization": f"Bearer {cloud.token()}"})  # starts a handler
        request(f"{queue}:pause", b"{}")
        asyncio.run(_create(cloud, 1, _burst(rate) + count, due=0))
        request(f"{queue}:resume", b"{}")
        moments: list[float] = []

        def all_dispatched() -> bool:
            tasks = list(_tasks(queue))
            moments[:] = sorted(
                datetime.fromisoformat(task["firstAttempt"]["dispatchTime"]).timestamp()
                for task in tasks
                if "firstAttempt" in task
            )
            return len(moments) == len(tasks)

        time.sleep(count / rate)
        wait_for(all_dispatched, lambda: f"only {len(moments)} tasks were dispatched")
    return moments


def _tasks(queue: str) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        page = json.loads(request(f"{queue}/tasks?pageSize=1000&pageToken={token}")[1])
        yield from page.get("tasks", [])
        token = page.get("nextPageToken")
        if not token:
            return


def _burst(rate: int) -> int:
    return RateLimits(rate).max_burst_size


def _achieved(moments: Sequence[float], rate: int) -> float:
    """Dispatches a second after the burst."""
    after = moments[_burst(rate) :]
    return (len(after) - 1) / (after[-1] - after[0])


def _late(moments: Sequence[float], rate: int) -> float:
    """Median milliseconds of a dispatch after the earliest schedule, once the burst is over."""
    starts = [moment - number / rate for number, moment in enumerate(moments[_burst(rate) :])]
    return (median(starts) - min(starts)) * 1000


def _most_above(moments: Sequence[float], rate: int) -> int:
    """Returns by how many whole dispatches the fullest window exceeds burst + rate x t; 0 if no window does."""
    levels = [number - rate * (moment - moments[0]) for number, moment in enumerate(moments)]
    lowest = itertools.accumulate(levels, min)
    return max(0, *(math.floor(level - low + 1 - _burst(rate)) for level, low in zip(levels, lowest, strict=True)))


def _task(queue: str, due: float = 0) -> Message:
    """Returns a CreateTask request such as the producer's."""
    url = "https://handler.invalid/process-order"
    http = {
        "url": url,
        "headers": {"Content-Type": "application/json"},
        "body": b'{"orderId":"ORD-X","action":"update_inventory"}',
    }
    task = {
        "name": f"{queue}/tasks/{time.monotonic_ns()}",
        "http_request": http,
        "schedule_time": {"seconds": int(due)},
    }
    return types.CreateTaskRequest.pb()(parent=queue, task=task)


async def _create(cloud: LocalCloud, batch: int, count: int, due: float = TOMORROW) -> float:
    """Creates tasks with `batch` of them in a call, and returns tasks a second."""
    queue = cloud.at["queue"]
    requests = [_task(queue, due) for _ in range(count)]
    name = "CreateTask"
    if batch > 1:
        name = "BatchCreateTasks"
        groups = [requests[start : start + batch] for start in range(0, count, batch)]
        requests = [types.BatchCreateTasksRequest.pb()(parent=queue, requests=group) for group in groups]
    async with grpc.aio.insecure_channel(cloud.at["tasks_grpc"]) as channel:
        call: Any = channel.unary_unary(f"/google.cloud.tasks.v2.CloudTasks/{name}")
        routing = (("x-goog-request-params", f"parent={queue}"),)
        left = iter([each.SerializeToString() for each in requests])
        await call(next(left), metadata=routing)

        async def work() -> None:
            for each in left:
                await call(each, metadata=routing)

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return (count - batch) / (time.perf_counter() - start)


@contextlib.contextmanager
def _queue(waiting: int) -> Iterator[CloudTasks]:
    """Yields a queue in this process with this many tasks that are due tomorrow."""
    later = itertools.count(time.time(), 0.01)  # advances at each reading, so that no rate limit delays a dispatch
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Store(Path(folder) / "state.sqlite")) as store:
        tasks = CloudTasks(store, later.__next__, lambda *_: True)
        tasks.queues.declare(QueueMessage(name=QUEUE), ())
        with store.transaction():
            for _ in range(waiting):
                tasks.create_task(_task(QUEUE, TOMORROW))
        yield tasks


def _time_dispatches(tasks: CloudTasks) -> float:
    """Returns the microseconds that one dispatch and its answer take."""
    for _ in range(DISPATCHED):
        tasks.create_task(_task(QUEUE))
    start, left = time.perf_counter(), DISPATCHED
    while left:
        for attempt in tasks.start_attempts(QUEUE):
            tasks.end_attempt(attempt, 200)
            left -= 1
    return (time.perf_counter() - start) / DISPATCHED * 1e6
