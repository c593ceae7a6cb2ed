"""The cloud on this machine: runs what the program declares, and nothing else."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

import grpc
from aiohttp import web

from local.breakages import Breakages
from local.cloud_run.front_door import FrontDoor
from local.cloud_run.instances import Instances, NoInstanceError
from local.cloud_run.running_handler import RunningHandler
from local.cloud_run.runtime import Runtime
from local.cloud_scheduler import Scheduler
from local.cloud_tasks import rest
from local.cloud_tasks.api import Api
from local.cloud_tasks.batches import Batches
from local.cloud_tasks.dispatch import Dispatcher
from local.cloud_tasks.listener import Listener
from local.cloud_tasks.messages import CallError, Message
from local.cloud_tasks.rest import MAX_REQUEST_BYTES
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from local.faults import Faults
from local.identity import Identity, new_key
from local.logs import Events
from local.own_machine import ALSO_HOST, json_bodies, own_machine
from local.ports import Ports, PortTakenError, listen, listen_for_page
from local.program import ProgramError
from local.program.declared import Declared
from local.sinks.effects import Effects
from local.web_app import PAGE, SHOP, WebApp

log = logging.getLogger("local.cloud")

_GRPC_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_REQUEST_BYTES)]
_FULL_SECONDS = 2.0
"""How long the fault of a full disk lasts."""


async def _serve_http(
    started: contextlib.AsyncExitStack,
    application: web.Application,
    *listeners: socket.socket,
    auto_decompress: bool = True,
) -> None:
    application.middlewares.insert(0, own_machine)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1, auto_decompress=auto_decompress)
    started.push_async_callback(runner.cleanup)
    await runner.setup()
    for listener in listeners:
        await web.SockSite(runner, listener).start()


async def _serve_grpc(started: contextlib.AsyncExitStack, api: Api, port: int, what: str, also_host: str = "") -> int:
    """Serves an API over gRPC and returns its port. Raises PortTakenError."""
    server = grpc.aio.server(options=_GRPC_OPTIONS)
    started.push_async_callback(server.stop, 1)
    server.add_generic_rpc_handlers(api.grpc_handlers())
    try:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        if also_host:
            server.add_insecure_port(f"{also_host}:{port}")
    except RuntimeError:
        raise PortTakenError(port, what) from None
    await server.start()
    return port


async def prepare_database(runtime: Runtime | RunningHandler, database_url: str) -> bool:
    """Lets the handler create its missing tables. Returns whether it has tables. Raises ProgramError if it fails."""
    if isinstance(runtime, RunningHandler):
        return False
    command = runtime.prepare({"DATABASE_URL": database_url})
    if command is None:
        return False
    arguments, environment = command
    schema = await asyncio.create_subprocess_exec(*arguments, cwd=runtime.folder, env=environment)
    try:
        code = await schema.wait()
    finally:
        if schema.returncode is None:
            schema.kill()
            await schema.wait()
    if code != 0:
        raise ProgramError("the handler's tables cannot be created; the line above says why")
    return True


def _limit_files(size: int) -> None:
    """Limits the size in bytes of the files that this process and its children write."""
    if sys.platform == "linux":
        own = os.getpid()
        for pid in (own, *map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split())):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@dataclasses.dataclass
class Cloud:
    """A running local cloud: `async with Cloud(...)`."""

    program: Declared
    store: Store
    service_listener: socket.socket
    """The service's socket, bound before the program was evaluated with its address."""
    ports: Ports
    effects: Effects
    faults: Faults
    runtime: Runtime | RunningHandler
    listener: Listener
    """Receives each event of Cloud Tasks."""
    log_file: Path
    also_host: str = ""
    """An address at which Cloud Tasks listens too."""

    def __post_init__(self) -> None:
        self._has_tables: bool | None = None
        """None: not known yet."""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as started:
            await self._start(started)
            self._started = started.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops taking calls, waits for the attempts in flight, and ends the handlers."""
        await self._started.aclose()

    async def _start(self, started: contextlib.AsyncExitStack) -> None:
        """Starts each part after the parts that it needs, so that `started` ends it before them."""
        program, ports = self.program, self.ports
        page = started.enter_context(listen_for_page())
        self._page_url = f"http://127.0.0.1:{page.getsockname()[1]}"
        log.info("What is going on: %s", self._page_url)
        rest_listener = started.enter_context(listen(self.ports.tasks_rest, "Cloud Tasks over REST and the issuer"))
        rest_port, service_port = rest_listener.getsockname()[1], self.service_listener.getsockname()[1]
        key = self.store.fact("key") or new_key()
        self.store.set_fact("key", key)  # tokens stay valid across restarts
        identity = Identity(f"http://127.0.0.1:{rest_port}", program.project, program.accounts, key, self.faults.clock)
        dispatcher = Dispatcher(identity, self.faults.clock, self.faults)
        listeners = (dispatcher, self.listener, Events(self._queue))
        self.tasks = CloudTasks(self.store, self.faults.clock, identity.has, listeners, time.monotonic)
        self._declare_queues()
        batches = Batches(self.tasks, self.store, self.faults.clock)
        api = Api(self.tasks, batches, faults=self.faults)
        handler = f"serviceAccount:{program.handler_account}"
        handlers_port = await _serve_grpc(started, Api(self.tasks, batches, handler, self.faults), 0, "the handlers")
        environment = await started.enter_async_context(self.effects.serving(program.service.environment))
        self._instances = self._new_instances(
            {**environment, "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{handlers_port}"}
        )
        self.faults.actions |= {
            "handler killed": self._instances.kill_one,
            "handlers killed": self._instances.kill_all,
            "handler frozen": self._instances.freeze_one,
            "disk full": self._fill_disk,
        }
        front_door = FrontDoor(program.service, f"http://127.0.0.1:{service_port}", identity, self._instances)
        started.push_async_callback(front_door.close)
        await _serve_http(started, front_door.application(), self.service_listener, auto_decompress=False)
        application = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[json_bodies])
        self.breakages = Breakages(
            {
                "mail": partial(self.faults.breaking, "mail"),
                "warehouse": partial(self.faults.breaking, "warehouse"),
                "database": self.effects.shop.locked,
                "handler": front_door.breaking,
            }
        )
        started.callback(self.breakages.mend)
        application.add_routes([*identity.routes(), *rest.routes(api)])
        application.router.add_route("*", "/breakages", self.breakages.answer)
        rest_listeners = [rest_listener]
        if self.also_host:
            application[ALSO_HOST] = self.also_host
            rest_listeners.append(started.enter_context(listen(rest_port, "Cloud Tasks over REST", self.also_host)))
        await _serve_http(started, application, *rest_listeners)
        started.push_async_callback(self._instances.stop)
        try:
            await self._instances.start()
        except NoInstanceError as error:
            raise ProgramError(f"the handler does not start: {error}") from None

        dispatcher.start(self.tasks)
        started.push_async_callback(dispatcher.stop)
        grpc_port = await _serve_grpc(started, api, self.ports.tasks_grpc, "Cloud Tasks over gRPC", self.also_host)
        self.ports = Ports(grpc_port, rest_port, service_port)
        if self._has_shop():
            shop_listener = started.enter_context(listen(ports.shop, "the shop"))
            self.ports = dataclasses.replace(self.ports, shop=shop_listener.getsockname()[1])
            environment = {"DATABASE_URL": self.effects.database_url, **self.producer_environment()}
            shop = WebApp("shop", SHOP, shop_listener, environment, self._prepare_shop)
            await started.enter_async_context(shop.running())
            self.faults.actions["web app killed"] = shop.kill
        web_app = WebApp("page", PAGE, page, self.producer_environment(), lambda: asyncio.sleep(0))
        await started.enter_async_context(web_app.running())
        scheduler = Scheduler(program.jobs, identity, self.faults.clock, self.faults)
        await started.enter_async_context(scheduler.running())

    def _queue(self, path: str) -> Message | None:
        return self.tasks.queues[path].message if path in self.tasks.queues else None

    def _declare_queues(self) -> None:
        for queue in self.program.queues:
            try:
                self.tasks.queues.declare(queue, self.program.grants(queue.name))
            except CallError as error:
                raise ProgramError(f"the queue {queue.name} cannot be declared: {error}") from None
        for path in self.tasks.queues.undeclared():
            log.warning("The program no longer declares %s: its tasks stay in the state folder and are not sent", path)

    def _new_instances(self, environment: Mapping[str, str]) -> Instances | RunningHandler:
        """Creates the instances, none started."""
        if isinstance(self.runtime, RunningHandler):
            return self.runtime
        service = self.program.service
        return Instances(
            self.runtime,
            {**environment, "K_SERVICE": service.name, "K_REVISION": f"{service.name}-local"},
            max_instances=service.max_instances,
            concurrency=service.concurrency,
        )

    def kill(self) -> None:
        """Kills the handlers, for a caller that exits at once."""
        self._instances.kill_all()

    def _fill_disk(self) -> tuple[()]:
        """Lets no file of the local cloud, its handlers and its shop be written for a while."""
        _limit_files(0)
        # A process that begins meanwhile inherits the limit: the second call meets it when it is a child.
        for seconds in (_FULL_SECONDS, _FULL_SECONDS + 1):
            asyncio.get_running_loop().call_later(seconds, _limit_files, resource.RLIM_INFINITY)
        return ()

    def _has_shop(self) -> bool:
        """Returns whether the handler relays an outbox, and has the database that a web app shares with it."""
        if isinstance(self.runtime, RunningHandler) or "TASK_QUEUE" not in self.program.service.environment:
            return False
        return self.runtime.prepare({"DATABASE_URL": self.effects.database_url}) is not None

    async def _prepare_shop(self) -> None:
        if await self._prepare_database():
            await asyncio.to_thread(self.effects.shop.fill_shelf)

    async def _prepare_database(self) -> bool:
        if self._has_tables is None:
            self._has_tables = await prepare_database(self.runtime, self.effects.database_url)
        return self._has_tables

    async def idle(self) -> bool:
        """Returns whether no running queue has a task, and the shop has sent what it committed."""
        if self.tasks.queues.busy():
            return False
        if not self.ports.shop:
            return True
        return not await asyncio.to_thread(self.effects.shop.unsent) and not self.tasks.queues.busy()

    async def commit(self, orders: Iterable[str]) -> bool:
        """Commits orders to the handler's database, as a web app does before it creates their tasks.

        Returns False if this handler has no such database."""
        if not await self._prepare_database():
            return False
        await asyncio.to_thread(self.effects.shop.commit, orders)
        return True

    def waiting(self) -> tuple[int, bool]:
        """Returns the number of tasks in the program's queue, and whether it is paused."""
        schedule = self.tasks.queues[self.program.exports["queue"]].schedule
        return len(schedule), schedule.paused

    def dead_letters(self) -> list[Message]:
        """Returns all tasks of the dead-letter queue."""
        return [task.message for task in self.store.tasks(self.program.exports["dead_letter_queue"], "", limit=-1)]

    def addresses(self) -> dict[str, str]:
        """Returns the addresses that a client needs. The keys are those of `--json`, named like the stack's outputs."""
        exports = self.program.exports
        rest = f"http://127.0.0.1:{self.ports.tasks_rest}"
        return {
            "tasks_grpc": f"127.0.0.1:{self.ports.tasks_grpc}",
            "tasks_rest": rest,
            "service_url": exports["service_url"],
            "invoker_email": exports["invoker_email"],
            "queue": exports["queue"],
            "dead_letter_queue": exports["dead_letter_queue"],
            "issuer": rest,
            "page": self._page_url,
            **({"shop": f"http://127.0.0.1:{self.ports.shop}"} if self.ports.shop else {}),
        }

    def producer_environment(self) -> dict[str, str]:
        """Returns the environment variables that configure a producer for this local cloud."""
        at = self.addresses()
        return {
            "CLOUD_TASKS_EMULATOR_HOST": at["tasks_grpc"],
            "ORDER_TASKS_QUEUE": at["queue"],
            "ORDER_TASKS_SERVICE_URL": at["service_url"],
            "ORDER_TASKS_INVOKER_EMAIL": at["invoker_email"],
            "ORDER_TASKS_DEAD_LETTER_QUEUE": at["dead_letter_queue"],
            "ORDER_TASKS_LOG": str(self.log_file),
            "ORDER_TASKS_BREAKAGES_URL": f"{at['tasks_rest']}/breakages",
            **(
                {"ORDER_TASKS_SHOP_URL": at["shop"], "ORDER_TASKS_DATABASE_URL": self.effects.database_url}
                if self.ports.shop
                else {}
            ),
        }
