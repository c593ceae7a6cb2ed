"""The shop: an order is committed with its tasks, answered before they are sent, and tells what became of it."""

import importlib.util
import json
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient
from google.api_core.exceptions import PermissionDenied
from order_handler import tables
from order_tasks import NEW_ORDER_ACTIONS, outbox
from order_tasks.testing import InMemoryCloudTasks
from sqlalchemy import create_engine, text

from local.program import ROOT

ORDER = {"orderId": "ORD-1", "customerEmail": "ada@example.com"}


def load_shop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shop", ROOT / "examples/shop/app.py")
    assert spec is not None
    assert spec.loader is not None
    shop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shop)
    return shop


@pytest.fixture
def database(url: str) -> Iterator["Database"]:
    database = Database(url)
    yield database
    database.engine.dispose()


class Database:
    """The database that shop and handler share."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = create_engine(url)
        with self.engine.begin() as connection:
            tables.create_missing(connection)
            connection.execute(text(outbox.TABLE[self.engine.dialect.name]))

    def all(self, table: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(f"SELECT * FROM {table}"))]

    def do(self, action: str) -> None:
        """Note an effect as done, as the handler does."""
        with self.engine.begin() as connection:
            connection.execute(
                text("INSERT INTO effects VALUES (:order, :action, 'token', 1, 1)"),
                {"order": ORDER["orderId"], "action": action},
            )


@pytest.fixture
def shop(database: Database, cloud_tasks: InMemoryCloudTasks, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("DATABASE_URL", database.url)
    with TestClient(load_shop().create()) as client:
        yield client


def test_an_order_is_committed_and_its_tasks_are_created(
    shop: TestClient, database: Database, cloud_tasks: InMemoryCloudTasks
) -> None:
    order = ORDER | {"lines": [{"item": "pen", "quantity": 2}, {"item": "ink"}, {"item": "pen"}]}
    answer = shop.post("/orders", json=order)
    assert (answer.status_code, answer.json()) == (201, {"orderId": "ORD-1", "status": "accepted"})
    assert sorted(database.all("order_lines")) == [("ORD-1", "ink", 1), ("ORD-1", "pen", 3)]
    assert database.all("outbox") == []
    assert len(cloud_tasks.created) == 3
    assert shop.get("/orders/ORD-1").json()["status"] == "sent"


def test_what_curl_sends_without_a_content_type_is_an_order_too(shop: TestClient, database: Database) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = shop.post("/orders", content='{"customerEmail": "ada@example.com"}', headers=form)
    assert answer.status_code == 201
    assert database.all("order_lines") == [(answer.json()["orderId"], "notebook", 1)]
    assert shop.post("/orders", content="{", headers=form).status_code == 422


def test_the_answer_does_not_wait_for_cloud_tasks(
    shop: TestClient, database: Database, cloud_tasks: InMemoryCloudTasks
) -> None:
    cloud_tasks.refuse(PermissionDenied("no enqueuer"))  # type: ignore[no-untyped-call]
    assert shop.post("/orders", json=ORDER).status_code == 201
    assert shop.get("/orders/ORD-1").json()["status"] == "accepted"
    assert len(database.all("outbox")) == 3


def test_an_order_that_is_sent_again_stays_one(
    shop: TestClient, database: Database, cloud_tasks: InMemoryCloudTasks
) -> None:
    shop.post("/orders", json=ORDER)
    again = shop.post("/orders", json=ORDER)
    assert (again.status_code, again.json()["status"]) == (200, "sent")
    assert len(database.all("order_lines")) == 1
    assert len(cloud_tasks.created) == 3


def test_two_requests_for_one_order_at_once_commit_it_once(
    shop: TestClient, database: Database, cloud_tasks: InMemoryCloudTasks
) -> None:
    both = threading.Barrier(2, timeout=10)
    codes: list[int] = []

    def post() -> None:
        both.wait()
        codes.append(shop.post("/orders", json=ORDER).status_code)

    threads = [threading.Thread(target=post) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(codes) == [200, 201]
    assert len(cloud_tasks.created) == 3


def test_an_order_is_done_when_every_task_has_had_its_effect(shop: TestClient, database: Database) -> None:
    shop.post("/orders", json=ORDER)
    for action in NEW_ORDER_ACTIONS:
        assert shop.get("/orders/ORD-1").json()["status"] == "sent"
        database.do(action)
    assert shop.get("/orders/ORD-1").json()["status"] == "done"


def test_cancelling_keeps_what_is_done_and_prevents_the_rest(
    shop: TestClient, database: Database, cloud_tasks: InMemoryCloudTasks
) -> None:
    cloud_tasks.refuse(PermissionDenied("no enqueuer"))  # type: ignore[no-untyped-call]
    shop.post("/orders", json=ORDER)
    database.do("send_confirmation")
    assert shop.delete("/orders/ORD-1").json()["status"] == "cancelled"
    assert database.all("outbox") == []
    assert sorted((action, token) for _, action, token, *_ in database.all("effects")) == [
        ("notify_warehouse", "cancelled"),
        ("send_confirmation", "token"),
        ("update_inventory", "cancelled"),
    ]
    assert shop.get("/orders/ORD-1").json()["status"] == "cancelled"


def test_what_is_done_cannot_be_cancelled(shop: TestClient, database: Database) -> None:
    shop.post("/orders", json=ORDER)
    for action in NEW_ORDER_ACTIONS:
        database.do(action)
    assert shop.delete("/orders/ORD-1").json()["status"] == "done"


WRONG: list[dict[str, Any]] = [
    {"customerEmail": "nobody"},
    {"customerEmail": "a@" + "x" * 320},
    {"orderId": ""},
    {"orderId": "a\0b"},
    {"orderId": "x" * 201},
    {"orderId": 1},
    {"orderId": "\ud800"},
    {"lines": []},
    {"lines": [{"item": "pen", "quantity": 0}]},
    {"lines": [{"item": "\0"}]},
    {"acton": "send_confirmation"},
]


def test_a_wrong_order_is_refused_and_nothing_is_committed(
    shop: TestClient, database: Database, cloud_tasks: InMemoryCloudTasks
) -> None:
    for wrong in WRONG:
        assert shop.post("/orders", content=json.dumps(ORDER | wrong)).status_code == 422, wrong
        answer = shop.post("/orders", content=json.dumps(ORDER | wrong), headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, wrong
    assert database.all("orders") == []
    assert cloud_tasks.created == []


def test_an_order_that_nobody_placed_is_not_found(shop: TestClient) -> None:
    assert shop.get("/orders/ORD-1").status_code == 404
    assert shop.delete("/orders/ORD-1").status_code == 404
