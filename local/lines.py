"""Reads lines of any length that another process prints."""

import asyncio
from collections.abc import AsyncIterator


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
