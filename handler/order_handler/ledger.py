"""Which effects have happened: the reason why a task that is delivered twice does nothing twice.

An effect inside the database is recorded in its own transaction: exactly once. One outside it (a mail, a call) is
claimed, done, recorded: repeated only if a run dies or stalls between doing and recording.
"""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy import Connection, and_, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from order_handler import deadline
from order_handler.database import Database
from order_handler.errors import AlreadyProcessedError, TransientError
from order_handler.tables import effects, now

RECORD_SECONDS = 4
"""How long a record is tried again: a connection that was cut must not make a mail go out twice."""
CLAIM_SECONDS = 30
"""Longer than an effect and its record may take."""

_KEY = [effects.c.order_id, effects.c.action]
_OPEN = effects.c.done_at.is_(None)

# All statements stand here because building one takes longer than running it.
_INSERTS: dict[str, postgresql.Insert | sqlite.Insert] = {
    "postgresql": postgresql.insert(effects),
    "sqlite": sqlite.insert(effects),
}
_CLAIMS = {
    dialect: insert.values(claimed_until=now() + CLAIM_SECONDS)
    .on_conflict_do_update(
        index_elements=_KEY,
        set_={"token": insert.excluded.token, "claimed_until": insert.excluded.claimed_until},
        where=and_(_OPEN, effects.c.claimed_until <= now()),
    )
    .returning(effects.c.token)
    for dialect, insert in _INSERTS.items()
}
_RECORDS = {
    dialect: insert.values(claimed_until=now(), done_at=now())
    .on_conflict_do_update(index_elements=_KEY, set_={"done_at": insert.excluded.done_at}, where=_OPEN)
    .returning(effects.c.token)
    for dialect, insert in _INSERTS.items()
}
_OF_THIS = and_(*(column == bindparam(column.name) for column in _KEY))
_DONE_AT = select(effects.c.done_at).where(_OF_THIS)
_RELEASE = delete(effects).where(_OF_THIS, effects.c.token == bindparam("token"), _OPEN)


def identity(order_id: str, action: str) -> str:
    """32 hex digits, the same for each repeat of an effect: by them the receiving side can tell."""
    return hashlib.sha256(f"{order_id}\0{action}".encode()).hexdigest()[:32]


def claim(connection: Connection, order_id: str, action: str, token: str) -> None:
    """Makes the effect this run's own. AlreadyProcessedError; TransientError if another run holds it."""
    mine = {"order_id": order_id, "action": action, "token": token}
    if connection.execute(_CLAIMS[connection.dialect.name], mine).first():
        return
    if connection.scalar(_DONE_AT, {"order_id": order_id, "action": action}) is None:
        raise TransientError(f"Another run is at {action} for {order_id}")
    raise AlreadyProcessedError(f"Already processed: {action} for {order_id}")


def record(connection: Connection, order_id: str, action: str, token: str) -> bool:
    """Says that the effect happened, whoever claims it by now; False if that was known."""
    mine = {"order_id": order_id, "action": action, "token": token}
    return connection.execute(_RECORDS[connection.dialect.name], mine).first() is not None


def release(connection: Connection, order_id: str, action: str, token: str) -> None:
    """Gives this run's claim back; another's stays."""
    connection.execute(_RELEASE, {"order_id": order_id, "action": action, "token": token})


class Ledger:
    def __init__(self, database: Database, seconds: float = deadline.SECONDS) -> None:
        self._database = database
        self._seconds = seconds

    @asynccontextmanager
    async def once(self, order_id: str, action: str) -> AsyncIterator[None]:
        """Claims the effect, lets the block do it in the time that an effect has, and records it.

        Raises what `claim` raises, and what the block raises, which gives the claim back.
        """
        moment = asyncio.get_running_loop().time() + self._seconds
        token = uuid.uuid4().hex
        async with deadline.until(moment):
            await self._database.run(lambda connection: claim(connection, order_id, action, token))
        try:
            async with deadline.until(moment):
                yield
        except BaseException:
            # A claim that cannot be given back expires.
            with suppress(Exception):
                await self._database.run(lambda connection: release(connection, order_id, action, token))
            raise
        # It happened: no cancelled caller makes that unsaid.
        await asyncio.shield(self._record(order_id, action, token))

    async def _record(self, order_id: str, action: str, token: str) -> None:
        """Records what happened, and goes on trying while nobody else may do it."""
        end = asyncio.get_running_loop().time() + RECORD_SECONDS
        while True:
            try:
                await self._database.run(lambda connection: record(connection, order_id, action, token))
            except TransientError:
                if asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(0.3)
            else:
                return
