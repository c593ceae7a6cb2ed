"""The HTTP edge: request -> delivery -> action; outcome -> response and one log line.

Owns what Cloud Tasks gets to see: 200 done, 400 never, 500 not yet. Refuses to tell a caller what went wrong inside:
the log has it. Two routes by hand, because Starlette's router and middleware add a quarter to the time of an order.
"""

import asyncio
import logging

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from order_handler import logs, orders
from order_handler.delivery import Delivery
from order_handler.environment import Environment
from order_handler.orders import Order, PermanentError

MAX_BODY = 2**20
"""Bytes; a task as a whole cannot be larger."""

_logger = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()


class App:
    """The ASGI application."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._respond(request)
        await response(scope, receive, send)

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
        order = failure = None
        try:
            order = orders.parse(await _read_body(request))
            message = await orders.process(order)
        except PermanentError as error:
            message = str(error)
            level, status, answer = logging.WARNING, 400, {"error": message}
        # A cancelled request is one that outlasted the graceful end: another instance has to try again.
        except (Exception, asyncio.CancelledError) as error:
            failure, message = error, repr(error)
            retried = delivery is not None and not delivery.is_last(self._environment.max_attempts)
            level, status, answer = logging.WARNING if retried else logging.ERROR, 500, {"error": "Internal error"}
        else:
            level, status, answer = logging.INFO, 200, {"status": "processed", "orderId": order.order_id}
        self._log(level, message, status, request, delivery, order, failure)
        return _json(status, answer)

    def _refuse(self, request: Request, status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
        message = f"{reason}: {request.method} {request.scope['path']}"
        self._log(logging.WARNING, message, status, request, Delivery.read(request.headers))
        return _json(status, {"error": message}, headers)

    def _log(
        self,
        level: int,
        message: str,
        status: int,
        request: Request,
        delivery: Delivery | None,
        order: Order | None = None,
        failure: BaseException | None = None,
    ) -> None:
        fields: dict[str, object] = {
            "status": status,
            "logging.googleapis.com/trace": logs.trace(request.headers, self._environment.project),
        }
        if delivery:
            fields["task"] = delivery.task
            fields["queue"] = delivery.queue
            fields["attempt"] = f"{delivery.attempt or '?'} of {self._environment.max_attempts}"
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


def _json(status: int, answer: dict[str, str], headers: dict[str, str] | None = None) -> Response:
    return Response(_encoder.encode(answer), status, headers, "application/json")
