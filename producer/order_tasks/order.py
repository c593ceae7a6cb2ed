"""A new order: one message for each of its actions."""

import reprlib
from dataclasses import dataclass, field

from order_tasks.errors import InvalidOrderError
from order_tasks.message import Message

NEW_ORDER_ACTIONS = ("send_confirmation", "update_inventory", "notify_warehouse")
"""The actions of a new order, by the handler's names."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order and its actions. Raises InvalidOrderError if it cannot become tasks."""

    order_id: str
    customer_email: str
    actions: tuple[str, ...] = NEW_ORDER_ACTIONS
    messages: tuple[Message, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.actions or isinstance(self.actions, str):
            raise InvalidOrderError(
                f"the actions are {reprlib.repr(self.actions)}: pass a tuple of at least one action"
            )
        fields = {"orderId": self.order_id, "customerEmail": self.customer_email}
        messages = tuple(Message(action, fields) for action in dict.fromkeys(self.actions))
        object.__setattr__(self, "messages", messages)
