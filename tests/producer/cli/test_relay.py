"""`relay`: one pass over a web app's own database."""

import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from order_tasks import outbox
from order_tasks.cli.main import main
from order_tasks.operations.times import Clock
from sqlalchemy import Engine, create_engine, text

from tests.local.cloud_tasks.serving import Fault
from tests.producer.service import Service

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def engine(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("ORDER_TASKS_DATABASE_URL", url)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(outbox.TABLE[engine.dialect.name]))
    yield engine
    engine.dispose()


def add(engine: Engine, *rows: dict[str, Any]) -> None:
    """A minute old and good, but for what is given."""
    usual = {"body": "{}", "headers": None, "due": None, "added_at": time.time() - 60}
    statement = text("INSERT INTO outbox VALUES (:task_id, :body, :headers, :due, :added_at, NULL)")
    values = [{**usual, "task_id": f"row-{number:04}", **row} for number, row in enumerate(rows)]
    with engine.begin() as connection:
        connection.execute(statement, values)


def left(engine: Engine) -> dict[str, str | None]:
    with engine.connect() as connection:
        return {row.task_id: row.refused for row in connection.execute(text("SELECT * FROM outbox"))}


def test_a_pass_sends_what_is_old_and_says_what_waits(
    engine: Engine, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    add(engine, *({} for _ in range(120)), {"task_id": "young", "added_at": time.time()})
    assert main(["relay"]) == 1
    assert capsys.readouterr().out == "120 sent, 1 wait, 0 are refused\n"
    assert left(engine) == {"young": None}
    assert len(service.events) == 120


def test_bad_rows_are_marked_and_tried_again_when_asked(
    engine: Engine, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    bad: list[dict[str, Any]] = [
        {"body": "{"},
        {"body": json.dumps("x" * 1_100_000)},
        {"task_id": "a/b"},
        {"due": 1.8e12},
    ]
    add(engine, *bad, {"task_id": "good"}, {"added_at": time.time() * 1000})
    assert main(["relay"]) == 1
    assert capsys.readouterr().out == "2 sent, 0 wait, 4 are refused\n"
    reasons = left(engine)
    assert "body: not valid JSON: " in (reasons["row-0000"] or "")
    assert "length <= 1024000" in (reasons["row-0001"] or "")
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET body = '{}'"))
    assert main(["relay", "--refused"]) == 1
    assert capsys.readouterr().out == "2 sent, 0 wait, 2 are refused\n"


def test_what_belongs_to_no_row_ends_the_pass_and_marks_nothing(
    engine: Engine, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    add(engine, *({} for _ in range(120)))
    service.fault = lambda _: Fault(grpc.StatusCode.PERMISSION_DENIED)
    assert main(["relay"]) == 1
    assert len(service.received) <= 50
    printed = capsys.readouterr()
    assert printed.out == "0 sent, 120 wait, 0 are refused\n"
    assert "ended early: 403" in printed.err
    assert set(left(engine).values()) == {None}


def test_it_repeats_until_it_is_interrupted(engine: Engine, service: Service) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt
        add(engine, {"task_id": f"row-{len(pauses)}"})

    assert main(["relay", "--every", "30"], Clock(sleep=sleep)) == 130
    assert (pauses, left(engine), len(service.events)) == ([30.0] * 3, {}, 2)


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://localhost/shop", "sqlite:////no/such/folder/shop.sqlite"])
def test_a_database_that_cannot_be_used_is_an_error(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("ORDER_TASKS_DATABASE_URL", url)
    assert main(["relay"]) > 0
    assert "ORDER_TASKS_DATABASE_URL" in (error := capsys.readouterr().err) or "unable to open" in error
