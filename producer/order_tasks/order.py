"""An order and its CreateTask requests: the message, the task's name, and the limits of both.

Refuses an order that can never become a task, and an order whose task could get the name of another order's task.
"""

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from google.cloud import tasks_v2

from order_tasks.config import Config
from order_tasks.errors import InvalidOrderError

NEW_ORDER_ACTIONS = ("send_confirmation", "update_inventory", "notify_warehouse")
"""The actions of a new order, by the handler's names."""

MAX_ORDER_ID, MAX_ACTION, MAX_EMAIL = 500, 100, 320
"""Characters. The handler has the same limits."""

PLACEHOLDER_URL = "https://handler.invalid"
"""CreateTask requires a URL even if the queue has the handler's address and replaces it."""

_MAX_TASK_ID = 100  # Cloud Tasks allows 500, but people read names in logs


@dataclass(frozen=True, slots=True)
class Order:
    """An order and its actions. Raises InvalidOrderError if it cannot become tasks."""

    order_id: str
    customer_email: str
    actions: tuple[str, ...] = NEW_ORDER_ACTIONS

    def __post_init__(self) -> None:
        _require_text("order id", self.order_id, MAX_ORDER_ID)
        # NUL separates the order id from the action in the hashed name, so an id with a NUL could equal another name.
        if "\0" in self.order_id:
            raise InvalidOrderError(f"the order id {reprlib.repr(self.order_id)} contains a NUL character: remove it")
        _require_text("customer e-mail", self.customer_email, MAX_EMAIL, empty=True)
        if not self.actions or isinstance(self.actions, str):
            raise InvalidOrderError(
                f"the actions are {reprlib.repr(self.actions)}: pass a tuple of at least one action"
            )
        for action in self.actions:
            _require_text("action", action, MAX_ACTION)

    def body(self, action: str) -> bytes:
        """The message that the handler receives: JSON in UTF-8."""
        message = {"orderId": self.order_id, "action": action, "customerEmail": self.customer_email}
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()

    def requests(self, config: Config) -> Mapping[str, tasks_v2.CreateTaskRequest]:
        """Action -> its CreateTask request."""
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
    """The CreateTask request of one message. `due`: when to deliver it; without it, at once."""
    return tasks_v2.CreateTaskRequest(
        parent=config.queue,
        task=tasks_v2.Task(
            name=f"{config.queue}/tasks/{task_id}",
            http_request=tasks_v2.HttpRequest(
                http_method=tasks_v2.HttpMethod.POST,
                url=f"{config.service_url or PLACEHOLDER_URL}/process-order",
                headers={"Content-Type": "application/json", **(headers or {})},
                body=body,
                oidc_token=_token(config) if config.invoker_email else None,
            ),
            schedule_time=due,
        ),
    )


def _token(config: Config) -> tasks_v2.OidcToken:
    # Without an audience it would be the task's whole URL, which Cloud Run does not accept.
    return tasks_v2.OidcToken(service_account_email=config.invoker_email, audience=config.service_url)


def task_id(order_id: str, action: str, key: str | None = None) -> str:
    """The last part of a task's name: always the same for an order, action and key, and different from all others.

    It starts with a hash, because sequential prefixes make creating named tasks slow. The rest is for people to read.
    """
    identity = f"{order_id}\0{action}" if key is None else f"{order_id}\0{action}#{key}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    readable = "-".join(part for part in (digest, action, order_id, key) if part)
    return re.sub(r"[^A-Za-z0-9_-]", "-", readable)[:_MAX_TASK_ID]


def _require_text(noun: str, value: object, limit: int, *, empty: bool = False) -> None:
    if not isinstance(value, str):
        raise InvalidOrderError(f"the {noun} is {reprlib.repr(value)}: it must be text")
    if not value and not empty:
        raise InvalidOrderError(f"the {noun} is empty")
    if len(value) > limit:
        raise InvalidOrderError(
            f"the {noun} {reprlib.repr(value)} has {len(value)} characters, more than {limit}: shorten it"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can contain half of a surrogate pair. UTF-8 cannot, and the message is UTF-8.
        raise InvalidOrderError(f"the {noun} {reprlib.repr(value)} is not valid Unicode") from error
