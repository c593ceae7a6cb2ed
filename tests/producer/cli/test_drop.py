"""`python -m order_tasks drop`: nothing is deleted unseen or unconfirmed."""

import io
import sys

import pytest

from tests.local.cloud_tasks.serving import Fault
from tests.producer.service import DEAD_LETTER_QUEUE, EMAIL, QUEUE, Service

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person at a terminal types."""
    typed = io.StringIO()
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)
    return typed


def test_what_is_dropped_is_shown_first(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.store("a", order="ORD-7", reason=f"550 <{EMAIL}> unknown")
    service.store("b")
    assert service.command("drop", "a", "--yes") == 0
    out, err = capsys.readouterr()
    assert out.startswith("a  ORD-7  notify_warehouse  due now\n              550 <[e-mail]> unknown\n")
    assert out.endswith("\n1 dropped\n")
    assert err == ""
    assert service.letters == ["b"]


@pytest.mark.parametrize(
    ("typed", "code", "left"), [("y\n", 0, []), ("YES\n", 0, []), ("\n", 1, ["a"]), ("", 1, ["a"])]
)
def test_a_person_is_asked(
    service: Service,
    answer: io.StringIO,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    code: int,
    left: list[str],
) -> None:
    service.store("a")
    answer.write(typed)
    answer.seek(0)
    assert service.command("drop", f"{DEAD_LETTER_QUEUE}/tasks/a") == code
    assert "Drop 1 for good? [y/N] " in capsys.readouterr().out
    assert service.letters == left


def test_where_nobody_can_confirm_it_is_refused(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.store("a")
    assert service.command("drop", "a") == 2
    assert "no terminal to confirm at, and this cannot be undone: pass --yes" in capsys.readouterr().err
    assert service.called == []


def test_a_missing_one_is_named_and_the_others_are_dropped(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.store("a")
    assert service.command("drop", "a", "x", "--yes") == 1
    assert capsys.readouterr().err == "x not found: processed, dropped or never stored\n"
    assert service.letters == []
    assert service.command("drop", "x", "--yes") == 1


def test_a_lost_answer_is_no_error(service: Service) -> None:
    service.store("a")
    service.faults["DeleteTask"] = [Fault(after=True)]
    assert service.command("drop", "a", "--yes") == 0


def test_a_task_of_the_main_queue_is_not_dropped(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.enqueue("ORD-1")
    assert service.command("drop", f"{QUEUE}/tasks/ORD-1", "--yes") == 1
    assert capsys.readouterr().err == f"{QUEUE}/tasks/ORD-1 not found: processed, dropped or never stored\n"
    assert len(service.tasks(QUEUE)) == 1
