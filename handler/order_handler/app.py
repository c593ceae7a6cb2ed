"""The HTTP edge: request -> delivery and body -> attempt; its end -> response and one log line.

Owns what Cloud Tasks gets to see: 200 done or safely stored, 400 never, 500 not yet. Refuses to tell a caller what went
wrong inside: the log has it.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Self

import orjson

from order_handler import logs, server
from order_handler.attempt import Attempt, Attempts, End
from order_handler.dead_letters import DeadLetters
from order_handler.delivery import Delivery
from order_handler.effects import Effects
from order_handler.environment import Environment
from order_handler.orders import Order
from order_handler.server import Request, Response


class App:
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

    async def serve(self) -> None:
        """Until SIGTERM. OSError if the port is taken."""
        # Beside the first requests: a database that is down must not keep the port closed.
        preparing = asyncio.create_task(self._effects.prepare())
        await server.serve(self.respond, self._environment.host, self._environment.port)
        await preparing
        await self._effects.close()
        await self._dead_letters.close()

    async def respond(self, request: Request) -> Response:
        match request.path, request.method:
            case "/process-order", "POST":
                return await self._process_order(request)
            case "/", "GET" | "HEAD":
                return Response(200, b"Task handler is running", "text/plain; charset=utf-8")
            case "/process-order", _:
                return self._refuse(request, 405, "Method not allowed", "POST")
            case "/", _:
                return self._refuse(request, 405, "Method not allowed", "GET, HEAD")
            case _:
                return self._refuse(request, 404, "Not found")

    async def _process_order(self, request: Request) -> Response:
        delivery = Delivery.read(request.headers)

        def warn_of_last(order: Order | None) -> None:
            # Alerting watches this field.
            self._log(logging.WARNING, "Last attempt", request, delivery, order, {"lastAttempt": True})

        if request.body is None:
            # No task is so large: what claims to deliver it cannot be kept.
            end, level = (End.FAILED, logging.ERROR) if delivery else (End.REFUSED, logging.WARNING)
            return self._answer(Attempt(end, "Body is over 1 MiB", level, permanent=True), request, delivery)
        try:
            made = await self._attempts.make(delivery, request.body, warn_of_last)
        # Cancelled: the graceful end is over, and another instance has to try again.
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
        return Response(status, orjson.dumps(answer))

    def _refuse(self, request: Request, status: int, reason: str, allow: str | None = None) -> Response:
        message = f"{reason}: {request.method} {request.path}"
        self._log(logging.WARNING, message, request, Delivery.read(request.headers), None, {"status": status})
        return Response(status, orjson.dumps({"error": message}), allow=allow)

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
        logs.write(level, message, fields, failure)
