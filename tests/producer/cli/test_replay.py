"""`python -m order_tasks replay`: each due entry is tried once, and a queue that was resumed is paused again."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud import tasks_v2
from order_tasks import connection

from local.cloud_tasks.queues import QUEUE_MISSING
from local.cloud_tasks.store import Store, StoredTask
from tests.local.cloud_tasks.serving import Fault
from tests.local.running import wait_for
from tests.producer.service import DEAD_LETTER_QUEUE, EMAIL, NEVER, Service, process

pytestmark = pytest.mark.usefixtures("environment")

MANY = [chr(ord("a") + number) for number in range(11)]
"""So many that the queue delivers them itself."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAILED = "INTERNAL(13): HTTP status code 500: `python -m local logs --order ORD-1` says more"
NOT_YET_DUE = "due in 4 min: its last attempt may still run; --force replays it all the same"
WHO = "(ORD-1, notify_warehouse)"
GONE = "not found: processed, dropped or never stored"

Replay = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def replay(service: Service, capsys: pytest.CaptureFixture[str]) -> Replay:
    """Runs the command. Returns its exit code, what it reports, and its errors as `err`."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = service.command("replay", *arguments, "--json")
        out, err = capsys.readouterr()
        assert EMAIL not in out + err
        return code, {name: value for name, value in json.loads(out).items() if value} | {"err": err}

    return run


def send_signal(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# By name


def test_named_ones_are_run_while_the_queue_stays_paused(service: Service, replay: Replay) -> None:
    service.store("a", "b", "c")
    assert replay("a", f"{DEAD_LETTER_QUEUE}/tasks/b", "a") == (0, {"replayed": ["a", "b"], "err": ""})
    assert service.letters == ["c"]
    assert service.called.count("RunTask") == 2
    assert "ResumeQueue" not in service.called


def test_one_that_fails_again_is_named_stays_and_may_be_tried_at_once(service: Service, replay: Replay) -> None:
    service.store("a", "b")
    service.statuses["a"] = [500]
    failed = {"replayed": ["b"], "failed": {"a": FAILED}, "err": f"a {WHO} failed: {FAILED}\n"}
    assert replay("a", "b") == (1, failed)
    assert service.letters == ["a"]
    assert replay("a")[1]["replayed"] == ["a"]


@pytest.mark.parametrize("which", ["a", "--all"])
def test_an_entry_that_is_not_yet_due_is_never_run(service: Service, replay: Replay, which: str) -> None:
    service.store("a", due=240)
    assert replay(which) == (1, {"skipped": {"a": NOT_YET_DUE}, "err": f"a {WHO} skipped: {NOT_YET_DUE}\n"})
    assert not {"RunTask", "ResumeQueue"} & set(service.called)
    service.tick(240)
    assert replay(which) == (0, {"replayed": ["a"], "err": ""})


def test_one_that_is_being_tried_is_left_alone(service: Service, replay: Replay) -> None:
    service.store("a")
    service.start(f"{DEAD_LETTER_QUEUE}/tasks/a")
    code, report = replay("a")
    assert (code, report["skipped"]) == (1, {"a": "being tried now"})


def test_one_whose_run_is_known_to_be_dead_is_replayed_by_force(service: Service, replay: Replay) -> None:
    service.store("a", due=240)
    assert replay("--all", "--force") == (0, {"replayed": ["a"], "err": ""})


def test_one_that_is_not_there_is_named(replay: Replay) -> None:
    assert replay("a") == (1, {"err": f"a {GONE}\n"})


def test_one_that_goes_between_look_and_run_is_replayed(service: Service, replay: Replay) -> None:
    service.store("a")
    service.before["RunTask"] = lambda: service.drop(f"{DEAD_LETTER_QUEUE}/tasks/a")
    assert replay("a") == (0, {"replayed": ["a"], "err": ""})


def test_the_wait_for_an_answer_is_limited(service: Service, replay: Replay) -> None:
    service.store("a", "b")
    service.statuses["a"] = [NEVER]
    began = service.now
    code, report = replay("a", "b")
    # The answer may be lost: once the deadline has passed, none will come.
    assert (code, report["replayed"]) == (1, ["b"])
    assert report["failed"] == {"a": "no answer: `python -m local logs --order ORD-1` says more"}
    assert service.now - began == pytest.approx(600, abs=5)


def test_a_lost_answer_to_the_run_ends_well(service: Service, replay: Replay) -> None:
    service.store("a")
    service.faults["RunTask"] = [Fault(after=True), grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert replay("a") == (0, {"replayed": ["a"], "err": ""})


def test_a_refused_run_ends_the_command_and_names_what_is_left(service: Service, replay: Replay) -> None:
    service.store("a", "b")
    service.faults["RunTask"] = [grpc.StatusCode.PERMISSION_DENIED]
    assert replay("a", "b") == (1, {"unfinished": ["a", "b"], "err": "403 on command\n"})


def test_a_missing_queue_does_not_read_as_success(service: Service, replay: Replay) -> None:
    service.store("a")
    delete = tasks_v2.DeleteQueueRequest.pb()(name=DEAD_LETTER_QUEUE)
    service.before["RunTask"] = lambda: service.do(lambda tasks: tasks.queues.delete_queue(delete))
    assert replay("a") == (1, {"unfinished": ["a"], "err": f"404 {QUEUE_MISSING}\n"})


@pytest.mark.parametrize("arguments", [[], ["a", "--all"], ["--all", "--action", "notify_warehouse"]])
def test_a_wrong_usage_ends_with_2_before_any_call(
    service: Service, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert service.command("replay", *arguments) == 2
    assert capsys.readouterr().err.endswith("pass NAMEs, --reason or --action, or --all\n")
    assert service.called == []


# Some


SELECTIONS: dict[tuple[str, ...], list[str]] = {
    ("ORD-1",): ["0abc1def", "sold"],
    ("0abc1d",): ["0abc1def"],
    ("0abc",): [],
    ("--reason", "SOLD out of order-"): ["sold"],
    ("--reason", "refused"): ["more"],
    ("--reason", "no such"): ["0abc1def"],
    ("--action", "notify_warehouse", "--reason", "sold out"): ["sold"],
    ("--action", "send_confirmation"): [],
    ("ORD-2", "--reason", "no such"): [],
}


@pytest.mark.parametrize("selection", SELECTIONS, ids=" ".join)
def test_names_orders_reasons_and_actions_select(service: Service, replay: Replay, selection: tuple[str, ...]) -> None:
    service.store("0abc1def")
    service.store("sold", reason="sold out of ORDER-ORD-1")
    service.store("more", order="ORD-2", reason="refused")
    service.store("longer", order="ORD-2", reason="refused again")
    selected = SELECTIONS[selection]
    assert replay(*selection)[1].get("replayed", []) == selected
    assert set(service.letters) == {"0abc1def", "sold", "more", "longer"} - set(selected)
    assert service.state == "PAUSED"


# All


@pytest.mark.parametrize("count", [3, 105])
def test_all_that_are_due_are_tried_once_and_the_queue_is_paused_again(
    service: Service, replay: Replay, count: int
) -> None:
    names = [f"letter-{n:03}" for n in range(count)]
    service.store(*names)
    service.store("reserved", due=240)
    service.statuses["letter-001"] = [500]
    code, report = replay("--all")
    assert code == 1
    assert report["replayed"] == [name for name in names if name != "letter-001"]
    assert (report["failed"], report["skipped"]) == ({"letter-001": FAILED}, {"reserved": NOT_YET_DUE})
    assert service.letters == ["letter-001", "reserved"]
    assert service.state == "PAUSED"
    assert ("RunTask" in service.called, "ResumeQueue" in service.called) == (count == 3, count == 105)


def test_without_entries_nothing_is_resumed(service: Service, replay: Replay) -> None:
    assert replay("--all") == (0, {"err": ""})
    assert service.called == ["ListTasks"]


def test_those_that_failed_before_are_tried_again_too(service: Service, replay: Replay) -> None:
    service.store(*MANY)
    service.statuses["a"] = [500]
    assert replay("--all")[1]["failed"] == {"a": FAILED}
    service.store(*(f"again-{name}" for name in MANY))
    assert replay("--all")[0] == 0
    assert service.letters == []


def test_an_entry_that_a_list_misses_is_not_taken_for_gone(
    service: Service, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Store.tasks

    def page_without_it(store: Store, queue: str, after: str, limit: int) -> list[StoredTask]:
        return [task for task in page(store, queue, after, limit) if task.id != "letter-07"]

    service.store(*(f"letter-{n:02}" for n in range(20)))
    service.statuses["letter-07"] = [500]
    service.before["ResumeQueue"] = lambda: monkeypatch.setattr(Store, "tasks", page_without_it)
    assert replay("--all")[1]["failed"] == {"letter-07": FAILED}


def test_an_entry_that_is_added_meanwhile_is_not_waited_for(service: Service, replay: Replay) -> None:
    service.store(*MANY)
    service.statuses["late"] = [NEVER]
    service.before["ResumeQueue"] = lambda: service.store("late")
    assert replay("--all") == (0, {"replayed": MANY, "err": ""})
    assert service.state == "PAUSED"


def test_a_queue_that_delivers_nothing_is_given_up_and_paused(service: Service, replay: Replay) -> None:
    service.store(*MANY)
    service.stalled = True
    assert replay("--all")[1]["failed"] == dict.fromkeys(MANY, "no result within 11 min: it may still be running")
    assert service.state == "PAUSED"


# Paused again, whatever happens


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        ("GetTask", grpc.StatusCode.PERMISSION_DENIED, 403),
        ("ResumeQueue", grpc.StatusCode.PERMISSION_DENIED, 403),
        ("ResumeQueue", grpc.StatusCode.INVALID_ARGUMENT, 400),
    ],
)
def test_an_error_in_the_middle_leaves_the_queue_paused(
    service: Service, replay: Replay, call: str, status: grpc.StatusCode, code: int
) -> None:
    service.store(*MANY)
    service.faults[call] = [status]
    assert replay("--all") == (1, {"unfinished": MANY, "err": f"{code} on command\n"})
    assert service.called[-1] == "PauseQueue"
    assert service.state == "PAUSED"


def test_a_pause_that_fails_at_first_is_repeated(service: Service, replay: Replay) -> None:
    service.store(*MANY)
    service.faults["PauseQueue"] = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    assert replay("--all") == (0, {"replayed": MANY, "err": ""})
    assert service.state == "PAUSED"


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_pause_that_fails_is_loud_and_says_how_to_pause(
    service: Service, replay: Replay, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    monkeypatch.setattr(connection, "LOCAL_SECONDS", 0.3)
    service.store(*MANY)
    service.faults["PauseQueue"] = [grpc.StatusCode.UNAVAILABLE] * 100
    if interrupted:
        service.statuses |= {name: [NEVER] for name in MANY}
        service.before["ListTasks"] = lambda: send_signal(signal.SIGINT)() if service.state == "RUNNING" else None
    code, report = replay("--all")
    assert (code, report.get("unfinished")) == (1, MANY if interrupted else None)
    loud, *more = report["err"].splitlines()
    assert loud.startswith("THE DEAD-LETTER QUEUE MAY STILL BE RUNNING. Pausing it failed (")
    assert loud.endswith(": run python -m order_tasks pause --dead-letters")
    assert more == ([INTERRUPTED] if interrupted else [])


INTERRUPTED = "interrupted; an attempt that is running will finish"


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("when", ["ResumeQueue", "GetTask"])
def test_a_signal_at_any_moment_ends_in_a_paused_queue(
    service: Service, replay: Replay, number: signal.Signals, when: str
) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    service.store(*MANY)
    service.statuses["a"] = [NEVER]
    service.before[when] = send_signal(number)
    service.before["PauseQueue"] = send_signal(number)  # a second one, while the queue is being paused
    code, report = replay("--all")
    assert (code, report["err"]) == (130, f"{INTERRUPTED}\n")
    assert "a" in report["unfinished"]
    assert service.state == "PAUSED"
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_signal_while_all_is_done_only_waits_for_the_pause(service: Service, replay: Replay) -> None:
    service.store(*MANY)
    service.before["PauseQueue"] = send_signal(signal.SIGINT)
    assert replay("--all") == (0, {"replayed": MANY, "err": ""})
    assert service.state == "PAUSED"


def test_an_interrupted_run_by_name_says_what_is_left(service: Service, replay: Replay) -> None:
    service.store("a", "b")
    service.before["RunTask"] = send_signal(signal.SIGINT)
    assert replay("a", "b") == (130, {"unfinished": ["a", "b"], "err": f"{INTERRUPTED}\n"})


def test_a_signal_that_is_ignored_stays_ignored(service: Service, replay: Replay) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        service.store("a")
        service.before["GetTask"] = send_signal(signal.SIGHUP)
        assert replay("--all") == (0, {"replayed": ["a"], "err": ""})
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_that_is_told_to_end_pauses_first(service: Service, number: signal.Signals) -> None:
    service.now = time.time()  # the process has no virtual clock
    service.store(*MANY)
    with process("replay", "--all", "--json") as replaying:
        wait_for(lambda: service.state == "RUNNING", lambda: "it never resumed the queue")
        replaying.send_signal(number)
        out, err = replaying.communicate(timeout=20)
    assert (replaying.returncode, err, json.loads(out)["unfinished"]) == (130, f"{INTERRUPTED}\n", MANY)
    assert service.state == "PAUSED"


# The reason of a failure


def test_a_replay_that_fails_again_says_why_from_the_handlers_log(
    service: Service, replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.store("a", "b")
    service.statuses |= {"a": [500], "b": [500]}
    log = tmp_path / "handler.jsonl"
    monkeypatch.setenv("ORDER_TASKS_LOG", str(log))

    for task, attempt, message in [("b", "0", "an earlier reason"), ("a", "1", f"550 <{EMAIL}> is unknown")]:
        line = {"severity": "ERROR", "time": service.time.isoformat(), "task": task, "attempt": attempt}
        with log.open("a") as file:
            file.write(json.dumps(line | {"queue": DEAD_LETTER_QUEUE.rpartition("/")[2], "message": message}) + "\n")
    code, report = replay("a", "b")
    assert (code, report["failed"]) == (1, {"a": "550 <[e-mail]> is unknown", "b": FAILED})


# For people


def test_a_person_reads_what_ended_how(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.store("a", "b")
    service.store("c", due=240)
    service.statuses["b"] = [500]
    assert service.command("replay", "--all") == 1
    out, err = capsys.readouterr()
    assert out == "1 replayed, 1 failed, 1 skipped\n"
    assert err == f"c {WHO} skipped: {NOT_YET_DUE}\nb {WHO} failed: {FAILED}\n"
