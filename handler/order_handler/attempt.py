"""One attempt at an order, and the rule by which no order is lost.

Owns when an order runs, when it goes to the dead-letter queue, and how the attempt ends. Before its last attempt runs,
an order is reserved there, so that no crash, kill or timeout can lose it. Refuses to call an order safe otherwise.
"""

import asyncio
import enum
import logging
from collections.abc import Callable
from typing import NamedTuple

from order_handler import orders
from order_handler.dead_letters import DeadLetters, Outcome, Stored
from order_handler.delivery import Delivery
from order_handler.effects import Effects
from order_handler.errors import AlreadyProcessedError, PermanentError, TransientError
from order_handler.orders import Order


class End(enum.Enum):
    PROCESSED = "processed"
    ALREADY_PROCESSED = "already-processed"
    DEAD_LETTERED = "dead-lettered"
    REFUSED = "refused"
    """A permanent failure of a direct call: the caller hears why."""
    FAILED = "failed"
    """Not done and not safe: whoever delivered it has to keep it."""


class Attempt(NamedTuple):
    end: End
    message: str
    """What was done, or why not."""
    level: int = logging.INFO
    order: Order | None = None
    """None if the body is none."""
    permanent: bool = False
    """Whether it failed for good: the caller may hear why."""
    failure: BaseException | None = None
    """What nobody foresaw: the log shows its stack."""
    dead_letter: str | None = None
    """Short name of the entry that keeps the order."""
    trouble: str | None = None
    """What went wrong with the dead-letter queue."""


class Attempts:
    def __init__(self, max_attempts: int, effects: Effects, dead_letters: DeadLetters) -> None:
        self._max_attempts = max_attempts
        self._effects = effects
        self._dead_letters = dead_letters

    def retried(self, delivery: Delivery | None) -> bool:
        """Whether somebody brings the order again if this attempt fails."""
        return delivery is not None and (self._dead_letters.sent(delivery) or not delivery.is_last(self._max_attempts))

    async def make(
        self, delivery: Delivery | None, body: bytes, warn_of_last: Callable[[Order | None], None]
    ) -> Attempt:
        """Runs the order in this body as the delivery demands; `warn_of_last` is called before a last attempt runs."""
        order = None
        try:
            order = orders.parse(body)
        except PermanentError as error:
            malformed = Attempt(End.FAILED, str(error), logging.WARNING, permanent=True)
        if delivery and not self.retried(delivery):
            warn_of_last(order)
            if order:
                return await self._make_last(delivery, body, order)
        made = await self._run(order) if order else malformed
        if made.end is not End.FAILED:
            return made
        if delivery is None:
            return made._replace(end=End.REFUSED) if made.permanent else made._replace(level=logging.ERROR)
        # An entry that is replayed stays where it is.
        if not made.permanent or self._dead_letters.sent(delivery):
            return made
        return self._kept(made, await self._dead_letters.store(delivery, body, made.message), delivery, body)

    async def _make_last(self, delivery: Delivery, body: bytes, order: Order) -> Attempt:
        stored = await self._dead_letters.reserve(delivery, body)
        if stored.outcome is Outcome.LIVE:
            message = "An earlier last attempt did not end: the entry that it reserved keeps the order"
            return self._kept(Attempt(End.FAILED, message, logging.WARNING, order), stored, delivery, body)
        made = await self._run(order)
        if made.end is End.FAILED:
            level = logging.WARNING if made.permanent else logging.ERROR
            return self._kept(made._replace(level=level), stored, delivery, body)
        # Even if it is not known to be stored: an unknown outcome may be an entry.
        kept_by = await self._dead_letters.release(delivery, body)
        troubles = [
            *([f"Not stored: {stored.reason}"] if stored.outcome is Outcome.NOT_STORED else []),
            *([f"The entry may be there still: {kept_by}"] if kept_by else []),
        ]
        return made._replace(level=logging.WARNING, trouble="; ".join(troubles)) if troubles else made

    async def _run(self, order: Order) -> Attempt:
        try:
            return Attempt(End.PROCESSED, await orders.process(order, self._effects), order=order)
        except AlreadyProcessedError as error:
            return Attempt(End.ALREADY_PROCESSED, str(error), order=order)
        except PermanentError as error:
            return Attempt(End.FAILED, str(error), logging.WARNING, order, permanent=True)
        except TransientError as error:
            return Attempt(End.FAILED, str(error), logging.WARNING, order)
        # A cancelled request is one that outlasted the graceful end: another instance has to try again.
        except (Exception, asyncio.CancelledError) as error:
            return Attempt(End.FAILED, repr(error), logging.WARNING, order, failure=error)

    def _kept(self, made: Attempt, stored: Stored, delivery: Delivery, body: bytes) -> Attempt:
        """This failure, once the dead-letter queue was asked to keep the order."""
        if stored.outcome is Outcome.NOT_STORED:
            return made._replace(level=logging.ERROR, trouble=f"Not stored: {stored.reason}")
        return made._replace(end=End.DEAD_LETTERED, dead_letter=self._dead_letters.name(delivery, body))
