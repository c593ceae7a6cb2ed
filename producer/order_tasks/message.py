"""Messages of any action, and their CreateTask requests: the body, the task's name, and when it runs.

Refuses a message that the handler would refuse, and one whose task could get the name of another's.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from google.cloud import tasks_v2

from order_tasks import trace
from order_tasks.config import Config
from order_tasks.contract import refusal
from order_tasks.errors import InvalidOrderError

HORIZON = timedelta(days=30)
"""How far ahead Cloud Tasks schedules a task."""

MAX_BODY_BYTES = 1000 * 1024
"""Cloud Tasks limits the whole stored task to 1 MiB. The difference is room for its name, URL and token."""

PLACEHOLDER_URL = "https://handler.invalid"
"""CreateTask requires a URL even if the queue has the handler's address and replaces it."""

_MAX_TASK_ID = 100  # Cloud Tasks allows 500, but people read names in logs


class TaskOptions(TypedDict, total=False):
    """See `create_task`."""

    key: str | None
    at: datetime | None
    delay: timedelta | float | None


@dataclass(frozen=True, slots=True)
class Message:
    """The message of one task. Raises InvalidOrderError if it cannot become a task that the handler takes."""

    action: str
    fields: Mapping[str, Any]
    key: str | None = None
    _body: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if {"action", "key"} & set(self.fields):
            raise InvalidOrderError("fields contain action or key: pass them as arguments of their own")
        if self.key is None and self.order_id is None:
            # otherwise all such messages would be the same
            object.__setattr__(self, "key", secrets.token_hex(8))
        content = {"action": self.action, **self.fields, **({} if self.key is None else {"key": self.key})}
        if wrong := refusal(content):
            raise InvalidOrderError(wrong)
        try:
            body = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidOrderError(f"the fields are not JSON: {type(error).__name__}") from error
        if len(body) > MAX_BODY_BYTES:
            raise InvalidOrderError(f"the message has {len(body)} bytes, more than {MAX_BODY_BYTES}: shorten it")
        object.__setattr__(self, "_body", body)

    @property
    def order_id(self) -> str | None:
        return self.fields.get("orderId")

    @property
    def task_id(self) -> str:
        return task_id(self.order_id or "", self.action, self.key)

    @property
    def messages(self) -> tuple["Message"]:
        return (self,)

    def body(self) -> bytes:
        """What the handler receives: JSON in UTF-8."""
        return self._body

    def request(self, config: Config, due: datetime | None = None) -> tasks_v2.CreateTaskRequest:
        """The CreateTask request."""
        return create_request(config, self.task_id, self.body(), due=due)


def message_request(
    config: Config,
    action: str,
    fields: Mapping[str, Any],
    key: str | None = None,
    at: datetime | None = None,
    delay: timedelta | float | None = None,
) -> tasks_v2.CreateTaskRequest:
    """The CreateTask request of one message. Raises InvalidOrderError before any call. See `create_task`."""
    now = datetime.now(UTC)
    when = due_time(now, at, delay)
    if when is not None and when > now + HORIZON:
        raise InvalidOrderError(f"the task would run at {when}: Cloud Tasks schedules at most 30 days ahead")
    return Message(action, fields, key).request(config, when)


def due_time(now: datetime, at: datetime | None, delay: timedelta | float | None) -> datetime | None:
    """When to run a task. Raises InvalidOrderError if that is no time."""
    if at is not None and delay is not None:
        raise InvalidOrderError("at and delay are both given: pass one of them")
    if at is not None and at.tzinfo is None:
        raise InvalidOrderError("at has no time zone: pass a time such as datetime.now(UTC)")
    if delay is None:
        return at
    try:
        when = now + (delay if isinstance(delay, timedelta) else timedelta(seconds=delay))
    except (OverflowError, ValueError) as error:
        raise InvalidOrderError(f"delay is {delay!r}: pass a number of seconds") from error
    if when < now:
        raise InvalidOrderError(f"delay is {delay!r}: it must not be negative")
    return when


def create_request(
    config: Config,
    task_id: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    due: datetime | None = None,
) -> tasks_v2.CreateTaskRequest:
    """The CreateTask request of one message. `headers`: without them, the trace's. `due`: without it, at once."""
    # Without an audience it would be the task's whole URL, which Cloud Run does not accept.
    token = tasks_v2.OidcToken(service_account_email=config.invoker_email, audience=config.service_url)
    return tasks_v2.CreateTaskRequest(
        parent=config.queue,
        task=tasks_v2.Task(
            name=f"{config.queue}/tasks/{task_id}",
            http_request=tasks_v2.HttpRequest(
                http_method=tasks_v2.HttpMethod.POST,
                url=f"{config.service_url or PLACEHOLDER_URL}/process-order",
                headers={"Content-Type": "application/json", **(trace.headers() if headers is None else headers)},
                body=body,
                oidc_token=token if config.invoker_email else None,
            ),
            schedule_time=due,
        ),
    )


def task_id(order_id: str, action: str, key: str | None = None) -> str:
    """The last part of a task's name: always the same for an order, action and key, and different from all others.

    It starts with a hash, because sequential prefixes make creating named tasks slow. The rest is for people to read.
    """
    identity = f"{order_id}\0{action}" if key is None else f"{order_id}\0{action}#{key}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    readable = "-".join(part for part in (digest, action, order_id, key) if part)
    return re.sub(r"[^A-Za-z0-9_-]", "-", readable)[:_MAX_TASK_ID]
