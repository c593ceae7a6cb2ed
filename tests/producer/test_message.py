"""create_task: any action's message, checked against the contract, named by order, action and key."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud.tasks_v2 import CreateTaskRequest
from order_handler import orders
from order_tasks import Config, InvalidOrderError, Order, outbox
from order_tasks.message import Message, message_request

from tests.messages import BAD
from tests.producer.conftest import Client
from tests.producer.service import Service

ORDER = {"orderId": "ORD-1", "customerEmail": "ada@example.com"}


async def test_a_task_of_any_action_is_created_once(client: Client, service: Service) -> None:
    task = await client.create_task("send_confirmation", ORDER)
    assert task is not None
    assert await client.create_task("send_confirmation", ORDER) is None
    assert await client.create_order_task("ORD-1", "send_confirmation", "ada@example.com") is None
    second = await client.create_task("send_confirmation", ORDER, key="second")
    assert second is not None
    assert second.name.endswith("-send_confirmation-ORD-1-second")


def test_the_key_is_part_of_the_message_that_the_handler_reads(config: Config) -> None:
    body = message_request(config, "send_confirmation", ORDER, key="r.2").task.http_request.body
    assert orders.parse(body).message().effect == "send_confirmation#r.2"


def a_task(action: str, fields: dict[str, Any], key: str | None = None) -> object:
    return Message(action, fields, key)


def an_order(action: str, fields: dict[str, Any]) -> object:
    return Order(fields.get("orderId"), fields.get("customerEmail"), (action,))  # type: ignore[arg-type]


def rows_of_an_order(action: str, fields: dict[str, Any]) -> object:
    return outbox.rows(fields.get("orderId"), fields.get("customerEmail"), [action])  # type: ignore[arg-type]


WITHOUT_KEY = [(message, words) for message, words in BAD if "key" not in message]


@pytest.mark.parametrize(
    ("way", "message", "words"),
    [(a_task, *bad) for bad in BAD] + [(way, *bad) for way in (an_order, rows_of_an_order) for bad in WITHOUT_KEY],
)
def test_every_way_to_send_a_task_refuses_a_wrong_field_by_name(
    way: Callable[..., object], message: dict[str, Any], words: str
) -> None:
    fields = dict(message)
    arguments = {"action": fields.pop("action"), **({"key": fields.pop("key")} if "key" in fields else {})}
    with pytest.raises(InvalidOrderError, match=f"^{re.escape(words)}$"):
        way(fields=fields, **arguments)


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
    ("fields", "options", "words"),
    [
        ({**ORDER, "key": "a"}, {}, "pass them as arguments"),
        ({**ORDER, "gift": {1, 2}}, {}, "not JSON"),
        ({**ORDER, "gift": float("nan")}, {}, "not JSON"),
        ({**ORDER, "gift": "\ud800"}, {}, "not JSON"),
        ({**ORDER, "gift": "x" * 1024 * 1024}, {}, "more than 1024000"),
        (ORDER, {"delay": 31 * 24 * 3600}, "at most 30 days ahead"),
        (ORDER, {"delay": -1}, "must not be negative"),
        (ORDER, {"delay": float("inf")}, "a number of seconds"),
        (ORDER, {"at": datetime(2020, 1, 1)}, "no time zone"),
        (ORDER, {"at": datetime.now(UTC), "delay": 1}, "both given"),
    ],
)
def test_what_can_never_be_a_task_is_refused(
    config: Config, fields: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOrderError, match=words):
        message_request(config, "update_inventory", fields, **options)
