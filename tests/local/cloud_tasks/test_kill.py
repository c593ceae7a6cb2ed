"""kill -9 again and again: what was acknowledged is there, and what was done is done once."""

import asyncio
import itertools
import multiprocessing
import random
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import jwt
import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks import transports

from local.cloud_tasks.api import Api
from local.cloud_tasks.batches import Batches
from local.cloud_tasks.dispatch import Dispatcher
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from local.faults import Faults
from local.identity import Identity, new_key
from tests.local.running import wait_for

KILLS, TASKS, AT_ONCE = 50, 5000, 20
PARENT = "projects/shop/locations/us-central1"
QUEUE = f"{PARENT}/queues/q"
ACCOUNT = "invoker@shop.iam.gserviceaccount.com"


def serve(folder: Path, port: int, key: str, life: int) -> None:
    """Cloud Tasks and its dispatcher, until somebody kills this process; its tokens tell which life sent them."""

    async def serving() -> None:
        store = Store(folder / "state.sqlite")
        identity = Identity(str(life), "shop", [ACCOUNT], key, time.time)
        dispatcher = Dispatcher(identity, time.time, Faults(None, folder / "faults"))
        cloud_tasks = CloudTasks(store, time.time, identity.has, [dispatcher])
        dispatcher.start(cloud_tasks)
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers(Api(cloud_tasks, Batches(cloud_tasks, store, time.time)).grpc_handlers())
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()
        await dispatcher.stop()

    asyncio.run(serving())


class Target(ThreadingHTTPServer):
    """Where the tasks are sent to; it does each at once."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self) -> None:
        self.lives: dict[str, list[int]] = defaultdict(list)
        """By task: the lives of the service that delivered it."""
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Target

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        claims = jwt.decode(self.headers["Authorization"].split()[1], options={"verify_signature": False})
        self.server.lives[self.headers["X-CloudTasks-TaskName"]].append(int(claims["iss"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as target:
        thread = threading.Thread(target=target.serve_forever, args=(0.05,))
        thread.start()
        yield target
        target.shutdown()
        thread.join()


def insist(create: Callable[[], object]) -> None:
    """Repeat a call until it is answered; what is there already was made by a call whose answer was lost."""
    while True:
        try:
            create()
        except exceptions.AlreadyExists:
            return
        except exceptions.ServiceUnavailable:
            continue
        return


def produce(port: int, url: str, acknowledged: list[str]) -> None:
    """Create the queue and every task."""
    options = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 20)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
    with tasks_v2.CloudTasksClient(transport=transports.CloudTasksGrpcTransport(channel=channel)) as client:
        limits = tasks_v2.RateLimits(max_dispatches_per_second=500, max_concurrent_dispatches=AT_ONCE)
        queue = tasks_v2.Queue(name=QUEUE, rate_limits=limits, retry_config={"min_backoff": "0.1s"})
        insist(lambda: client.create_queue(parent=PARENT, queue=queue))
        for number in range(TASKS):
            http = {"url": url, "body": b"{}", "oidc_token": {"service_account_email": ACCOUNT}}
            task = tasks_v2.Task(name=f"{QUEUE}/tasks/t{number}", http_request=http)
            insist(lambda task=task: client.create_task(parent=QUEUE, task=task, retry=None))  # type: ignore[misc]
            acknowledged.append(f"t{number}")


def test_fifty_kills_lose_no_task_and_repeat_only_what_was_under_way(tmp_path: Path, target: Target) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload([__name__, "local.cloud_tasks.api", "local.cloud_tasks.dispatch"])
    key = new_key()
    chance = random.Random(1)
    acknowledged: list[str] = []
    producer = threading.Thread(
        target=produce, args=(port, f"http://127.0.0.1:{target.server_port}/", acknowledged), daemon=True
    )
    producer.start()
    for life in itertools.count():
        service = forked.Process(target=serve, args=(tmp_path, port, key, life))
        service.start()
        if life == KILLS:
            break
        service.join(chance.uniform(0.1, 0.4))  # and not yet ended
        assert service.exitcode is None
        service.kill()
        service.join()
    try:
        wait_for(lambda: len(target.lives) == TASKS, lambda: f"{len(acknowledged)} created, {len(target.lives)} done")
    finally:
        service.kill()
        service.join()
    producer.join(1)
    assert len(acknowledged) == TASKS
    assert all(early < late for lives in target.lives.values() for early, late in itertools.pairwise(lives))
    repeated = Counter(life for lives in target.lives.values() for life in lives[:-1])
    assert all(count <= AT_ONCE for count in repeated.values()), repeated
