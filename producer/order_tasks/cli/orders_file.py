"""A file of orders, one JSON object on each line: {"orderId", "customerEmail"}, and an "action" for that task only.

Refuses unknown fields: with "acton", all three tasks would be created. Reads in a thread, so that a slow pipe blocks
neither the calls in flight nor Ctrl-C.
"""

import asyncio
import json
import reprlib
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO

from order_tasks.errors import InvalidOrderError
from order_tasks.order import NEW_ORDER_ACTIONS, Order

_CHUNK_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 20


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
    async for text, size in _read_lines(file):
        number += 1
        if text is not None and not text.strip():
            continue
        try:
            order = _parse(text, number, size)
        except InvalidOrderError as error:
            on_invalid(number, size, str(error))
        else:
            yield order


def _parse(text: bytes | None, number: int, size: int) -> FileOrder:
    if text is None:
        raise InvalidOrderError(f"the line has {size} bytes, more than {_MAX_LINE_BYTES}")
    try:
        order = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidOrderError(f"not JSON in UTF-8: {error}") from error
    if not isinstance(order, dict):
        raise InvalidOrderError("not a JSON object")
    if missing := [field for field in ("orderId", "customerEmail") if field not in order]:
        raise InvalidOrderError(f"{' and '.join(missing)} missing")
    if unknown := order.keys() - {"orderId", "customerEmail", "action"}:
        names = ", ".join(map(reprlib.repr, sorted(unknown)[:3]))
        raise InvalidOrderError(f"unknown field {names}: the fields are orderId, customerEmail and action")
    actions = (order["action"],) if "action" in order else NEW_ORDER_ACTIONS
    return FileOrder(order["orderId"], order["customerEmail"], actions, number, size)


async def _read_lines(file: FileIO) -> AsyncGenerator[tuple[bytes | None, int], None]:
    """Each line without its end, or None if it is too long, and its size in bytes."""
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
    parts: list[bytes] = []
    size = 0
    try:
        while chunk := await chunks.get():
            if isinstance(chunk, OSError):
                raise chunk
            wanted.release()
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                size += len(end) + 1
                yield (b"".join([*parts, end]) if size <= _MAX_LINE_BYTES else None), size
                parts, size = [], 0
            size += len(rest)
            if size <= _MAX_LINE_BYTES:
                parts.append(rest)
        if size:
            yield (b"".join(parts) if size <= _MAX_LINE_BYTES else None), size
    finally:
        wanted.release()  # the thread wakes up and ends
