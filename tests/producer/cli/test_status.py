"""`python -m order_tasks status`: read only, bounded, and silent about customers."""

import json
import sys
from datetime import timedelta

import grpc
import pytest
from google.cloud.tasks_v2 import Attempt, Queue

from tests.producer.cli.operators import DEAD_LETTER_QUEUE, EMAIL, QUEUE, Operator

PLAIN = """\
queue                         state    per second  at once  attempts   backoff                      tasks
cloud-run-tasks               RUNNING  50          20       unlimited  10 s to 5 min, 4 doublings   2
cloud-run-tasks-dead-letters  PAUSED   1           2        unlimited  60 min to 30 h, 4 doublings  2

next tasks
task   due       attempts  last status
ORD-2  now       0         -
ORD-1  in 5 min  1         INTERNAL(13): HTTP status code 500

dead letters: 2

due
  order   ORD-7, notify_warehouse
  reason  550 <[e-mail]> unknown
  task    0123456789abcdef-notify_warehouse-ORD-7, attempts: 5
  stored  3 h ago
  due     now

reserved
  order   ORD-1, notify_warehouse
  reason  no such item
  task    0123456789abcdef-notify_warehouse-ORD-1, attempts: 5
  stored  3 h ago
  due     not yet due, in 4 min: the run that reserved it may still be going
"""


@pytest.fixture
def stored(operator: Operator) -> Operator:
    operator.enqueue("ORD-2")
    tried = operator.enqueue("ORD-1", due=300)
    tried.dispatch_count = 1
    tried.last_attempt = Attempt(
        dispatch_time=operator.queues.now,
        response_time=operator.queues.now,
        response_status={"code": 13, "message": "INTERNAL(13): HTTP status code 500"},
    )
    operator.store("reserved", due=240)
    operator.store("due", "ORD-7", reason=f"550 <{EMAIL}> unknown")
    return operator


def test_a_person_reads_figures_next_tasks_and_dead_letters(
    stored: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stored.run("status") == 0
    assert capsys.readouterr() == (PLAIN, "")
    assert set(stored.queues.calls) == {"GetQueue", "ListTasks"}


def test_a_program_reads_one_json_object(stored: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    assert stored.run("status", "--json") == 0
    [line] = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    now = stored.queues.now
    assert shown["queue"] == {
        "name": QUEUE,
        "state": "RUNNING",
        "dispatches_per_second": 50,
        "concurrent_dispatches": 20,
        "max_attempts": -1,
        "min_backoff": 10,
        "max_backoff": 300,
        "max_doublings": 4,
        "tasks": 2,
        "more_tasks": False,
    }
    assert shown["dead_letter_queue"].keys() == shown["queue"].keys()
    assert shown["dead_letter_queue"]["state"] == "PAUSED"
    assert shown["next_tasks"] == [
        {"name": f"{QUEUE}/tasks/ORD-2", "due": now.isoformat(), "attempts": 0, "last_status": None},
        {
            "name": f"{QUEUE}/tasks/ORD-1",
            "due": (now + timedelta(minutes=5)).isoformat(),
            "attempts": 1,
            "last_status": "INTERNAL(13): HTTP status code 500",
        },
    ]
    assert [letter["state"] for letter in shown["dead_letters"]] == ["due", "not yet due"]
    assert shown["dead_letters"][0] == {
        "name": f"{DEAD_LETTER_QUEUE}/tasks/due",
        "state": "due",
        "order_id": "ORD-7",
        "action": "notify_warehouse",
        "reason": "550 <[e-mail]> unknown",
        "task": "0123456789abcdef-notify_warehouse-ORD-7",
        "attempts": 5,
        "stored": (now - timedelta(hours=3)).isoformat(),
        "due": now.isoformat(),
        "tries": 0,
        "last_status": None,
    }
    assert EMAIL not in line


def test_tasks_are_counted_page_by_page_and_only_up_to_a_bound(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    operator.queues.max_page = 300
    for n in range(1000):
        operator.enqueue(f"ORD-{n}")
    assert operator.run("status", "--json") == 0
    operator.queues.calls.clear()
    for n in range(1000, 1700):
        operator.enqueue(f"ORD-{n}")
    assert operator.run("status", "--json") == 0
    assert operator.queues.calls.count("ListTasks") == 4 + 1  # not the six pages that there are
    assert operator.run("status") == 0
    whole, bounded, *lines = capsys.readouterr().out.splitlines()
    assert [json.loads(whole)["queue"][key] for key in ("tasks", "more_tasks")] == [1000, False]
    assert [json.loads(bounded)["queue"][key] for key in ("tasks", "more_tasks")] == [1000, True]
    assert lines[1].endswith(" 1000+")
    assert "next tasks of the 1000 counted" in lines


def test_many_dead_letters_are_shortened_for_people_only(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(23):
        operator.store(f"letter-{n:02}")
    assert operator.run("status") == 0
    text = capsys.readouterr().out
    assert text.count("\nletter-") == 20
    assert text.endswith("\nand 3 more, which --json has\n")
    assert operator.run("status", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["dead_letters"]) == 23


def test_a_dead_letter_tried_since_says_how_that_ended(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    operator.store("stubborn")
    operator.queues.answers["stubborn"] = [500]
    assert operator.run("replay", "stubborn") == 1
    capsys.readouterr()
    assert operator.run("status") == 0
    text = capsys.readouterr().out
    assert "  due     in 60 min, after a failed try: `replay` by its name tries it now\n" in text
    assert "  tried   since then: 1, last: INTERNAL(13): HTTP status code 500\n" in text


def test_a_dead_letter_queue_that_runs_is_pointed_out_with_the_remedy(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    operator.queues.queues[DEAD_LETTER_QUEUE].state = Queue.State(Queue.State.RUNNING)
    assert operator.run("status") == 0
    remedy = "gcloud tasks queues pause cloud-run-tasks-dead-letters --location=us-central1 --project=shop"
    assert f"RUNNING. Unless a replay is going on: {remedy}" in capsys.readouterr().out


@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_shows_drawn_tables_where_rich_is_installed(
    stored: Operator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rich: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.table", None)
    assert stored.run("status") == 0
    text = capsys.readouterr().out
    assert ("───" in text) == rich
    assert "cloud-run-tasks" in text
    assert EMAIL not in text


def test_a_transient_error_is_retried_and_a_refusal_is_named(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    operator.queues.faults["ListTasks"] = [grpc.StatusCode.UNAVAILABLE]
    assert operator.run("status") == 0
    operator.queues.faults["ListTasks"] = [grpc.StatusCode.PERMISSION_DENIED]
    assert operator.run("status") == 1
    del operator.queues.queues[DEAD_LETTER_QUEUE]
    assert operator.run("status") == 1
    refused, missing = capsys.readouterr().err.splitlines()
    assert refused == "403 on command"
    assert missing.startswith("404 Queue does not exist.")


@pytest.mark.parametrize("command", [["status"], ["replay", "--all"], ["replay", "x"], ["drop", "x", "--yes"]])
def test_a_command_that_needs_the_dead_letter_queue_says_where_it_comes_from(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.delenv("ORDER_TASKS_DEAD_LETTER_QUEUE")
    assert operator.run(*command) == 2
    assert capsys.readouterr() == (
        "",
        "ORDER_TASKS_DEAD_LETTER_QUEUE is missing: "
        'export ORDER_TASKS_DEAD_LETTER_QUEUE="$(pulumi stack output dead_letter_queue)"\n',
    )
    assert operator.queues.calls == []
