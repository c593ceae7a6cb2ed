"""The handler's log: why attempts failed. Read from the local cloud's file, or from Cloud Logging.

Cloud Tasks knows only the status of an attempt. Whatever keeps the log from being read, the command that reads it is
known.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from google.auth.exceptions import GoogleAuthError

from order_tasks.config import Config
from order_tasks.operations.entry import without_emails

FILE = "ORDER_TASKS_LOG"
"""The variable with the path of the local cloud's log."""
_TAIL_BYTES = 4 << 20
_LINES = 500
_SECONDS = 10
_LOGGING = "https://logging.googleapis.com/v2/entries:list"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the handler about a task."""

    time: datetime
    severity: str
    message: str
    order_id: str | None
    action: str | None
    task: str | None
    """The task's id. A replay's is that of the dead letter."""
    queue: str | None
    attempt: str | None
    """`2 of 5`, or `2` for a replay."""
    status: int | None

    @classmethod
    def read(cls, severity: str, time: str, fields: Mapping[str, Any]) -> Self:
        """The line with these fields of the handler's."""
        known = {name: fields.get(name) for name in ("orderId", "action", "task", "queue", "attempt")}
        texts = {name: value if isinstance(value, str) else None for name, value in known.items()}
        status = fields.get("status")
        return cls(
            datetime.fromisoformat(time),
            severity,
            without_emails(str(fields.get("message", ""))),
            texts.pop("orderId"),
            **texts,
            status=int(status) if isinstance(status, int | float) else None,
        )


class LogError(Exception):
    """The log cannot be read. The text says why."""


class HandlerLog:
    """The log of the handler that serves a configuration's queues."""

    def __init__(self, config: Config) -> None:
        _, self._project, *_ = config.queue.split("/")
        self._queues = [path.rpartition("/")[2] for path in (config.queue, config.dead_letter_queue or config.queue)]
        self._local = config.emulator_host is not None
        self._session: Any = None

    def failures(self, since: datetime) -> list[LogLine]:
        """The latest lines about failed attempts, newest first. Raises LogError."""
        if self._local:
            lines = (line for line in self._file_lines() if line.queue in self._queues and line.time >= since)
            return [line for line in lines if line.severity not in ("DEBUG", "INFO")][::-1][:_LINES]
        queues = " OR ".join(map(json.dumps, self._queues))
        return self._entries(f'jsonPayload.queue=({queues}) severity>=WARNING timestamp>="{since.isoformat()}"')

    def of_order(self, order_id: str) -> list[LogLine]:
        """The latest lines about an order, oldest first. Raises LogError."""
        if self._local:
            return [line for line in self._file_lines() if line.order_id == order_id][-_LINES:]
        return self._entries(_of_order(order_id))[::-1]

    def command(self, order_id: str | None = None) -> str:
        """The command that reads the log, of one order or of all failures."""
        if self._local:
            order = "" if order_id is None else f" --order {shlex.quote(order_id)}"
            return f"python -m local logs{order}"
        chosen = "severity>=WARNING jsonPayload.task:*" if order_id is None else _of_order(order_id)
        return f"gcloud logging read {shlex.quote(chosen)} --project={self._project} --freshness=7d --limit=50"

    def url(self, order_id: str) -> str | None:
        """The page of Cloud Logging with the lines of an order. None for a local cloud."""
        if self._local:
            return None
        query = quote(_of_order(order_id), safe="")
        return f"https://console.cloud.google.com/logs/query;query={query};duration=P7D?project={self._project}"

    def _file_lines(self) -> Iterator[LogLine]:
        path = os.environ.get(FILE)
        if not path:
            raise LogError(f"{FILE} is not set: source the local.env of a local cloud")
        try:
            with Path(path).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                texts = file.read().splitlines()
        except OSError as error:
            raise LogError(f"{FILE}: {error}") from error
        for text in texts:
            try:
                fields = json.loads(text)
                yield LogLine.read(fields["severity"], fields["time"], fields)
            except (ValueError, KeyError, TypeError):
                continue  # the first line may be cut, and other lines are not about orders

    def _entries(self, chosen: str) -> list[LogLine]:
        from google.auth import default
        from google.auth.transport.requests import AuthorizedSession
        from requests import RequestException

        request = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": f'resource.type="cloud_run_revision" {chosen}',
            "orderBy": "timestamp desc",
            "pageSize": _LINES,
        }
        try:
            if self._session is None:
                credentials, _ = default(scopes=["https://www.googleapis.com/auth/logging.read"])
                self._session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
            answer = self._session.post(_LOGGING, json=request, timeout=_SECONDS)
            if answer.status_code != 200:
                raise LogError(f"Cloud Logging answered {answer.status_code}: {answer.text[:200]}")
            entries = answer.json().get("entries", [])
        except (RequestException, GoogleAuthError) as error:
            raise LogError(f"Cloud Logging: {error}") from error
        return [
            LogLine.read(entry.get("severity", ""), entry["timestamp"], entry.get("jsonPayload", {}))
            for entry in entries
        ]


def _of_order(order_id: str) -> str:
    return f"jsonPayload.orderId={json.dumps(order_id)}"
