"""Sends the attempts: takes what is due from each queue, makes the HTTP request, reports the answer.

One timer a queue, set to the moment at which it next has something to send.
"""

import asyncio
import logging
import re
import sqlite3
from collections.abc import Callable

import aiohttp
from yarl import URL

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.listener import Listener
from local.cloud_tasks.tasks import CloudTasks
from local.faults import Faults
from local.identity import Identity

log = logging.getLogger("local.cloud_tasks.dispatch")

_ENCODED = re.compile(r"[!-~]*")
"""A URL that leaves as it is; any other is percent-encoded."""
_DISK_PAUSE = 1.0
"""Seconds before the next try to write."""


class Dispatcher(Listener):
    """The sender of all queues."""

    def __init__(
        self,
        identity: Identity,
        clock: Callable[[], float],
        faults: Faults,
        kill_handler: Callable[[], None],
    ) -> None:
        """`clock`: seconds since the epoch. `kill_handler`: ends a handler, for the fault of that name."""
        self._cloud_tasks: CloudTasks
        self._identity = identity
        self._clock = clock
        self._faults = faults
        self._kill_handler = kill_handler
        self._loop = asyncio.get_running_loop()
        self._stopped = True
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self, cloud_tasks: CloudTasks) -> None:
        """Send the attempts of this service, which has the dispatcher among its listeners."""
        self._cloud_tasks = cloud_tasks
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
        )
        self._stopped = False
        for path in cloud_tasks.queues.paths():
            self.queue_changed(path)

    async def stop(self, grace: float = 5) -> None:
        """Send nothing more; wait up to `grace` seconds for the answers that are due."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=grace)
            for attempt in late:
                attempt.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._session.close()

    def queue_changed(self, queue: str) -> None:
        """Send what is due in the loop's next round."""
        self._set_timer(queue, 0)

    def run_requested(self, attempt: Attempt) -> None:
        self._send(attempt)

    def _set_timer(self, path: str, delay: float) -> None:
        if path in self._timers:
            self._timers[path].cancel()
        if not self._stopped:
            self._timers[path] = self._loop.call_later(delay, self._send_due, path)

    def _send_due(self, path: str) -> None:
        try:
            attempts = self._cloud_tasks.start_attempts(path)
        except sqlite3.Error as error:
            log.error("The state folder cannot be written: %s; nothing is sent until it can, free some space", error)
            self._set_timer(path, _DISK_PAUSE)
            return
        for attempt in attempts:
            self._send(attempt)
        at = self._cloud_tasks.next_dispatch(path)
        if at is not None:
            self._set_timer(path, max(0.0, at - self._clock()))

    def _send(self, attempt: Attempt) -> None:
        if self._stopped:
            return  # counted but not sent: a failed attempt when the state is opened again
        task = self._loop.create_task(self._deliver(attempt))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _deliver(self, attempt: Attempt) -> None:
        match self._faults.draw("dispatch"):
            case "connection refused":
                status, reason = 503, ": connection refused"
            case "answer lost":
                await self._request(attempt)
                status, reason = 503, ": the answer was lost"
            case "delivered twice":
                (status, reason), _ = await asyncio.gather(self._request(attempt), self._request(attempt))
            case "handler killed":
                self._loop.call_later(self._faults.delay(0.05), self._kill_handler)
                status, reason = await self._request(attempt)
            case _:
                status, reason = await self._request(attempt)
        if not 200 <= status < 300:
            name = f"{attempt.queue.rpartition('/')[2]}/{attempt.task}"
            log.warning("Attempt %d of task %s: HTTP %d%s", attempt.number, name, status, reason)
        while True:
            try:
                return self._cloud_tasks.end_attempt(attempt, status)
            except sqlite3.Error as error:
                log.error("The state folder cannot be written: %s; the answer to %s waits", error, attempt.task)
                await asyncio.sleep(_DISK_PAUSE)

    async def _request(self, attempt: Attempt) -> tuple[int, str]:
        """The status, and in words what there was instead of an answer."""
        headers = attempt.headers
        if attempt.account:
            if not self._identity.has(attempt.queue.split("/")[1], attempt.account):
                return 403, f": the program declares no account {attempt.account}"
            token = self._identity.token(attempt.account, attempt.audience)
            headers = {**headers, "Authorization": f"Bearer {token}"}
        try:
            async with self._session.request(
                attempt.method,
                URL(attempt.url, encoded=_ENCODED.fullmatch(attempt.url) is not None),
                data=attempt.body or None,
                headers=headers,
                skip_auto_headers=("Content-Type", "Accept", "Accept-Encoding"),
                timeout=aiohttp.ClientTimeout(total=attempt.deadline),
            ) as response:
                await response.read()
                return response.status, ""
        except TimeoutError:
            return 504, f": no answer within {attempt.deadline:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: what cannot be sent at all
            return 503, f": {error}"
