"""The record of effects that happened, so that a task that is delivered twice does nothing twice.

An effect inside the database is recorded in its own transaction: it happens exactly once. An effect outside it, such as
a mail or a call, is claimed, done, recorded. It is repeated only if

- a run dies or stalls between effect and record, or the answer to the effect is lost, or
- the record could not be written, and a duplicate, a second row or a replay comes after the claim has ended.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress

from order_handler import deadline, logs
from order_handler.database import Database
from order_handler.errors import AlreadyProcessedError, CancelledEffectError, TransientError

CLAIM_SECONDS = 30
"""How long a claim holds. An effect and the first try of its record take less."""
ANSWER_SECONDS = 10
"""What remains of the handler's timeout, when the tries of a record end, for the answer."""

_FIRST_PAUSE = 0.3
_LONGEST_PAUSE = 5.0
_CANCELLED_SECONDS = 0.5

_CLAIM = f"""
INSERT INTO effects (order_id, action, token, claimed_until)
VALUES (:order_id, :action, :token, epoch_now() + {CLAIM_SECONDS})
ON CONFLICT (order_id, action) DO UPDATE SET token = excluded.token, claimed_until = excluded.claimed_until
WHERE effects.done_at IS NULL AND effects.claimed_until <= epoch_now()
RETURNING token
"""
RECORD = """
INSERT INTO effects (order_id, action, token, claimed_until, done_at)
VALUES (:order_id, :action, :token, epoch_now(), epoch_now())
ON CONFLICT (order_id, action) DO UPDATE SET done_at = excluded.done_at
WHERE effects.done_at IS NULL
RETURNING token
"""
DONE_BY = "SELECT token FROM effects WHERE order_id = :order_id AND action = :action AND done_at IS NOT NULL"
CANCELLED = "cancelled"
"""The token of an effect that the web app cancelled."""
_RELEASE = """
DELETE FROM effects
WHERE order_id = :order_id AND action = :action AND token = :token AND done_at IS NULL
RETURNING token
"""


def nothing_to_do(order_id: str, action: str, token: str) -> AlreadyProcessedError:
    """The error for an effect whose row in the table is done. `token`: that row's."""
    if token == CANCELLED:
        return CancelledEffectError(f"Cancelled: {action} for {order_id}")
    return AlreadyProcessedError(f"Already processed: {action} for {order_id}")


class Ledger:
    def __init__(self, database: Database, seconds: float = deadline.SECONDS, timeout: float = 60) -> None:
        """`seconds`: for a claim and its effect. `timeout`: the handler's, in seconds."""
        self._database = database
        self._seconds = seconds
        self._record_seconds = timeout - ANSWER_SECONDS

    @asynccontextmanager
    async def once(self, order_id: str, action: str) -> AsyncIterator[None]:
        """Claims the effect, lets the block do it in the time that an effect has, and records it.

        Raises what `claim` raises, and what the block raises, after which the claim is released. Once the block has
        succeeded, nothing is raised: an effect that happened must not be repeated because its record is missing.
        """
        begin = asyncio.get_running_loop().time()
        token = uuid.uuid4().hex
        async with deadline.until(begin + self._seconds):
            await self.claim(order_id, action, token)
        try:
            async with deadline.until(begin + self._seconds):
                yield
        except BaseException:
            # A claim that cannot be released expires.
            with suppress(Exception):
                await self.release(order_id, action, token)
            raise
        # Before the answer: Cloud Run may stop the processor after it.
        await self._record_until(begin + self._record_seconds, order_id, action, token)

    async def claim(self, order_id: str, action: str, token: str) -> None:
        """Reserves the effect for this run. AlreadyProcessedError; TransientError if another run holds the claim."""
        key = {"order_id": order_id, "action": action}
        if await self._database.fetch(_CLAIM, {**key, "token": token}):
            return
        await self.refuse_if_done(order_id, action)
        raise TransientError(f"Another run is at {action} for {order_id}")

    async def record(self, order_id: str, action: str, token: str) -> bool:
        """Records that the effect happened, whoever holds its claim now. Returns False if that was known."""
        values = {"order_id": order_id, "action": action, "token": token}
        return await self._database.fetch(RECORD, values) is not None

    async def release(self, order_id: str, action: str, token: str) -> None:
        """Ends this run's claim. The claim of another run stays."""
        await self._database.fetch(_RELEASE, {"order_id": order_id, "action": action, "token": token})

    async def refuse_if_done(self, order_id: str, action: str) -> None:
        """Raises AlreadyProcessedError if the effect happened, or CancelledEffectError if it was cancelled."""
        if done := await self._database.fetch(DONE_BY, {"order_id": order_id, "action": action}):
            raise nothing_to_do(order_id, action, done[0])

    async def _record_until(self, end: float, order_id: str, action: str, token: str) -> None:
        """Records the effect. Whatever the database answers, it tries again until this moment of the loop's clock.

        A caller that is cancelled, since its grace is over, still waits a moment for the try that is under way.
        """
        failure: BaseException | None = None
        pause = _FIRST_PAUSE
        recording = asyncio.ensure_future(self.record(order_id, action, token))
        try:
            while failure := await _failure(asyncio.shield(recording)):
                if asyncio.get_running_loop().time() + pause > end:
                    break
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                recording = asyncio.ensure_future(self.record(order_id, action, token))
        except asyncio.CancelledError as error:
            await asyncio.wait([recording], timeout=_CANCELLED_SECONDS)
            failure = await _failure(recording) if recording.done() else error
            recording.cancel()
        if failure:
            # Alerting watches this field.
            message = f"{action} for {order_id} is done, but could not be recorded: {failure!r}"
            logs.write(logging.WARNING, message, {"unrecorded": True})


async def _failure(result: Awaitable[object]) -> Exception | None:
    try:
        await result
    except Exception as error:
        return error
    return None
