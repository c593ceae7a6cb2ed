"""Cloud Run's side of a simulation: the front door, and the instances, each with the real handler application."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
from aiosmtplib import SMTPRecipientRefused, SMTPRecipientsRefused, SMTPServerDisconnected
from order_handler.app import App
from order_handler.cloud_tasks import CloudTasks
from order_handler.database import Database
from order_handler.dead_letters import DeadLetters
from order_handler.effects import Effects
from order_handler.environment import Environment
from order_handler.outbox import Relay

from local.cloud_tasks.attempt import Attempt
from local.simulate.cloud import Client
from local.simulate.judge import Effect
from local.simulate.loop import current_process
from local.simulate.world import NoAnswerError, World

GRACE_SECONDS = 8
Happened = Callable[[Effect], None]
"""Called when an effect arrives."""


class Instance:
    """One process of a revision, and its application."""

    def __init__(self, world: World, name: str, variables: Mapping[str, str], client: Client) -> None:
        self.process = world.process(name)
        self.running = 0
        """Requests."""
        environment = Environment.read(variables)
        self.timeout = environment.timeout

        async def open_api() -> CloudTasks:
            await asyncio.sleep(world.pause())
            return CloudTasks(client)  # type: ignore[arg-type]

        database = Database(str(environment.database_url), 1, self.process.thread, world.database_now)
        assert environment.task_queue is not None
        dead_letters = DeadLetters(environment.dead_letter_queue, environment.timeout, open_api)
        relay = Relay(database, environment.task_queue, dead_letters.api, lambda: world.loop.now)
        self._app = App(environment, Effects.on(database, environment), dead_letters, relay)
        self._world = world
        self.process.context.copy().run(self._app.start)

    async def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of a POST request; 0: the instance died."""
        status = self._world.loop.create_future()

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:  # noqa: ANN401 - as ASGI has it
            settle(message.get("status"))

        def settle(value: int | None) -> None:
            if value is not None and not status.done():
                self.running -= 1
                status.set_result(value)

        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"method": "POST", "path": path, "headers": encoded}
        self.running += 1
        self.process.at_death.append(lambda: settle(0))
        self.process.start(self._app(scope, receive, send))
        try:
            async with asyncio.timeout(self.timeout):
                return await asyncio.shield(status)
        except TimeoutError:
            return 504  # the instance goes on

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        until = self._world.loop.now + GRACE_SECONDS
        while self.running and self._world.loop.now < until:  # noqa: ASYNC110 - polling costs nothing here
            await asyncio.sleep(0.1)
        closing = self.process.start(self._app.close())
        await asyncio.wait([closing], timeout=2)
        self._world.kill(self.process)


class CloudRun:
    """The front door and the instances of the revision that gets the traffic."""

    def __init__(self, world: World, client: Client, most: int, concurrency: int) -> None:
        self._world = world
        self._variables: Mapping[str, str] = {}
        self._client = client
        self._most, self._concurrency = most, concurrency
        self._instances: list[Instance] = []
        self._started = 0

    async def deliver(self, attempt: Attempt) -> int:
        """An attempt of Cloud Tasks, on its way through everything that may go wrong."""
        world = self._world
        path = urlsplit(attempt.url).path
        fault = world.draw("delivery")
        early = {"refused": 503, "token refused": 403, "busy": 429}
        await asyncio.sleep(world.pause())
        if fault in early:
            return early[fault]
        sending = world.loop.start(self.request(path, attempt.headers, attempt.body, fault))
        if fault == "twice at once":
            world.loop.start(self.request(path, attempt.headers, attempt.body))
        if fault == "twice":
            later = world.chance("delivery").uniform(0, 600)
            again = lambda: world.loop.start(self.request(path, attempt.headers, attempt.body))  # noqa: E731
            world.loop.outside(later, again)
        if fault == "connection lost":
            await asyncio.wait([sending], timeout=world.chance("delivery").uniform(0, 1))
            return 0
        status = await asyncio.shield(sending)
        await asyncio.sleep(world.pause())
        return 0 if fault == "answer lost" else status

    async def request(self, path: str, headers: Mapping[str, str], body: bytes, fault: str | None = None) -> int:
        self._instances = [each for each in self._instances if each.process.alive]
        free = [each for each in self._instances if each.running < self._concurrency]
        if not free and len(self._instances) >= self._most:
            return 429
        instance = self._world.chance("door").choice(free) if free else await self._start()
        if fault in ("handler dies", "handler freezes"):
            strike = self._world.kill if fault == "handler dies" else self._world.freeze
            self._world.loop.outside(self._world.chance("delivery").uniform(0, 0.3), strike, instance.process)
        return await instance.answer(path, headers, body)

    async def _start(self) -> Instance:
        self._started += 1
        instance = Instance(self._world, f"handler {self._started}", self._variables, self._client)
        self._instances.append(instance)
        await asyncio.sleep(self._world.pause())
        return instance

    def deploy(self, variables: Mapping[str, str]) -> None:
        """A new revision gets the traffic; the old instances end."""
        self._variables = variables
        for instance in self._instances:
            self._world.loop.start(instance.stop())
        self._instances = []


class Smtp:
    """aiosmtplib's client, whose server is in the simulation."""

    def __init__(self, world: World, happened: Happened, poison: Collection[str], **_: object) -> None:
        """`poison`: addresses whose mails kill the process that sends them. The server's own does not matter."""
        self._world, self._happened, self._poison = world, happened, poison

    async def connect(self) -> None:
        await asyncio.sleep(self._world.pause())

    async def send_message(self, letter: EmailMessage) -> None:
        address = str(letter["To"])
        if address in self._poison:
            self._world.kill(current_process())
        try:
            await _effect(self._world, "mail", self._happened, address.partition("@")[0], "send_confirmation")
        except NoAnswerError as error:
            raise SMTPServerDisconnected(str(error)) from None
        except PermissionError:
            raise SMTPRecipientsRefused([SMTPRecipientRefused(550, "5.1.1 no", address)]) from None

    async def quit(self) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""


class Transport(httpx.AsyncBaseTransport):
    """httpx's way to the warehouse."""

    def __init__(self, world: World, happened: Happened) -> None:
        self._world = world
        self._happened = happened

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        order = orjson.loads(request.content)["orderId"]
        try:
            await _effect(self._world, "warehouse", self._happened, order, "notify_warehouse")
        except NoAnswerError as error:
            raise httpx.ReadError(str(error)) from None
        except PermissionError:
            return httpx.Response(422)
        return httpx.Response(200)


async def _effect(world: World, place: str, happened: Happened, order: str, action: str) -> None:
    effect = Effect((order, action), current_process(), world.loop.now)
    try:
        await world.call(place, lambda: happened(effect))
        effect.known = True
    except BaseException:
        effect.given_up = True
        raise
