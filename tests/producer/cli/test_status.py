"""`python -m order_tasks status`: read only, bounded, and silent about customers."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.cloud import tasks_v2

from tests.producer.service import DEAD_LETTER_QUEUE, EMAIL, QUEUE, Service, process

pytestmark = pytest.mark.usefixtures("environment", "utc")

HEADLINE = "1 of 2 tasks fails since 08:00: INTERNAL(13): HTTP status code 500"
QUEUES = """
              state    waiting  in flight  failing  oldest due  rate
queue         RUNNING  2        0          1        0 s ago     0.0167 of 50/s
dead letters  PAUSED   3        0          0        0 s ago     0 of 5/s
"""
FAILING = """
failing
    1  INTERNAL(13): HTTP status code 500
       ORD-1
The handler's log was not read: ORDER_TASKS_LOG is not set: source the local.env
of a local cloud. To read it: python -m local logs
"""
DEAD_LETTERS = """
dead letters
    2  no such item for ORDER (PermanentError)
       due    ORD-7  notify_warehouse  due now
       due-2  ORD-8  notify_warehouse  due now
    1  the last attempt did not end (PermanentError)
       reserved  ORD-1  notify_warehouse  due in 4 min
"""


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times of day are the operator's."""
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def stored(service: Service) -> Service:
    service.enqueue("0123456789abcdef-notify_warehouse-ORD-2", order="ORD-2")
    service.enqueue("fedcba9876543210-notify_warehouse-ORD-1")
    service.statuses["fedcba9876543210-notify_warehouse-ORD-1"] = [500]
    service.start(f"{QUEUE}/tasks/fedcba9876543210-notify_warehouse-ORD-1")
    service.tick(0)
    service.store("reserved", due=240, reason="the last attempt did not end")
    service.store("due", order="ORD-7", reason="no such item for ORD-7")
    service.store("due-2", order="ORD-8", reason="no such item for ORD-8")
    return service


def test_a_person_reads_health_queues_failures_and_dead_letters(
    stored: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stored.command("status") == 0
    assert capsys.readouterr() == (f"{HEADLINE}\n{QUEUES}{FAILING}{DEAD_LETTERS}", "")
    assert set(stored.called) == {"GetQueue", "GetTask", "ListTasks"}


def test_a_program_reads_one_json_object(stored: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert stored.command("status", "--json") == 0
    [line] = capsys.readouterr().out.splitlines()
    assert EMAIL not in line
    shown = json.loads(line)
    now = stored.time
    assert (shown["headline"], shown["level"], shown["time"]) == (HEADLINE, "error", now.isoformat())
    main, dead = shown["queues"]
    assert main == {
        "path": QUEUE,
        "name": "cloud-run-tasks",
        "state": "RUNNING",
        "tasks": 2,
        "more": False,
        "waiting": 2,
        "in_flight": 0,
        "failing": 1,
        "oldest_due": now.isoformat(),
        "rate": 1 / 60,
        "executed_last_minute": 1,
        "allowed_rate": 50,
        "allowed_in_flight": 20,
    }
    assert (dead["path"], dead["state"], dead["tasks"]) == (DEAD_LETTER_QUEUE, "PAUSED", 3)
    [failures] = shown["failures"]
    assert failures["next_due"] == (now + timedelta(seconds=10)).isoformat()
    group, reserved = shown["dead_letters"]
    assert (group["count"], group["reason"]) == (2, "no such item for ORDER")
    entry = group["entries"][0]
    assert (entry["id"], entry["order_id"], entry["reason"]) == ("due", "ORD-7", "no such item for ORD-7")
    assert (entry["task"], entry["attempts"]) == ("0123456789abcdef-notify_warehouse-ORD-7", 5)
    assert (entry["created"], entry["due"]) == ((now - timedelta(hours=3)).isoformat(), now.isoformat())
    assert [reserved["entries"][0][field] for field in ("state", "tries")] == ["scheduled", 0]


def test_a_failure_is_named_by_the_handlers_log_and_says_when_its_last_attempt_comes(
    stored: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"time": stored.time.isoformat(), "queue": "cloud-run-tasks", "orderId": "ORD-1", "attempt": "1 of 5"}
    line |= {"severity": "WARNING", "task": "fedcba9876543210-notify_warehouse-ORD-1"}
    log = tmp_path / "log.jsonl"
    lines = [line | {"message": "an earlier one"}, line | {"message": f"no stock for ORD-1 of <{EMAIL}>"}]
    log.write_text("cut off\n" + "".join(f"{json.dumps(each)}\n" for each in [*lines, line | {"severity": "INFO"}]))
    monkeypatch.setenv("ORDER_TASKS_LOG", str(log))
    assert stored.command("status") == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "1 of 2 tasks fails since 08:00: no stock for ORDER of <[e-mail]>; first last\nattempt in 2 min\n"
    )
    assert "    1  no stock for ORDER of <[e-mail]>\n       ORD-1; first last attempt in 2 min\n" in out


def healthy(service: Service) -> None:
    service.enqueue("a")


def late(service: Service) -> None:
    service.enqueue("a", "b", "c")
    service.now += 300


def dead(service: Service) -> None:
    service.store("a", reason="sold out of ORD-1")


def resumed(service: Service) -> None:
    dead(service)
    resume = tasks_v2.ResumeQueueRequest.pb()(name=DEAD_LETTER_QUEUE)
    service.do(lambda tasks: tasks.queues.resume_queue(resume))


def paused(service: Service) -> None:
    resumed(service)
    late(service)
    assert service.command("pause") == 0


@pytest.mark.parametrize(
    ("prepare", "level", "headline"),
    [
        (healthy, "ok", "All is well: 1 task in the queue, 0 attempts in the last minute"),
        (dead, "warning", "1 dead letter waits: sold out of ORDER"),
        (late, "warning", "3 tasks wait, the first since 5 min: the queue allows 50 per second and 20 at once"),
        (resumed, "error", "The dead-letter queue is RUNNING: unless a replay is in progress, pause it"),
        (paused, "error", "The queue is PAUSED: 3 tasks wait, the first since 5 min"),
    ],
)
def test_the_headline_says_what_hurts_most(
    service: Service, capsys: pytest.CaptureFixture[str], prepare: Callable[[Service], None], level: str, headline: str
) -> None:
    prepare(service)
    capsys.readouterr()
    assert service.command("status", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["level"], shown["headline"]) == (level, headline)


@pytest.mark.parametrize(
    ("statistics", "figures"),
    [
        (True, {"tasks": 2001, "more": False, "executed_last_minute": 0}),
        (False, {"tasks": 1000, "more": True, "rate": None}),
    ],
)
def test_tasks_are_counted_by_google_or_only_up_to_a_bound(
    service: Service, capsys: pytest.CaptureFixture[str], statistics: bool, figures: dict[str, object]
) -> None:
    service.enqueue(*(f"ORD-{n}" for n in range(2000)), due=60)
    service.enqueue("of-the-last-page")
    if not statistics:
        service.faults["GetQueue"] = [grpc.StatusCode.UNIMPLEMENTED]
    assert service.command("status", "--json") == 0
    assert service.called.count("ListTasks") == 2 + 1  # not all three pages of the queue
    main = json.loads(capsys.readouterr().out)["queues"][0]
    assert (main["oldest_due"] == service.time.isoformat()) == statistics
    assert {name: main[name] for name in figures} == figures


def test_many_dead_letters_and_long_names_fit_on_a_screen(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    order = f"ORD-{'x' * 490}"
    service.store(*(f"{n:064x}" for n in range(23)), order=order, reason=f"{order} is refused, {'because ' * 9}")
    name = f"0123456789abcdef-notify_warehouse-{order}"[:100]
    service.enqueue(name, order=order)
    service.statuses[name] = [500]
    service.start(f"{QUEUE}/tasks/{name}")
    service.tick(0)
    assert service.command("status") == 0
    text = capsys.readouterr().out
    assert "       and 18 more\n" in text
    assert max(map(len, text.splitlines())) <= 80


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


@pytest.mark.parametrize("command", [["status"], ["find", "ORD-1"], ["replay", "--all"], ["drop", "x", "--yes"]])
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


def test_a_reader_that_ends_early_is_no_error(stored: Service) -> None:
    with process("status", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as status:
        assert status.stdout
        assert status.stderr
        status.stdout.close()
        assert (status.wait(30), status.stderr.read()) == (1, "")
