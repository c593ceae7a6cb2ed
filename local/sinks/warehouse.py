"""The warehouse that is notified of orders. It stores a notification before it acknowledges it."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator

from aiohttp import web

from local.faults import Faults
from local.journal import Journal
from local.own_machine import own_machine

_BUSY_SECONDS = 3.0


class Warehouse:
    """Accepts every notification that is signed with its secret, unless a fault is drawn."""

    def __init__(self, notifications: Journal, faults: Faults) -> None:
        """`notifications`: gets an entry for each notification, with its Idempotency-Key (`id`) and its `order`."""
        self.notifications = notifications
        self.secret = secrets.token_hex(16)
        self._faults = faults
        self._busy_until = 0.0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listens on a free port, and yields the warehouse's URL."""
        application = web.Application(middlewares=[own_machine])
        application.router.add_post("/", self._notify)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()

    async def _notify(self, request: web.Request) -> web.Response:
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
        signature = "sha256=" + hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(request.headers.get("X-Signature", ""), signature):
            return web.Response(status=401, text="X-Signature is not the body's signature with this warehouse's key.\n")
        self.notifications.add({"id": effect, "order": json.loads(body)["orderId"]})
        if fault == "answer lost":
            _hang_up(request)
        elif fault == "answered late":
            await self._faults.late()
        return web.Response(status=204)


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
