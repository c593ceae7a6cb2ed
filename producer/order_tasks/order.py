"""An order, and the tasks that it asks for: pure functions from an order to CreateTask requests.

Owns the message, the task's name and what an order may contain. Refuses, before any call, what could never be created
or would take another order's name: the service would find the one late and the other never.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from google.cloud import tasks_v2

from order_tasks.config import Config
from order_tasks.errors import InvalidOrderError

NEW_ORDER_ACTIONS = ("send_confirmation", "update_inventory", "notify_warehouse")
"""What a new order needs, as the handler names it."""

MAX_BODY_BYTES = 1000 * 1024
"""The service's limit, 1 MiB, is on the whole stored task: the rest leaves room for name, URL and token."""

_MAX_TASK_ID = 100  # the service takes 500; people read names in logs


@dataclass(frozen=True, slots=True)
class Order:
    """An order and the actions it asks for. Raises InvalidOrderError for what can never become a task."""

    order_id: str
    customer_email: str
    actions: tuple[str, ...] = NEW_ORDER_ACTIONS

    def __post_init__(self) -> None:
        _require_text("order id", self.order_id)
        # NUL separates id from action in the hashed name: inside an id it could imitate another order.
        if "\0" in self.order_id:
            raise InvalidOrderError(f"the order id {self.order_id!r} contains a NUL character: remove it")
        _require_text("customer e-mail", self.customer_email, empty=True)
        if not self.actions or isinstance(self.actions, str):
            raise InvalidOrderError(f"the actions are {self.actions!r}: pass a tuple of at least one")
        for action in self.actions:
            _require_text("action", action)
            if (size := len(self.body(action))) > MAX_BODY_BYTES:
                raise InvalidOrderError(f"the message has {size} bytes, over {MAX_BODY_BYTES}: shorten what it carries")

    def body(self, action: str) -> bytes:
        """The message that the handler receives: JSON in UTF-8."""
        message = {"orderId": self.order_id, "action": action, "customerEmail": self.customer_email}
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()

    def requests(self, config: Config) -> Mapping[str, tasks_v2.CreateTaskRequest]:
        """One CreateTask request an action."""
        return {
            action: create_request(config, task_id(self.order_id, action), self.body(action)) for action in self.actions
        }


def create_request(
    config: Config,
    task_id: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    due: datetime | None = None,
) -> tasks_v2.CreateTaskRequest:
    """The CreateTask request of one message; `due`: when to deliver it, at once by default."""
    return tasks_v2.CreateTaskRequest(
        parent=config.queue,
        task=tasks_v2.Task(
            name=f"{config.queue}/tasks/{task_id}",
            http_request=tasks_v2.HttpRequest(
                http_method=tasks_v2.HttpMethod.POST,
                url=f"{config.service_url}/process-order",
                headers={"Content-Type": "application/json", **(headers or {})},
                body=body,
                # The default audience is the task's whole URL, which Cloud Run does not accept.
                oidc_token=tasks_v2.OidcToken(service_account_email=config.invoker_email, audience=config.service_url),
            ),
            schedule_time=due,
        ),
    )


def task_id(order_id: str, action: str) -> str:
    """The last part of a task's name: the same order and action always give the same, no two pairs share one.

    The hash comes first because sequential prefixes make named creates slow; the rest is for people.
    """
    digest = hashlib.sha256(f"{order_id}\0{action}".encode()).hexdigest()[:16]
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"{digest}-{action}-{order_id}")[:_MAX_TASK_ID]


def _require_text(noun: str, value: object, *, empty: bool = False) -> None:
    if not isinstance(value, str):
        raise InvalidOrderError(f"the {noun} is {value!r}: it must be text")
    if not value and not empty:
        raise InvalidOrderError(f"the {noun} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can carry half of a surrogate pair; UTF-8, and so the message, cannot.
        raise InvalidOrderError(f"the {noun} {value!r} is not valid Unicode") from error
