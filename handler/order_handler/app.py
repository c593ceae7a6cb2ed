"""The HTTP edge: request -> delivery and body -> attempt; its end -> response and one log line.

Owns what Cloud Tasks gets to see: 200 done or safely stored, 400 never, 500 not yet. Refuses to tell a caller what went
wrong inside: the log has it. Two routes by hand, because Starlette's router and middleware add a quarter to the time of
an order.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Self

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from order_handler import logs
from order_handler.attempt import Attempt, Attempts, End
from order_handler.dead_letters import DeadLetters
from order_handler.delivery import Delivery
from order_handler.effects import Effects
from order_handler.environment import Environment
from order_handler.errors import PermanentError
from order_handler.orders import Order

MAX_BODY = 2**20
"""Bytes; a task as a whole cannot be larger."""

_logger = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()


class App:
    """The ASGI application."""

    def __init__(self, environment: Environment, effects: Effects, dead_letters: DeadLetters) -> None:
        self._environment = environment
        self._effects = effects
        self._dead_letters = dead_letters
        self._attempts = Attempts(environment.max_attempts, effects, dead_letters)

    @classmethod
    def configured(cls, environment: Environment) -> Self:
        """ValueError if the environment's DATABASE_URL is malformed."""
        dead_letters = DeadLetters(environment.dead_letter_queue, environment.timeout, environment.emulator_host)
        return cls(environment, Effects.configured(environment), dead_letters)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        request = Request(scope, receive)
        response = await self._respond(request)
        await response(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        # Beside the first requests: a database that is down must not keep the port closed.
        preparing = asyncio.create_task(self._effects.prepare())
        await receive()
        await preparing
        await self._effects.close()
        await self._dead_letters.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _respond(self, request: Request) -> Response:
        match request.scope["path"], request.method:
            case "/process-order", "POST":
                return await self._process_order(request)
            case "/", "GET" | "HEAD":
                return PlainTextResponse("Task handler is running")
            case "/process-order", _:
                return self._refuse(request, 405, "Method not allowed", {"allow": "POST"})
            case "/", _:
                return self._refuse(request, 405, "Method not allowed", {"allow": "GET, HEAD"})
            case _:
                return self._refuse(request, 404, "Not found")

    async def _process_order(self, request: Request) -> Response:
        delivery = Delivery.read(request.headers)

        def warn_of_last(order: Order | None) -> None:
            # Alerting watches this field.
            self._log(logging.WARNING, "Last attempt", request, delivery, order, {"lastAttempt": True})

        try:
            made = await self._attempts.make(delivery, await _read_body(request), warn_of_last)
        except PermanentError as error:
            # No task is so large: what claims to deliver it cannot be kept.
            end, level = (End.FAILED, logging.ERROR) if delivery else (End.REFUSED, logging.WARNING)
            made = Attempt(end, str(error), level, permanent=True)
        # The caller left, or the graceful end is over: another instance has to try again.
        except (Exception, asyncio.CancelledError) as error:
            level = logging.WARNING if self._attempts.retried(delivery) else logging.ERROR
            made = Attempt(End.FAILED, repr(error), level, failure=error)
        return self._answer(made, request, delivery)

    def _answer(self, made: Attempt, request: Request, delivery: Delivery | None) -> Response:
        answer: dict[str, str | None]
        match made.end:
            case End.REFUSED:
                status, answer = 400, {"error": made.message}
            case End.FAILED:
                status, answer = 500, {"error": made.message if made.permanent else "Internal error"}
            case _:
                status = 200
                answer = {"status": made.end.value, "orderId": made.order.order_id if made.order else None}
        fields = {"status": status, "deadLetter": made.dead_letter, "deadLetterTrouble": made.trouble}
        self._log(made.level, made.message, request, delivery, made.order, fields, made.failure)
        return _json(status, answer)

    def _refuse(self, request: Request, status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
        message = f"{reason}: {request.method} {request.scope['path']}"
        self._log(logging.WARNING, message, request, Delivery.read(request.headers), None, {"status": status})
        return _json(status, {"error": message}, headers)

    def _log(
        self,
        level: int,
        message: str,
        request: Request,
        delivery: Delivery | None,
        order: Order | None,
        more: Mapping[str, object],
        failure: BaseException | None = None,
    ) -> None:
        trace = logs.trace(request.headers, self._environment.project)
        fields = {**more, "logging.googleapis.com/trace": trace}
        if delivery:
            fields["task"] = delivery.task
            fields["queue"] = delivery.queue
            # A replay has no budget.
            budget = "" if self._dead_letters.sent(delivery) else f" of {self._environment.max_attempts}"
            fields["attempt"] = f"{delivery.attempt or '?'}{budget}"
        if order:
            fields["orderId"] = order.order_id
            fields["action"] = order.action
        _logger.log(level, message, exc_info=failure, extra={"fields": fields})


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise PermanentError("Body is over 1 MiB")
    return bytes(body)


def _json(status: int, answer: Mapping[str, str | None], headers: dict[str, str] | None = None) -> Response:
    return Response(_encoder.encode(answer), status, headers, "application/json")
