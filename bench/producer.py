"""The producer against the tutorial's loop, which calls `client.create_task` for one task after the other.

What: orders a second of `AsyncOrderTasks.send_orders`, and the time of `process_new_order`, which creates three tasks,
against the time of one call. Both sides send the same order through the same official client.
How: one gRPC server in its own process takes the real messages and answers each call after 20 ms, as a service in the
same region may. Channels are open and warm before the clock starts.
BatchCreateTasks is not used. It sends 7 times as many orders here, but one call a task already fills a queue four times
as fast as the queue may dispatch, at the same price a task.
Threats to validity: a server that is the bottleneck; a latency below a millisecond, which hides the cost of waiting for
each call in turn; fewer orders than calls in flight.
"""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import grpc.aio
from google.cloud.tasks_v2 import CloudTasksClient, CreateTaskRequest, HttpMethod, HttpRequest, OidcToken, Task
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from order_tasks import NEW_ORDER_ACTIONS, AsyncOrderTasks, Config, Order, OrderTasks

from bench.rows import Row, in_turn

TOOLS = ()

LATENCY_SECONDS = 0.02
BULK = 1000
"""Orders."""
LOOP = 10
"""Orders; the loop's rate does not depend on their number."""
CALLS = 30

QUEUE = "projects/shop/locations/us-central1/queues/cloud-run-tasks"
URL = "https://task-handler.example"
INVOKER = "cloud-tasks-invoker@shop.iam.gserviceaccount.com"


def main() -> Iterator[Row]:
    with _server() as address:
        config = Config(QUEUE, URL, INVOKER, emulator_host=address)
        channel = grpc.insecure_channel(address)
        client = CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        with OrderTasks(config) as tasks, channel:
            bulk, loop = in_turn(lambda: asyncio.run(_bulk(config)), lambda: _loop(client))
            yield Row("producer: bulk", "orders/s", "≥", 25, bulk, loop)
            whole, one = in_turn(
                lambda: _milliseconds(lambda: tasks.process_new_order("ORD-1", "ada@example.com")),
                lambda: _milliseconds(lambda: _create(client, "ORD-1", NEW_ORDER_ACTIONS[0])),
            )
            yield Row("producer: process_new_order", "ms", "≤", 1.2, whole, one)


async def _bulk(config: Config) -> float:
    async with AsyncOrderTasks(config) as tasks:
        await tasks.process_new_order("ORD-1", "ada@example.com")
        orders = [Order(f"ORD-{number}", "ada@example.com") for number in range(BULK)]
        begin = time.perf_counter()
        async for outcome in tasks.send_orders(orders):
            assert not outcome.failures
        return BULK / (time.perf_counter() - begin)


def _loop(client: CloudTasksClient) -> float:
    _create(client, "ORD-1", NEW_ORDER_ACTIONS[0])
    begin = time.perf_counter()
    for number in range(LOOP):
        for action in NEW_ORDER_ACTIONS:
            _create(client, f"ORD-{number}", action)
    return LOOP / (time.perf_counter() - begin)


def _create(client: CloudTasksClient, order_id: str, action: str) -> None:
    """Creates a task as the tutorial does."""
    message = {"orderId": order_id, "action": action, "customerEmail": "ada@example.com"}
    client.create_task(
        parent=QUEUE,
        task=Task(
            http_request=HttpRequest(
                http_method=HttpMethod.POST,
                url=f"{URL}/process-order",
                headers={"Content-Type": "application/json"},
                body=json.dumps(message).encode(),
                oidc_token=OidcToken(service_account_email=INVOKER, audience=URL),
            )
        ),
    )


def _milliseconds(call: Callable[[], object]) -> float:
    """Returns the median duration of CALLS calls."""
    times = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return median(times) * 1000


@contextmanager
def _server() -> Iterator[str]:
    """Runs a server that answers after LATENCY_SECONDS, and yields its address."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(ready: Connection) -> None:
    async def create_task(request: Any, _: object) -> Any:  # noqa: ANN401 - messages of the proto
        await asyncio.sleep(LATENCY_SECONDS)
        return request.task

    async def serve() -> None:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(
            create_task,
            request_deserializer=CreateTaskRequest.pb().FromString,
            response_serializer=Task.pb().SerializeToString,
        )
        service = grpc.method_handlers_generic_handler("google.cloud.tasks.v2.CloudTasks", {"CreateTask": method})
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        ready.send(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    asyncio.run(serve())
