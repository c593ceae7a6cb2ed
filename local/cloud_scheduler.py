"""Cloud Scheduler on this machine: runs the jobs that the program declares, on their schedules.

A run is one HTTP request that carries a token of the job's account, so it needs the same grants as a task's delivery.
A run that fails is logged and not repeated before the next one, as the service does by default.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import aiohttp
from cronsim import CronSim, CronSimError
from yarl import URL

from local.faults import Faults
from local.identity import Identity

log = logging.getLogger("local.cloud_scheduler")

_POLL_SECONDS = 1.0
"""Longest sleep in seconds, since the clock may be set meanwhile."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A declared job."""

    name: str
    schedule: str
    """A cron expression of five fields."""
    time_zone: str
    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes
    deadline: float
    """Seconds within which the target must answer."""
    email: str | None
    """Account whose token a run carries. None: no token."""
    audience: str
    paused: bool

    def next_run(self, after: float) -> float:
        """Returns the time of the next run in seconds since the epoch. Raises ValueError for an invalid schedule."""
        try:
            return next(CronSim(self.schedule, datetime.fromtimestamp(after, ZoneInfo(self.time_zone)))).timestamp()
        except (CronSimError, StopIteration, LookupError, OSError) as error:
            raise ValueError(
                f"the schedule {self.schedule!r} in time zone {self.time_zone!r} never runs: {error}"
            ) from error


class Scheduler:
    """Runs jobs."""

    def __init__(
        self,
        jobs: Sequence[Job],
        identity: Identity,
        clock: Callable[[], float],
        faults: Faults,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`clock`: seconds since the epoch."""
        self._jobs = jobs
        self._identity = identity
        self._clock = clock
        self._faults = faults
        self._sleep = sleep

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run every job that is not paused, until the block ends."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as self._session:
            loops = [asyncio.create_task(self._repeat(job)) for job in self._jobs if not job.paused]
            try:
                yield
            finally:
                for each in loops:
                    each.cancel()
                await asyncio.gather(*loops, return_exceptions=True)

    async def _repeat(self, job: Job) -> None:
        while True:
            at = job.next_run(self._clock())
            while (left := at - self._clock()) > 0:
                await self._sleep(min(left, _POLL_SECONDS))
                # Earlier than before if the clock was set back.
                at = min(at, job.next_run(self._clock()))
            await self._run(job)

    async def _run(self, job: Job) -> None:
        fault = self._faults.draw("scheduler")
        if fault == "not called":
            return
        await asyncio.gather(*(self._call(job, fault) for _ in range(2 if fault == "called twice" else 1)))

    async def _call(self, job: Job, fault: str | None) -> None:
        headers = {"User-Agent": "Google-Cloud-Scheduler", **job.headers, "X-CloudScheduler": "true"}
        headers["X-CloudScheduler-JobName"] = job.name
        if job.email:
            headers["Authorization"] = f"Bearer {self._identity.token(job.email, job.audience)}"
        deadline = self._faults.delay(1.0) if fault == "answer lost" else job.deadline
        try:
            async with self._session.request(
                job.method,
                URL(job.url),
                data=job.body or None,
                headers=headers,
                skip_auto_headers=("Content-Type",),
                timeout=aiohttp.ClientTimeout(total=deadline),
            ) as response:
                text = (await response.text(errors="replace"))[:200]
                if not response.ok:
                    log.warning("The job %s failed: %s answered %s: %s", job.name, job.url, response.status, text)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("The job %s failed: no answer from %s: %s", job.name, job.url, error or type(error).__name__)
