"""A file of orders, one JSON object on each line: {"orderId", "customerEmail"}, and an "action" for that task only.

Refuses unknown fields: with "acton", all three tasks would be created. Reads in a thread, so that a slow pipe blocks
neither the calls in flight nor Ctrl-C.
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
    """An order and its line."""

    line: int = 0
    """Counted from 1."""
    size: int = 0
    """Bytes, including the end of the line."""


async def read_orders(file: FileIO, on_invalid: Callable[[int, int, str], None]) -> AsyncGenerator[FileOrder, None]:
    """Each order of an unbuffered binary file. Calls `on_invalid(line, size, reason)` for each other line."""
    number = 0
    async for text in _read_lines(file):
        number += 1
        if not text.strip():
            continue
        try:
            order = _parse(text, number)
        except InvalidOrderError as error:
            on_invalid(number, len(text) + 1, str(error))
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
        raise InvalidOrderError(f"{' and '.join(missing)} missing")
    if unknown := order.keys() - {"orderId", "customerEmail", "action"}:
        raise InvalidOrderError(
            f"unknown field {', '.join(sorted(unknown))}: the fields are orderId, customerEmail and action"
        )
    actions = (order["action"],) if "action" in order else NEW_ORDER_ACTIONS
    return FileOrder(order["orderId"], order["customerEmail"], actions, number, len(text) + 1)


async def _read_lines(file: FileIO) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    wanted = threading.Semaphore(1)

    def read() -> None:
        with suppress(RuntimeError, ValueError):  # after an interrupt the loop or the file is closed
            while wanted.acquire():
                try:
                    chunk: bytes | OSError = file.read(_CHUNK_BYTES)
                except OSError as error:
                    chunk = error
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
                if not isinstance(chunk, bytes) or not chunk:
                    return

    # Not asyncio.to_thread: at its end the loop would wait for a read that may never return.
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
        wanted.release()  # the thread wakes up and ends
