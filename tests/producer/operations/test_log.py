"""The handler's log of a deployed stack, as gcloud reads it."""

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from order_tasks import Config
from order_tasks.operations.log import HandlerLog

QUEUE = "projects/shop/locations/us-central1/queues/cloud-run-tasks"
SINCE = datetime(2026, 1, 31, 8, tzinfo=UTC)
LINE = {
    "message": "550 <ada@example.com> is unknown",
    "task": "t",
    "orderId": 'O"1',
    "attempt": "2 of 5",
    "status": 500,
}
ENTRIES = [
    {"timestamp": "2026-01-31T08:00:02.123456789Z", "severity": "ERROR", "jsonPayload": LINE},
    {"timestamp": "2026-01-31T08:00:01Z", "severity": "WARNING", "jsonPayload": LINE | {"task": "s"}},
    {"timestamp": "2026-01-31T08:00:00Z", "textPayload": "Container called exit(1)."},
]


def gcloud(folder: Path, script: str) -> None:
    program = folder / "gcloud"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandlerLog:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "entries.json").write_text(json.dumps(ENTRIES))
    gcloud(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/arguments; /bin/cat {tmp_path}/entries.json')
    return HandlerLog(Config(QUEUE, dead_letter_queue=f"{QUEUE}-dead-letters"))


def test_failures_are_read_oldest_first_without_e_mails(log: HandlerLog, tmp_path: Path) -> None:
    lines, trouble = log.failures(SINCE)
    assert trouble is None
    assert [line.task for line in lines] == ["s", "t"]
    last = lines[-1]
    assert (last.message, last.order_id, last.attempt, last.status) == (
        "550 <[e-mail]> is unknown",
        'O"1',
        "2 of 5",
        500,
    )
    assert (tmp_path / "arguments").read_text().splitlines() == [
        *("logging", "read"),
        'severity>=WARNING jsonPayload.task:* timestamp>="2026-01-31T08:00:00+00:00"',
        *("--project=shop", "--freshness=7d", "--limit=500", "--format=json"),
    ]


def test_the_command_and_the_page_of_an_order_select_exactly_it(log: HandlerLog, tmp_path: Path) -> None:
    lines, _ = log.of_order('O"1')
    assert [line.task for line in lines] == ["s", "t"]
    chosen = 'jsonPayload.orderId="O\\"1"'
    assert shlex.split(log.command('O"1'))[3] == chosen
    assert (tmp_path / "arguments").read_text().splitlines()[2] == chosen
    assert str(log.url('O"1')).endswith("query=jsonPayload.orderId%3D%22O%5C%221%22;duration=P7D?project=shop")


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ("echo 'ERROR: you are not signed in' >&2; exit 1", "gcloud: ERROR: you are not signed in"),
        ("echo oops", "Expecting value"),
    ],
)
def test_whatever_keeps_it_from_being_read_is_said(log: HandlerLog, tmp_path: Path, script: str, trouble: str) -> None:
    gcloud(tmp_path, script)
    lines, said = log.failures(SINCE)
    assert not lines
    assert str(said).startswith(trouble)


def test_without_gcloud_that_is_said(log: HandlerLog, tmp_path: Path) -> None:
    (tmp_path / "gcloud").unlink()
    assert "gcloud" in str(log.failures(SINCE).trouble)
