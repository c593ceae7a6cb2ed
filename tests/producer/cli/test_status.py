"""`python -m order_tasks status`: read only, bounded, and silent about customers."""

import json
import sys
from datetime import timedelta

import grpc
import pytest
from google.cloud import tasks_v2

from tests.producer.service import DEAD_LETTER_QUEUE, EMAIL, QUEUE, Service

pytestmark = pytest.mark.usefixtures("environment")

PLAIN = """\
queue                         state    per second  at once  attempts   backoff                      tasks
cloud-run-tasks               RUNNING  50          20       unlimited  10 s to 5 min, 4 doublings   2
cloud-run-tasks-dead-letters  PAUSED   5           5        unlimited  60 min to 30 h, 4 doublings  2

next tasks
task   due      attempts  last status
ORD-2  now      0         -
ORD-1  in 10 s  1         INTERNAL(13): HTTP status code 500

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
  due     in 4 min: the attempt that stored it may still be running
"""


@pytest.fixture
def stored(service: Service) -> Service:
    service.enqueue("ORD-2")
    service.enqueue("ORD-1")
    service.statuses["ORD-1"] = [500]
    service.start(f"{QUEUE}/tasks/ORD-1")
    service.tick(0)
    service.store("reserved", due=240)
    service.store("due", order="ORD-7", reason=f"550 <{EMAIL}> unknown")
    return service


def test_a_person_reads_figures_next_tasks_and_dead_letters(
    stored: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stored.command("status") == 0
    assert capsys.readouterr() == (PLAIN, "")
    assert set(stored.called) == {"GetQueue", "ListTasks"}


def test_a_program_reads_one_json_object(stored: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert stored.command("status", "--json") == 0
    [line] = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    now = stored.time
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
            "due": (now + timedelta(seconds=10)).isoformat(),
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
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.enqueue(*(f"ORD-{n}" for n in range(1000)))
    assert service.command("status", "--json") == 0
    service.received.clear()
    service.enqueue(*(f"ORD-{n}" for n in range(1000, 2001)))
    assert service.command("status", "--json") == 0
    assert service.called.count("ListTasks") == 2 + 1  # not all three pages of the queue
    assert service.command("status") == 0
    whole, bounded, *lines = capsys.readouterr().out.splitlines()
    assert [json.loads(whole)["queue"][key] for key in ("tasks", "more_tasks")] == [1000, False]
    assert [json.loads(bounded)["queue"][key] for key in ("tasks", "more_tasks")] == [1000, True]
    assert lines[1].endswith(" 1000+")
    assert "next tasks of the first 1000" in lines


def test_many_dead_letters_are_shortened_for_people_only(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.store(*(f"letter-{n:02}" for n in range(23)))
    assert service.command("status") == 0
    text = capsys.readouterr().out
    assert text.count("\nletter-") == 20
    assert text.endswith("\nand 3 more: --json lists them\n")
    assert service.command("status", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["dead_letters"]) == 23


def test_a_dead_letter_tried_since_says_how_that_ended(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.store("stubborn")
    service.statuses["stubborn"] = [500]
    assert service.command("replay", "stubborn") == 1
    capsys.readouterr()
    assert service.command("status") == 0
    text = capsys.readouterr().out
    assert "  due     in 59 min, after a failed try: `replay stubborn` tries it now\n" in text
    assert "  replays 1, last: INTERNAL(13): HTTP status code 500\n" in text


def test_a_dead_letter_queue_that_runs_is_pointed_out_with_the_remedy(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.do(lambda tasks: tasks.queues.resume_queue(tasks_v2.ResumeQueueRequest.pb()(name=DEAD_LETTER_QUEUE)))
    assert service.command("status") == 0
    remedy = "gcloud tasks queues pause cloud-run-tasks-dead-letters --location=us-central1 --project=shop"
    assert f"RUNNING. Unless a replay is in progress, pause it: {remedy}" in capsys.readouterr().out


@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_shows_drawn_tables_where_rich_is_installed(
    stored: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rich: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.table", None)
    assert stored.command("status") == 0
    text = capsys.readouterr().out
    assert ("───" in text) == rich
    assert "cloud-run-tasks" in text
    assert EMAIL not in text


def test_a_transient_error_is_retried_and_a_refusal_is_named(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.faults["ListTasks"] = [grpc.StatusCode.UNAVAILABLE]
    assert service.command("status") == 0
    service.faults["ListTasks"] = [grpc.StatusCode.PERMISSION_DENIED]
    assert service.command("status") == 1
    service.do(lambda tasks: tasks.queues.delete_queue(tasks_v2.DeleteQueueRequest.pb()(name=DEAD_LETTER_QUEUE)))
    assert service.command("status") == 1
    refused, missing = capsys.readouterr().err.splitlines()
    assert refused == "403 on command"
    assert missing.startswith("404 Queue does not exist.")


@pytest.mark.parametrize("command", [["status"], ["replay", "--all"], ["replay", "x"], ["drop", "x", "--yes"]])
def test_a_command_that_needs_the_dead_letter_queue_says_where_it_comes_from(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.delenv("ORDER_TASKS_DEAD_LETTER_QUEUE")
    assert service.command(*command) == 2
    assert capsys.readouterr() == (
        "",
        "ORDER_TASKS_DEAD_LETTER_QUEUE is missing: "
        'export ORDER_TASKS_DEAD_LETTER_QUEUE="$(pulumi stack output dead_letter_queue)"\n',
    )
    assert service.called == []
