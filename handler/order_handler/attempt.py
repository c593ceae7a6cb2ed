"""One attempt at an order, and the rule by which no order is lost.

Owns when an order runs, when it goes to the dead-letter queue, and how the attempt ends. Before its last attempt runs,
an order is stored there, so that no crash, kill or timeout can lose it. Calls an order safe only if it is stored.
"""

import asyncio
import enum
import logging
from typing import NamedTuple

from order_handler import logs, orders
from order_handler.dead_letters import DeadLetters, Outcome, Stored
from order_handler.delivery import Delivery
from order_handler.effects import Effects
from order_handler.errors import AlreadyProcessedError, CancelledEffectError, PermanentError, TransientError
from order_handler.orders import Order


class End(enum.Enum):
    PROCESSED = "processed"
    ALREADY_PROCESSED = "already-processed"
    CANCELLED = "cancelled"
    DEAD_LETTERED = "dead-lettered"
    REFUSED = "refused"
    """A direct call failed permanently, and the caller is told why."""
    FAILED = "failed"
    """The order is neither done nor stored, so whoever delivered it must keep it."""


class Attempt(NamedTuple):
    end: End
    message: str
    """What the attempt did, or why it failed."""
    order: Order | None = None
    """None if the body is not a valid order."""
    permanent: bool = False
    """Another attempt would end the same way. The caller may hear why."""
    kind: str = "PermanentError"
    """The class of the error."""
    failure: BaseException | None = None
    """An exception that no action foresees: the log shows its stack."""
    dead_letter: str | None = None
    """Short name of the entry that keeps the order."""
    will_retry: bool = False
    """Somebody brings the order again."""
    trouble: str | None = None
    """What went wrong with the dead-letter queue. Alerting watches it in errors."""


class Attempts:
    def __init__(self, effects: Effects, dead_letters: DeadLetters) -> None:
        self._effects = effects
        self._dead_letters = dead_letters

    async def make(self, delivery: Delivery | None, body: bytes) -> Attempt:
        """Runs the order in this body, and stores it if it fails for good."""
        order = None
        try:
            order = orders.parse(body)
            if delivery and delivery.max_attempts is not None:
                delivery = delivery._replace(max_attempts=order.budget(delivery.max_attempts))
            progress = delivery.progress if delivery else None
            logs.add({"orderId": order.order_id, "action": order.action[:100], "attempt": progress})
        except PermanentError as error:
            malformed = Attempt(End.FAILED, str(error), permanent=True)
        if delivery and delivery.is_last:
            # Alerting watches this field.
            logs.write(logging.WARNING, "Last attempt", {"lastAttempt": True})
            if order:
                return await self._make_last(delivery, body, order)
        return await self._keep(await self._run(order, delivery) if order else malformed, delivery, body)

    async def refuse(self, delivery: Delivery, body: bytes, reason: str) -> Attempt:
        """Stores a task that was delivered to another address than that of orders: no retry can help it."""
        return await self._keep(Attempt(End.FAILED, reason, permanent=True), delivery, body)

    async def _keep(self, attempt: Attempt, delivery: Delivery | None, body: bytes) -> Attempt:
        """The attempt, after its order was stored if it failed for good."""
        if attempt.end is not End.FAILED:
            return attempt
        if delivery is None:
            return attempt._replace(end=End.REFUSED) if attempt.permanent else attempt
        # A replayed dead letter stays in its queue.
        if not attempt.permanent or delivery.max_attempts is None:
            return attempt._replace(will_retry=not delivery.is_last)
        return _kept(attempt, await self._store(attempt, delivery, body))

    async def _make_last(self, delivery: Delivery, body: bytes, order: Order) -> Attempt:
        reserved = await self._dead_letters.reserve(delivery, body)
        if reserved.outcome is Outcome.LIVE:
            message = "Not run again: a dead letter of an earlier last attempt keeps the order"
            return _kept(Attempt(End.FAILED, message, order, permanent=True), reserved)
        attempt = await self._run(order, delivery)
        if attempt.end is not End.FAILED:
            # Also the entries that are not known to be stored: they may be there all the same.
            left = await self._dead_letters.release(delivery, body, reserved.again, failed=False)
            troubles = [] if reserved.safe else [f"Not stored: {reserved.reason}"]
            return _troubled(attempt, *troubles, left and f"The entry may still be there: {left}")
        failed = await self._store(attempt, delivery, body)
        if failed.safe:
            left = await self._dead_letters.release(delivery, body, reserved.again, failed=True)
            return _troubled(_kept(attempt, failed), left and f"The reservation may still be there: {left}")
        if reserved.safe:
            return _troubled(_kept(attempt, reserved), f"The reason is not stored: {failed.reason}")
        return _kept(attempt, failed)

    async def _store(self, attempt: Attempt, delivery: Delivery, body: bytes) -> Stored:
        return await self._dead_letters.store(delivery, body, attempt.message, attempt.kind)

    async def _run(self, order: Order, delivery: Delivery | None) -> Attempt:
        try:
            return Attempt(End.PROCESSED, await orders.process(order, self._effects, delivery), order)
        except CancelledEffectError as error:
            return Attempt(End.CANCELLED, str(error), order)
        except AlreadyProcessedError as error:
            return Attempt(End.ALREADY_PROCESSED, str(error), order)
        except PermanentError as error:
            return Attempt(End.FAILED, str(error), order, permanent=True)
        except TransientError as error:
            return Attempt(End.FAILED, str(error), order, kind="TransientError")
        # Cancelled: the order outlasted the grace, and another instance has to try again.
        except (Exception, asyncio.CancelledError) as error:
            stopped = isinstance(error, asyncio.CancelledError)
            message = "The instance stopped while the order ran" if stopped else repr(error)
            return Attempt(End.FAILED, message, order, kind=type(error).__name__, failure=error)


def _kept(attempt: Attempt, stored: Stored) -> Attempt:
    """Returns the failed attempt, after the dead-letter queue was asked to store its order."""
    if stored.safe:
        return attempt._replace(end=End.DEAD_LETTERED, dead_letter=stored.name)
    return attempt._replace(trouble=f"Not stored: {stored.reason}")


def _troubled(attempt: Attempt, *troubles: str | None) -> Attempt:
    return attempt._replace(trouble="; ".join(filter(None, troubles)) or None)
