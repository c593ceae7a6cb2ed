"""`python -m order_tasks replay`: what is due is tried once, and a queue that was resumed is paused again."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import grpc
import pytest
from google.cloud.tasks_v2 import Attempt
from order_tasks import calls

from tests.producer.cli.fake_queues import NEVER, QUEUE_MISSING
from tests.producer.cli.operators import DEAD_LETTER_QUEUE, EMAIL, QUEUE, Operator

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
NOT_YET_DUE = "not yet due, in 4 min: the run that reserved it may still be going"


# By name


def test_named_ones_are_run_while_the_queue_stays_paused(operator: Operator, read: Read) -> None:
    for name in ("a", "b", "c"):
        operator.store(name)
    assert operator.run("replay", "a", f"{DEAD_LETTER_QUEUE}/tasks/b", "a", "--json") == 0
    assert read() == outcome(["a", "b"])
    assert operator.letters == ["c"]
    assert operator.queues.calls.count("RunTask") == 2
    assert "ResumeQueue" not in operator.queues.calls


def test_one_that_fails_again_is_named_with_its_status_and_stays(operator: Operator, read: Read) -> None:
    operator.store("a")
    operator.store("b")
    operator.queues.answers["a"] = [500]
    assert operator.run("replay", "a", "b", "--json") == 1
    assert read() == outcome(["b"], {"a": FAILED_AGAIN})
    assert operator.letters == ["a"]


def test_one_that_failed_before_may_be_tried_before_its_backoff_ends(operator: Operator, read: Read) -> None:
    operator.store("a")
    operator.queues.answers["a"] = [500]
    assert operator.run("replay", "a", "--json") == 1
    read()
    assert operator.run("replay", "a", "--json") == 0
    assert read() == outcome(["a"])


def test_a_reserve_is_never_run(operator: Operator, read: Read) -> None:
    operator.store("a", due=240)
    assert operator.run("replay", "a", "--json") == 1
    assert read() == outcome(skipped={"a": NOT_YET_DUE})
    assert operator.run("replay", "--all", "--json") == 1
    assert read() == outcome(skipped={"a": NOT_YET_DUE})
    assert not {"RunTask", "ResumeQueue"} & set(operator.queues.calls)
    operator.queues.tick(240)
    assert operator.run("replay", "a") == 0


def test_one_that_is_being_tried_is_left_alone(operator: Operator, read: Read) -> None:
    letter = operator.store("a")
    letter.dispatch_count = 1
    letter.last_attempt = Attempt(dispatch_time=operator.queues.now)
    assert operator.run("replay", "a", "--json") == 1
    assert read() == outcome(skipped={"a": "being tried now"})


def test_one_that_is_not_there_is_named(operator: Operator, read: Read) -> None:
    assert operator.run("replay", "a", "--json") == 1
    assert read() == outcome(failed={"a": "is not there: it was processed or dropped, or never stored"})


def test_one_that_goes_between_look_and_run_is_replayed(operator: Operator, read: Read) -> None:
    operator.store("a")
    operator.queues.before_answer["RunTask"] = operator.queues.tasks.clear
    assert operator.run("replay", "a", "--json") == 0
    assert read() == outcome(["a"])


def test_the_wait_for_an_answer_is_bounded(operator: Operator, read: Read) -> None:
    operator.store("a")
    operator.store("b")
    operator.queues.answers["a"] = [NEVER]
    began = operator.queues.now
    assert operator.run("replay", "a", "b", "--json") == 1
    # The answer may get lost: once the deadline has passed, none will come.
    assert read() == outcome(["b"], {"a": "failed again (order ORD-1, notify_warehouse): no answer"})
    assert (operator.queues.now - began).total_seconds() == pytest.approx(600, abs=5)


def test_a_lost_answer_to_the_run_ends_well(operator: Operator, read: Read) -> None:
    operator.store("a")
    operator.queues.faults["RunTask"] = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert operator.run("replay", "a", "--json") == 0
    assert read() == outcome(["a"])


def test_a_refused_run_ends_the_command_and_names_what_is_left(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    operator.store("a")
    operator.store("b")
    operator.queues.faults["RunTask"] = [grpc.StatusCode.PERMISSION_DENIED]
    assert operator.run("replay", "a", "b", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == outcome(unfinished=["a", "b"])
    assert err == "403 on command\n"


def test_a_missing_queue_does_not_read_as_success(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    operator.store("a")
    operator.queues.before_answer["RunTask"] = lambda: operator.queues.queues.pop(DEAD_LETTER_QUEUE)
    assert operator.run("replay", "a") == 1
    assert capsys.readouterr() == (
        "0 replayed, 0 failed, 0 skipped, 1 unfinished\n",
        f"404 {QUEUE_MISSING}\n",
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name dead letters, or pass --all"),
        (["a", "--all"], "name dead letters, or pass --all"),
        ([f"{QUEUE}/tasks/a"], f"'{QUEUE}/tasks/a' is no entry of {DEAD_LETTER_QUEUE}: `python -m order_tasks status`"),
        (["a b"], "'a b' is no entry of"),
        ([""], "'' is no entry of"),
    ],
)
def test_a_wrong_usage_ends_with_2_before_any_call(
    operator: Operator, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        operator.run("replay", *arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
    assert operator.queues.calls == []


# All


@pytest.mark.parametrize("count", [3, 25])
def test_all_that_are_due_are_tried_once_and_the_queue_is_paused_again(
    operator: Operator, read: Read, count: int
) -> None:
    operator.queues.max_page = 10
    names = [f"letter-{n:02}" for n in range(count)]
    for name in names:
        operator.store(name)
    operator.queues.answers["letter-01"] = [500]
    operator.store("reserved", due=240)
    assert operator.run("replay", "--all", "--json") == 1
    assert read() == outcome(
        [name for name in names if name != "letter-01"], {"letter-01": FAILED_AGAIN}, {"reserved": NOT_YET_DUE}
    )
    assert operator.letters == ["letter-01", "reserved"]
    assert operator.state == "PAUSED"
    assert "RunTask" not in operator.queues.calls


def test_all_of_none_is_done_and_resumes_nothing(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    assert operator.run("replay", "--all") == 0
    assert capsys.readouterr() == ("0 replayed, 0 failed, 0 skipped\n", "")
    assert operator.queues.calls == ["ListTasks"]


def test_one_that_waits_out_its_backoff_is_skipped_and_says_what_would_try_it(operator: Operator, read: Read) -> None:
    operator.store("a")
    operator.queues.answers["a"] = [500]
    assert operator.run("replay", "--all", "--json") == 1
    read()
    assert operator.run("replay", "--all", "--json") == 1
    assert read() == outcome(skipped={"a": "in 60 min, after a failed try: `replay` by its name tries it now"})


def test_an_entry_that_a_list_misses_is_not_taken_for_gone(operator: Operator, read: Read) -> None:
    for n in range(20):
        operator.store(f"letter-{n:02}")
    operator.queues.answers["letter-07"] = [500]
    operator.queues.before_answer["ResumeQueue"] = lambda: operator.queues.hidden.add("letter-07")
    assert operator.run("replay", "--all", "--json") == 1
    assert read()["failed"] == {"letter-07": FAILED_AGAIN}


def test_what_is_added_meanwhile_is_not_waited_for(operator: Operator, read: Read) -> None:
    operator.store("a")
    operator.queues.answers["late"] = [NEVER]
    operator.queues.before_answer["ResumeQueue"] = lambda: operator.store("late")
    assert operator.run("replay", "--all", "--json") == 0
    assert read() == outcome(["a"])
    assert operator.state == "PAUSED"


def test_a_queue_that_delivers_nothing_is_given_up_and_paused(operator: Operator, read: Read) -> None:
    operator.store("a")
    operator.queues.stalled = True
    assert operator.run("replay", "--all", "--json") == 1
    assert read() == outcome(failed={"a": "has not ended within 11 min: it may still be going"})
    assert operator.state == "PAUSED"


# Paused again, whatever happens


@pytest.mark.parametrize(
    ("method", "code"),
    [("GetTask", "PERMISSION_DENIED"), ("ResumeQueue", "PERMISSION_DENIED"), ("ResumeQueue", "INVALID_ARGUMENT")],
)
def test_an_error_in_the_middle_leaves_the_queue_paused(
    operator: Operator, capsys: pytest.CaptureFixture[str], method: str, code: str
) -> None:
    operator.store("a")
    operator.queues.faults[method] = [grpc.StatusCode[code]]
    assert operator.run("replay", "--all", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == outcome(unfinished=["a"])
    assert (
        err == f"{'400' if code == 'INVALID_ARGUMENT' else '403'} on command, the dead-letter queue is paused again\n"
    )
    assert operator.queues.calls[-1] == "PauseQueue"
    assert operator.state == "PAUSED"


def test_a_pause_that_stumbles_is_repeated(operator: Operator) -> None:
    operator.store("a")
    operator.queues.faults["PauseQueue"] = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    assert operator.run("replay", "--all") == 0
    assert operator.state == "PAUSED"


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_pause_that_fails_is_loud_and_says_how_to_pause(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: bool
) -> None:
    monkeypatch.setattr(calls, "RETRY", calls.RETRY.with_timeout(0.1))
    operator.store("a")
    operator.queues.faults["PauseQueue"] = [grpc.StatusCode.UNAVAILABLE] * 100
    if interrupted:
        operator.queues.before_answer["GetTask"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert operator.run("replay", "--all") == 1
    out, err = capsys.readouterr()
    assert out == f"{'0' if interrupted else '1'} replayed, 0 failed, 0 skipped{', 1 unfinished' * interrupted}\n"
    assert err.startswith("THE DEAD-LETTER QUEUE MAY STILL BE RUNNING, it could not be paused (")
    assert err.endswith(
        ": gcloud tasks queues pause cloud-run-tasks-dead-letters --location=us-central1 --project=shop\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["ResumeQueue", "GetTask"])
def test_a_signal_at_any_moment_ends_in_a_paused_queue(
    operator: Operator, capsys: pytest.CaptureFixture[str], number: signal.Signals, when: str
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    operator.store("a")
    operator.queues.answers["a"] = [NEVER]
    operator.queues.before_answer[when] = lambda: os.kill(os.getpid(), number)
    # A second one, while the queue is being paused, changes nothing.
    operator.queues.before_answer["PauseQueue"] = lambda: os.kill(os.getpid(), number)
    assert operator.run("replay", "--all", "--json") == 130
    out, err = capsys.readouterr()
    assert json.loads(out) == outcome(unfinished=["a"])
    assert err == "interrupted, the dead-letter queue is paused again: an attempt under way goes on to its end\n"
    assert operator.state == "PAUSED"
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_signal_while_all_is_done_only_waits_for_the_pause(operator: Operator, read: Read) -> None:
    operator.store("a")
    operator.queues.before_answer["PauseQueue"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert operator.run("replay", "--all", "--json") == 0
    assert read() == outcome(["a"])
    assert operator.state == "PAUSED"


def test_an_interrupted_run_by_name_says_what_is_left(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    operator.store("a")
    operator.store("b")
    operator.queues.before_answer["RunTask"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert operator.run("replay", "a", "b") == 130
    out, err = capsys.readouterr()
    assert out == "0 replayed, 0 failed, 0 skipped, 2 unfinished\n"
    assert err == "interrupted: an attempt under way goes on to its end\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_pauses_first(operator: Operator, number: signal.Signals) -> None:
    operator.store("a")
    looked = threading.Event()
    operator.queues.before_answer["GetTask"] = looked.set  # it has resumed the queue, and waits
    command = [sys.executable, "-m", "order_tasks", "replay", "--all", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as replaying:
        assert looked.wait(20)
        assert operator.state == "RUNNING"
        replaying.send_signal(number)
        out, err = replaying.communicate(timeout=20)
    assert replaying.returncode == 130
    assert err == "interrupted, the dead-letter queue is paused again: an attempt under way goes on to its end\n"
    assert json.loads(out) == outcome(unfinished=["a"])
    assert operator.state == "PAUSED"


# For people


def test_a_person_reads_counts_and_what_failed(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    operator.store("a")
    operator.store("b")
    operator.store("c", due=240)
    operator.queues.answers["b"] = [500]
    assert operator.run("replay", "--all") == 1
    assert capsys.readouterr() == ("1 replayed, 1 failed, 1 skipped\n", f"c skipped: {NOT_YET_DUE}\nb {FAILED_AGAIN}\n")


def test_a_terminal_shows_a_bar(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    operator.store("a")
    operator.store("b")
    assert operator.run("replay", "--all") == 0
    err = capsys.readouterr().err
    assert "replaying dead letters" in err
    assert "100%" in err
