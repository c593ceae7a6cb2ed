"""Cloud Tasks over gRPC and REST in this process, under a virtual clock, and the official clients that reach it.

Tests of the producer and of the handler use it too: whatever calls Cloud Tasks is tested against this one service.
"""

import asyncio
import contextlib
import dataclasses
import json
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from aiohttp import web
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import tasks_v2
from google.cloud.tasks_v2 import CloudTasksAsyncClient, CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks import transports
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from local.cloud_tasks import rest
from local.cloud_tasks.api import Api
from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.batches import Batches
from local.cloud_tasks.calls import CALLS
from local.cloud_tasks.dispatch import Dispatcher
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import QueueMessage
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from local.faults import Faults
from local.identity import Identity, new_key
from tests.local.running import wait_for

KEY = new_key()
ISSUER = "https://issuer.example"
PROJECT = "shop"
LOCATION = f"projects/{PROJECT}/locations/us-central1"
ACCOUNT = f"invoker@{PROJECT}.iam.gserviceaccount.com"
START = 1_800_000_000.0
PATIENCE = 30
"""Seconds that anything here may take."""

Answer = tuple[str, Any]
"""Canonical code by name, and the error's text or the response as JSON."""
Client = Callable[[str, dict[str, Any]], Answer]
"""Makes a call, by the client's name for it, with a request."""
Result = TypeVar("Result")


def account_exists(project: str, email: str) -> bool:
    return project != PROJECT or email == ACCOUNT


@dataclasses.dataclass(frozen=True)
class Received:
    """One gRPC call as it arrived."""

    name: str
    """As in the proto, such as `CreateTask`."""
    request: Any
    """The message of the official client, such as `tasks_v2.CreateTaskRequest`."""
    seconds: float | None
    """How long the client waits for the answer."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """What a gRPC call is answered instead of its own answer."""

    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    after: bool = False
    """The call takes effect, and only its answer is lost."""
    hangs: bool = False
    """No answer comes until the service stops."""


def no_fault(_: Received) -> Fault | None:
    return None


class PatientDispatcher(Dispatcher):
    """Sends an attempt when it is told to, and waits a part of its deadline."""

    def __init__(
        self, identity: Identity, clock: Callable[[], float], faults: Faults, patience: Callable[[], float]
    ) -> None:
        super().__init__(identity, clock, faults)
        self._patience = patience

    def queue_changed(self, queue: str) -> None:
        """Nothing is sent at its time: a test asks for it."""

    async def deliver(self, attempt: Attempt) -> None:
        """Send an attempt, and take its answer."""
        await self._deliver(dataclasses.replace(attempt, deadline=attempt.deadline * self._patience()))

    def run_requested(self, attempt: Attempt) -> None:
        super().run_requested(dataclasses.replace(attempt, deadline=attempt.deadline * self._patience()))


class Serving(Listener):
    """The service on a thread of its own: `with Serving() as service`. A test may set `now` and `fault` at any time."""

    def __init__(
        self,
        folder: Path | None = None,
        member: str = "",
        declared: Mapping[str, Sequence[tuple[str, str]]] | None = None,
        account_exists: Callable[[str, str], bool] = account_exists,
        *,
        sends_runs: bool = False,
    ) -> None:
        """`folder`: of the state file; a temporary one if left out. `member`: whose grants count. `declared`: queues
        by path, with role and member of each grant. `sends_runs`: what RunTask begins is sent over HTTP."""
        self.now = START
        """The service's clock, in seconds since the epoch."""
        self.patience = 0.1
        """The part of an attempt's deadline that `deliver` waits for the answer."""
        self.fault: Callable[[Received], Fault | None] = no_fault
        """Asked in each gRPC call, on a thread of the call's own, so it may wait."""
        self.received: list[Received] = []
        """Every gRPC call, in order of arrival."""
        self.events: list[tuple[Event, str]] = []
        """Every event, with the task's name."""
        self.grpc = self.rest = ""
        """Addresses, `127.0.0.1:PORT`."""
        self._folder, self._member, self._declared = folder, member, declared or {}
        self._account_exists = account_exists
        self._sends_runs = sends_runs
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            folder = self._folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            store = stack.enter_context(contextlib.closing(Store(folder / "state.sqlite")))
            identity = Identity(ISSUER, PROJECT, [ACCOUNT], KEY, lambda: self.now)
            faults = Faults(None, folder / "faults.jsonl")
            self._dispatcher = PatientDispatcher(identity, lambda: self.now, faults, lambda: self.patience)
            listeners = (self, self._dispatcher) if self._sends_runs else (self,)
            self._tasks = CloudTasks(store, lambda: self.now, self._account_exists, listeners)
            self._dispatcher.start(self._tasks)
            stack.push_async_callback(self._dispatcher.stop, 0)
            for path, grants in self._declared.items():
                self._tasks.queues.declare(QueueMessage(name=path), grants)
            api = Api(self._tasks, Batches(self._tasks, store, lambda: self.now), self._member)
            server = grpc.aio.server(interceptors=[_Interceptor(self)])
            server.add_generic_rpc_handlers(api.grpc_handlers())
            self.grpc = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            stack.push_async_callback(server.stop, None)
            application = web.Application(client_max_size=rest.MAX_REQUEST_BYTES)
            application.add_routes(rest.routes(api))
            runner = web.AppRunner(application)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.rest = f"127.0.0.1:{runner.addresses[0][1]}"
            self._ready.set()
            await self._over.wait()

    def task_changed(self, event: Event, task: Any) -> None:  # noqa: ANN401 - a message
        self.events.append((event, task.name))

    def do(self, action: Callable[[CloudTasks], Result]) -> Result:
        """Run an action on the service's own thread, between two calls, and return what it returns."""

        async def act() -> Result:
            return action(self._tasks)

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(PATIENCE)

    def declare(self, queue: str, *grants: tuple[str, str], **fields: Any) -> None:  # noqa: ANN401 - any field
        """Declare a queue by its path, as the program does. `fields`: in JSON, such as `retryConfig`."""
        message = json_format.ParseDict({"name": queue, **fields}, QueueMessage())
        self.do(lambda tasks: tasks.queues.declare(message, grants))

    def tasks(self, queue: str) -> list[tasks_v2.Task]:
        """The tasks of a queue in the FULL view, by id."""
        request = tasks_v2.ListTasksRequest(parent=queue, response_view=tasks_v2.Task.View.FULL)
        found = self.do(lambda tasks: tasks.list_tasks(tasks_v2.ListTasksRequest.pb(request)))
        return [tasks_v2.Task(task) for task in found.tasks]

    def dispatch(self, queue: str) -> Attempt:
        """Advance the clock to the queue's next dispatch and begin that attempt."""

        [attempt] = self.do(lambda tasks: self._take(tasks, queue))
        return attempt

    def deliver(self, queue: str) -> list[Attempt]:
        """Advance the clock to the queue's next dispatch, send the attempts that are due and take their answers."""
        attempts = self.do(lambda tasks: self._take(tasks, queue))

        async def deliver() -> None:
            await asyncio.gather(*map(self._dispatcher.deliver, attempts))

        asyncio.run_coroutine_threadsafe(deliver(), self._loop).result(PATIENCE)
        return attempts

    def _take(self, tasks: CloudTasks, queue: str) -> list[Attempt]:
        at = tasks.next_dispatch(queue)
        assert at is not None, f"nothing is scheduled in {queue}"
        self.now = max(self.now, at)
        return tasks.start_attempts(queue)

    def wait_for(self, condition: Callable[[CloudTasks], bool]) -> None:
        """Wait until a condition holds."""
        wait_for(lambda: self.do(condition), lambda: "the condition never held")

    def answer(self, attempt: Attempt, status: int) -> None:
        """End an attempt with an HTTP status."""
        self.do(lambda tasks: tasks.end_attempt(attempt, status))

    def calls(self, *names: str) -> list[Received]:
        """The calls of these names, in order of arrival."""
        return [each for each in self.received if each.name in names]


class _Interceptor(grpc.aio.ServerInterceptor):
    """Records each call, and plays the faults."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def intercept_service(self, continuation: Any, details: Any) -> Any:  # noqa: ANN401 - as grpc has it
        handler = await continuation(details)
        if handler is None:
            return None
        name = details.method.rpartition("/")[2]

        async def answer(message: Any, context: Any) -> Any:  # noqa: ANN401 - any message
            request_type = getattr(tasks_v2, f"{name}Request", None)
            request: Any = message
            with contextlib.suppress(DecodeError):
                request = request_type.deserialize(message) if request_type else message
            received = Received(name, request, context.time_remaining())
            self._serving.received.append(received)
            ask = self._serving.fault
            fault = await asyncio.to_thread(ask, received) if ask is not no_fault else None
            if fault and fault.hangs:
                await self._serving._over.wait()
            if fault and not fault.after:
                await context.abort(fault.status, "on command")
            response = await handler.unary_unary(message, context)
            if fault:
                await context.abort(fault.status, "on command")
            return response

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def faults(by_call: Mapping[str, Iterable[Fault | None]]) -> Callable[[Received], Fault | None]:
    """A `Serving.fault` that answers each call with the next fault of its name, as long as there is one."""
    left = {name: iter(each) for name, each in by_call.items()}
    assert left.keys() <= {call.name for call in CALLS}, left.keys()
    return lambda received: next(left.get(received.name, iter(())), None)


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
