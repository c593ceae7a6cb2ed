"""The time that an effect may take in all, before its claim in the ledger could pass to another run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from order_handler.errors import TransientError

SECONDS = 20.0


@asynccontextmanager
async def until(moment: float) -> AsyncIterator[None]:
    """Cancels what it encloses at this moment of the loop's clock: TransientError."""
    try:
        async with asyncio.timeout_at(moment):
            yield
    except TimeoutError as error:
        raise TransientError("Out of time: the effect took too long") from error
