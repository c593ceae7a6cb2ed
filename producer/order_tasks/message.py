"""Messages of any action: what the published contract says of them, and their CreateTask requests."""

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

from google.cloud import tasks_v2

from order_tasks.config import Config
from order_tasks.errors import InvalidOrderError
from order_tasks.fields import problems
from order_tasks.order import create_request, task_id
from order_tasks.outbox import MAX_BODY_BYTES

HORIZON = timedelta(days=30)
"""How far ahead Cloud Tasks schedules a task."""


@cache
def contract() -> Mapping[str, Any]:
    """Action -> its message as a JSON Schema (`message`), and what it needs (`needs`). The handler publishes it."""
    actions: Mapping[str, Any] = json.loads((files("order_tasks") / "contract.json").read_text())["actions"]
    return actions


def message_request(
    config: Config,
    action: str,
    fields: Mapping[str, Any],
    *,
    key: str | None = None,
    at: datetime | None = None,
    delay: timedelta | float | None = None,
) -> tasks_v2.CreateTaskRequest:
    """The CreateTask request of one message. Raises InvalidOrderError before any call. See `create_task`."""
    if action not in contract():
        known = ", ".join(contract()) or "none"
        raise InvalidOrderError(f"Unknown action: {str(action)[:100]}; the contract has {known}")
    if {"action", "key"} & set(fields):
        raise InvalidOrderError("fields contain action or key: pass them as arguments of their own")
    if key is None and fields.get("orderId") is None:
        key = secrets.token_hex(8)  # otherwise all such messages would be the same
    message = {"action": action, **fields} if key is None else {"action": action, **fields, "key": key}
    if wrong := problems(contract()[action]["message"], message):
        raise InvalidOrderError(wrong)
    try:
        body = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOrderError(f"the fields are not JSON: {type(error).__name__}") from error
    if len(body) > MAX_BODY_BYTES:
        raise InvalidOrderError(f"the message has {len(body)} bytes, more than {MAX_BODY_BYTES}: shorten it")
    order_id = str(fields.get("orderId") or "")
    return create_request(config, task_id(order_id, action, key), body, due=_due(at, delay, datetime.now(UTC)))


def _due(at: datetime | None, delay: timedelta | float | None, now: datetime) -> datetime | None:
    if at is not None and delay is not None:
        raise InvalidOrderError("at and delay are both given: pass one of them")
    if at is not None and at.tzinfo is None:
        raise InvalidOrderError("at has no time zone: pass a time such as datetime.now(UTC)")
    if delay is not None:
        try:
            at = now + (delay if isinstance(delay, timedelta) else timedelta(seconds=delay))
        except (OverflowError, ValueError) as error:
            raise InvalidOrderError(f"delay is {delay!r}: it must be at most 30 days") from error
        if at < now:
            raise InvalidOrderError(f"delay is {delay!r}: it must not be negative")
    if at is not None and at > now + HORIZON:
        raise InvalidOrderError(f"the task would run at {at}: Cloud Tasks schedules at most 30 days ahead")
    return at
