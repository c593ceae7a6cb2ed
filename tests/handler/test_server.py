"""What goes over a connection: real sockets, and an application that answers with what reached it."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from order_handler.server import MAX_BODY, Connection, Request, Response

from tests.handler.conftest import PATIENCE

ORDER = b"POST /process-order HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\norder"


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *parts: bytes) -> None:
        self._writer.writelines(parts)

    def send_no_more(self) -> None:
        self._writer.write_eof()

    async def answer(self, *, with_body: bool = True) -> tuple[str, dict[str, str], bytes]:
        """Status line, headers and body of the next answer."""
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            line, *lines = head.decode().rstrip().split("\r\n")
            headers = dict(text.split(": ", 1) for text in lines)
            body = await self._reader.readexactly(int(headers["Content-Length"])) if with_body else b""
        return line, headers, body

    async def leave(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def rest(self) -> bytes:
        """What comes before the connection is closed."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read()


class Application:
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def respond(self, request: Request) -> Response:
        self.requests.append(request)
        self.asked.set()
        await self.go_on.wait()
        if request.path == "/broken":
            raise RuntimeError("broken")
        return Response(200, request.body or b"none", "text/plain")


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
async def caller(application: Application) -> AsyncIterator[Caller]:
    connections: set[Connection] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(application.respond, connections), "127.0.0.1", 0
    )
    caller = Caller(*await asyncio.open_connection(*server.sockets[0].getsockname()))
    yield caller
    await caller.leave()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("sent", "request_"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Request("GET", "/", {}, b"")),
        (b"GET /?a=b HTTP/1.1\r\n\r\n", Request("GET", "/", {}, b"")),
        (b"GET http://shop/a?b HTTP/1.1\r\n\r\n", Request("GET", "/a", {}, b"")),
        (b"GET /%2F HTTP/1.1\r\n\r\n", Request("GET", "/%2F", {}, b"")),
        (
            b"PUT / HTTP/1.1\r\nX-A:  \xfc\r\nx-b: 1\r\nX-B: 2\r\n\r\n",
            Request("PUT", "/", {"x-a": "\xfc", "x-b": "2"}, b""),
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nord\r\n2\r\ner\r\n0\r\n\r\n",
            Request("POST", "/", {"transfer-encoding": "chunked"}, b"order"),
        ),
        (ORDER, Request("POST", "/process-order", {"host": "shop", "content-length": "5"}, b"order")),
    ],
    ids=["bare", "query", "absolute", "encoded", "headers", "chunked", "sized"],
)
@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_a_request_is_read_in_any_pieces(
    application: Application, caller: Caller, sent: bytes, request_: Request, piece: int
) -> None:
    for at in range(0, len(sent), piece):
        caller.send(sent[at : at + piece])
        # lets the other side read
        await asyncio.sleep(0)
    line, headers, body = await caller.answer()
    assert (line, body) == ("HTTP/1.1 200 OK", request_.body or b"none")
    assert headers.keys() == {"Date", "Content-Type", "Content-Length"}
    assert application.requests == [request_]


async def test_one_connection_carries_many_requests(application: Application, caller: Caller) -> None:
    for _ in range(3):
        caller.send(ORDER)
        assert (await caller.answer())[2] == b"order"
    assert len(application.requests) == 3


async def test_a_head_has_the_headers_of_a_get_and_no_body(caller: Caller) -> None:
    caller.send(b"HEAD / HTTP/1.1\r\n\r\n")
    _, headers, _ = await caller.answer(with_body=False)
    assert headers["Content-Length"] == "4"
    caller.send(ORDER)
    assert (await caller.answer())[2] == b"order"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: a\r\n\r\n",
    ],
    ids=["1.0", "close", "upgrade"],
)
async def test_a_connection_that_ends_says_so(application: Application, caller: Caller, sent: bytes) -> None:
    caller.send(sent, b"more")
    line, headers, _ = await caller.answer()
    assert (line, headers["Connection"]) == ("HTTP/1.1 200 OK", "close")
    assert await caller.rest() == b""
    assert len(application.requests) == 1


async def test_of_requests_sent_at_once_the_first_is_answered_and_the_others_never_run(
    application: Application, caller: Caller
) -> None:
    caller.send(ORDER * 3)
    _, headers, body = await caller.answer()
    assert (headers["Connection"], body) == ("close", b"order")
    assert await caller.rest() == b""
    assert len(application.requests) == 1


@pytest.mark.parametrize(("size", "reached"), [(MAX_BODY, True), (MAX_BODY + 1, False), (3 * MAX_BODY, False)])
async def test_a_body_over_1_mib_does_not_reach_the_application(
    application: Application, caller: Caller, size: int, reached: bool
) -> None:
    caller.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size, b"x" * size)
    await caller.answer()
    [request] = application.requests
    assert request.body == (b"x" * size if reached else None)
    caller.send(ORDER)
    assert (await caller.answer())[2] == b"order"


async def test_who_asks_before_it_sends_a_body_is_told_to(caller: Caller) -> None:
    head, body = ORDER.split(b"\r\n\r\n")
    caller.send(head, b"\r\nExpect: 100-continue\r\n\r\n")
    line, _, _ = await caller.answer(with_body=False)
    assert line == "HTTP/1.1 100 Continue"
    caller.send(body)
    assert (await caller.answer())[2] == b"order"


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"CONNECT shop:443 HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_with_a_warning(
    application: Application, caller: Caller, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caller.send(sent)
    line, headers, body = await caller.answer()
    assert (line, headers["Connection"], body) == ("HTTP/1.1 400 Bad Request", "close", b"Invalid HTTP request")
    assert await caller.rest() == b""
    assert application.requests == []
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "Invalid HTTP request")
    ]


async def test_what_is_not_http_behind_a_request_does_not_garble_its_answer(
    application: Application, caller: Caller
) -> None:
    caller.send(ORDER, b"hello\r\n\r\n")
    line, headers, _ = await caller.answer()
    assert (line, headers["Connection"]) == ("HTTP/1.1 200 OK", "close")
    assert await caller.rest() == b""


async def test_a_failure_of_the_application_is_500_and_the_connection_lives_on(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    caller.send(b"GET /broken HTTP/1.1\r\n\r\n")
    line, _, body = await caller.answer()
    assert (line, body) == ("HTTP/1.1 500 Internal Server Error", b'{"error":"Internal error"}')
    [record] = caplog.records
    assert record.exc_info is not None
    caller.send(ORDER)
    assert (await caller.answer())[2] == b"order"


async def test_a_request_whose_end_is_missing_never_runs(application: Application, caller: Caller) -> None:
    caller.send(ORDER[:-1])
    caller.send_no_more()
    assert await caller.rest() == b""
    assert application.requests == []


async def test_a_caller_that_left_is_not_answered_and_nothing_fails(
    application: Application, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    application.go_on.clear()
    caller.send(ORDER)
    async with asyncio.timeout(PATIENCE):
        await application.asked.wait()
        [answering] = asyncio.all_tasks() - {asyncio.current_task()}
        await caller.leave()
        application.go_on.set()
        await answering
    assert caplog.records == []
