"""Cloud Tasks over gRPC and REST in this process, under a virtual clock, and the official clients that reach it."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.tasks_v2 import CloudTasksAsyncClient, CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks import transports
from google.protobuf import json_format

from local.cloud_tasks import rest
from local.cloud_tasks.api import Api
from local.cloud_tasks.batches import Batches
from local.cloud_tasks.messages import QueueMessage
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks

PROJECT = "shop"
LOCATION = f"projects/{PROJECT}/locations/us-central1"
ACCOUNT = f"invoker@{PROJECT}.iam.gserviceaccount.com"
START = 1_800_000_000.0

Answer = tuple[str, Any]
"""Canonical code by name, and the error's text or the response as JSON."""
Client = Callable[[str, dict[str, Any]], Answer]
"""Makes a call, by the client's name for it, with a request."""


def account_exists(project: str, email: str) -> bool:
    return project != PROJECT or email == ACCOUNT


@contextlib.contextmanager
def serving(
    folder: Path, member: str = "", declared: Mapping[str, Sequence[tuple[str, str]]] | None = None
) -> Iterator[tuple[str, str]]:
    """The service's addresses for gRPC and for REST. `member`: whose grants count. `declared`: queues by path, with
    role and member of each grant."""
    ready = threading.Event()
    found: list[Any] = []

    async def serve() -> None:
        store = Store(folder / "state.sqlite")
        cloud_tasks = CloudTasks(store, lambda: START, account_exists)
        for path, grants in (declared or {}).items():
            cloud_tasks.queues.declare(QueueMessage(name=path), grants)
        api = Api(cloud_tasks, Batches(cloud_tasks, store, lambda: START), member)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(api.grpc_handlers())
        grpc_port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        application = web.Application(client_max_size=rest.MAX_REQUEST_BYTES)
        application.add_routes(rest.routes(api))
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        over = asyncio.Event()
        found.extend([f"127.0.0.1:{grpc_port}", f"127.0.0.1:{runner.addresses[0][1]}"])
        found.extend([asyncio.get_running_loop(), over])
        ready.set()
        await over.wait()
        await server.stop(None)
        await runner.cleanup()
        store.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield found[0], found[1]
    finally:
        found[2].call_soon_threadsafe(found[3].set)
        thread.join(30)


@contextlib.contextmanager
def client(kind: str, grpc_address: str, rest_address: str) -> Iterator[Client]:
    """The official client over `grpc`, `asyncio` or `rest`."""
    if kind == "asyncio":
        with asyncio.Runner() as runner:

            async def opened() -> CloudTasksAsyncClient:
                channel = grpc.aio.insecure_channel(grpc_address)
                return CloudTasksAsyncClient(transport=transports.CloudTasksGrpcAsyncIOTransport(channel=channel))

            api = runner.run(opened())

            async def call(name: str, request: dict[str, Any]) -> Any:  # noqa: ANN401 - any response
                answer: Awaitable[Any] = getattr(api, name)(request=request)
                return await answer

            yield lambda name, request: _answer(lambda: runner.run(call(name, request)))
            runner.run(api.transport.close())  # type: ignore[no-untyped-call]
        return
    transport: Any
    if kind == "grpc":
        transport = transports.CloudTasksGrpcTransport(channel=grpc.insecure_channel(grpc_address))
    else:
        credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
        transport = transports.CloudTasksRestTransport(host=rest_address, url_scheme="http", credentials=credentials)
    with CloudTasksClient(transport=transport) as sync:
        yield lambda name, request: _answer(lambda: getattr(sync, name)(request=request))


def _answer(call: Callable[[], Any]) -> Answer:
    try:
        response = call()
    except exceptions.GoogleAPICallError as error:
        if error.grpc_status_code is not None and not hasattr(error.response, "content"):
            return error.grpc_status_code.name, error.message
        said = json.loads(error.response.content)["error"]
        return said["status"] if said["code"] == error.response.status_code else "", said["message"]
    if response is None:
        return "OK", {}
    if hasattr(response, "raw_page"):
        response = response.raw_page
    if hasattr(response, "operation"):
        response = response.operation
    message = type(response).pb(response) if hasattr(type(response), "pb") else response
    return "OK", json_format.MessageToDict(message)
