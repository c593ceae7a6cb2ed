"""A handler that somebody else started, at a URL of its own: `--handler URL`."""

import contextlib
from collections.abc import AsyncIterator

import aiohttp

from local.cloud_run.instances import NoInstanceError


class RunningHandler:
    """Takes the requests that the declared instances would take."""

    def __init__(self, url: str, max_requests: int) -> None:
        """`max_requests`: at once; more get 429."""
        self._url = url.rstrip("/")
        self._max_requests = max_requests
        self._busy = 0

    async def start(self) -> None:
        """Raise NoInstanceError if nothing answers there."""
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
                await session.get(self._url)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = f"nothing answers at {self._url}: {error or 'no answer in 10 s'}; start the handler first"
            raise NoInstanceError(503, reason) from None

    @contextlib.asynccontextmanager
    async def slot(self, body: bytes = b"") -> AsyncIterator[str]:
        """The handler's address; raises NoInstanceError if it is busy."""
        if self._busy >= self._max_requests:
            raise NoInstanceError(429, f"{self._busy} requests are in progress, as many as all instances take")
        self._busy += 1
        try:
            yield self._url
        finally:
            self._busy -= 1

    def kill_one(self) -> None:
        """Do nothing: the handler belongs to somebody else."""

    kill_all = freeze_one = kill_one

    async def stop(self) -> None:
        """Leave the handler running."""
