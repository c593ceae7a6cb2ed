"""The web services that actions call, such as the warehouse. Stores a call before it acknowledges it."""

import asyncio
import contextlib
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from local.faults import Faults
from local.journal import Journal, order_of
from local.own_machine import own_machine

SIGNED = "WAREHOUSE_URL"
"""The service that takes signed calls only."""
_BUSY_SECONDS = 3.0


class WebServices:
    """Serves each variable that holds a URL at a path of its own, and accepts every call unless a fault is drawn."""

    def __init__(self, calls: Journal, faults: Faults) -> None:
        """`calls`: gets an entry for each call: variable (`to`), Idempotency-Key (`id`), `order` and `traceparent`."""
        self._calls = calls
        self.warehouse_secret = secrets.token_hex(16)
        self._faults = faults
        self._busy_until = 0.0

    def calls(self, variable: str) -> list[dict[str, Any]]:
        """Returns the calls of the service at the URL of a variable."""
        return [call for call in self._calls.entries() if call["to"] == variable]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listens on a free port, and yields the URL to which a variable's name is added."""
        application = web.Application(middlewares=[own_machine])
        application.router.add_route("*", "/{variable}{rest:(/.*)?}", self._take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        effect = request.headers.get("Idempotency-Key")
        fault = self._faults.draw("warehouse", effect)
        now = asyncio.get_running_loop().time()
        if fault == "429 to everyone":
            self._busy_until = now + _BUSY_SECONDS
        if now < self._busy_until or fault == "error 429":
            return web.Response(status=429, text="<html>Too many</html>")
        if fault == "error 500":
            return web.Response(status=500, text="<html>Not now</html>")
        body = await request.read()
        if fault == "silent":
            await self._faults.late()
            return web.Response(status=503)
        if fault == "connection closed":
            _hang_up(request)
            return web.Response()
        variable = request.match_info["variable"]
        signature = "sha256=" + hmac.new(self.warehouse_secret.encode(), body, hashlib.sha256).hexdigest()
        if variable == SIGNED and not hmac.compare_digest(request.headers.get("X-Signature", ""), signature):
            return web.Response(status=401, text="X-Signature is not the body's signature with this warehouse's key.\n")
        call = {"to": variable, "id": effect or secrets.token_hex(8), "order": order_of(body).get("orderId", "")}
        self._calls.add({**call, "traceparent": request.headers.get("traceparent")})
        if fault == "answer lost":
            _hang_up(request)
        elif fault == "answered late":
            await self._faults.late()
        return web.json_response({})


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
