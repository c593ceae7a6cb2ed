"""The relay: every row is sent, waits, or is named, whatever stands beside it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import datetime
from typing import Any

import grpc
import pytest
from google.cloud.tasks_v2 import CreateTaskRequest
from order_handler.app import App
from order_handler.cloud_tasks import CloudTasks
from order_handler.database import Database
from order_handler.dead_letters import DeadLetters
from order_handler.effects import Effects
from order_handler.environment import Environment
from order_handler.errors import TransientError
from order_handler.outbox import PASS_SECONDS, Relay
from order_handler.tables import outbox
from order_tasks import outbox as producer
from sqlalchemy import create_engine, insert, inspect, select, text

from tests.handler.calls import DELIVERED, Handler
from tests.handler.conftest import DEAD_LETTER_QUEUE, Lines
from tests.local.cloud_tasks.serving import LOCATION, Fault, Received, Serving

QUEUE = f"{LOCATION}/queues/orders"
BODY = '{"orderId": "ORD-1", "action": "update_inventory"}'
MINUTE = 60.0
DAY = 24 * 3600.0


@pytest.fixture
def service() -> Iterator[Serving]:
    with Serving(declared={QUEUE: []}) as service:
        service.now = time.time()
        yield service


@pytest.fixture
async def dead_letters(service: Serving) -> AsyncIterator[DeadLetters]:
    """Has the client that the relay uses too."""
    dead_letters = DeadLetters(DEAD_LETTER_QUEUE, 300, lambda: CloudTasks.open(service.grpc))
    yield dead_letters
    await dead_letters.close()


@pytest.fixture
async def relay(database: Database, dead_letters: DeadLetters) -> Relay:
    await database.run(lambda _: None)  # creates the tables
    return Relay(database, QUEUE, dead_letters.api)


async def add(database: Database, *rows: dict[str, Any]) -> None:
    """Rows that are a minute old and good, but for what is given."""
    usual = {"body": BODY, "headers": None, "due": None, "added_at": time.time() - MINUTE}
    values = [{**usual, "task_id": f"row-{number:04}", **row} for number, row in enumerate(rows)]
    await database.run(lambda connection: connection.execute(insert(outbox), values))


async def left(database: Database) -> dict[str, str | None]:
    """Task id -> why it is refused."""
    query = select(outbox.c.task_id, outbox.c.refused)
    rows = await database.run(lambda connection: connection.execute(query).all())
    return {task: reason for task, reason in rows}  # noqa: C416 - rows are not tuples to mypy


def created(service: Serving) -> list[CreateTaskRequest]:
    return [call.request for call in service.calls("CreateTask")]


async def test_what_the_web_app_did_not_send_is_sent_oldest_first(
    relay: Relay, database: Database, service: Serving, lines: Lines
) -> None:
    ages = [90, 5, 60, 30]
    await add(database, *({"added_at": time.time() - age, "headers": '{"traceparent": "00-1"}'} for age in ages))
    done = await relay.run()
    assert done.counts() == {"sent": 3, "waiting": 1, "late": 0, "refused": 0}
    assert await left(database) == {"row-0001": None}  # still the web app's
    assert {request.task.name for request in created(service)} == {f"{QUEUE}/tasks/row-{n:04}" for n in (0, 2, 3)}
    request = created(service)[0].task.http_request
    assert dict(request.headers) == {"Content-Type": "application/json", "traceparent": "00-1"}
    assert (request.body, request.url) == (BODY.encode(), "https://handler.invalid/process-order")
    assert "oidc_token" not in request  # the queue adds its own
    [line] = lines()
    assert (line["severity"], line["relayed"]) == ("INFO", True)


async def test_more_rows_than_a_batch_are_all_sent(relay: Relay, database: Database) -> None:
    await add(database, *({} for _ in range(120)), *({"added_at": time.time() - MINUTE - n} for n in range(120)))
    assert (await relay.run()).sent == 240
    assert await left(database) == {}


async def test_a_row_that_was_sent_before_is_deleted_and_not_sent_twice(
    relay: Relay, database: Database, service: Serving
) -> None:
    await add(database, {})
    service.fault = lambda _: Fault(grpc.StatusCode.UNAVAILABLE, after=True)
    assert (await relay.run()).failure is not None
    assert await left(database) == {"row-0000": None}
    service.fault = lambda _: None
    assert (await relay.run()).sent == 1
    assert await left(database) == {}
    assert len(service.events) == 1


async def test_two_passes_at_once_create_each_task_once(relay: Relay, database: Database, service: Serving) -> None:
    await add(database, *({} for _ in range(100)))
    await asyncio.gather(relay.run(), relay.run())
    assert await left(database) == {}
    assert len(service.events) == 100


@pytest.mark.parametrize(
    "code",
    ["PERMISSION_DENIED", "UNAUTHENTICATED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"],
)
async def test_what_belongs_to_no_row_ends_the_pass_and_marks_nothing(
    relay: Relay, database: Database, service: Serving, lines: Lines, code: str
) -> None:
    await add(database, *({} for _ in range(120)))
    service.fault = lambda _: Fault(grpc.StatusCode[code])
    done = await relay.run()
    assert done.failure is not None
    assert set((await left(database)).values()) == {None}
    assert len(created(service)) <= 50
    [line] = lines()
    assert (line["severity"], line["relayed"]) == ("WARNING", False)


async def test_an_error_of_one_row_delays_only_that_row(relay: Relay, database: Database, service: Serving) -> None:
    await add(database, *({} for _ in range(60)))
    service.fault = lambda call: (
        Fault(grpc.StatusCode.INTERNAL) if call.request.task.name.endswith("row-0000") else None
    )
    done = await relay.run()
    assert (done.sent, done.failure) == (59, None)
    assert await left(database) == {"row-0000": None}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"task_id": ""}, "Missing task_id"),
    ({"task_id": "a/b"}, "task_id: Expected `str` matching regex"),
    ({"task_id": "x" * 501}, "task_id: Expected `str` matching regex"),
    ({"body": '{"orderId": '}, "Malformed order: "),
    ({"body": "[" * 100_000}, "Malformed order: "),
    ({"body": json.dumps("x" * 3_000_000)}, "body: Expected `str` of length <= 1024000"),
    ({"body": json.dumps("\u20ac" * 400_000, ensure_ascii=False)}, "body: 1200002 bytes, more than 1024000"),
    ({"body": '{"orderId": "ORD-1"}'}, "Missing orderId or action"),
    ({"headers": "{"}, "headers: not valid JSON: "),
    ({"headers": '{"A": "\\ud800"}'}, "headers: not valid JSON: "),
    ({"headers": json.dumps({"A": "x" * 60_000})}, "headers: Expected `str` of length <= 50000"),
    ({"headers": '{"A": 1}'}, "headers: not valid JSON: Expected "),
    ({"headers": "[]"}, "headers: not valid JSON: Expected "),
    ({"due": float("inf")}, "due: Expected `float` <= "),
    ({"due": 1.8e12}, "due: Expected `float` <= "),
    ({"due": -1.8e12}, "due: Expected `float` >= "),
]


async def test_bad_rows_are_marked_with_the_reason_and_block_no_other(
    relay: Relay, database: Database, service: Serving, lines: Lines
) -> None:
    await add(database, *(row for row, _ in BAD), {"task_id": "good"})
    done = await relay.run()
    assert done.counts() == {"sent": 1, "waiting": 0, "late": 0, "refused": len(BAD)}
    found = await left(database)
    for number, (row, reason) in enumerate(BAD):
        task = row.get("task_id", f"row-{number:04}")
        assert reason in (found[str(task)] or ""), row
    errors = [line for line in lines() if "can never be sent" in line["message"]]
    assert [line["severity"] for line in errors] == ["ERROR"] * len(BAD)
    assert {line["task"] for line in errors} == {task[:100] for task in found}
    assert [request.task.name for request in created(service)] == [f"{QUEUE}/tasks/good"]


async def test_what_cloud_tasks_refuses_is_marked_and_alerted_until_it_is_asked_for_again(
    relay: Relay, database: Database, service: Serving, lines: Lines
) -> None:
    await add(database, {}, {})
    service.fault = lambda call: (
        Fault(grpc.StatusCode.INVALID_ARGUMENT) if call.request.task.name.endswith("row-0000") else None
    )
    await relay.run()
    await relay.run()
    assert len(created(service)) == 2  # skipped by the second pass
    assert "400" in ((await left(database))["row-0000"] or "")
    passes = [line for line in lines() if "relayed" in line]
    assert [(line["severity"], line["outboxRefused"]) for line in passes] == [("ERROR", 1)] * 2


async def test_a_thousand_bad_rows_at_the_head_block_nothing(
    relay: Relay, database: Database, service: Serving
) -> None:
    hour = time.time() - 3600
    await add(database, *({"body": "{", "added_at": hour} for _ in range(1000)), {"task_id": "good"})
    assert (await relay.run()).counts() == {"sent": 1, "waiting": 0, "late": 0, "refused": 1000}


async def test_a_row_waits_until_it_is_due_within_thirty_days(
    relay: Relay, database: Database, service: Serving
) -> None:
    now = time.time()
    dues = [now - DAY, now + DAY, now + 31 * DAY]
    await add(database, *({"due": due, "added_at": now - 40 * DAY} for due in dues))
    done = await relay.run()
    assert done.counts() == {"sent": 2, "waiting": 0, "late": 0, "refused": 0}
    assert await left(database) == {"row-0002": None}
    past, later = sorted((request.task for request in created(service)), key=lambda task: task.name)
    assert "schedule_time" not in past
    scheduled: Any = later.schedule_time
    assert isinstance(scheduled, datetime)
    assert scheduled.timestamp() == pytest.approx(dues[1], abs=0.001)


async def test_an_impossible_time_of_adding_does_not_hide_a_row(relay: Relay, database: Database) -> None:
    await add(database, {"added_at": time.time() * 1000}, {"added_at": 0}, {"added_at": float("inf")})
    assert (await relay.run()).sent == 3


async def test_rows_that_wait_too_long_are_an_error_whether_the_pass_succeeds_or_not(
    relay: Relay, database: Database, service: Serving, lines: Lines
) -> None:
    await add(database, {"added_at": time.time() - 6 * MINUTE}, {"added_at": time.time() - 4 * MINUTE})
    for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.PERMISSION_DENIED):
        service.fault = lambda _, code=code: Fault(code)  # type: ignore[misc]
        assert (await relay.run()).counts() == {"sent": 0, "waiting": 2, "late": 1, "refused": 0}
    passes = [line for line in lines() if "relayed" in line]
    assert [(line["severity"], line["relayed"], line["outboxLate"]) for line in passes] == [
        ("ERROR", True, 1),
        ("ERROR", False, 1),
    ]


async def test_a_pass_ends_in_time_whatever_is_left(
    database: Database, relay: Relay, dead_letters: DeadLetters
) -> None:
    await add(database, *({} for _ in range(200)))
    clock = iter([0.0, 1.0, PASS_SECONDS + 1])
    bounded = Relay(database, QUEUE, dead_letters.api, lambda: next(clock))
    assert (await bounded.run()).counts() == {"sent": 50, "waiting": 150, "late": 0, "refused": 0}


async def test_rows_are_deleted_only_after_cloud_tasks_has_them(
    relay: Relay, database: Database, service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(database, {})
    seen: list[object] = []

    def look(call: Received) -> None:
        engine = create_engine(database._engine.url)
        with engine.connect() as connection:
            seen.extend(connection.scalars(select(outbox.c.task_id)))
        engine.dispose()

    service.fault = look
    await relay.run()
    assert seen == ["row-0000"]


class Away:
    async def run(self, work: object) -> None:
        raise TransientError("The database is away")


async def test_a_database_or_credentials_that_are_away_end_the_pass(
    database: Database, service: Serving, lines: Lines, relay: Relay
) -> None:
    def without_credentials() -> Awaitable[CloudTasks]:
        raise OSError("no credentials")

    away = await Relay(Away(), QUEUE, without_credentials).run()  # type: ignore[arg-type]
    assert (away.failure, away.counts()) == ("The database is away", {"sent": 0})
    await add(database, {})
    failed = await Relay(database, QUEUE, without_credentials).run()
    assert "no credentials" in (failed.failure or "")
    assert (failed.counts()["waiting"], [line["relayed"] for line in lines()]) == (1, [False, False])


async def test_the_handler_relays_for_its_caller_and_for_no_task(
    environment: Environment, relay: Relay, database: Database, service: Serving, dead_letters: DeadLetters
) -> None:
    await add(database, {})
    handler = Handler(App(environment, Effects(), dead_letters, relay))
    assert (await handler.send("POST", "/relay", DELIVERED, b"")).status != 200
    assert (await handler.send("GET", "/relay")).status in (404, 405)
    assert await left(database) == {"row-0000": None}
    answer = await handler.send("POST", "/relay", {}, b"")
    assert (answer.status, answer.json) == (200, {"sent": 1, "waiting": 0, "late": 0, "refused": 0})
    service.fault = lambda _: Fault(grpc.StatusCode.PERMISSION_DENIED)
    await add(database, {"task_id": "other"})
    answer = await handler.send("POST", "/relay", {}, b"")
    assert (answer.status, answer.json) == (500, {"sent": 0, "waiting": 1, "late": 0, "refused": 0})


async def test_without_an_outbox_there_is_no_relay(environment: Environment) -> None:
    app = App.configured(environment)
    assert (await Handler(app).send("POST", "/relay", {}, b"")).status == 404


async def test_handler_and_producer_have_one_table(database: Database, relay: Relay) -> None:
    engine = database._engine

    def described() -> list[object]:
        found = inspect(engine)
        columns = [
            (column["name"], column["type"].python_type, column["nullable"], column["default"])
            for column in found.get_columns("outbox")
        ]
        keys, indexes = found.get_pk_constraint("outbox")["constrained_columns"], found.get_indexes("outbox")
        return [columns, keys, [(index["name"], index["column_names"], index["unique"]) for index in indexes]]

    handlers = described()
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox"))
        connection.execute(text(producer.TABLE[engine.dialect.name]))
        connection.execute(text(producer.INDEX))
        producer.add(connection, "ORD-1", "ada@example.com")
        connection.execute(text("UPDATE outbox SET added_at = added_at - 60"))
    assert described() == handlers
    assert (await relay.run()).sent == 3
