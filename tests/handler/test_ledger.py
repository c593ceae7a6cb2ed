"""The ledger's claims, on SQLite and on PostgreSQL."""

import asyncio
import threading
from collections.abc import Mapping

import pytest
from order_handler import deadline, ledger
from order_handler.action import identity
from order_handler.database import CALL_SECONDS, Database
from order_handler.errors import AlreadyProcessedError, PermanentError, TransientError
from order_handler.ledger import CLAIM_SECONDS, Ledger
from order_handler.tables import effects, now
from sqlalchemy import Connection, Row, insert, select, text, update

from tests.handler.conftest import Lines

KEY = ("ORD-1", "send_confirmation")


async def claim(database: Database, token: str) -> None:
    await Ledger(database).claim(*KEY, token)


async def record(database: Database, token: str) -> bool:
    return await Ledger(database).record(*KEY, token)


async def release(database: Database, token: str) -> None:
    await Ledger(database).release(*KEY, token)


async def expire(database: Database) -> None:
    """As if the claim were a moment older than it may be."""
    await database.run(lambda connection: connection.execute(update(effects).values(claimed_until=now() - 0.01)))


async def rows(database: Database) -> list[Row[str, float, float | None, float]]:
    """Token, claimed until, done at, the database's clock."""
    columns = select(effects.c.token, effects.c.claimed_until, effects.c.done_at, now())
    return list(await database.run(lambda connection: connection.execute(columns).all()))


async def test_a_claim_lasts_30_seconds_of_the_databases_clock(database: Database) -> None:
    await claim(database, "first")
    [(token, until, done_at, clock)] = await rows(database)
    assert (token, done_at) == ("first", None)
    assert clock == pytest.approx(until - CLAIM_SECONDS, abs=1)
    assert clock > 1.7e9


async def test_a_claim_is_of_one_order_and_one_action(database: Database) -> None:
    await claim(database, "first")
    await Ledger(database).claim("ORD-1", "notify_warehouse", "second")
    await Ledger(database).claim("ORD-2", "send_confirmation", "third")


async def test_what_is_recorded_is_never_claimed_again(database: Database) -> None:
    await claim(database, "first")
    assert await record(database, "first")
    await expire(database)
    with pytest.raises(AlreadyProcessedError):
        await claim(database, "second")
    assert not await record(database, "second")


async def test_an_expired_claim_is_taken_over_and_not_given_back_by_its_old_owner(database: Database) -> None:
    await claim(database, "first")
    await expire(database)
    await claim(database, "second")
    await release(database, "first")
    [(token, until, _, clock)] = await rows(database)
    assert token == "second"
    assert clock == pytest.approx(until - CLAIM_SECONDS, abs=1)


@pytest.mark.parametrize("given_back", [False, True])
async def test_a_run_that_lost_its_claim_still_records_what_it_did(database: Database, given_back: bool) -> None:
    await claim(database, "first")
    await expire(database)
    await claim(database, "second")
    if given_back:
        await release(database, "second")
    assert await record(database, "first")
    await release(database, "second")
    with pytest.raises(AlreadyProcessedError):
        await claim(database, "third")


@pytest.mark.parametrize("expired", [False, True])
async def test_of_many_claims_at_once_one_wins(database: Database, expired: bool) -> None:
    if expired:
        await claim(database, "dead")
        await expire(database)
    outcomes = await asyncio.gather(*(claim(database, f"run-{n}") for n in range(20)), return_exceptions=True)
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, TransientError) for outcome in outcomes) == 19


async def test_an_effect_happens_once_and_is_recorded(database: Database) -> None:
    async with Ledger(database).once(*KEY):
        [(_, _, done_at, _)] = await rows(database)
        assert done_at is None
    [(_, _, done_at, clock)] = await rows(database)
    assert done_at == pytest.approx(clock, abs=1)
    with pytest.raises(AlreadyProcessedError):
        async with Ledger(database).once(*KEY):
            pytest.fail("again")


@pytest.mark.parametrize(
    "failure", [TransientError("x"), PermanentError("x"), RuntimeError(), asyncio.CancelledError()]
)
async def test_a_failure_gives_the_claim_back(database: Database, failure: BaseException) -> None:
    with pytest.raises(type(failure)):
        async with Ledger(database).once(*KEY):
            raise failure
    assert await rows(database) == []


async def test_a_failure_leaves_the_claim_of_the_run_that_took_over(database: Database) -> None:
    async def lose_and_fail() -> None:
        async with Ledger(database).once(*KEY):
            await expire(database)
            await claim(database, "second")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await lose_and_fail()
    assert [row.token for row in await rows(database)] == ["second"]


async def test_what_outlasts_its_deadline_is_cancelled_and_gives_the_claim_back(database: Database) -> None:
    await database.prepare()
    with pytest.raises(TransientError, match="Out of time"):
        async with Ledger(database, seconds=0.3).once(*KEY):
            await asyncio.Event().wait()
    assert await rows(database) == []


async def test_an_effect_whose_run_is_cancelled_as_it_is_recorded_is_recorded(url: str) -> None:
    # One thread, held until the record waits for it: a caller that is cancelled then would take the record along.
    database = Database(url, connections=1)
    await database.prepare()
    done, go_on = asyncio.Event(), threading.Event()

    async def do() -> None:
        async with Ledger(database).once(*KEY):
            held.append(asyncio.create_task(database.run(lambda _: go_on.wait())))
            await asyncio.sleep(0)
            done.set()

    held: list[asyncio.Task[bool]] = []
    running = asyncio.create_task(do())
    await done.wait()
    running.cancel()
    go_on.set()
    # it does not raise: what happened must not be repeated
    await running
    with pytest.raises(AlreadyProcessedError):
        await claim(database, "second")
    await asyncio.gather(*held)
    database.close()


async def test_a_claim_that_cannot_be_given_back_hides_no_failure(url: str) -> None:
    database = Database(url)

    async def fail_without_database() -> None:
        async with Ledger(database).once(*KEY):
            database.close()
            raise PermanentError("refused")

    with pytest.raises(PermanentError, match="refused"):
        await fail_without_database()


def test_an_effect_and_the_first_try_of_its_record_end_before_the_claim() -> None:
    assert deadline.SECONDS + CALL_SECONDS < CLAIM_SECONDS


@pytest.mark.parametrize("error", [TransientError("away"), RuntimeError("anything else")])
async def test_a_record_that_fails_is_tried_again_so_that_nothing_repeats(
    database: Database, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_FIRST_PAUSE", 0.001)
    fail_records(database, monkeypatch, error, times=5)
    async with Ledger(database).once(*KEY):
        pass
    with pytest.raises(AlreadyProcessedError):
        await claim(database, "second")


async def test_an_effect_that_cannot_be_recorded_is_done_all_the_same_and_warns(
    database: Database, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    fail_records(database, monkeypatch, TransientError("away"), times=1000)
    # some time beside what is kept for the answer
    async with Ledger(database, timeout=ledger.ANSWER_SECONDS + 0.5).once(*KEY):
        pass
    [line] = lines()
    assert (line["severity"], line["unrecorded"]) == ("WARNING", True)
    assert line["message"].startswith("send_confirmation for ORD-1 is done, but could not be recorded: ")


def fail_records(database: Database, monkeypatch: pytest.MonkeyPatch, error: Exception, times: int) -> None:
    fetch, failures = database.fetch, iter([error] * times)

    async def failing(statement: str, values: Mapping[str, object]) -> object:
        if statement == ledger.RECORD and (failure := next(failures, None)):
            raise failure
        return await fetch(statement, values)

    monkeypatch.setattr(database, "fetch", failing)


async def test_a_database_that_is_read_only_for_a_while_delays_the_record(postgresql_url: str) -> None:
    database = Database(postgresql_url, connections=1)

    async def make(mode: str) -> None:
        statement = f"SET SESSION CHARACTERISTICS AS TRANSACTION READ {mode}"
        await database.run(lambda connection: connection.execute(text(statement)))

    async def end_soon() -> None:
        await asyncio.sleep(0.2)
        await make("WRITE")

    async with Ledger(database).once(*KEY):
        await make("ONLY")
        with pytest.raises(TransientError, match="read-only"):
            await record(database, "other")
        ending = asyncio.create_task(end_soon())
    await ending
    with pytest.raises(AlreadyProcessedError):
        await claim(database, "second")
    database.close()


async def test_rows_are_kept_for_62_days(url: str, database: Database) -> None:
    def fill(connection: Connection) -> None:
        for days in (61, 63):
            row = {"order_id": f"{days} days", "action": "a", "token": "t"}
            connection.execute(insert(effects).values(**row, claimed_until=now() - days * 24 * 3600))

    await database.run(fill)
    again = Database(url)
    await again.prepare()
    kept = await again.run(lambda connection: connection.scalars(select(effects.c.order_id)).all())
    again.close()
    assert kept == ["61 days"]


def test_an_effects_identity_is_the_same_for_each_run_and_of_nothing_else() -> None:
    identities = {identity(*key) for key in [("a", "b"), ("a", "b"), ("ab", ""), ("", "ab"), ("b", "a")]}
    assert len(identities) == 4
    assert all(len(found) == 32 and found.isalnum() and found.isascii() for found in identities)
