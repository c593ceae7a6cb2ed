"""The HTTP edge, an ASGI application: request -> delivery and body -> attempt -> response and one log line.

Owns what Cloud Tasks gets to see: 200 done or safely stored, 500 not yet, never 400. The caller hears no inner detail
of a failure; the log has it.
"""

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import orjson

from order_handler import logs, trace
from order_handler.attempt import Attempt, Attempts, End
from order_handler.dead_letters import DeadLetters
from order_handler.delivery import Delivery
from order_handler.effects import Effects
from order_handler.environment import Environment

if TYPE_CHECKING:
    from order_handler.cloud_tasks import CloudTasks
    from order_handler.outbox import Relay

MAX_BODY = 2**20
"""Largest body in bytes. A task with its body is limited to 1 MiB."""
BODY_SECONDS = 30.0
"""Seconds within which a body must arrive. Cloud Run's front end forwards what it has received."""
_CANCEL_SECONDS = 1.0
"""Seconds within which cancelled orders must end, after the grace."""
_CLOSE_SECONDS = 0.2
"""For each thing that is open at the end."""

_T = TypeVar("_T")
_Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[_Message]]
Send = Callable[[_Message], Awaitable[None]]


class Response(NamedTuple):
    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class TooLargeError(Exception):
    """The body is over MAX_BODY."""


class IncompleteError(Exception):
    """The caller left, or stalled, before its request was complete."""


class App:
    def __init__(
        self, environment: Environment, effects: Effects, dead_letters: DeadLetters, relay: "Relay | None" = None
    ) -> None:
        self._environment = environment
        self._effects = effects
        self._dead_letters = dead_letters
        self._relay = relay
        self._attempts = Attempts(effects, dead_letters)
        self._running: set[asyncio.Task[Any]] = set()
        """Orders, whose callers may have left, and the preparation of the effects."""
        self._requests: set[asyncio.Task[Any] | None] = set()
        """Requests that wait for their orders."""

    @classmethod
    def configured(cls, environment: Environment) -> Self:
        """Creates the application. Raises ValueError if DATABASE_URL is malformed."""

        async def open_api() -> "CloudTasks":
            # In a thread: the official client takes a second to load, and other orders are running.
            await asyncio.to_thread(importlib.import_module, "order_handler.cloud_tasks")
            from order_handler.cloud_tasks import CloudTasks

            return await CloudTasks.open(environment.emulator_host)

        dead_letters = DeadLetters(environment.dead_letter_queue, environment.timeout, open_api)
        effects = Effects.configured(environment)
        relay = None
        if effects.database and environment.task_queue:
            from order_handler.outbox import Relay

            relay = Relay(effects.database, environment.task_queue, dead_letters.api)
        return cls(environment, effects, dead_letters, relay)

    def start(self) -> None:
        """Prepares the effects beside the first requests: a database that is down must not keep the port closed."""
        self._track(self._effects.prepare())

    async def close(self) -> None:
        """Cancels the orders that outlasted the grace, and closes what is open."""
        for task in self._running:
            task.cancel()
        ending = [task for task in (*self._running, *self._requests) if task]
        if ending:
            await asyncio.wait(ending, timeout=_CANCEL_SECONDS)
        for close in (self._effects.close, self._dead_letters.close):
            with suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await close()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            response = await self._respond(scope["method"], scope["path"], headers, receive)
        except IncompleteError:
            response = Response(408, _error("The request was not complete"), headers=((b"connection", b"close"),))
        status, body, content_type, more = response
        length = str(len(body)).encode()
        all_headers = [(b"content-type", content_type), (b"content-length", length), *more]
        await send({"type": "http.response.start", "status": status, "headers": all_headers})
        await send({"type": "http.response.body", "body": body})

    async def _respond(self, method: str, path: str, headers: Mapping[str, str], receive: Receive) -> Response:
        delivery = Delivery.read(headers)
        if delivery and not self._dead_letters.is_replay(delivery):
            delivery = delivery._replace(max_attempts=self._environment.max_attempts)
        logs.begin(self._context(headers, delivery))
        # The parser takes what follows such a request for another protocol: its body never arrives.
        if "upgrade" in headers or "upgrade" in headers.get("connection", "").lower():
            return _refuse(400, "Upgrades are not supported", (b"connection", b"close"))
        if (method, path) == ("POST", "/process-order"):
            return await self._process_order(delivery, receive)
        if delivery:
            return await self._process_order(delivery, receive, f"Wrong address of a task: {method} {path[:200]}")
        match path, method:
            case "/relay", "POST" if self._relay:
                done = await asyncio.shield(self._track(self._relay.run()))
                return Response(500 if done.failure else 200, orjson.dumps(done.counts()))
            case "/", "GET" | "HEAD" if self._effects.database and self._effects.database.is_stuck():
                # Only a new instance helps. A database that is away is no reason for one.
                return _refuse(503, "No thread is left for the database")
            case "/", "GET" | "HEAD":
                return Response(200, b"Task handler is running", b"text/plain; charset=utf-8")
            case "/process-order", _:
                return _refuse(405, f"Method not allowed: {method} {path}", (b"allow", b"POST"))
            case "/", _:
                return _refuse(405, f"Method not allowed: {method} {path}", (b"allow", b"GET, HEAD"))
            case _:
                return _refuse(404, f"Not found: {method} {path}")

    async def _process_order(self, delivery: Delivery | None, receive: Receive, refusal: str | None = None) -> Response:
        try:
            body = await _read_body(receive)
        except TooLargeError:
            end = End.FAILED if delivery else End.REFUSED
            trouble = "Tasks are limited to 1 MiB, so this is not a task" if delivery else None
            return self._answer(Attempt(end, "Body is over 1 MiB", permanent=True, trouble=trouble), delivery)
        # A task of its own: a caller that hangs up must not end a run whose effect may have happened.
        order = self._track(self._run(delivery, body, refusal))
        request = asyncio.current_task()
        self._requests.add(request)
        try:
            return await asyncio.shield(order)
        except asyncio.CancelledError:
            # The grace is over. `close` cancels the order, and how it then ends is the answer.
            return await asyncio.shield(order)
        finally:
            self._requests.discard(request)

    async def _run(self, delivery: Delivery | None, body: bytes, refusal: str | None) -> Response:
        try:
            if delivery and refusal:
                attempt = await self._attempts.refuse(delivery, body, refusal)
            else:
                attempt = await self._attempts.make(delivery, body)
        # Cancelled: the order outlasted the grace, and another instance has to try again.
        except (Exception, asyncio.CancelledError) as error:
            will_retry = delivery is not None and not delivery.is_last
            attempt = Attempt(End.FAILED, repr(error), failure=error, will_retry=will_retry)
        return self._answer(attempt, delivery)

    def _answer(self, attempt: Attempt, delivery: Delivery | None) -> Response:
        """Logs how the attempt ended, and tells the caller."""
        answer: dict[str, str | None]
        match attempt.end:
            case End.REFUSED:
                status, answer = 400, {"error": attempt.message}
            case End.FAILED:
                status, answer = 500, {"error": attempt.message if attempt.permanent else "Internal error"}
            case _:
                status = 200
                answer = {"status": attempt.end.value, "orderId": attempt.order.order_id if attempt.order else None}
        fields = {
            "status": status,
            "deadLetter": attempt.dead_letter,
            # Alerting watches this field.
            "deadLetterTrouble": attempt.trouble,
        }
        logs.write(_severity(attempt), attempt.message, fields, attempt.failure)
        return Response(status, orjson.dumps(answer))

    def _context(self, headers: Mapping[str, str], delivery: Delivery | None) -> dict[str, object]:
        """Returns the fields of every log line of this request."""
        trace_id, project = trace.begin(headers), self._environment.project
        context: dict[str, object] = {}
        if trace_id and project:
            context["logging.googleapis.com/trace"] = f"projects/{project}/traces/{trace_id}"
        if delivery:
            context["task"] = delivery.task
            context["queue"] = delivery.queue
            context["attempt"] = delivery.progress
        return context

    def _track(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


def _severity(attempt: Attempt) -> int:
    """Returns the level of an attempt's log line."""
    match attempt.end:
        case End.PROCESSED | End.ALREADY_PROCESSED | End.CANCELLED:
            return logging.WARNING if attempt.trouble else logging.INFO
        case End.REFUSED:
            return logging.WARNING
        case End.DEAD_LETTERED:
            return logging.WARNING if attempt.permanent or attempt.trouble else logging.ERROR
        case End.FAILED:
            return logging.WARNING if attempt.will_retry and not attempt.trouble else logging.ERROR


async def _read_body(receive: Receive) -> bytes:
    """TooLargeError, IncompleteError."""
    body = bytearray()
    more = True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise IncompleteError
                body += message["body"]
                more = message["more_body"]
                if len(body) > MAX_BODY:
                    raise TooLargeError
    except TimeoutError:
        raise IncompleteError from None
    return bytes(body)


def _refuse(status: int, message: str, header: tuple[bytes, bytes] | None = None) -> Response:
    logs.write(logging.WARNING, message, {"status": status})
    return Response(status, _error(message), headers=(header,) if header else ())


def _error(message: str) -> bytes:
    return orjson.dumps({"error": message})
