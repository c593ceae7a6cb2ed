"""The local mail server takes mails from a mail client, and from no web page."""

import asyncio
import smtplib
from pathlib import Path

from yarl import URL

from local.faults import Faults
from local.journal import Journal
from local.sinks.mail_server import MailServer

MAIL = "HELO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nMessage-ID: 1\r\n\r\n.\r\n"


async def test_a_mail_in_the_body_of_a_web_page_s_request_is_not_taken(tmp_path: Path) -> None:
    server = MailServer(Journal(tmp_path / "mails.jsonl"), Faults(None, tmp_path / "faults.jsonl"))
    async with server.serving() as url, asyncio.timeout(10):
        port = URL(url).port or 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n{MAIL}".encode())
        assert b"250" not in await reader.read()
        writer.close()
        assert server.mails.entries() == []

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
                client.sendmail("a@example.com", ["b@example.com"], "Message-ID: 1\r\n\r\n")

        await asyncio.to_thread(send)
        [mail] = server.mails.entries()
        assert (mail["id"], mail["to"]) == ("1", "b@example.com")
