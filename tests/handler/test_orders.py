import contextlib
import json
import re
from typing import Any

import pytest
from order_handler import orders
from order_handler.database import Database
from order_handler.delivery import Delivery
from order_handler.effects import Effects
from order_handler.errors import AlreadyProcessedError, PermanentError
from order_handler.ledger import Ledger
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.messages import BAD, GOOD


def test_fields_that_are_unknown_here_are_ignored() -> None:
    order = orders.parse(b'{"orderId": "ORD-1", "action": "update_inventory", "giftWrap": {"colour": "red"}}')
    assert (order.order_id, order.action, order.message().effect) == ("ORD-1", "update_inventory", "update_inventory")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"order",
        b"[]",
        b"null",
        b'{"orderId": "ORD-1"',
        b'{"orderId": "\xff", "action": "send_confirmation"}',
        b'{"orderId": "\\ud800", "action": "send_confirmation"}',
        b'{"nested": ' + b"[" * 500_000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_not_json_is_a_permanent_failure(body: bytes) -> None:
    with pytest.raises(PermanentError, match=r"^Malformed order: ."):
        orders.parse(body)


@pytest.mark.parametrize(("message", "words"), BAD, ids=str)
def test_every_wrong_field_is_named_with_the_reason(message: dict[str, Any], words: str) -> None:
    with pytest.raises(PermanentError, match=f"^{re.escape(words)}$"):
        orders.parse(json.dumps(message).encode()).message()


@pytest.mark.parametrize(("retries", "plain"), [(None, False), (0, False), (2, False), (3, True), (9, True)])
async def test_a_confirmation_is_plain_text_from_the_fourth_attempt_on(retries: int | None, plain: bool) -> None:
    sent: list[bool] = []

    class Mail:
        async def confirm(self, order_id: str, action: str, address: str, *, plain: bool = False) -> None:
            sent.append(plain)

    delivery = None if retries is None else Delivery("queue", "task", retries)
    await orders.process(orders.parse(json.dumps(GOOD).encode()), Effects({"send_confirmation": Mail()}), delivery)
    assert sent == [plain]


async def test_an_old_and_a_new_handler_share_a_database_in_a_rollout(database: Database) -> None:
    """The old one knows no key: its rows are (orderId, action), under a primary key that stays."""
    old = "INSERT INTO effects (order_id, action, token, claimed_until, done_at) VALUES ('ORD-1', :action, 'old', 0, 0)"
    known = "SELECT action FROM effects WHERE order_id = 'ORD-1' AND done_at IS NOT NULL ORDER BY action"
    await database.run(lambda connection: connection.execute(text(old), {"action": "send_confirmation"}))
    ledger, done = Ledger(database), []
    for key in (None, "second", "second"):
        message = orders.parse(json.dumps({**GOOD, "key": key}).encode()).message()
        with contextlib.suppress(AlreadyProcessedError):
            async with ledger.once("ORD-1", message.effect):
                done.append(message.effect)
    assert done == ["send_confirmation#second"]
    rows = await database.run(lambda connection: connection.execute(text(known)).scalars().all())
    assert rows == ["send_confirmation", "send_confirmation#second"]
    with pytest.raises(IntegrityError):
        await database.run(lambda connection: connection.execute(text(old), {"action": "send_confirmation"}))
