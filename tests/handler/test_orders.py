import pytest
from order_handler import orders
from order_handler.effects import Effects
from order_handler.errors import PermanentError
from order_handler.orders import MAX_ORDER_ID, Order

SIMULATED = Effects()


def test_fields_that_are_unknown_here_are_ignored() -> None:
    body = b'{"orderId": "ORD-1", "action": "update_inventory", "giftWrap": {"colour": "red"}}'
    assert orders.parse(body) == Order("ORD-1", "update_inventory")


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"orderId": "ORD-1"}',
        b'{"action": "send_confirmation"}',
        b'{"orderId": "", "action": "send_confirmation"}',
        b'{"orderId": "ORD-1", "action": ""}',
    ],
)
def test_an_order_needs_an_id_and_an_action(body: bytes) -> None:
    with pytest.raises(PermanentError, match=r"^Missing orderId or action$"):
        orders.parse(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"order",
        b"[]",
        b"null",
        b'{"orderId": "ORD-1"',
        b'{"orderId": 1, "action": "send_confirmation"}',
        b'{"orderId": "ORD-1", "action": null}',
        b'{"orderId": "ORD-1", "action": "send_confirmation", "customerEmail": ["a@example.com"]}',
        b'{"orderId": "\xff", "action": "send_confirmation"}',
        b'{"orderId": "\\ud800", "action": "send_confirmation"}',
        b'{"nested": ' + b"[" * 500_000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_not_an_order_is_a_permanent_failure(body: bytes) -> None:
    with pytest.raises(PermanentError, match=r"^Malformed order: ."):
        orders.parse(body)


@pytest.mark.parametrize("order_id", ["x" * (MAX_ORDER_ID + 1), "\\u0000"])
def test_an_order_id_that_can_be_no_key_is_a_permanent_failure(order_id: str) -> None:
    with pytest.raises(PermanentError, match=r"^orderId .* cannot be a key$"):
        orders.parse(f'{{"orderId": "{order_id}", "action": "fly"}}'.encode())


@pytest.mark.parametrize("action", ["send_confirmation", "update_inventory", "notify_warehouse"])
async def test_each_action_says_what_it_did_and_to_which_order(action: str) -> None:
    did = await orders.process(Order("ORD-1", action, "ada@example.com"), SIMULATED)
    assert "ORD-1" in did
    assert "(simulated)" in did
    assert "ada@example.com" not in did


@pytest.mark.parametrize("action", ["update_inventory", "notify_warehouse"])
async def test_only_the_confirmation_needs_an_email(action: str) -> None:
    assert await orders.process(Order("ORD-1", action), SIMULATED)
    with pytest.raises(PermanentError, match=r"^Missing customerEmail$"):
        await orders.process(Order("ORD-1", "send_confirmation"), SIMULATED)


async def test_an_unknown_action_is_a_permanent_failure() -> None:
    with pytest.raises(PermanentError, match=r"^Unknown action: fly$"):
        await orders.process(Order("ORD-1", "fly"), SIMULATED)


async def test_a_second_function_for_an_action_is_refused_and_the_first_stays() -> None:
    async def other(order: Order, effects: Effects) -> str:
        return "other"

    with pytest.raises(ValueError, match="update_inventory"):
        orders.action("update_inventory")(other)
    assert await orders.process(Order("ORD-1", "update_inventory"), SIMULATED) != "other"
