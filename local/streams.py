"""Streams of text: standard output and error that cannot break, and the lines that another process prints.

A terminal or pipe that is gone never ends the local cloud.
"""

import asyncio
import errno
import os
import sys
from collections.abc import AsyncIterator
from typing import Any, TextIO

_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full: later output may fit again."""


def keep_open() -> None:
    """From now on, drop what cannot be written. A stream that the caller closed is the null device, so that no other
    file of this process takes its number."""
    null = os.open(os.devnull, os.O_RDWR)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            os.dup2(null, number)
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, _Unbreakable(stream, null) if number else stream)


class _Unbreakable:
    """A stream to a file, until it can never be written again: then to the null device."""

    def __init__(self, stream: TextIO, null: int) -> None:
        self._stream = stream
        self._null = null

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno not in _PASSING:
            os.dup2(self._null, self._stream.fileno())

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yields each line without its line end. A line longer than the stream's limit comes in pieces."""
    while not stream.at_eof():
        try:
            line = await stream.readuntil()
        except asyncio.IncompleteReadError as error:
            line = error.partial
        except asyncio.LimitOverrunError as error:
            line = await stream.readexactly(error.consumed)
        if line:
            yield line.decode(errors="replace").rstrip("\n")
