"""`python -m order_tasks drop`: nothing is deleted unseen or unconfirmed."""

import io
import sys

import grpc
import pytest

from tests.producer.cli.operators import DEAD_LETTER_QUEUE, EMAIL, QUEUE, Operator


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person at a terminal types."""
    typed = io.StringIO()
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)
    return typed


def test_what_is_dropped_is_shown_first(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    operator.store("a", "ORD-7", reason=f"550 <{EMAIL}> unknown")
    operator.store("b")
    assert operator.run("drop", "a", "--yes") == 0
    out, err = capsys.readouterr()
    assert out.startswith("a\n  order   ORD-7, notify_warehouse\n  reason  550 <[e-mail]> unknown\n")
    assert out.endswith("\n1 dropped\n")
    assert err == ""
    assert operator.letters == ["b"]


@pytest.mark.parametrize(
    ("typed", "code", "left"), [("y\n", 0, []), ("YES\n", 0, []), ("\n", 1, ["a"]), ("", 1, ["a"])]
)
def test_a_person_is_asked(
    operator: Operator,
    answer: io.StringIO,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    code: int,
    left: list[str],
) -> None:
    operator.store("a")
    answer.write(typed)
    answer.seek(0)
    assert operator.run("drop", f"{DEAD_LETTER_QUEUE}/tasks/a") == code
    assert "Drop this dead letter for good? [y/N] " in capsys.readouterr().out
    assert operator.letters == left


def test_where_nobody_can_confirm_it_is_refused(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    operator.store("a")
    with pytest.raises(SystemExit) as ended:
        operator.run("drop", "a")
    assert ended.value.code == 2
    assert "nobody can confirm here, and what is dropped is lost: pass --yes" in capsys.readouterr().err
    assert operator.queues.calls == []


def test_a_missing_one_is_named_and_the_others_are_dropped(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    operator.store("a")
    assert operator.run("drop", "a", "x", "--yes") == 1
    assert capsys.readouterr().err == "x is not there: it was processed or dropped, or never stored\n"
    assert operator.letters == []
    assert operator.run("drop", "x", "--yes") == 1


def test_a_lost_answer_is_no_error(operator: Operator) -> None:
    operator.store("a")
    operator.queues.before_answer["DeleteTask"] = operator.queues.tasks.clear
    operator.queues.faults["DeleteTask"] = [grpc.StatusCode.UNAVAILABLE]
    assert operator.run("drop", "a", "--yes") == 0


def test_a_task_of_the_main_queue_is_not_dropped(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    operator.enqueue("ORD-1")
    with pytest.raises(SystemExit):
        operator.run("drop", f"{QUEUE}/tasks/ORD-1", "--yes")
    assert f"is no entry of {DEAD_LETTER_QUEUE}" in capsys.readouterr().err
    assert operator.queues.calls == []


def test_a_refusal_of_the_service_ends_with_1(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    operator.store("a")
    operator.queues.faults["DeleteTask"] = [grpc.StatusCode.PERMISSION_DENIED]
    assert operator.run("drop", "a", "--yes") == 1
    assert capsys.readouterr().err == "403 on command\n"
    assert operator.letters == ["a"]
