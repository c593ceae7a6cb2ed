"""HTTP/1.1 on one port until SIGTERM: bytes -> Request, Response -> bytes; what is in flight may then finish.

Owns the connections, each of which carries one request at a time. Stands behind Cloud Run's front door, which ends TLS
and HTTP/2 and closes what idles; so it does neither, and refuses pipelining. Own code around uvicorn's parser and loop,
because uvicorn takes longer to load than the rest of a cold start, and as long as an order itself to carry one.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

MAX_BODY = 2**20
"""Bytes; a task as a whole cannot be larger."""
GRACE_SECONDS = 8
"""Cloud Run kills 10 s after SIGTERM."""

_logger = logging.getLogger(__name__)


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case; the last of those with one name."""
    body: bytes | None
    """None: over MAX_BODY."""


class Response(NamedTuple):
    status: int
    body: bytes
    content_type: str = "application/json"
    allow: str | None = None
    """The methods that would do."""


Respond = Callable[[Request], Awaitable[Response]]


async def serve(respond: Respond, host: str, port: int) -> None:
    """Until SIGTERM or SIGINT. OSError if the port is taken. What is still in flight after the grace is cancelled."""
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    connections: set[Connection] = set()
    listener = await loop.create_server(lambda: Connection(respond, connections), host, port)
    _logger.info("Listening on http://%s:%d", host, listener.sockets[0].getsockname()[1])
    await ending.wait()
    _logger.info("Shutting down")
    listener.close()
    answering = [task for connection in list(connections) if (task := connection.end())]
    if answering:
        _, late = await asyncio.wait(answering, timeout=GRACE_SECONDS)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
    _logger.info("Ended")


class Connection(asyncio.Protocol):
    """What the loop and the parser call."""

    def __init__(self, respond: Respond, connections: "set[Connection]") -> None:
        self._respond = respond
        self._connections = connections
        self._parser = HttpRequestParser(self)
        self._task: asyncio.Task[None] | None = None
        """Answers the request at hand."""
        self._last = False
        """Whether no request is taken after the one at hand."""
        self._transport: asyncio.Transport

    def end(self) -> "asyncio.Task[None] | None":
        """Closes as soon as the request at hand is answered; returns the task that does so."""
        self._last = True
        if self._task is None:
            self._transport.close()
        return self._task

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._last:
            return
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._last = True
        except HttpParserError:
            self._last = True
            if self._task is None:
                _logger.warning("Invalid HTTP request")
                self._write(Response(400, b"Invalid HTTP request", "text/plain"))

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._too_large = False

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if "expect" in self._headers:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        if len(self._body) + len(part) > MAX_BODY:
            self._too_large = True
        if not self._too_large:
            self._body += part

    def on_message_complete(self) -> None:
        if self._task:
            self._last = True
            return
        self._last = self._last or not self._parser.should_keep_alive()
        method = self._parser.get_method().decode()
        path = parse_url(self._url).path.decode("latin-1")
        request = Request(method, path, self._headers, None if self._too_large else bytes(self._body))
        self._task = asyncio.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            response = await self._respond(request)
        except Exception:
            _logger.exception("No answer to %s %s", request.method, request.path)
            response = Response(500, b'{"error":"Internal error"}')
        self._task = None
        self._write(response, with_body=request.method != "HEAD")

    def _write(self, response: Response, *, with_body: bool = True) -> None:
        """In one piece: each write wakes the other side."""
        status, body, content_type, allow = response
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {_date(int(time.time()))}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        )
        if allow:
            head += f"Allow: {allow}\r\n"
        if self._last:
            head += "Connection: close\r\n"
        whole = f"{head}\r\n".encode() + (body if with_body else b"")
        if not self._transport.is_closing():
            self._transport.write(whole)
            if self._last:
                self._transport.close()


@lru_cache(1)
def _date(second: int) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))
