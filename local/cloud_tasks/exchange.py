"""One attempt's HTTP exchange: the request, and the status of its answer.

Only the status counts, so nothing after the status line can spoil an answer: no header, encoding or length is judged.
Each request has a connection of its own, so none is sent to a target that has just closed one.
"""

import asyncio
import contextlib
import functools
import re
import ssl
from collections.abc import Callable, Coroutine, Mapping

from yarl import URL

MAX_REDIRECTS = 10
LINGER_SECONDS = 5
"""How long the rest of an answer is read, so that the target can finish it."""

_STATUS_LINE = re.compile(rb"HTTP/1\.\d +(\d{3})\b")
_HEAD_BYTES = 1024 * 1024
_BODY_METHODS = ("POST", "PUT", "PATCH")
_KEEP_METHOD = (307, 308)
_REDIRECTS = (301, 302, 303, *_KEEP_METHOD)

Spawn = Callable[[Coroutine[None, None, None]], object]
"""Runs a coroutine in the background."""


async def exchange(method: str, url: str, headers: Mapping[str, str], body: bytes, spawn: Spawn) -> tuple[int, str]:
    """Send a request, and follow its redirects: the last status, or 0 and why there was no HTTP answer.

    `spawn`: reads the rest of each answer."""
    try:
        target = _url(url)
        for _ in range(MAX_REDIRECTS):
            status, location = await _send(method, target, headers, body, spawn)
            if status not in _REDIRECTS or not location:
                break
            following = target.join(_url(location))
            if following.origin() != target.origin():
                headers = _without("authorization", headers)
            target = following
            if status not in _KEEP_METHOD and method not in ("GET", "HEAD"):
                method, body, headers = "GET", b"", _without("content-type", headers)
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        return 0, str(error) or type(error).__name__
    return status, ""


def _url(text: str) -> URL:
    """A URL that is sent as it is if it is in ASCII, and percent-encoded otherwise."""
    return URL(text, encoded=re.fullmatch(r"[!-~]*", text) is not None)


def _without(name: str, headers: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key.lower() != name}


async def _send(method: str, target: URL, headers: Mapping[str, str], body: bytes, spawn: Spawn) -> tuple[int, str]:
    """The status of an answer, and the address that it redirects to."""
    if target.scheme not in ("http", "https") or not target.host:
        raise ValueError(f"{target} is not an HTTP URL")
    tls = _tls() if target.scheme == "https" else None
    reader, writer = await asyncio.open_connection(target.host, target.port, ssl=tls, limit=_HEAD_BYTES)
    try:
        lines = [f"{method} {target.raw_path_qs or '/'} HTTP/1.1", f"Host: {target.host_port_subcomponent}"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        if body or method in _BODY_METHODS:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        answer = await _head(reader)
    except BaseException:
        writer.close()
        raise
    spawn(_linger(reader, writer))
    return answer


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _head(reader: asyncio.StreamReader) -> tuple[int, str]:
    """The status of the final answer, and the address that it redirects to; interim answers (1xx) are skipped."""
    status = 0
    while line := await reader.readline():
        match = _STATUS_LINE.match(line)
        if match is None and line.strip():
            raise ValueError("the answer is not HTTP/1.1")
        status = int(match[1]) if match else 0
        if status == 101 or status >= 200:
            break
        while match and (await reader.readline()).strip():
            continue
    else:
        raise ConnectionResetError("the target closed the connection without an answer")
    with contextlib.suppress(OSError, ValueError):  # the status stands all the same
        while status in _REDIRECTS and (line := (await reader.readline()).strip()):
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"location":
                return status, value.strip().decode(errors="replace")
    return status, ""


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the rest of the answer, and close the connection."""
    with contextlib.closing(writer), contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while await reader.read(65536):
                continue
