"""The log for machines and for eyes: one entry an attempt, with the reason of whoever knows it."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.cloud.tasks_v2 import types
from rich.console import Console

from local.cloud_run.instances import _relay
from local.cloud_tasks.listener import Event
from local.logs import FILE, Events, Log, read

TASK = "a4911e4956641b38-send_confirmation-ORD-1-398ad8ba"
BODY = b'{"orderId": "ORD-1", "action": "send_confirmation"}'
ATTEMPT = {"queue": "cloud-run-tasks", "task": TASK, "attempt": "2"}
RETRY = {
    **ATTEMPT,
    "severity": "WARNING",
    "message": "The mail server refused the message: 451",
    "time": "2026-12-01T07:00:00Z",
    "status": 500,
    "attempt": "2 of 5",
    "orderId": "ORD-1",
    "action": "send_confirmation",
}
COLUMNS = "ORD-1                send_confirmation  "


class Shown:
    """A log in a folder, and what it printed."""

    def __init__(self, folder: Path, terminal: bool) -> None:
        self._printed = io.StringIO()
        self.log = Log(Console(file=self._printed, force_terminal=terminal, no_color=True, width=60))
        self._file = folder / FILE
        self.log.file = self._file.open("ab", buffering=0)

    def lines(self) -> list[str]:
        """Without their times."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self._printed.getvalue())
        return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in plain.splitlines()]

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines()]


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Callable[[bool], Shown]]:
    logger = logging.getLogger()

    def make(terminal: bool) -> Shown:
        shown = Shown(tmp_path, terminal)
        opened.append(shown)
        logger.addHandler(shown.log)
        logger.setLevel(logging.INFO)
        return shown

    opened: list[Shown] = []
    level = logger.level
    yield make
    logger.setLevel(level)
    for shown in opened:
        logger.removeHandler(shown.log)
        assert shown.log.file is not None
        shown.log.file.close()


def handler(**fields: object) -> None:
    _relay(json.dumps({**RETRY, **fields}))


def dispatcher(status: int, reason: str = "") -> None:
    fields = {**ATTEMPT, "status": status, "message": reason or f"HTTP {status}", "body": BODY}
    level = logging.INFO if status == 200 else logging.WARNING
    logging.getLogger("local.cloud_tasks.dispatch").log(level, "Attempt 2: %d", status, extra={"fields": fields})


def front_door(status: int, message: str) -> None:
    fields = {**ATTEMPT, "status": status, "message": message}
    logging.getLogger("local.cloud_run.front_door").warning("503: %s", message, extra={"fields": fields})


def note(message: str, **fields: str) -> None:
    logging.getLogger("local.faults").warning(message, extra={"fields": fields})


@pytest.mark.parametrize(
    ("happen", "line", "reason"),
    [
        (
            [handler, partial(dispatcher, 500)],
            f"{COLUMNS}2 of 5  retry        The mail server refused the message: 451",
            "The mail server refused the message: 451",
        ),
        (
            [partial(handler, severity="ERROR", deadLetter="f" * 64, status=200), partial(dispatcher, 200)],
            f"{COLUMNS}2 of 5  dead letter  The mail server refused the message: 451: replay ffffffffffff",
            "The mail server refused the message: 451",
        ),
        (
            [partial(front_door, 503, "the instance broke off"), partial(dispatcher, 503)],
            f"{COLUMNS}2       HTTP 503     the instance broke off",
            "the instance broke off",
        ),
        (
            [partial(dispatcher, 0, "connection refused")],
            f"{COLUMNS}2       no answer    connection refused",
            "connection refused",
        ),
        ([partial(dispatcher, 200)], f"{COLUMNS}2       done         HTTP 200", "HTTP 200"),
        ([partial(note, "injected: x", event="injected")], "injected: x", "injected: x"),
    ],
    ids=["handler", "dead letter", "front door", "no answer", "a handler without a log", "fault"],
)
def test_what_happened_once_is_one_entry_and_one_line_with_its_reason(
    logged: Callable[[bool], Shown], happen: Sequence[Callable[[], None]], line: str, reason: str
) -> None:
    shown = logged(True)
    shown.log.verbose = True
    for each in happen:
        each()
    assert shown.lines() == [line]
    assert [entry["message"] for entry in shown.entries()] == [reason]


def test_a_stack_has_lines_and_what_is_broken_on_purpose_marks_failures(logged: Callable[[bool], Shown]) -> None:
    shown = logged(True)
    note("mail is broken on purpose", event="broken", what="mail")
    handler(stack_trace='Traceback\n  File "mail.py"\nOSError')
    handler(status=200, severity="INFO")
    note("mail works again", event="mended", what="mail")
    handler()
    marked = f"{COLUMNS}2 of 5  retry        {RETRY['message']} [broken on purpose: mail]"
    assert shown.lines()[:2] == ["mail is broken on purpose", marked]
    assert shown.lines()[2:5] == ["Traceback", '  File "mail.py"', "OSError"]
    assert shown.lines()[5:] == ["mail works again", marked.partition(" [")[0]]


def test_what_goes_well_and_what_alerting_watches_is_written_and_not_printed(logged: Callable[[bool], Shown]) -> None:
    shown = logged(True)
    handler(status=200, severity="INFO")
    _relay(json.dumps({**ATTEMPT, "severity": "WARNING", "message": "Last attempt", "lastAttempt": True}))
    assert (shown.lines(), len(shown.entries())) == ([], 2)
    logging.getLogger("local").info("Ready")
    assert shown.lines() == ["Ready"]


def test_into_a_pipe_go_the_handlers_own_lines(logged: Callable[[bool], Shown]) -> None:
    shown = logged(False)
    handler()
    _relay("Traceback of what is no entry")
    assert shown._printed.getvalue().splitlines() == [json.dumps(RETRY), "Traceback of what is no entry"]


@pytest.mark.parametrize("line", ['{"severity": "INFO", "time": 1, "status": "x"}', '{"severity": "ERROR"}', "{", "[]"])
def test_no_line_of_a_handler_of_ones_own_ends_the_log(logged: Callable[[bool], Shown], line: str) -> None:
    shown = logged(True)
    shown.log.verbose = True
    _relay(line)
    handler()
    assert shown.lines()[-1].startswith(COLUMNS)


def test_creations_pauses_and_rates_are_shown(logged: Callable[[bool], Shown]) -> None:
    shown = logged(True)
    shown.log.verbose = True
    queue = types.Queue.pb()(name="p/queues/q", state=types.Queue.State.RUNNING)
    queue.rate_limits.max_dispatches_per_second = 50
    events = Events(lambda _: queue)
    events.queue_changed("p/queues/q")
    events.task_changed(
        Event.CREATED, types.Task.pb()(name=f"p/queues/q/tasks/{TASK}", http_request=types.HttpRequest.pb()(body=BODY))
    )
    queue.state = types.Queue.State.PAUSED
    events.queue_changed("p/queues/q")
    queue.rate_limits.max_dispatches_per_second = 10
    events.queue_changed("p/queues/q")
    assert [" ".join(line.split()) for line in shown.lines()] == [
        "ORD-1 send_confirmation - created in q",
        "The queue q is paused",
        "The queue q has 10/s, 0 at once instead of 50/s, 0 at once",
    ]


def test_the_file_is_read_as_it_was_shown_and_for_one_order(logged: Callable[[bool], Shown], tmp_path: Path) -> None:
    shown = logged(True)
    handler()
    handler(orderId="ORD-2")
    with (tmp_path / FILE).open("a") as file:
        file.write('{"cut off')
    read_again = [line.plain[9:] for line in read(tmp_path / FILE, None)]
    assert read_again == shown.lines()
    assert [line.plain[9:14] for line in read(tmp_path / FILE, "ORD-2")] == ["ORD-2"]
