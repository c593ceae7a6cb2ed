"""The time limit of an effect, which ends before another run may take over the claim in the ledger."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from order_handler.errors import TransientError

SECONDS = 20.0


@asynccontextmanager
async def until(moment: float) -> AsyncIterator[None]:
    """Cancels the enclosed code at this time of the loop's clock. Raises TransientError then."""
    try:
        async with asyncio.timeout_at(moment):
            yield
    except TimeoutError as error:
        raise TransientError("Out of time: the effect took too long") from error
