"""A dead letter as its entry in the queue describes it: whose order, why, after how many attempts, and what since.

Owns what may be shown of a task. Shows no customer's e-mail: the body holds it, and a reason or an answer may quote it.
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

from order_tasks.cli.clock import ahead, length, moment

State = Literal["due", "not yet due", "running", "backing off"]

_MAX_SHOWN = 200
_EMAIL = re.compile(r"[^\s<>\"'(),;:=\[\]{}]+(?:@|%40)[^\s<>\"'(),;:=\[\]{}]+", re.IGNORECASE)
_EPOCH = datetime.fromtimestamp(0, UTC)
# The service's default, for an entry that states none.
_DEADLINE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry of the dead-letter queue. What it does not say, or its view leaves out, is None."""

    path: str
    order_id: str | None
    action: str | None
    reason: str | None
    task: str | None
    """The id of the task it was."""
    attempts: int | None
    """How many that task had."""
    stored: datetime
    due: datetime
    tries: int
    """Attempts as a dead letter, with one that is under way."""
    last_status: str | None
    """How the latest of them ended."""
    dispatched: datetime | None
    """When an attempt left that has no answer yet."""
    deadline: timedelta
    """How long an attempt may take."""

    @classmethod
    def of(cls, task: tasks_v2.Task) -> Self:
        """The dead letter of a task, in its FULL view if the order is to be known."""
        message = _message(task.http_request.body)
        email = message.get("customerEmail")
        headers = {name.lower(): value for name, value in task.http_request.headers.items()}
        attempts = headers.get("x-dead-letter-attempts", "")
        answered = moment(task.last_attempt.response_time) is not None
        return cls(
            path=task.name,
            order_id=_shown(message.get("orderId"), email),
            action=_shown(message.get("action"), email),
            reason=_masked(_shown(headers.get("x-dead-letter-reason"), email)),
            task=_shown(headers.get("x-dead-letter-task"), email),
            attempts=int(attempts) if re.fullmatch(r"[0-9]{1,9}", attempts) else None,
            stored=moment(task.create_time) or _EPOCH,
            due=moment(task.schedule_time) or _EPOCH,
            tries=task.dispatch_count,
            last_status=last_status(task),
            dispatched=None if answered else moment(task.last_attempt.dispatch_time),
            deadline=length(task.dispatch_deadline) or _DEADLINE,
        )

    @property
    def id(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def state(self, now: datetime) -> State:
        """Whether it may be tried: `not yet due` is a reserve whose run may still be going."""
        # An answer that never came must not make it look busy for ever.
        if self.dispatched is not None and now < self.dispatched + self.deadline:
            return "running"
        if now < self.due:
            return "backing off" if self.tries else "not yet due"
        return "due"

    def when(self, now: datetime) -> str:
        """The same for people."""
        return {
            "due": "now",
            "not yet due": f"not yet due, {ahead(self.due, now)}: the run that reserved it may still be going",
            "running": "being tried now",
            "backing off": f"{ahead(self.due, now)}, after a failed try: `replay` by its name tries it now",
        }[self.state(now)]


def last_status(task: tasks_v2.Task) -> str | None:
    """How a task's latest attempt ended, without e-mails; None before it has."""
    if moment(task.last_attempt.response_time) is None:
        return None
    status = task.last_attempt.response_status
    known = status.code in code_pb2.Code.values()
    return _masked(_shown(status.message or (code_pb2.Code.Name(status.code) if known else str(status.code)), None))


def _message(body: bytes) -> Mapping[str, object]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):  # a dead letter for that very reason
        return {}
    return message if isinstance(message, dict) else {}


def _shown(value: object, email: object) -> str | None:
    """One short line, with nothing that a terminal would obey; an e-mail needs no @ to be one that was given."""
    if not isinstance(value, str | int):
        return None
    text = str(value)
    if isinstance(email, str) and len(email) > 2:
        for known in (email, quote(email)):
            text = re.sub(re.escape(known), "[e-mail]", text, flags=re.IGNORECASE)
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}\N{HORIZONTAL ELLIPSIS}"


def _masked(text: str | None) -> str | None:
    return None if text is None else _EMAIL.sub("[e-mail]", text)
