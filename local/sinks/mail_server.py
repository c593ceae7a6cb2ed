"""The mail server that receives confirmations. It stores a mail before it acknowledges it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.smtp import SMTP, Envelope, Session

from local.faults import Faults
from local.journal import Journal


class MailServer:
    """Accepts every mail, unless a fault is drawn."""

    def __init__(self, mails: Journal, faults: Faults) -> None:
        """`mails`: gets an entry for each mail: its Message-ID (`id`), first recipient (`to`), `subject` and `text`."""
        self.mails = mails
        self._faults = faults

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listens on a free port, and yields the server's `smtp://` URL."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Smtp(self, enable_SMTPUTF8=True), "127.0.0.1", 0)
        try:
            yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}?from=orders@shop.example"
        finally:
            server.close()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        mail = message_from_bytes(envelope.original_content or b"", policy=policy.default)
        message_id = mail["Message-ID"]
        if self._faults.poisons(envelope.rcpt_tos[0]):
            await self._faults.late()
        fault = self._faults.draw("mail", message_id)
        if fault == "silent":
            await self._faults.late()
        if fault in ("refused", "silent"):
            return "451 Requested action aborted: try again later"
        if fault == "connection closed":
            _hang_up(server)
            return "421 Closing"
        try:
            shown = {"to": envelope.rcpt_tos[0], "subject": mail["Subject"], "text": _text(mail)}
            self.mails.add({"id": message_id, **shown})
        except OSError:
            return "452 Insufficient system storage"
        if fault == "answer lost":
            _hang_up(server)
        elif fault == "answered late":
            await self._faults.late()
        return "250 OK"


class _Smtp(SMTP):
    async def smtp_POST(self, _: str) -> None:  # noqa: N802 - the command
        """Hang up on a browser: a web page could write a mail into the body of its request."""
        _hang_up(self)


def _text(mail: EmailMessage) -> str:
    """The mail as a reader without HTML shows it."""
    body = mail.get_body(("plain", "html"))
    return str(body.get_content()) if body else ""


def _hang_up(server: SMTP) -> None:
    if server.transport is not None:
        server.transport.close()
