"""The report of a run of orders: what a bar and a table say."""

import io
from collections.abc import Iterator

import pytest
from google.cloud.tasks_v2 import types
from rich.console import Console

from local.cloud_tasks.listener import Event
from local.cloud_tasks.messages import Message
from local.report import Report


def task(action: str = "send_confirmation") -> Message:
    body = b'{"orderId": "ORD-1", "action": "%s"}' % action.encode()
    return types.Task.pb()(name="q/tasks/t", http_request=types.HttpRequest.pb()(body=body))


@pytest.fixture
def printed() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def report(printed: io.StringIO) -> Report:
    seconds: Iterator[int] = iter(range(1, 1000))
    console = Console(file=printed, force_terminal=True, no_color=True, width=120)
    return Report("q", console, lambda: float(next(seconds)))


@pytest.mark.parametrize(
    ("waiting", "paused", "caption"),
    [
        (0, True, "1 settled in 1.0 s"),
        (2, False, "; 2 wait"),
        (2, True, "; 2 wait: the queue is PAUSED (order_tasks resume)"),
    ],
)
def test_the_table_says_what_waits_and_why(
    report: Report, printed: io.StringIO, waiting: int, paused: bool, caption: str
) -> None:
    report.task_changed(Event.CREATED, task())
    report.task_changed(Event.PROCESSED, task())
    table = report.table([], {}, waiting, paused)
    assert str(table.caption).endswith(caption)


def test_the_bar_knows_its_total_from_the_start_and_the_rate(report: Report, printed: io.StringIO) -> None:
    with report.bar(300_000):
        for _ in range(3):
            report.task_changed(Event.PROCESSED, task())
    text = printed.getvalue()
    assert "0/300000" in text
    assert "3/300000" in text
    assert "/s, 0 retried" in text
