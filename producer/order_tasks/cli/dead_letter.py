"""A dead letter, read from its task: its order, the reason, its attempts, and its state since.

Shows no customer's e-mail. The body contains it, and the reason or an answer may quote it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self
from urllib.parse import quote

from google.cloud import tasks_v2
from google.rpc import code_pb2

from order_tasks.cli.times import format_due, to_datetime, to_timedelta

State = Literal["due", "not yet due", "running", "backing off"]

_MAX_SHOWN = 200
_MAX_EMAIL = 320
_MAX_SEARCHED = 2000
"""Characters of a text that are searched for e-mails. Longer texts are cut first: a task may have a megabyte."""
_WORD = re.compile(r"[^\s<>\"'(),;:=\[\]{}]+")
_AT_INSIDE = re.compile(r".(?:@|%40).")
_EPOCH = datetime.fromtimestamp(0, UTC)
_DEFAULT_DEADLINE = timedelta(minutes=10)
"""Cloud Tasks' default."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry of the dead-letter queue. A field is None if the entry, or the view that was asked for, lacks it."""

    path: str
    order_id: str | None
    action: str | None
    reason: str | None
    task: str | None
    """The id of the original task."""
    attempts: int | None
    """The attempts of the original task."""
    stored: datetime
    due: datetime
    tries: int
    """The attempts as a dead letter, a running one included."""
    last_status: str | None
    """The answer to the latest of them."""
    dispatched: datetime | None
    """The start of an attempt that has no answer yet."""
    deadline: timedelta
    """The limit of an attempt's duration."""

    @classmethod
    def from_task(cls, task: tasks_v2.Task) -> Self:
        """Read a task. Only its FULL view contains the order."""
        message = _read_message(task.http_request.body)
        email = message.get("customerEmail")
        headers = {name.lower(): value for name, value in task.http_request.headers.items()}
        attempts = headers.get("x-dead-letter-attempts", "")
        answered = to_datetime(task.last_attempt.response_time) is not None
        return cls(
            path=task.name,
            order_id=_show(message.get("orderId"), email),
            action=_show(message.get("action"), email),
            reason=_show(headers.get("x-dead-letter-reason"), email, any_email=True),
            task=_show(headers.get("x-dead-letter-task"), email),
            attempts=int(attempts) if re.fullmatch(r"[0-9]{1,9}", attempts) else None,
            stored=to_datetime(task.create_time) or _EPOCH,
            due=to_datetime(task.schedule_time) or _EPOCH,
            tries=task.dispatch_count,
            last_status=last_status(task),
            dispatched=None if answered else to_datetime(task.last_attempt.dispatch_time),
            deadline=to_timedelta(task.dispatch_deadline) or _DEFAULT_DEADLINE,
        )

    @property
    def id(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def state(self, now: datetime) -> State:
        """`not yet due`: stored by a last attempt that may still be running."""
        # Without the deadline, an attempt whose answer was lost would count as running for ever.
        if self.dispatched is not None and now < self.dispatched + self.deadline:
            return "running"
        if now < self.due:
            return "backing off" if self.tries else "not yet due"
        return "due"

    def format_state(self, now: datetime) -> str:
        """The state as text for people."""
        return {
            "due": "now",
            "not yet due": f"{format_due(self.due, now)}: the attempt that stored it may still be running",
            "running": "being tried now",
            "backing off": f"{format_due(self.due, now)}, after a failed try: `replay {self.id}` tries it now",
        }[self.state(now)]


def last_status(task: tasks_v2.Task) -> str | None:
    """The answer to a task's latest attempt, without e-mails. None if there is no answer yet."""
    if to_datetime(task.last_attempt.response_time) is None:
        return None
    status = task.last_attempt.response_status
    known = status.code in code_pb2.Code.values()
    code = code_pb2.Code.Name(status.code) if known else str(status.code)
    return _show(status.message or code, None, any_email=True)


def _read_message(body: bytes) -> Mapping[str, object]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):  # it may be a dead letter because of that
        return {}
    return message if isinstance(message, dict) else {}


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
