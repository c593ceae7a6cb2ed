"""The warehouse's webhook, against an HTTP server in this process."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable

import pytest
from order_handler.actions.notify_warehouse import Warehouse
from order_handler.database import Database
from order_handler.effects import Effects
from order_handler.errors import AlreadyProcessedError, PermanentError, TransientError
from order_handler.ledger import Ledger

from tests.handler.calls import DELIVERED, Handler
from tests.handler.conftest import Lines

KEY = ("ORD-1 ü", "notify_warehouse")
SECRET = "geheim"
HTML = b"<!doctype html><title>Oops</title>" + b"<p>" * 100_000


class Door:
    """An HTTP server that keeps each request and answers with these bytes; None: never."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: bytes | None = b""
        self.url = ""

    def status(self, status: int, body: bytes = b"{}", more: str = "") -> None:
        self.answer = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest if line)}
            self.requests.append((first, headers, await reader.readexactly(int(headers["content-length"]))))
            if self.answer is None:
                await reader.read()
            else:
                writer.write(self.answer)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    found = Door()
    found.status(200)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/orders?key=geheim"
    yield found
    server.close()
    await server.wait_closed()


@pytest.fixture
async def warehouse(door: Door, sqlite: Database) -> AsyncIterator[Warehouse]:
    found = Warehouse(door.url, SECRET, Ledger(sqlite))
    yield found
    await found.close()


async def test_the_warehouse_gets_one_signed_notice_of_the_order(warehouse: Warehouse, door: Door) -> None:
    await warehouse.notify(*KEY)
    [(first, headers, body)] = door.requests
    assert first == "POST /orders?key=geheim HTTP/1.1"
    assert json.loads(body) == {"orderId": "ORD-1 ü", "action": "notify_warehouse"}
    assert headers["content-type"] == "application/json"
    assert headers["x-signature"] == "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    with pytest.raises(AlreadyProcessedError):
        await warehouse.notify(*KEY)
    assert len(door.requests) == 1


async def test_a_repeat_has_the_same_idempotency_key_and_no_other_order_has_it(
    warehouse: Warehouse, door: Door
) -> None:
    door.status(503)
    with pytest.raises(TransientError):
        await warehouse.notify(*KEY)
    door.status(200)
    await warehouse.notify(*KEY)
    await warehouse.notify("ORD-2", "notify_warehouse")
    first, repeat, other = (headers["idempotency-key"] for _, headers, _ in door.requests)
    assert first == repeat != other


@pytest.mark.parametrize("body", [b"", b"{}", HTML], ids=["empty", "json", "html"])
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_is_done_whatever_it_says(warehouse: Warehouse, door: Door, status: int, body: bytes) -> None:
    door.status(status, b"" if status == 204 else body)
    await warehouse.notify(*KEY)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 451, 499])
async def test_4xx_is_permanent(warehouse: Warehouse, door: Door, status: int) -> None:
    door.status(status, HTML)
    with pytest.raises(PermanentError, match=f"^The warehouse answered {status}$"):
        await warehouse.notify(*KEY)


@pytest.mark.parametrize("status", [408, 425, 429, 300, 301, 302, 303, 304, 307, 308, 500, 502, 503, 504, 599])
async def test_every_other_status_is_transient_and_no_redirect_is_followed(
    warehouse: Warehouse, door: Door, status: int
) -> None:
    door.status(status, b"" if status == 304 else HTML, f"Location: {door.url}\r\n")
    with pytest.raises(TransientError, match=f"^The warehouse answered {status}$"):
        await warehouse.notify(*KEY)
    assert len(door.requests) == 1


@pytest.mark.parametrize(
    "answer", [b"", b"220 mail.example.com ESMTP\r\n", b"HTTP/1.1 2", b"<html>", b"HTTP/1.1 200 OK\r\nbad\r\n\r\n"]
)
async def test_what_is_no_http_is_transient(warehouse: Warehouse, door: Door, answer: bytes) -> None:
    door.answer = answer
    with pytest.raises(TransientError, match=r"^No answer from the warehouse: [A-Za-z]+$"):
        await warehouse.notify(*KEY)


@pytest.mark.parametrize("more", ["Content-Encoding: gzip\r\n", "Content-Type: \xff\r\n", "Set-Cookie: =\r\n"])
async def test_a_body_that_is_broken_or_cut_short_undoes_no_answer(warehouse: Warehouse, door: Door, more: str) -> None:
    door.answer = f"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n{more}\r\n".encode("latin-1") + b"<html>"
    await warehouse.notify(*KEY)


async def test_a_warehouse_that_is_away_is_transient(sqlite: Database) -> None:
    warehouse = Warehouse("http://127.0.0.1:1/", SECRET, Ledger(sqlite))
    with pytest.raises(TransientError, match="ConnectError"):
        await warehouse.notify(*KEY)
    await warehouse.close()


async def test_a_warehouse_that_says_nothing_ends_at_the_deadline(door: Door, sqlite: Database) -> None:
    door.answer = None
    warehouse = Warehouse(door.url, SECRET, Ledger(sqlite, seconds=0.3))
    with pytest.raises(TransientError, match="Out of time"):
        await warehouse.notify(*KEY)
    await warehouse.close()


async def test_no_proxy_of_the_machine_is_asked(door: Door, sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    warehouse = Warehouse(door.url, SECRET, Ledger(sqlite))
    await warehouse.notify(*KEY)
    await warehouse.close()


@pytest.mark.parametrize(
    ("status", "answered", "severity"), [(200, 200, "INFO"), (404, 200, "WARNING"), (500, 500, "WARNING")]
)
async def test_an_html_answer_is_one_clear_line_without_url_or_secret(
    handler_with: Callable[[Effects], Handler],
    warehouse: Warehouse,
    door: Door,
    status: int,
    answered: int,
    severity: str,
    lines: Lines,
) -> None:
    door.status(status, HTML)
    handler = handler_with(Effects({"notify_warehouse": warehouse}))
    assert (await handler.order(DELIVERED, action="notify_warehouse")).status == answered
    [line] = lines()
    assert line["severity"] == severity
    assert "geheim" not in str(line)
