"""A file of orders, one JSON object on each line: {"orderId", "customerEmail"}, or the message of any action.

Refuses unknown fields: with "acton", all three tasks would be created. Reads in a thread, so that a slow pipe blocks
neither the calls in flight nor Ctrl-C.
"""

import asyncio
import hashlib
import json
import reprlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from io import FileIO

from order_tasks.contract import contract
from order_tasks.errors import InvalidOrderError
from order_tasks.message import Message
from order_tasks.order import Order

_CHUNK_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """An order or a message, and its line."""

    order: Order | Message
    number: int
    """Counted from 1."""
    size: int
    """Bytes, including the end of the line."""

    @property
    def order_id(self) -> str | None:
        return self.order.order_id

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.order.messages


async def read_orders(file: FileIO, on_invalid: Callable[[int, int, str], None]) -> AsyncGenerator[Line, None]:
    """Each order of an unbuffered binary file. Calls `on_invalid(line, size, reason)` for each other line."""
    number = 0
    async for text, size in _read_lines(file):
        number += 1
        if text is not None and not text.strip():
            continue
        try:
            line = Line(_parse(text, size), number, size)
        except InvalidOrderError as error:
            on_invalid(number, size, str(error))
        else:
            yield line


def _parse(text: bytes | None, size: int) -> Order | Message:
    if text is None:
        raise InvalidOrderError(f"the line has {size} bytes, more than {_MAX_LINE_BYTES}")
    try:
        fields = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidOrderError(f"not JSON in UTF-8: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidOrderError("not a JSON object")
    action = fields.get("action")
    declared = contract().get(action, {}) if isinstance(action, str) else {}
    known = {"orderId", "customerEmail", "action", *declared.get("message", {}).get("properties", ())}
    if (declared or "action" not in fields) and (unknown := fields.keys() - known):
        names = ", ".join(map(reprlib.repr, sorted(unknown)[:3]))
        raise InvalidOrderError(f"unknown field {names}: the fields are {', '.join(sorted(known))}")
    if "action" not in fields:
        return Order(fields.get("orderId", ""), fields.get("customerEmail", ""))
    key = fields.pop("key", None)
    if key is None and fields.get("orderId") is None:
        # not a random one: sending the line again must not create another task
        key = hashlib.sha256(text.strip()).hexdigest()[:16]
    return Message(fields.pop("action"), fields, key)


async def _read_lines(file: FileIO) -> AsyncGenerator[tuple[bytes | None, int], None]:
    """Each line without its end, or None if it is too long, and its size in bytes."""
    parts: list[bytes] = []
    size = 0
    while chunk := await _read(file):
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


async def _read(file: FileIO) -> bytes:
    chunk: Future[bytes] = Future()
    chunk.set_running_or_notify_cancel()  # an interrupt does not cancel it: the thread may still be reading

    def read() -> None:
        try:
            chunk.set_result(file.read(_CHUNK_BYTES))
        except Exception as error:
            chunk.set_exception(error)

    # Not asyncio.to_thread: at its end the loop would wait for a read that may never return.
    threading.Thread(target=read, daemon=True).start()
    return await asyncio.wrap_future(chunk)
