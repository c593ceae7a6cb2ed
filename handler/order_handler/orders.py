"""The order message and its actions. A new action is one function here and its decorator.

Owns what a message means and which failures no retry can cure (PermanentError). Knows neither HTTP nor Cloud Tasks.
The effects are simulated: an action returns the sentence that says what it did.
"""

from collections.abc import Awaitable, Callable

import msgspec


class PermanentError(Exception):
    """No retry can cure this. Its text goes to the caller and into the log, so it holds nothing private."""


class Order(msgspec.Struct, frozen=True, rename="camel"):
    """What a task's body says. Unknown fields are ignored: a producer may be newer than its handler."""

    order_id: str = ""
    action: str = ""
    customer_email: str | None = None


Action = Callable[[Order], Awaitable[str]]

_decoder = msgspec.json.Decoder(Order)
_actions: dict[str, Action] = {}


def parse(body: bytes) -> Order:
    """The order in a JSON body; PermanentError if there is none."""
    try:
        order = _decoder.decode(body)
    # Broken UTF-8 and absurd nesting raise errors of their own.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PermanentError(f"Malformed order: {error}") from error
    if not order.order_id or not order.action:
        raise PermanentError("Missing orderId or action")
    return order


async def process(order: Order) -> str:
    """Runs the order's action and returns what it did."""
    run = _actions.get(order.action)
    if run is None:
        raise PermanentError(f"Unknown action: {order.action}")
    return await run(order)


def action(name: str) -> Callable[[Action], Action]:
    """Makes the decorated function the one that runs orders with this action. It may raise PermanentError."""

    def register(run: Action) -> Action:
        if name in _actions:
            raise ValueError(f"Action {name!r} exists already: give the second one another name")
        _actions[name] = run
        return run

    return register


@action("send_confirmation")
async def send_confirmation(order: Order) -> str:
    if not order.customer_email:
        raise PermanentError("Missing customerEmail")
    return f"Confirmation mail for {order.order_id} sent (simulated)"


@action("update_inventory")
async def update_inventory(order: Order) -> str:
    return f"Stock for {order.order_id} updated (simulated)"


@action("notify_warehouse")
async def notify_warehouse(order: Order) -> str:
    return f"Warehouse notified of {order.order_id} (simulated)"
