"""create_task: any action's message, checked against the contract, named by order, action and key."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud.tasks_v2 import CreateTaskRequest
from order_handler import orders
from order_handler.actions import ACTIONS
from order_handler.errors import PermanentError
from order_tasks import Config, InvalidOrderError, Order
from order_tasks.message import contract, message_request

from local.program import ROOT
from tests.producer.conftest import Client
from tests.producer.service import Service

ORDER = {"orderId": "ORD-1", "customerEmail": "ada@example.com"}


def test_the_producer_holds_the_handlers_contract_and_its_words() -> None:
    assert set(contract()) == set(ACTIONS)
    for name in ("contract.json", "fields.py"):
        handler = ROOT / "handler" / ("order_handler" if name == "fields.py" else "") / name
        assert (ROOT / "producer/order_tasks" / name).read_text() == handler.read_text()


async def test_a_task_of_any_action_is_created_once(client: Client, service: Service) -> None:
    task = await client.create_task("send_confirmation", ORDER)
    assert task is not None
    assert await client.create_task("send_confirmation", ORDER) is None
    assert await client.create_order_task("ORD-1", "send_confirmation", "ada@example.com") is None
    second = await client.create_task("send_confirmation", ORDER, key="second")
    assert second is not None
    assert second.name.endswith("-send_confirmation-ORD-1-second")


def test_a_message_without_key_is_named_and_written_as_an_orders(config: Config) -> None:
    [expected] = Order("ORD-1", "ada@example.com", ("send_confirmation",)).requests(config).values()
    request = message_request(config, "send_confirmation", ORDER)
    assert request.task.name == expected.task.name
    assert json.loads(request.task.http_request.body) == json.loads(expected.task.http_request.body)


def test_the_key_is_part_of_the_message_that_the_handler_reads(config: Config) -> None:
    body = message_request(config, "send_confirmation", ORDER, key="r.2").task.http_request.body
    assert orders.parse(body).message().effect == "send_confirmation#r.2"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"orderId": 1}, None),
        ({"orderId": ""}, None),
        ({"orderId": "x" * 501}, None),
        ({"orderId": "a\0b"}, None),
        ({"customerEmail": None}, None),
        ({"customerEmail": ""}, None),
        ({"customerEmail": "a" * 321}, None),
        ({}, "a b"),
        ({}, ""),
        ({}, "k" * 65),
        ({"orderId": 1, "customerEmail": []}, "#"),
    ],
)
def test_a_wrong_field_is_refused_in_the_handlers_words(
    config: Config, change: dict[str, Any], key: str | None
) -> None:
    with pytest.raises(InvalidOrderError) as refused:
        message_request(config, "send_confirmation", {**ORDER, **change}, key=key)
    fields = {**ORDER, **change, "action": "send_confirmation", **({} if key is None else {"key": key})}
    with pytest.raises(PermanentError) as permanent:
        orders.parse(json.dumps(fields).encode()).message()
    assert str(refused.value) == str(permanent.value)


def test_a_task_can_run_later(config: Config) -> None:
    def due(**options: Any) -> float:  # noqa: ANN401 - at or delay
        request = CreateTaskRequest.pb(message_request(config, "update_inventory", ORDER, **options))
        assert not request.task.HasField("retry_config")
        return float(request.task.schedule_time.ToDatetime(UTC).timestamp())

    when = datetime.now(UTC) + timedelta(days=29)
    assert due(at=when) == pytest.approx(when.timestamp(), abs=0.001)
    for delay in (60, timedelta(minutes=1)):
        assert due(delay=delay) == pytest.approx(datetime.now(UTC).timestamp() + 60, abs=10)


@pytest.mark.parametrize(
    ("action", "fields", "options", "words"),
    [
        ("fly", ORDER, {}, "Unknown action: fly; the contract has "),
        ("update_inventory", {**ORDER, "key": "a"}, {}, "pass them as arguments"),
        ("update_inventory", {**ORDER, "gift": {1, 2}}, {}, "not JSON"),
        ("update_inventory", {**ORDER, "gift": float("nan")}, {}, "not JSON"),
        ("update_inventory", {**ORDER, "gift": "\ud800"}, {}, "not JSON"),
        ("update_inventory", {**ORDER, "gift": "x" * 1024 * 1024}, {}, "more than 1024000"),
        ("update_inventory", ORDER, {"delay": 31 * 24 * 3600}, "at most 30 days ahead"),
        ("update_inventory", ORDER, {"delay": -1}, "must not be negative"),
        ("update_inventory", ORDER, {"delay": float("inf")}, "at most 30 days"),
        ("update_inventory", ORDER, {"at": datetime(2020, 1, 1)}, "no time zone"),
        ("update_inventory", ORDER, {"at": datetime.now(UTC), "delay": 1}, "both given"),
    ],
)
def test_what_can_never_be_a_task_is_refused(
    config: Config, action: str, fields: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOrderError, match=words):
        message_request(config, action, fields, **options)
