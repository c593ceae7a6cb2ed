"""What a task asks for: its message, checked against the action that it names.

Decides which messages are valid. Knows neither HTTP nor Cloud Tasks.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import orjson
from msgspec import structs

from order_handler.action import AnyMessage, Name
from order_handler.actions import ACTIONS
from order_handler.delivery import Delivery
from order_handler.effects import Effects
from order_handler.errors import PermanentError


class Order(NamedTuple):
    """A message that names an action. Its fields are checked when it runs."""

    action: str
    order_id: str | None
    """None if the message is about no order."""
    fields: Mapping[str, Any]

    def budget(self, max_attempts: int) -> int:
        """The action's own attempts, at most the handler's."""
        action = ACTIONS.get(self.action)
        return min((action and action.max_attempts) or max_attempts, max_attempts)

    def message(self) -> AnyMessage:
        """PermanentError names every field that is wrong."""
        action = ACTIONS.get(self.action)
        if action is None:
            raise PermanentError(f"Unknown action: {self.action}")
        # Other fields are ignored: a producer may be newer than its handler.
        try:
            message: AnyMessage = msgspec.convert(self.fields, action.message)
        except msgspec.ValidationError as error:
            declared = ((field.encode_name, field.type, field.required) for field in structs.fields(action.message))
            raise PermanentError(problems(declared, self.fields) or str(error)) from None
        return message


def parse(body: bytes) -> Order:
    """Returns the order in a JSON body. Raises PermanentError if the body is not a valid order."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PermanentError(f"Malformed order: {error}") from error
    if not isinstance(content, dict):
        raise PermanentError("Malformed order: not a JSON object")
    if wrong := problems([("action", Name, True)], content):
        raise PermanentError(wrong)
    order_id = content.get("orderId")
    return Order(content["action"], order_id[:500] if isinstance(order_id, str) else None, content)


def problems(declared: Iterable[tuple[str, Any, bool]], fields: Mapping[str, Any]) -> str:
    """Every wrong field with the reason, in the producer's words; empty if there is none.

    `declared`: name, type, and whether the field is required. No value is quoted: it may be private, or a megabyte.
    """
    wrong = []
    for name, kind, required in declared:
        try:
            if name in fields:
                msgspec.convert(fields[name], kind)
            elif required:
                raise msgspec.ValidationError
        except msgspec.ValidationError as error:
            missing = required and fields.get(name) in (None, "")
            label = "orderId or action" if name in ("orderId", "action") else name
            wrong.append(f"Missing {label}" if missing else f"{name}: {error}")
    return "; ".join(wrong)


async def process(order: Order, effects: Effects, delivery: Delivery | None) -> str:
    """Runs the order's action and returns what it did."""
    message = order.message()
    return await ACTIONS[order.action].run(message, effects.by_action.get(order.action), delivery)
