"""Sends the attempts: takes what is due from each queue, makes the HTTP request, reports the answer.

Each queue has one timer, set to the time of its next dispatch.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Coroutine

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.exchange import exchange
from local.cloud_tasks.listener import Listener
from local.cloud_tasks.tasks import CloudTasks
from local.faults import Faults
from local.identity import Identity

log = logging.getLogger("local.cloud_tasks.dispatch")

NO_ANSWER = 0
"""Status of an attempt that got no HTTP answer."""
_RETRY_SECONDS = 1.0
"""Wait before the next try to take what is due, or to write an answer."""
_LONGEST_TIMER = 5.0
"""Seconds after which each queue is looked at again: the machine's clock may have been set forward."""


class Dispatcher(Listener):
    """The sender of all queues."""

    def __init__(self, identity: Identity, clock: Callable[[], float], faults: Faults) -> None:
        """`clock`: seconds since the epoch."""
        self._cloud_tasks: CloudTasks
        self._identity = identity
        self._clock = clock
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._stopped = True
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self, cloud_tasks: CloudTasks) -> None:
        """Send the attempts of this service, which has the dispatcher among its listeners."""
        self._cloud_tasks = cloud_tasks
        self._stopped = False
        for path in cloud_tasks.queues.paths():
            self.queue_changed(path)

    async def stop(self, grace: float = 5) -> None:
        """Send nothing more; wait up to `grace` seconds for the answers that are due."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=grace)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

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
            at = self._cloud_tasks.next_dispatch(path)
        except Exception as error:  # nothing may stop a queue
            if isinstance(error, sqlite3.Error):
                log.error("The state folder cannot be written: %s; nothing is sent until it can, free space", error)
            else:
                log.exception("What is due in %s cannot be taken; it is tried again", path)
            self._set_timer(path, _RETRY_SECONDS)
            return
        for attempt in attempts:
            self._send(attempt)
        if at is not None:
            self._set_timer(path, min(max(0.0, at - self._clock()), _LONGEST_TIMER))

    def _send(self, attempt: Attempt) -> None:
        if self._stopped:
            return  # counted but not sent: a failed attempt when the state is opened again
        self._spawn(self._deliver(attempt))

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _deliver(self, attempt: Attempt) -> None:
        match self._faults.draw("dispatch"):
            case "connection refused":
                status, reason = NO_ANSWER, "connection refused"
            case "connection lost" | "answer lost" as kind:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._faults.delay(0.2) if kind == "connection lost" else None):
                        await self._request(attempt)
                status, reason = NO_ANSWER, f"the {kind.replace(' ', ' was ')}"
            case "delivered twice":
                (status, reason), _ = await asyncio.gather(self._request(attempt), self._request(attempt))
            case _:
                status, reason = await self._request(attempt)
        queue = attempt.queue.rpartition("/")[2]
        answer = f"HTTP {status}" if status else "no answer"
        fields = {"queue": queue, "task": attempt.task, "attempt": str(attempt.number), "status": status}
        log.log(
            logging.INFO if 200 <= status < 300 else logging.WARNING,
            "Attempt %d of task %s/%s: %s%s",
            *(attempt.number, queue, attempt.task, answer, reason and f": {reason}"),
            extra={"fields": fields | {"message": reason or answer, "body": attempt.body}},
        )
        await self._end(attempt, status)

    async def _end(self, attempt: Attempt, status: int) -> None:
        """End the attempt as soon as the store can be written."""
        while True:
            try:
                return self._cloud_tasks.end_attempt(attempt, status)
            except sqlite3.Error as error:
                log.error("The state folder cannot be written: %s; the answer to %s waits", error, attempt.task)
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:  # the queue goes on; the task is tried again at the next start
                log.exception("The answer %d to %s cannot be taken", status, attempt.task)
                return None

    async def _request(self, attempt: Attempt) -> tuple[int, str]:
        """The status, and the reason if there was no answer."""
        headers = attempt.headers
        if attempt.unsendable:
            return NO_ANSWER, attempt.unsendable
        if attempt.account:
            if not self._identity.has(attempt.queue.split("/")[1], attempt.account):
                return 403, f"the program declares no account {attempt.account}"
            if attempt.audience:
                token = self._identity.token(attempt.account, attempt.audience)
            else:
                token = self._identity.access_token(attempt.account, attempt.scope)
            headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with asyncio.timeout(attempt.deadline):
                return await exchange(attempt.method, attempt.url, headers, attempt.body, self._spawn)
        except TimeoutError:
            return 504, f"no answer within {attempt.deadline:g} s"
        except Exception as error:  # whatever is wrong with one request, it is a failed attempt
            log.exception("The request of task %s cannot be sent", attempt.task)
            return NO_ANSWER, str(error)
