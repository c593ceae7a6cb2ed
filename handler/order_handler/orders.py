"""The order message and its actions. A new action is one function here and its decorator.

Owns what a message means. Knows neither HTTP nor Cloud Tasks. An action returns the sentence that says what it did, and
raises what errors.py has; it may run twice, so what it does to the world goes through the effects.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import orjson

from order_handler.effects import Effects
from order_handler.errors import PermanentError

MAX_ORDER_ID = 500
"""Characters: what an index of PostgreSQL takes as a key."""


class Order(NamedTuple):
    """What a task's body says."""

    order_id: str
    action: str
    customer_email: str | None = None


Action = Callable[[Order, Effects], Awaitable[str]]

_actions: dict[str, Action] = {}


def parse(body: bytes) -> Order:
    """The order in a JSON body; PermanentError if there is none."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PermanentError(f"Malformed order: {error}") from error
    if not isinstance(fields, dict):
        raise PermanentError("Malformed order: not a JSON object")
    # Other fields are ignored: a producer may be newer than its handler.
    order = Order(fields.get("orderId", ""), fields.get("action", ""), fields.get("customerEmail"))
    texts = order[:2] if order.customer_email is None else order
    if not all(isinstance(value, str) for value in texts):
        raise PermanentError("Malformed order: orderId, action and customerEmail must be text")
    if not order.order_id or not order.action:
        raise PermanentError("Missing orderId or action")
    if len(order.order_id) > MAX_ORDER_ID or "\0" in order.order_id:
        raise PermanentError(f"orderId is over {MAX_ORDER_ID} characters or contains NUL: it cannot be a key")
    return order


async def process(order: Order, effects: Effects) -> str:
    """Runs the order's action and returns what it did."""
    run = _actions.get(order.action)
    if run is None:
        raise PermanentError(f"Unknown action: {order.action}")
    return await run(order, effects)


def action(name: str) -> Callable[[Action], Action]:
    """Makes the decorated function the one that runs orders with this action. It may raise PermanentError."""

    def register(run: Action) -> Action:
        if name in _actions:
            raise ValueError(f"Action {name!r} exists already: give the second one another name")
        _actions[name] = run
        return run

    return register


@action("send_confirmation")
async def send_confirmation(order: Order, effects: Effects) -> str:
    if not order.customer_email:
        raise PermanentError("Missing customerEmail")
    if effects.mail is None:
        return f"Confirmation mail for {order.order_id} sent (simulated)"
    await effects.mail.confirm(order.order_id, order.action, order.customer_email)
    return f"Confirmation mail for {order.order_id} sent"


@action("update_inventory")
async def update_inventory(order: Order, effects: Effects) -> str:
    if effects.stock is None:
        return f"Stock for {order.order_id} updated (simulated)"
    await effects.stock.take(order.order_id, order.action)
    return f"Stock for {order.order_id} updated"


@action("notify_warehouse")
async def notify_warehouse(order: Order, effects: Effects) -> str:
    if effects.warehouse is None:
        return f"Warehouse notified of {order.order_id} (simulated)"
    await effects.warehouse.notify(order.order_id, order.action)
    return f"Warehouse notified of {order.order_id}"
