"""One task of either queue, as operators see it: its order, its attempts, its state, and of a dead letter the reason.

Shows no customer's e-mail. The body contains it, and the reason or an answer may quote it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Self
from urllib.parse import quote

from google.cloud import tasks_v2
from google.rpc import code_pb2

from order_tasks.operations.times import format_time, to_datetime, to_timedelta

State = Literal["due", "scheduled", "running", "backing off"]

_MAX_SHOWN = 200
_MAX_EMAIL = 320
_MAX_SEARCHED = 2000
"""Characters of a text that are searched for e-mails. Longer texts are cut first: a task may have a megabyte."""
_WORD = re.compile(r"[^\s<>\"'(),;:=\[\]{}]+")
_AT_INSIDE = re.compile(r".(?:@|%40).")
_HASH = re.compile(r"^[0-9a-f]{16}-(?=.)|(?<=^[0-9a-f]{12})[0-9a-f]{20,}$")
_EPOCH = datetime.fromtimestamp(0, UTC)
_DEFAULT_DEADLINE = timedelta(minutes=10)
"""Cloud Tasks' default."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A task. A field is None if the task, or the view that was asked for, lacks it."""

    path: str
    id: str
    """The last part of its path."""
    short: str
    """Its id for people: without the hash before a readable end, or the first digits of one that is all hash."""
    state: State
    """When it was read. `scheduled`: not yet due and never tried; such a dead letter's last attempt may still run."""
    order: str | None = field(repr=False)
    """The order's id as it was given. `order_id` is for display."""
    order_id: str | None
    action: str | None
    effect: str | None
    """The action, with `#key` if it has one, as the handler's ledger records it."""
    reason: str | None
    """Why it is a dead letter."""
    general_reason: str
    """The reason with ORDER for the order's id, so that orders share it."""
    kind: str | None
    """The kind of that error."""
    task: str | None
    """The id of a dead letter's original task."""
    attempts: int | None
    """The attempts of the original task."""
    created: datetime
    due: datetime
    tries: int
    """The attempts in this queue, a running one included."""
    last_status: str | None
    """The answer to the latest of them."""
    began: datetime | None
    """The first attempt."""
    deadline: timedelta = field(repr=False)
    """The limit of an attempt's duration."""

    @classmethod
    def from_task(cls, task: tasks_v2.Task, now: datetime) -> Self:
        """Read a task. Only its FULL view contains the order."""
        message = read_message(task.http_request.body)
        email = message.get("customerEmail")
        headers = {name.lower(): value for name, value in task.http_request.headers.items()}
        attempts = headers.get("x-dead-letter-attempts", "")
        due = to_datetime(task.schedule_time) or _EPOCH
        deadline = to_timedelta(task.dispatch_deadline) or _DEFAULT_DEADLINE
        task_id = task.name.rpartition("/")[2]
        order = message.get("orderId")
        reason = _show(headers.get("x-dead-letter-reason"), email, any_email=True)
        return cls(
            path=task.name,
            id=task_id,
            short=_HASH.sub("", task_id),
            state=_state(task, due, deadline, now),
            order=order if isinstance(order, str) else None,
            order_id=_show(order, email),
            action=_show(message.get("action"), email),
            effect=_show(effect(message), email),
            reason=reason,
            general_reason=general(reason or "unknown", order),
            kind=_show(headers.get("x-dead-letter-kind"), email),
            task=_show(headers.get("x-dead-letter-task"), email),
            attempts=int(attempts) if re.fullmatch(r"[0-9]{1,9}", attempts) else None,
            created=to_datetime(task.create_time) or _EPOCH,
            due=due,
            tries=task.dispatch_count,
            last_status=_last_status(task),
            began=to_datetime(task.first_attempt.dispatch_time),
            deadline=deadline,
        )

    @property
    def fails(self) -> bool:
        """Whether an attempt of it has failed."""
        return self.tries > 1 or (self.tries == 1 and self.last_status is not None)

    def describe_state(self, now: datetime) -> str:
        """The state as text for people."""
        if self.state == "running":
            return "being tried now"
        failed = "failed, " if self.state == "backing off" else ""
        return f"{failed}due {'now' if self.state == 'due' else format_time(self.due, now)}"


def effect(message: Mapping[str, object]) -> str | None:
    """The action, with `#key` if the message has one."""
    action, key = message.get("action"), message.get("key")
    return (f"{action}#{key}" if key else str(action)) if action else None


def read_message(body: bytes | str) -> Mapping[str, object]:
    """The fields of a body; none if it is not a message."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):  # it may be a dead letter because of that
        return {}
    return message if isinstance(message, dict) else {}


def general(reason: str, order: object) -> str:
    """A reason with ORDER for its order's id."""
    return reason.replace(order, "ORDER") if isinstance(order, str) and order else reason


def without_emails(text: str) -> str:
    """One short line for a terminal."""
    return _show(text, None, any_email=True) or ""


def _state(task: tasks_v2.Task, due: datetime, deadline: timedelta, now: datetime) -> State:
    dispatched = to_datetime(task.last_attempt.dispatch_time)
    # Without the deadline, an attempt whose answer was lost would count as running for ever.
    if dispatched and to_datetime(task.last_attempt.response_time) is None and now < dispatched + deadline:
        return "running"
    if now < due:
        return "backing off" if task.dispatch_count else "scheduled"
    return "due"


def _last_status(task: tasks_v2.Task) -> str | None:
    """The answer to a task's latest attempt. None if there is no answer yet."""
    if to_datetime(task.last_attempt.response_time) is None:
        return None
    status = task.last_attempt.response_status
    known = status.code in code_pb2.Code.values()
    code = code_pb2.Code.Name(status.code) if known else str(status.code)
    return without_emails(status.message or code)


def _show(value: object, email: object, *, any_email: bool = False) -> str | None:
    """One short line without the customer's e-mail, or without any, and without control characters."""
    if not isinstance(value, str | int):
        return None
    whole = str(value)
    text = whole[:_MAX_SEARCHED]
    # Searched as plain text too, since a given e-mail may lack the @. One letter would mask half of the text.
    if isinstance(email, str) and 2 < len(email) <= _MAX_EMAIL:
        for known in (email, quote(email)):
            text = re.sub(re.escape(known), "[e-mail]", text, flags=re.IGNORECASE)
    if any_email:
        text = _WORD.sub(lambda word: "[e-mail]" if _AT_INSIDE.search(word[0]) else word[0], text)
    if len(whole) > _MAX_SEARCHED:
        text = text[: -3 * _MAX_EMAIL]  # the cut may have split an e-mail (three characters for one, if quoted)
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    complete = len(text) <= _MAX_SHOWN and len(whole) <= _MAX_SEARCHED
    return text if complete else f"{text[: _MAX_SHOWN - 1]}\N{HORIZONTAL ELLIPSIS}"
