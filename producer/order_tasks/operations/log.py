"""The handler's log: why attempts failed. Read from the local cloud's file, or with gcloud from Cloud Logging.

Cloud Tasks knows only the status of an attempt. Whatever keeps the log from being read, the command that reads it is
known.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from order_tasks.config import Config
from order_tasks.operations.entry import without_emails

_GCLOUD_SECONDS = 30


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line about a task. A field is None if the line lacks it."""

    time: datetime
    severity: str
    message: str
    order_id: str | None
    action: str | None
    task: str | None
    """The task's id. A replay's is that of the dead letter."""
    attempt: str | None
    """`2 of 5`, or `2` for a replay."""
    status: int | None
    event: str | None
    """What a local cloud did, such as `created`."""


class Lines(NamedTuple):
    lines: Sequence[LogLine] = ()
    """Oldest first."""
    trouble: str | None = None
    """Why the log was not read."""


class HandlerLog:
    """The log of the handler that serves a configuration's queues."""

    def __init__(self, config: Config) -> None:
        self._project = config.queue.split("/")[1]
        self._local = config.emulator_host is not None

    def failures(self, since: datetime) -> Lines:
        """The latest lines about failed attempts."""
        found = self._read(self.command(since=since))
        failed = [line for line in found.lines if line.task and line.severity != "INFO" and line.time >= since]
        return found._replace(lines=failed)

    def of_order(self, order_id: str) -> Lines:
        """The latest lines about an order."""
        found = self._read(self.command(order_id))
        return found._replace(lines=[line for line in found.lines if line.order_id == order_id])

    def command(self, order_id: str | None = None, since: datetime | None = None) -> str:
        """The command that reads the log, of one order or of failures."""
        if self._local:
            return "python -m local logs" + (f" --order {shlex.quote(order_id)}" if order_id else "")
        chosen = _of_order(order_id) if order_id else "severity>=WARNING jsonPayload.task:*"
        newer = f' timestamp>="{since.isoformat()}"' if since else ""
        return f"gcloud logging read {shlex.quote(chosen + newer)} --project={self._project} --freshness=7d --limit=500"

    def url(self, order_id: str) -> str | None:
        """The page of Cloud Logging with the lines of an order. None for a local cloud."""
        query = f"query={quote(_of_order(order_id), safe='')};duration=P7D?project={self._project}"
        return None if self._local else f"https://console.cloud.google.com/logs/query;{query}"

    def _read(self, command: str) -> Lines:
        try:
            return Lines(_lines(_local_entries() if self._local else _entries(command)))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return Lines(trouble=str(error))


def _of_order(order_id: str) -> str:
    return f"jsonPayload.orderId={json.dumps(order_id)}"


def _entries(command: str) -> Iterable[Mapping[str, Any]]:
    """What Cloud Logging has, oldest first."""
    read = subprocess.run(
        [*shlex.split(command), "--format=json"], capture_output=True, text=True, timeout=_GCLOUD_SECONDS, check=False
    )
    if read.returncode:
        raise OSError(f"gcloud: {read.stderr.strip()[-200:]}")
    for entry in reversed(json.loads(read.stdout)):
        yield entry.get("jsonPayload", {}) | {"time": entry["timestamp"], "severity": entry.get("severity", "DEFAULT")}


def _local_entries() -> Iterable[Mapping[str, Any]]:
    path = os.environ.get("ORDER_TASKS_LOG")
    if not path:
        raise OSError("ORDER_TASKS_LOG is not set: source the local.env of a local cloud")
    return tail(Path(path))


def tail(file: Path, size: int = 4 << 20) -> Iterator[dict[str, Any]]:
    """The last bytes of a file of JSON lines, such as a local cloud's log."""
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
        lines = stream.read().splitlines()
    for line in lines:
        with suppress(ValueError):  # the first line may be cut
            yield json.loads(line)


def _lines(found: Iterable[Mapping[str, Any]]) -> list[LogLine]:
    return [
        LogLine(
            time=datetime.fromisoformat(fields["time"]),
            severity=fields["severity"],
            # The local cloud's own lines are about events.
            message=without_emails(" ".join(filter(None, (fields.get("event"), fields.get("message"))))),
            order_id=fields.get("orderId"),
            action=fields.get("action"),
            task=fields.get("task"),
            attempt=fields.get("attempt"),
            status=fields.get("status"),
            event=fields.get("event"),
        )
        for fields in found
        if "time" in fields and "severity" in fields
    ]
