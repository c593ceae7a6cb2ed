"""The log of a local cloud: a JSON object a line in the state folder, and a line a request for eyes.

One attempt is one entry. Its reason comes from whoever knows it: the handler, the front door, or the dispatcher.
"""

import contextlib
import json
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from google.cloud.tasks_v2 import types
from rich.console import Console
from rich.text import Text

from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import Message
from local.journal import order_of

log = logging.getLogger("local.tasks")

FILE = "log.jsonl"
HANDLER = "handler"
"""The logger of the handler's own lines."""
_FRONT_DOOR = "local.cloud_run.front_door"
_STYLES = {"INFO": "", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}

Entry = dict[str, Any]


class Log(logging.Handler):
    """Writes each entry to the file, and prints it: for eyes on a terminal, else the handler's lines as they are."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._eyes = Eyes()
        self.file: IO[bytes] | None = None
        """Gets every entry, once it is set."""
        self._reasons: dict[tuple[str, str, str], str] = {}
        """Of attempts whose answers are still to come. Empty: the handler wrote an entry of its own."""
        self.verbose = False
        """Whether what goes well is printed too."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        text = record.getMessage()
        if "task" in fields and "status" in fields:
            key = (str(fields.get("queue")), str(fields["task"]), str(fields.get("attempt")).partition(" ")[0])
            if record.name == HANDLER:
                self._reasons[key] = ""
            elif record.name == _FRONT_DOOR:
                self._reasons[key] = fields["message"]
                return
            elif (reason := self._reasons.pop(key, None)) is not None:
                if not reason:
                    return
                text, fields = f"{text}: {reason}", {**fields, "message": reason}
        entry = _entry(record, text, fields)
        if self.file:
            with contextlib.suppress(OSError):  # the disk is full
                self.file.write(f"{text if record.name == HANDLER and fields else json.dumps(entry)}\n".encode())
        if record.levelno < logging.WARNING and fields and not self.verbose:
            return
        if self.console.is_terminal:
            try:
                line = self._eyes.line(entry)
            except (ValueError, TypeError):  # whatever a handler of one's own calls a log entry
                line = Text(text)
            if line:
                self.console.print(line, soft_wrap=True)
        elif record.levelno >= logging.WARNING or not fields or record.name == HANDLER:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _entry(record: logging.LogRecord, text: str, fields: Mapping[str, Any]) -> Entry:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    entry = {"severity": record.levelname, "message": text, "time": time, "logger": record.name, **fields}
    if record.name == HANDLER and fields:
        del entry["logger"]
    if record.exc_info:
        entry["stack_trace"] = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
    return entry | order_of(entry.pop("body", b""))


class Eyes:
    """Shows entries, in the order in which they were written."""

    def __init__(self) -> None:
        self._broken: set[str] = set()

    def line(self, entry: Entry) -> Text | None:
        """One line, and the stack below it; None for what only machines need."""
        severity, event = entry.get("severity", "INFO"), entry.get("event")
        if event in ("broken", "mended"):
            (self._broken.add if event == "broken" else self._broken.discard)(entry["what"])
        if "status" in entry or "task" in entry:
            if "lastAttempt" in entry:
                return None
            order = str(entry.get("orderId") or "") or str(entry.get("task", "-")).partition("-")[2]
            order = order if len(order) <= 20 else f"…{order[-19:]}"
            result, style = _result(entry)
            columns = f"{order:<20} {entry.get('action', '-'):<18} {entry.get('attempt', '-'):<7} "
            text = Text(f"{_clock(entry)} {columns}").append(f"{result:<12}", style).append(f" {self._reason(entry)}")
        elif "logger" not in entry and severity == "INFO":
            return None  # the handler's start, or a pass of the relay
        else:
            style = "magenta" if event == "injected" else _STYLES.get(severity, "")
            text = Text(f"{_clock(entry)} ").append(entry["message"], style)
        if "stack_trace" in entry:
            text.append(f"\n{entry['stack_trace']}", "dim")
        return text

    def _reason(self, entry: Entry) -> str:
        reason = str(entry["message"])
        if trouble := entry.get("deadLetterTrouble"):
            reason += f" ({trouble})"
        if letter := entry.get("deadLetter"):
            reason += f": replay {letter[:12]}"
        if self._broken and not 200 <= entry.get("status", 200) < 300:
            reason += f" [broken on purpose: {', '.join(sorted(self._broken))}]"
        return reason


def _result(entry: Entry) -> tuple[str, str]:
    """The result of an attempt, and its style."""
    status = entry.get("status")
    if status is None:
        return entry.get("event", "note"), ""
    if entry.get("deadLetter"):
        return "dead letter", "bold red"
    if 200 <= status < 300:
        return "done", "green"
    if status == 500 and "logger" not in entry:
        return ("retry", "yellow") if entry["severity"] == "WARNING" else ("failed", "red")
    return (f"HTTP {status}" if status else "no answer"), "red"


def _clock(entry: Entry) -> str:
    return datetime.fromisoformat(entry["time"]).astimezone().strftime("%H:%M:%S")


def read(file: Path, order: str | None) -> Iterator[Text]:
    """The lines of a file for eyes; with `order`, those of this order alone."""
    eyes = Eyes()
    with file.open(encoding="utf-8", errors="replace") as lines:
        for each in lines:
            try:
                entry = json.loads(each)
                line = eyes.line(entry)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # cut off by kill -9, or no entry
            if line and order in (None, entry.get("orderId")):
                yield line


class Events(Listener):
    """Logs the creations of tasks, and what changes about a queue."""

    def __init__(self, queue: Callable[[str], Message | None]) -> None:
        """`queue`: a queue by its path, None if it was deleted."""
        self._queue = queue
        self._known: dict[str, tuple[bool, str]] = {}

    def task_changed(self, event: Event, task: Message) -> None:
        if event is Event.CREATED:
            path, _, name = task.name.rpartition("/tasks/")
            queue = path.rpartition("/")[2]
            fields = {"event": "created", "queue": queue, "task": name, "message": f"in {queue}"}
            log.info("%s created in %s", name, queue, extra={"fields": {**fields, "body": task.http_request.body}})

    def queue_changed(self, queue: str) -> None:
        found = self._queue(queue)
        if found is None:
            return
        limits = found.rate_limits
        rate = f"{limits.max_dispatches_per_second:g}/s, {limits.max_concurrent_dispatches} at once"
        paused = found.state == types.Queue.State.PAUSED
        before = self._known.get(queue, (paused, rate))
        self._known[queue] = (paused, rate)
        if before[0] != paused:
            self._log(queue, "paused" if paused else "resumed", "is paused" if paused else "runs again")
        if before[1] != rate:
            self._log(queue, "rate", f"has {rate} instead of {before[1]}")

    def _log(self, queue: str, event: str, text: str) -> None:
        name = queue.rpartition("/")[2]
        log.warning("The queue %s %s", name, text, extra={"fields": {"event": event, "queue": name}})
