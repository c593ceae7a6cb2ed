"""The stock, on SQLite and on PostgreSQL: exactly once, never below zero."""

import asyncio
from collections.abc import Mapping

import pytest
from order_handler.actions.update_inventory import Stock
from order_handler.database import Database
from order_handler.errors import AlreadyProcessedError, CancelledEffectError, PermanentError, TransientError
from order_handler.ledger import Ledger
from order_handler.tables import effects, order_lines, orders, stock
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError

ACTION = "update_inventory"


async def fill(database: Database, items: Mapping[str, int], lines: Mapping[str, Mapping[str, int]]) -> None:
    """`lines`: order -> item -> quantity."""

    def work(connection: Connection) -> None:
        for item, quantity in items.items():
            connection.execute(insert(stock).values(item=item, quantity=quantity))
        for order_id, wanted in lines.items():
            connection.execute(insert(orders).values(order_id=order_id))
            for item, quantity in wanted.items():
                connection.execute(insert(order_lines).values(order_id=order_id, item=item, quantity=quantity))

    await database.run(work)


async def left(database: Database) -> dict[str, int]:
    rows = await database.run(lambda connection: connection.execute(select(stock)).all())
    return {row.item: row.quantity for row in rows}


async def recorded(database: Database) -> int:
    found = await database.run(lambda connection: connection.scalar(select(func.count()).select_from(effects)))
    assert found is not None
    return found


async def test_an_orders_lines_leave_the_stock(database: Database) -> None:
    await fill(database, {"cup": 5, "pot": 1, "tea": 9}, {"ORD-1": {"cup": 4, "pot": 1}})
    await Stock(database).take("ORD-1", ACTION)
    assert await left(database) == {"cup": 1, "pot": 0, "tea": 9}


async def test_a_cancelled_order_takes_nothing(database: Database) -> None:
    await fill(database, {"cup": 5}, {"ORD-1": {"cup": 1}})
    cancelled = {"order_id": "ORD-1", "action": ACTION, "token": "cancelled", "claimed_until": 0.0, "done_at": 0.0}
    await database.run(lambda connection: connection.execute(insert(effects).values(cancelled)))
    with pytest.raises(CancelledEffectError):
        await Stock(database).take("ORD-1", ACTION)
    with pytest.raises(CancelledEffectError):
        await Ledger(database).claim("ORD-1", ACTION, "a run")
    assert await left(database) == {"cup": 5}


async def test_concurrent_duplicates_take_each_order_exactly_once(url: str, database: Database) -> None:
    # Items in opposite orders: whoever locked them as they come would wait for each other.
    lines = {f"ORD-{n}": {"cup": 1, "pot": 2} if n % 2 else {"pot": 2, "cup": 1} for n in range(10)}
    await fill(database, {"cup": 10, "pot": 20}, lines)
    other = Database(url)
    runs = [
        Stock(instance).take(order_id, ACTION) for order_id in lines for instance in (database, other) for _ in range(3)
    ]
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    other.close()
    assert outcomes.count(None) == 10
    assert sum(isinstance(outcome, AlreadyProcessedError) for outcome in outcomes) == 50
    assert await left(database) == {"cup": 0, "pot": 0}


@pytest.mark.parametrize("wanted", [{"cup": 1, "pot": 3}, {"cup": 1, "unknown": 1}])
async def test_too_little_of_one_item_is_a_permanent_failure_that_names_it_and_takes_nothing(
    database: Database, wanted: dict[str, int]
) -> None:
    await fill(database, {"cup": 5, "pot": 2}, {"ORD-1": wanted})
    short = list(wanted)[1]
    with pytest.raises(PermanentError, match=f"^Too little stock of {short} for ORD-1$"):
        await Stock(database).take("ORD-1", ACTION)
    assert await left(database) == {"cup": 5, "pot": 2}
    assert await recorded(database) == 0


async def test_an_order_that_the_database_does_not_know_yet_is_transient_and_succeeds_later(database: Database) -> None:
    await fill(database, {"cup": 5}, {})
    with pytest.raises(TransientError, match="not yet known"):
        await Stock(database).take("ORD-1", ACTION)
    assert await recorded(database) == 0
    await fill(database, {}, {"ORD-1": {"cup": 1}})
    await Stock(database).take("ORD-1", ACTION)
    assert await left(database) == {"cup": 4}


async def test_of_two_orders_for_the_last_item_one_gets_it(database: Database) -> None:
    await fill(database, {"cup": 1}, {"ORD-1": {"cup": 1}, "ORD-2": {"cup": 1}})
    runs = [Stock(database).take(order_id, ACTION) for order_id in ("ORD-1", "ORD-2")]
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "PermanentError"]
    assert await left(database) == {"cup": 0}


@pytest.mark.parametrize(("items", "lines"), [({"cup": -1}, {}), ({}, {"ORD-1": {"cup": 0}})])
async def test_the_database_itself_refuses_what_cannot_be(
    database: Database, items: dict[str, int], lines: dict[str, dict[str, int]]
) -> None:
    with pytest.raises(IntegrityError):
        await fill(database, items, lines)


async def test_a_run_that_the_database_keeps_waiting_is_transient_and_may_still_happen(database: Database) -> None:
    await fill(database, {"cup": 5}, {"ORD-1": {"cup": 1}})
    with pytest.raises(TransientError, match="Out of time"):
        await Stock(database, seconds=0).take("ORD-1", ACTION)
