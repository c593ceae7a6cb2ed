"""The outbox: what is committed with the order is sent once, and what is not sent stays."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import InvalidArgument, PermissionDenied
from google.cloud.tasks_v2 import CreateTaskRequest
from order_tasks import AsyncOrderTasks, Config, InvalidOrderError, Order, OrderTasks, outbox, traceparent
from order_tasks.connection import async_call_options, call_options
from order_tasks.outbox import Published, Row, Rows
from order_tasks.trace import OWN_HEADER
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from tests.local.cloud_tasks.serving import Fault, Received
from tests.producer.service import QUEUE, Service

Publish = Callable[..., Published]


@pytest.fixture(autouse=True)
def _now(service: Service) -> None:
    service.now = time.time()  # clients and databases have no virtual clock


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(outbox.TABLE[engine.dialect.name]))
    yield engine
    engine.dispose()


@pytest.fixture(params=["blocking", "asyncio"])
def publish(request: pytest.FixtureRequest, config: Config) -> Publish:
    def blocking(rows: Sequence[Row], *delete: outbox.Delete) -> Published:
        with OrderTasks(config) as tasks:
            return tasks.publish(rows, *delete)

    def in_a_loop(rows: Sequence[Row], *delete: outbox.Delete) -> Published:
        async def run() -> Published:
            async with AsyncOrderTasks(config) as tasks:
                return await tasks.publish(rows, *delete)

        return asyncio.run(run())

    return blocking if request.param == "blocking" else in_a_loop


def stored(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT * FROM outbox ORDER BY task_id")).mappings())


def add(engine: Engine, *arguments: Any, **options: Any) -> Rows:  # noqa: ANN401 - as outbox.add
    with engine.begin() as connection:
        return outbox.add(connection, *arguments, **options)


def created(service: Service) -> list[CreateTaskRequest]:
    return [call.request for call in service.calls("CreateTask")]


def failing(status: grpc.StatusCode, *, after: bool = False) -> Callable[[Received], Fault]:
    return lambda _: Fault(status, after=after)


def test_rows_are_committed_with_the_order_or_not_at_all(engine: Engine) -> None:
    def order_that_fails(connection: Connection) -> None:
        outbox.add(connection, "ORD-1", "ada@example.com")
        raise OSError

    with pytest.raises(OSError), engine.begin() as connection:  # noqa: PT011 - its own
        order_that_fails(connection)
    assert stored(engine) == []
    rows = add(engine, "ORD-1", "ada@example.com")
    assert [row["task_id"] for row in stored(engine)] == sorted(row.task_id for row in rows)


def test_an_order_adds_one_statement_to_its_transaction(engine: Engine) -> None:
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    add(engine, "ORD-1", "ada@example.com")
    assert len(statements) == 1


def test_a_row_is_the_orders_message_and_a_name_of_its_own(engine: Engine) -> None:
    before = time.time()
    rows = add(engine, "ORD-1", "ada@example.com")
    for row, message in zip(rows, Order("ORD-1", "ada@example.com").messages, strict=True):
        [found] = [row_ for row_ in stored(engine) if row_["task_id"] == row.task_id]
        assert found["body"].encode() == message.body()
        assert found["added_at"] == pytest.approx(before, abs=5)
        assert (found["headers"], found["due"], found["refused"]) == (None, None, None)
        assert row.task_id.startswith(outbox.task_prefix("ORD-1", message.action))
        assert f"-{message.action}-ORD-1-" in row.task_id
    again = add(engine, "ORD-1", "ada@example.com")
    assert {row.task_id for row in rows}.isdisjoint(row.task_id for row in again)


def test_a_task_of_any_action_is_added_beside_the_order(engine: Engine, publish: Publish, service: Service) -> None:
    fields = {"orderId": "ORD-1", "customerEmail": "ada@example.com"}
    due = datetime.now(UTC) + timedelta(days=400)
    with engine.begin() as connection:
        later = outbox.add_task(connection, "send_confirmation", fields, key="second", at=due, headers={"X-Shop": "1"})
        soon = outbox.add_task(connection, "send_confirmation", fields, delay=60)
        with pytest.raises(InvalidOrderError, match="Missing customerEmail"):
            outbox.add_task(connection, "send_confirmation", {"orderId": "ORD-1"})
    assert [row["task_id"] for row in stored(engine)] == sorted(row.task_id for row in later + soon)
    assert later[0].task_id.startswith(outbox.task_prefix("ORD-1", "send_confirmation", "second"))
    assert (json.loads(later[0].body)["key"], later[0].due) == ("second", due.timestamp())
    assert json.loads(later[0].headers or "")["X-Shop"] == "1"
    assert publish(Rows(later + soon)) == Published([soon[0].task_id], {later[0].task_id: None})
    assert created(service)[0].task.http_request.body == soon[0].body.encode()


def test_an_order_that_can_never_become_a_task_is_refused_before_it_is_committed(engine: Engine) -> None:
    with engine.begin() as connection, pytest.raises(InvalidOrderError):
        outbox.add(connection, "", "ada@example.com")
    assert len(max(outbox.rows("x" * 500, "ada@example.com")).task_id) <= 100


def test_what_is_published_is_created_and_its_rows_are_deleted(
    engine: Engine, publish: Publish, service: Service, config: Config
) -> None:
    rows = add(engine, "ORD-1", "ada@example.com", ["send_confirmation"], headers={"traceparent": "00-1"})
    published = publish(rows)
    assert published == Published([rows[0].task_id], {})
    assert stored(engine) == []
    [request] = created(service)
    [message] = Order("ORD-1", "ada@example.com", ("send_confirmation",)).messages
    expected = message.request(config)
    expected.task.name = f"{QUEUE}/tasks/{rows[0].task_id}"
    expected.task.http_request.headers["traceparent"] = "00-1"
    assert request == expected


@pytest.mark.parametrize("value", ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "broken", None])
def test_a_task_carries_the_trace_in_which_it_was_made(config: Config, value: str | None) -> None:
    def made() -> tuple[Row, Mapping[str, str]]:
        traceparent.set(value)
        [row] = outbox.rows("ORD-1", "ada@example.com", ["send_confirmation"])
        [direct] = Order("ORD-1", "ada@example.com", ("send_confirmation",)).messages
        return row, direct.request(config).task.http_request.headers

    row, headers = copy_context().run(made)
    carried = {"traceparent": value, OWN_HEADER: value} if value and value[0] == "0" else {}
    assert headers == {"Content-Type": "application/json", **carried}
    assert row.request(config).task.http_request.headers == headers
    assert row._replace(headers=None).request(config).task.http_request.headers.keys() == {"Content-Type"}


def test_a_row_that_was_sent_before_is_deleted_and_not_sent_twice(
    engine: Engine, publish: Publish, service: Service
) -> None:
    rows = add(engine, "ORD-1", "ada@example.com")
    service.fault = failing(grpc.StatusCode.PERMISSION_DENIED, after=True)
    assert set(publish(rows).waiting) == {row.task_id for row in rows}
    assert len(stored(engine)) == 3
    service.fault = lambda _: None
    assert publish(rows) == Published([row.task_id for row in rows], {})
    assert stored(engine) == []
    assert len({name for event, name in service.events}) == 3


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "NOT_FOUND", "INVALID_ARGUMENT", "INTERNAL", "UNAVAILABLE"])
def test_publish_raises_nothing_and_tells_what_waits(
    code: str,
    config: Config,
    service: Service,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = replace(config, call_timeout=0.2)
    rows = outbox.rows("ORD-1", "ada@example.com", ["update_inventory", "notify_warehouse"])
    service.fault = lambda call: Fault(grpc.StatusCode[code]) if "update_inventory" in call.request.task.name else None
    deleted: list[str] = []
    with OrderTasks(config) as tasks:
        published = tasks.publish(rows, deleted.extend)
    assert published.sent == [rows[1].task_id] == deleted
    assert list(published.waiting) == [rows[0].task_id]
    [record] = caplog.records
    assert (record.levelno, rows[0].task_id in record.getMessage()) == (logging.WARNING, True)


def test_transient_errors_are_retried_for_five_seconds() -> None:
    for options in (call_options, async_call_options):
        assert options(Config(QUEUE), outbox.PUBLISH_SECONDS)["retry"].timeout == 5.0


def test_a_database_that_cannot_delete_leaves_the_rows_to_the_relay(
    publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    def delete(_: Sequence[str]) -> None:
        raise OperationalError("DELETE", {}, OSError("away"))

    rows = outbox.rows("ORD-1", "ada@example.com")
    assert len(publish(rows, delete).sent) == 3
    assert "away" in caplog.text


def test_a_time_to_run_is_the_tasks_schedule(engine: Engine, publish: Publish, service: Service) -> None:
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    publish(add(engine, "ORD-1", "ada@example.com", ["send_confirmation"], due=due))
    publish(add(engine, "ORD-2", "ada@example.com", ["send_confirmation"], due=due - timedelta(days=9)))
    later, now = created(service)
    assert later.task.schedule_time == due
    assert "schedule_time" not in now.task


def test_a_row_due_in_more_than_thirty_days_waits_without_a_call(
    engine: Engine, publish: Publish, service: Service
) -> None:
    rows = add(engine, "ORD-1", "ada@example.com", ["send_confirmation"], due=datetime.now(UTC) + timedelta(days=31))
    assert publish(rows) == Published([], {rows[0].task_id: None})
    assert len(stored(engine)) == 1
    assert created(service) == []


BAD_ROWS = [
    (Row("", "{}"), "Missing task_id"),
    (Row("a/b", "{}"), "task_id: Expected `str` matching regex"),
    (Row("broken-json", '{"orderId": '), "body: not valid JSON: "),
    (Row("deep", "[" * 100_000), "body: not valid JSON: "),
    (Row("half-a-pair", '"\ud800"'), "body: not valid JSON: "),
    (
        Row("large-in-bytes", json.dumps("\u20ac" * 400_000, ensure_ascii=False)),
        "body: 1200002 bytes, more than 1024000",
    ),
    (Row("nan", "{}", due=float("nan")), "due: Expected `float`"),
    (Row("milliseconds", "{}", due=1.8e12), "due: Expected `float` <= "),
    (Row("bytes", b"{}"), "body: Expected `str`, got `bytes`"),  # type: ignore[arg-type]
    (Row("broken-headers", "{}", "{"), "headers: not valid JSON: "),
    (Row("headers-of-numbers", "{}", '{"A": 1}'), "headers: not valid JSON: Expected `"),
    (Row("headers-of-half-a-pair", "{}", '{"A": "\\ud800"}'), "headers: not valid JSON: "),
    (Row("headers-in-a-list", "{}", "[]"), "headers: not valid JSON: Expected `"),
]


def test_each_bad_row_is_named_and_blocks_no_other(config: Config, service: Service) -> None:
    good = outbox.rows("ORD-1", "ada@example.com")
    with OrderTasks(config) as tasks:
        published = tasks.publish([*(row for row, _ in BAD_ROWS), *good])
    assert published.sent == [row.task_id for row in good]
    assert len(published.waiting) == len(BAD_ROWS)
    for row, reason in BAD_ROWS:
        error = published.waiting[row.task_id]
        assert isinstance(error, InvalidOrderError)
        assert reason in str(error)
    assert len(created(service)) == 3


def test_what_cloud_tasks_refuses_is_told_apart_from_what_belongs_to_no_row(config: Config, service: Service) -> None:
    [row] = outbox.rows("ORD-1", "ada@example.com", ["send_confirmation"])
    with OrderTasks(config) as tasks:
        service.fault = failing(grpc.StatusCode.INVALID_ARGUMENT)
        assert isinstance(tasks.publish([row]).waiting[row.task_id], InvalidArgument)
        service.fault = failing(grpc.StatusCode.PERMISSION_DENIED)
        assert isinstance(tasks.publish([row]).waiting[row.task_id], PermissionDenied)


async def test_an_asyncio_engine_adds_and_deletes(postgresql_url: str, config: Config, service: Service) -> None:
    engine = create_async_engine(postgresql_url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    async with AsyncOrderTasks(config) as tasks:
        async with engine.begin() as connection:
            await connection.execute(text(outbox.TABLE["postgresql"]))
            rows = await connection.run_sync(outbox.add, "ORD-1", "ada@example.com")
        assert len((await tasks.publish(rows)).sent) == 3
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM outbox"))).scalar_one() == 0
    await engine.dispose()


def test_the_statement_for_other_libraries_takes_a_row(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    rows = outbox.rows("ORD-1", "ada@example.com", headers={"traceparent": "00-1"}, due=datetime.now(UTC))
    with engine.begin() as connection:
        connection.execute(text(outbox.TABLE["postgresql"]))
        cursor = connection.connection.cursor()
        cursor.executemany(outbox.INSERT, rows)
    columns = ("task_id", "body", "headers", "due")
    assert {tuple(found[column] for column in columns) for found in stored(engine)} == set(rows)
    assert {column["name"] for column in inspect(engine).get_columns("outbox")} == {*columns, "added_at", "refused"}
