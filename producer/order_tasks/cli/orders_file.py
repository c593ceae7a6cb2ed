"""A file of orders, one JSON object a line: {"orderId", "customerEmail"}, or with an "action" for that one task.

Owns the line's form. Refuses fields it does not know: "acton" would otherwise mean all three tasks. Reads in a thread,
so that a slow pipe holds up neither the calls in flight nor Ctrl-C.
"""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO

from order_tasks.errors import InvalidOrderError
from order_tasks.order import NEW_ORDER_ACTIONS, Order

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class FileOrder(Order):
    """An order and where it stands."""

    line: int = 0
    """Counted from 1."""
    size: int = 0
    """Bytes, with the line's end."""


async def read_orders(file: FileIO, malformed: Callable[[int, int, str], None]) -> AsyncGenerator[FileOrder, None]:
    """Each order of an unbuffered binary file. A line that is none goes to `malformed(line, size, reason)`."""
    number = 0
    async for text in _lines(file):
        number += 1
        if not text.strip():
            continue
        try:
            order = _parse(text, number)
        except InvalidOrderError as error:
            malformed(number, len(text) + 1, str(error))
        else:
            yield order


def _parse(text: bytes, number: int) -> FileOrder:
    try:
        order = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidOrderError(f"not JSON in UTF-8: {error}") from error
    if not isinstance(order, dict):
        raise InvalidOrderError("not a JSON object")
    if missing := [field for field in ("orderId", "customerEmail") if field not in order]:
        raise InvalidOrderError(f"without {' and '.join(missing)}")
    if unknown := order.keys() - {"orderId", "customerEmail", "action"}:
        raise InvalidOrderError(
            f"unknown field {', '.join(sorted(unknown))}: an order has orderId, customerEmail, action"
        )
    actions = (order["action"],) if "action" in order else NEW_ORDER_ACTIONS
    return FileOrder(order["orderId"], order["customerEmail"], actions, number, len(text) + 1)


async def _lines(file: FileIO) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    wanted = threading.Semaphore(1)

    def read() -> None:
        with suppress(RuntimeError, ValueError):  # interrupted: the loop or the file is closed
            while wanted.acquire():
                try:
                    chunk: bytes | OSError = file.read(_CHUNK_BYTES)
                except OSError as error:
                    chunk = error
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
                if not isinstance(chunk, bytes) or not chunk:
                    return

    # Not asyncio.to_thread: the loop's end would wait for a read that may never return.
    threading.Thread(target=read, daemon=True).start()
    rest = b""
    try:
        while chunk := await chunks.get():
            if isinstance(chunk, OSError):
                raise chunk
            wanted.release()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest
    finally:
        wanted.release()  # so that the thread finds out
