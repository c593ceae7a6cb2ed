"""What the handler's effects reach on this machine: a mail server, a warehouse, and a database.

Mail server and warehouse keep what they took before they answer: what is kept has happened, whatever becomes of the
answer. The database is SQLite unless another is given.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
from email.parser import BytesHeaderParser
from pathlib import Path

from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from local.faults import LATE_SECONDS, Faults, append, lines

PLACEHOLDERS = {
    "databaseUrl": "postgresql://local/orders",
    "smtpUrl": "smtp://local?from=orders@shop.example",
    "warehouseUrl": "http://local",
    "warehouseSecret": "the-local-warehouse",
}
"""What the program is evaluated with; the handler gets the real addresses."""


class Effects:
    """The addresses that the handler's effects go to, and what reached them."""

    def __init__(self, folder: Path, faults: Faults, database_url: str = "") -> None:
        """`folder`: where it is kept. `database_url`: instead of SQLite."""
        self._mails = folder / "mails.jsonl"
        self._notifications = folder / "notifications.jsonl"
        self._faults = faults
        self._secret = secrets.token_hex(16)
        self.database_url = database_url or f"sqlite:///{folder.resolve()}/orders.sqlite"
        self._over = asyncio.Event()

    async def start(self) -> dict[str, str]:
        """Listen on free ports; the environment variables that lead a handler here."""
        loop = asyncio.get_running_loop()
        self._mail_server = await loop.create_server(lambda: SMTP(self, enable_SMTPUTF8=True), "127.0.0.1", 0)
        warehouse = web.Application()
        warehouse.router.add_post("/", self._notify)
        self._runner = web.AppRunner(warehouse, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        mail_port = self._mail_server.sockets[0].getsockname()[1]
        return {
            "DATABASE_URL": self.database_url,
            "SMTP_URL": f"smtp://127.0.0.1:{mail_port}?from=orders@shop.example",
            "WAREHOUSE_URL": f"http://127.0.0.1:{self._runner.addresses[0][1]}/",
            "WAREHOUSE_SECRET": self._secret,
        }

    async def stop(self) -> None:
        self._over.set()
        self._mail_server.close()
        await self._runner.cleanup()

    def mails(self) -> list[dict[str, str]]:
        """Each mail taken: `id`, its Message-ID, and `to`."""
        return lines(self._mails)

    def notifications(self) -> list[dict[str, str]]:
        """Each notification taken: `id`, its Idempotency-Key, and `order`."""
        return lines(self._notifications)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        fault = self._faults.draw("mail")
        if fault == "refused":
            return "451 Requested action aborted: try again later"
        if fault == "connection closed":
            _hang_up(server.transport)
            return "421 Closing"
        headers = BytesHeaderParser().parsebytes(envelope.original_content or b"")
        append(self._mails, {"id": headers["Message-ID"], "to": envelope.rcpt_tos[0]})
        if fault == "answer lost":
            _hang_up(server.transport)
        elif fault == "answered late":
            await self._late()
        return "250 OK"

    async def _notify(self, request: web.Request) -> web.Response:
        fault = self._faults.draw("warehouse")
        if fault and fault.startswith("error "):
            return web.Response(status=int(fault.removeprefix("error ")), text="<html>Not now</html>")
        body = await request.read()
        if fault == "connection closed":
            _hang_up(request.transport)
            return web.Response()
        signature = "sha256=" + hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(request.headers.get("X-Signature", ""), signature):
            return web.Response(status=401, text="The signature is not of this warehouse's key.\n")
        append(self._notifications, {"id": request.headers["Idempotency-Key"], "order": json.loads(body)["orderId"]})
        if fault == "answer lost":
            _hang_up(request.transport)
        if fault == "answered late":
            await self._late()
        return web.Response(status=204)

    async def _late(self) -> None:
        try:
            async with asyncio.timeout(LATE_SECONDS):
                await self._over.wait()
        except TimeoutError:
            return


def _hang_up(connection: asyncio.BaseTransport | None) -> None:
    if connection is not None:
        connection.close()
