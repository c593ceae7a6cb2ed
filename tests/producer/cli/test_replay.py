"""`python -m order_tasks replay`: what is due is tried once, and a queue that was resumed is paused again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import grpc
import pytest
from google.cloud import tasks_v2
from order_tasks import connection

from local.cloud_tasks.queues import QUEUE_MISSING
from local.cloud_tasks.store import Store, StoredTask
from tests.producer.service import DEAD_LETTER_QUEUE, EMAIL, NEVER, QUEUE, Service

pytestmark = pytest.mark.usefixtures("environment")

Read = Callable[[], dict[str, object]]


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Read:
    """The JSON object that a command printed, checked for e-mails."""

    def last() -> dict[str, object]:
        out, err = capsys.readouterr()
        assert EMAIL not in out + err
        return json.loads(out)  # type: ignore[no-any-return]

    return last


def outcome(
    replayed: list[str] | None = None,
    failed: dict[str, str] | None = None,
    skipped: dict[str, str] | None = None,
    unfinished: list[str] | None = None,
) -> dict[str, object]:
    return {
        "replayed": replayed or [],
        "failed": failed or {},
        "skipped": skipped or {},
        "unfinished": unfinished or [],
    }


FAILED_AGAIN = "failed again (order ORD-1, notify_warehouse): INTERNAL(13): HTTP status code 500"
NOT_YET_DUE = "in 4 min: the attempt that stored it may still be running"


# By name


def test_named_ones_are_run_while_the_queue_stays_paused(service: Service, read: Read) -> None:
    service.store("a", "b", "c")
    assert service.command("replay", "a", f"{DEAD_LETTER_QUEUE}/tasks/b", "a", "--json") == 0
    assert read() == outcome(["a", "b"])
    assert service.letters == ["c"]
    assert service.called.count("RunTask") == 2
    assert "ResumeQueue" not in service.called


def test_one_that_fails_again_is_named_with_its_status_and_stays(service: Service, read: Read) -> None:
    service.store("a")
    service.store("b")
    service.statuses["a"] = [500]
    assert service.command("replay", "a", "b", "--json") == 1
    assert read() == outcome(["b"], {"a": FAILED_AGAIN})
    assert service.letters == ["a"]


def test_one_that_failed_before_may_be_tried_before_its_backoff_ends(service: Service, read: Read) -> None:
    service.store("a")
    service.statuses["a"] = [500]
    assert service.command("replay", "a", "--json") == 1
    read()
    assert service.command("replay", "a", "--json") == 0
    assert read() == outcome(["a"])


def test_a_reserve_is_never_run(service: Service, read: Read) -> None:
    service.store("a", due=240)
    assert service.command("replay", "a", "--json") == 1
    assert read() == outcome(skipped={"a": NOT_YET_DUE})
    assert service.command("replay", "--all", "--json") == 1
    assert read() == outcome(skipped={"a": NOT_YET_DUE})
    assert not {"RunTask", "ResumeQueue"} & set(service.called)
    service.tick(240)
    assert service.command("replay", "a") == 0


def test_one_that_is_being_tried_is_left_alone(service: Service, read: Read) -> None:
    service.store("a")
    service.start(f"{DEAD_LETTER_QUEUE}/tasks/a")
    assert service.command("replay", "a", "--json") == 1
    assert read() == outcome(skipped={"a": "being tried now"})


def test_one_that_is_not_there_is_named(service: Service, read: Read) -> None:
    assert service.command("replay", "a", "--json") == 1
    assert read() == outcome(failed={"a": "not found: processed, dropped or never stored"})


def test_one_that_goes_between_look_and_run_is_replayed(service: Service, read: Read) -> None:
    service.store("a")
    service.before["RunTask"] = lambda: service.drop(f"{DEAD_LETTER_QUEUE}/tasks/a")
    assert service.command("replay", "a", "--json") == 0
    assert read() == outcome(["a"])


def test_the_wait_for_an_answer_is_bounded(service: Service, read: Read) -> None:
    service.store("a")
    service.store("b")
    service.statuses["a"] = [NEVER]
    began = service.time
    assert service.command("replay", "a", "b", "--json") == 1
    # The answer may get lost: once the deadline has passed, none will come.
    assert read() == outcome(["b"], {"a": "failed again (order ORD-1, notify_warehouse): no answer"})
    assert (service.time - began).total_seconds() == pytest.approx(600, abs=5)


def test_a_lost_answer_to_the_run_ends_well(service: Service, read: Read) -> None:
    service.store("a")
    service.faults["RunTask"] = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert service.command("replay", "a", "--json") == 0
    assert read() == outcome(["a"])


def test_a_refused_run_ends_the_command_and_names_what_is_left(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.store("a")
    service.store("b")
    service.faults["RunTask"] = [grpc.StatusCode.PERMISSION_DENIED]
    assert service.command("replay", "a", "b", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == outcome(unfinished=["a", "b"])
    assert err == "403 on command\n"


def test_a_missing_queue_does_not_read_as_success(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.store("a")
    service.before["RunTask"] = lambda: service.do(
        lambda tasks: tasks.queues.delete_queue(tasks_v2.DeleteQueueRequest.pb()(name=DEAD_LETTER_QUEUE))
    )
    assert service.command("replay", "a") == 1
    assert capsys.readouterr() == (
        "0 replayed, 0 failed, 0 skipped, 1 unfinished\n",
        f"404 {QUEUE_MISSING}\n",
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "either the NAMEs of dead letters, or --all"),
        (["a", "--all"], "either the NAMEs of dead letters, or --all"),
        (
            [f"{QUEUE}/tasks/a"],
            f"'{QUEUE}/tasks/a' is not an entry of {DEAD_LETTER_QUEUE}: `python -m order_tasks status`",
        ),
        (["a b"], "'a b' is not an entry of"),
        ([""], "'' is not an entry of"),
    ],
)
def test_a_wrong_usage_ends_with_2_before_any_call(
    service: Service, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service.command("replay", *arguments) == 2
    assert reason in capsys.readouterr().err
    assert service.called == []


# All


@pytest.mark.parametrize("count", [3, 105])
def test_all_that_are_due_are_tried_once_and_the_queue_is_paused_again(
    service: Service, read: Read, count: int
) -> None:
    names = [f"letter-{n:03}" for n in range(count)]
    service.store(*names)
    service.statuses["letter-001"] = [500]
    service.store("reserved", due=240)
    assert service.command("replay", "--all", "--json") == 1
    assert read() == outcome(
        [name for name in names if name != "letter-001"], {"letter-001": FAILED_AGAIN}, {"reserved": NOT_YET_DUE}
    )
    assert service.letters == ["letter-001", "reserved"]
    assert service.state == "PAUSED"
    assert "RunTask" not in service.called


def test_all_of_none_is_done_and_resumes_nothing(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert service.command("replay", "--all") == 0
    assert capsys.readouterr() == ("0 replayed, 0 failed, 0 skipped\n", "")
    assert service.called == ["ListTasks"]


def test_one_that_waits_out_its_backoff_is_skipped_and_says_what_would_try_it(service: Service, read: Read) -> None:
    service.store("a")
    service.statuses["a"] = [500]
    assert service.command("replay", "--all", "--json") == 1
    read()
    assert service.command("replay", "--all", "--json") == 1
    assert read() == outcome(skipped={"a": "in 60 min, after a failed try: `replay a` tries it now"})


def test_an_entry_that_a_list_misses_is_not_taken_for_gone(
    service: Service, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Store.tasks

    def page_without_it(store: Store, queue: str, after: str, limit: int) -> list[StoredTask]:
        return [task for task in page(store, queue, after, limit) if task.id != "letter-07"]

    service.store(*(f"letter-{n:02}" for n in range(20)))
    service.statuses["letter-07"] = [500]
    service.before["ResumeQueue"] = lambda: monkeypatch.setattr(Store, "tasks", page_without_it)
    assert service.command("replay", "--all", "--json") == 1
    assert read()["failed"] == {"letter-07": FAILED_AGAIN}


def test_what_is_added_meanwhile_is_not_waited_for(service: Service, read: Read) -> None:
    service.store("a")
    service.statuses["late"] = [NEVER]
    service.before["ResumeQueue"] = lambda: service.store("late")
    assert service.command("replay", "--all", "--json") == 0
    assert read() == outcome(["a"])
    assert service.state == "PAUSED"


def test_a_queue_that_delivers_nothing_is_given_up_and_paused(service: Service, read: Read) -> None:
    service.store("a")
    service.stalled = True
    assert service.command("replay", "--all", "--json") == 1
    assert read() == outcome(failed={"a": "no result within 11 min: it may still be running"})
    assert service.state == "PAUSED"


# Paused again, whatever happens


@pytest.mark.parametrize(
    ("method", "code"),
    [("GetTask", "PERMISSION_DENIED"), ("ResumeQueue", "PERMISSION_DENIED"), ("ResumeQueue", "INVALID_ARGUMENT")],
)
def test_an_error_in_the_middle_leaves_the_queue_paused(
    service: Service, capsys: pytest.CaptureFixture[str], method: str, code: str
) -> None:
    service.store("a")
    service.faults[method] = [grpc.StatusCode[code]]
    assert service.command("replay", "--all", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == outcome(unfinished=["a"])
    assert (
        err == f"{'400' if code == 'INVALID_ARGUMENT' else '403'} on command; the dead-letter queue is paused again\n"
    )
    assert service.called[-1] == "PauseQueue"
    assert service.state == "PAUSED"


def test_a_pause_that_stumbles_is_repeated(service: Service) -> None:
    service.store("a")
    service.faults["PauseQueue"] = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    assert service.command("replay", "--all") == 0
    assert service.state == "PAUSED"


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_pause_that_fails_is_loud_and_says_how_to_pause(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: bool
) -> None:
    monkeypatch.setattr(connection, "RETRY", connection.RETRY.with_timeout(0.1))
    service.store("a")
    service.faults["PauseQueue"] = [grpc.StatusCode.UNAVAILABLE] * 100
    if interrupted:
        service.before["GetTask"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert service.command("replay", "--all") == 1
    out, err = capsys.readouterr()
    assert out == f"{'0' if interrupted else '1'} replayed, 0 failed, 0 skipped{', 1 unfinished' * interrupted}\n"
    assert err.startswith("THE DEAD-LETTER QUEUE MAY STILL BE RUNNING. Pausing it failed (")
    assert err.endswith(
        ": run gcloud tasks queues pause cloud-run-tasks-dead-letters --location=us-central1 --project=shop\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["ResumeQueue", "GetTask"])
def test_a_signal_at_any_moment_ends_in_a_paused_queue(
    service: Service, capsys: pytest.CaptureFixture[str], number: signal.Signals, when: str
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    service.store("a")
    service.statuses["a"] = [NEVER]
    service.before[when] = lambda: os.kill(os.getpid(), number)
    # A second one, while the queue is being paused, changes nothing.
    service.before["PauseQueue"] = lambda: os.kill(os.getpid(), number)
    assert service.command("replay", "--all", "--json") == 130
    out, err = capsys.readouterr()
    assert json.loads(out) == outcome(unfinished=["a"])
    assert err == "interrupted; the dead-letter queue is paused again; an attempt that is running will finish\n"
    assert service.state == "PAUSED"
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_signal_while_all_is_done_only_waits_for_the_pause(service: Service, read: Read) -> None:
    service.store("a")
    service.before["PauseQueue"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert service.command("replay", "--all", "--json") == 0
    assert read() == outcome(["a"])
    assert service.state == "PAUSED"


def test_an_interrupted_run_by_name_says_what_is_left(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.store("a")
    service.store("b")
    service.before["RunTask"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert service.command("replay", "a", "b") == 130
    out, err = capsys.readouterr()
    assert out == "0 replayed, 0 failed, 0 skipped, 2 unfinished\n"
    assert err == "interrupted; an attempt that is running will finish\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_pauses_first(service: Service, number: signal.Signals) -> None:
    service.now = time.time()  # the process has no virtual clock
    service.store("a")
    looked = threading.Event()
    service.before["GetTask"] = looked.set  # it has resumed the queue, and waits
    command = [sys.executable, "-m", "order_tasks", "replay", "--all", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as replaying:
        assert looked.wait(20)
        assert service.state == "RUNNING"
        replaying.send_signal(number)
        out, err = replaying.communicate(timeout=20)
    assert replaying.returncode == 130
    assert err == "interrupted; the dead-letter queue is paused again; an attempt that is running will finish\n"
    assert json.loads(out) == outcome(unfinished=["a"])
    assert service.state == "PAUSED"


# For people


def test_a_person_reads_counts_and_what_failed(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.store("a")
    service.store("b")
    service.store("c", due=240)
    service.statuses["b"] = [500]
    assert service.command("replay", "--all") == 1
    assert capsys.readouterr() == ("1 replayed, 1 failed, 1 skipped\n", f"c skipped: {NOT_YET_DUE}\nb {FAILED_AGAIN}\n")


def test_a_terminal_shows_a_bar(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    service.store("a")
    service.store("b")
    assert service.command("replay", "--all") == 0
    err = capsys.readouterr().err
    assert "replaying dead letters" in err
    assert "100%" in err
