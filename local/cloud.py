"""The cloud on this machine: realises what the program declares, and nothing that it does not.

Queues, accounts, run.invoker bindings and the one service become running parts; the rest of what is declared has no
effect here.
"""

import dataclasses
import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from aiohttp import web
from google.cloud.tasks_v2 import types
from google.protobuf import json_format

from local.api import MAX_REQUEST_BYTES, grpc_handler, rest_routes
from local.cloud_tasks import CloudTasks, Message, QueueMessage
from local.dispatch import Dispatcher
from local.front_door import FrontDoor, Service
from local.identity import Identity, new_key
from local.instances import Instances
from local.program import ROOT, Evaluation, ProgramError, Resource
from local.store import Store

log = logging.getLogger("local.cloud")

HANDLER_COMMAND = (".venv/bin/python", "-m", "order_handler")
"""What the image runs, in the locked environment of its build context."""


@dataclasses.dataclass(frozen=True)
class Declared:
    """The part of an evaluation that the local cloud realises."""

    queues: tuple[Message, ...]
    accounts: frozenset[str]
    """E-mails."""
    service: Service
    context: Path
    """Folder that the service's image is built from."""
    exports: Mapping[str, Any]


def declared(evaluation: Evaluation) -> Declared:
    """Read the resources; raises ProgramError where the local cloud cannot stand in for one."""
    services = evaluation.of_type("gcp:cloudrunv2/service:Service")
    images = evaluation.of_type("docker:index/image:Image")
    if len(services) != 1 or len(images) != 1:
        raise ProgramError(
            f"the program declares {len(services)} Cloud Run services and {len(images)} images; "
            "the local cloud runs exactly one of each"
        )
    missing = [name for name in ("service_url", "invoker_email", "queue") if not evaluation.exports.get(name)]
    if missing:
        raise ProgramError(f"the program does not export {', '.join(missing)}, which producers need")
    service = services[0].inputs
    return Declared(
        queues=tuple(_queue(resource) for resource in evaluation.of_type("gcp:cloudtasks/queue:Queue")),
        accounts=frozenset(a.outputs["email"] for a in evaluation.of_type("gcp:serviceaccount/account:Account")),
        service=Service(
            name=service["name"],
            timeout=float(service["template"]["timeout"].rstrip("s")),
            max_instances=int(service["template"]["scaling"]["maxInstanceCount"]),
            concurrency=int(service["template"]["maxInstanceRequestConcurrency"]),
            environment={env["name"]: env["value"] for env in service["template"]["containers"][0]["envs"]},
            invokers=frozenset(
                binding.inputs["member"]
                for binding in evaluation.of_type("gcp:cloudrunv2/serviceIamMember:ServiceIamMember")
                if binding.inputs["role"] == "roles/run.invoker" and binding.inputs["name"] == service["name"]
            ),
        ),
        context=ROOT / images[0].inputs["build"]["context"],
        exports=evaluation.exports,
    )


def _queue(resource: Resource) -> Message:
    """The queue's message; figures come as floats."""
    given = resource.inputs
    limits = {key: value for key, value in given["rateLimits"].items() if key != "maxBurstSize"}
    message = {"name": resource.id, "rateLimits": limits, "retryConfig": given["retryConfig"]}
    return json_format.ParseDict(message, QueueMessage())


@dataclasses.dataclass(frozen=True)
class Ports:
    """Where the local cloud listens on 127.0.0.1; 0 lets the system choose."""

    tasks_grpc: int
    tasks_rest: int
    """Cloud Tasks over REST, and the issuer."""
    service: int

    @classmethod
    def from_first(cls, port: int) -> "Ports":
        """Three in a row, or three of the system's choice for 0."""
        return cls(port, port + 1, port + 2) if port else cls(0, 0, 0)


class PortTakenError(Exception):
    """A port that the local cloud must have is in use."""

    def __init__(self, port: int, what: str) -> None:
        super().__init__(
            f"port {port}, for {what}, is in use; end what uses it, or start with another --port and another --state"
        )


def listen(port: int, what: str) -> socket.socket:
    """A socket on 127.0.0.1; raises PortTakenError."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise PortTakenError(port, what) from None
    return listener


class Cloud:
    """A running local cloud: `async with Cloud(...)`."""

    def __init__(
        self,
        program: Declared,
        store: Store,
        service_listener: socket.socket,
        ports: Ports,
        clock: Callable[[], float],
    ) -> None:
        """`service_listener`: where the service is, already bound, since the program was evaluated with its address."""
        self.program = program
        self.store = store
        self.tasks: CloudTasks
        self.ports = ports
        self._service_listener = service_listener
        self._clock = clock
        self._runners: list[web.AppRunner] = []

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        try:
            grpc_port = self._server.add_insecure_port(f"127.0.0.1:{self.ports.tasks_grpc}")
        except RuntimeError:
            raise PortTakenError(self.ports.tasks_grpc, "Cloud Tasks over gRPC") from None
        rest_listener = listen(self.ports.tasks_rest, "Cloud Tasks over REST and the issuer")
        rest_port, service_port = rest_listener.getsockname()[1], self._service_listener.getsockname()[1]
        issuer = f"http://127.0.0.1:{rest_port}"
        service_url = f"http://127.0.0.1:{service_port}"
        key = self.store.fact("key")
        if key is None:
            key = new_key()
            self.store.set_fact("key", key)
        identity = Identity(issuer, self.program.accounts, key, self._clock)
        self.tasks = CloudTasks(self.store, self._clock, identity.accounts.__contains__)
        for queue in self.program.queues:
            self.tasks.declare_queue(queue)
        self._server.add_generic_rpc_handlers([grpc_handler(self.tasks)])
        self.ports = Ports(grpc_port, rest_port, service_port)
        service = self.program.service
        self._instances = Instances(
            HANDLER_COMMAND,
            self.program.context,
            {**service.environment, "K_SERVICE": service.name, "K_REVISION": f"{service.name}-local"},
            max_instances=service.max_instances,
            concurrency=service.concurrency,
        )
        self._front_door = FrontDoor(service, service_url, identity, self._instances)
        rest = web.Application(client_max_size=MAX_REQUEST_BYTES)
        rest.add_routes([*identity.routes(), *rest_routes(self.tasks)])
        await self._serve(rest, rest_listener)
        await self._serve(self._front_door.application(), self._service_listener)
        await self._server.start()
        self._dispatcher = Dispatcher(self.tasks, identity, self._clock)
        return self

    async def _serve(self, application: web.Application, listener: socket.socket) -> None:
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self._runners.append(runner)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes no more calls, waits for the attempts under way, ends the handlers."""
        await self._server.stop(grace=1)
        await self._dispatcher.stop()
        await self._instances.stop()
        await self._front_door.close()
        for runner in self._runners:
            await runner.cleanup()

    def addresses(self) -> dict[str, str]:
        """What a client needs; the keys are those of `--json` and, where there is one, of the stack's outputs."""
        exports = self.program.exports
        rest = f"http://127.0.0.1:{self.ports.tasks_rest}"
        return {
            "tasks_grpc": f"127.0.0.1:{self.ports.tasks_grpc}",
            "tasks_rest": rest,
            "service_url": exports["service_url"],
            "invoker_email": exports["invoker_email"],
            "queue": exports["queue"],
            "issuer": rest,
        }

    def producer_environment(self) -> dict[str, str]:
        """The environment variables that point a producer here."""
        at = self.addresses()
        return {
            "CLOUD_TASKS_EMULATOR_HOST": at["tasks_grpc"],
            "ORDER_TASKS_QUEUE": at["queue"],
            "ORDER_TASKS_SERVICE_URL": at["service_url"],
            "ORDER_TASKS_INVOKER_EMAIL": at["invoker_email"],
        }

    def describe(self) -> str:
        """What runs, in one line."""
        queues = [self.tasks.get_queue(types.GetQueueRequest(name=path)) for path in self.tasks.paths()]
        rates = ", ".join(
            f"queue {queue.name.rpartition('/')[2]} at {queue.rate_limits.max_dispatches_per_second:g}/s "
            f"and {queue.rate_limits.max_concurrent_dispatches} at once"
            for queue in queues
        )
        return f"{rates}; service {self.program.service.name}"
