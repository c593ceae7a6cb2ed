"""What is said of a task, as a pure function of it: never an e-mail, never what a terminal would obey."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from google.cloud.tasks_v2 import Attempt, HttpRequest, Task
from hypothesis import given
from hypothesis import strategies as st
from order_tasks.operations import Entry, to_json
from order_tasks.operations.times import format_duration, format_time

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
PATH = "projects/p/locations/l/queues/dead-letters/tasks/9f86d081"


def as_headers(values: dict[str, str]) -> dict[str, str]:
    return {f"X-Dead-Letter-{name.title()}": value for name, value in values.items()}


def letter(body: bytes = b"{}", **headers: str) -> Entry:
    http = HttpRequest(body=body, headers=as_headers(headers))
    return Entry.from_task(Task(name=PATH, create_time=NOW, schedule_time=NOW, http_request=http), NOW)


def test_an_entry_says_whose_order_why_and_after_how_many_attempts() -> None:
    body = b'{"orderId": "ORD-1", "action": "update_inventory", "customerEmail": "ada@example.com"}'
    stored = letter(body, reason="no such item", task="0123-update_inventory-ORD-1", attempts="5")
    assert (stored.id, stored.order_id, stored.action) == ("9f86d081", "ORD-1", "update_inventory")
    assert (stored.reason, stored.task, stored.attempts) == ("no such item", "0123-update_inventory-ORD-1", 5)
    assert stored.effect == "update_inventory"
    assert (stored.created, stored.due, stored.tries, stored.last_status) == (NOW, NOW, 0, None)


@pytest.mark.parametrize("name", ["x-dead-letter-reason", "X-DEAD-LETTER-REASON"])
def test_headers_have_no_case(name: str) -> None:
    assert Entry.from_task(Task(name=PATH, http_request=HttpRequest(headers={name: "r"})), NOW).reason == "r"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null", b'{"orderId": {"a": "b@c.d"}}'])
def test_a_message_that_is_none_is_a_dead_letter_of_no_known_order(body: bytes) -> None:
    stored = letter(body, attempts="many")
    assert (stored.order_id, stored.action, stored.reason, stored.attempts) == (None, None, None, None)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("550 <ada@example.com> is unknown", "550 <[e-mail]> is unknown"),
        ("550 ADA@Example.com: no", "550 [e-mail]: no"),
        ("550 Bob.O'Hara+x@mail.example no", "550 Bob.O'[e-mail] no"),
        ("to=ada%40example.com", "to=[e-mail]"),
        ("no mailbox for other@localhost", "no mailbox for [e-mail]"),
        ("5 @ 3 items", "5 @ 3 items"),
    ],
)
def test_a_reason_shows_no_e_mail(reason: str, shown: str) -> None:
    assert letter(b'{"customerEmail": "ada@example.com"}', reason=reason).reason == shown


def test_an_e_mail_without_an_at_is_still_one() -> None:
    stored = letter(b'{"orderId": "ada lovelace-7", "customerEmail": "ada lovelace"}', reason="no ada%20lovelace")
    assert (stored.order_id, stored.reason) == ("[e-mail]-7", "no [e-mail]")


@given(local=st.text("abcdefghijklmnopqrstuvwxyz0123456789.!#$&'*+/=?^_`{|}~-", min_size=1), text=st.text())
def test_a_customers_e_mail_is_shown_nowhere(local: str, text: str) -> None:
    email = f"{local}@example.com"
    body = json.dumps({"orderId": f"{text}{email}", "action": email, "customerEmail": email}).encode()
    stored = letter(body, reason=f"{text}{email}", task=email)
    assert json.dumps(email)[1:-1] not in to_json(stored)


WORST = ["@", "%40", "a", "a@", '"', "\\", " ", "(", "\x00", "\N{GRINNING FACE}", "ada@example.com ", "1"]


@pytest.mark.parametrize("text", WORST)
@pytest.mark.parametrize("field", ["orderId", "action", "customerEmail", "all", "reason", "task", "status"])
def test_a_megabyte_in_any_field_is_shown_at_once(field: str, text: str) -> None:
    worst = text * ((1 << 20) // len(text))
    message = dict.fromkeys(("orderId", "action", "customerEmail"), worst if field == "all" else "x")
    headers: dict[str, str] = {field: worst} if field in ("reason", "task") else {}
    body = json.dumps(message | ({field: worst} if field in message else {}), ensure_ascii=False).encode()
    task = Task(name=PATH, http_request=HttpRequest(body=body, headers=as_headers(headers)))
    if field == "status":
        task.last_attempt = Attempt(response_time=NOW, response_status={"code": 13, "message": worst})
    begin = time.process_time()
    stored = Entry.from_task(task, NOW)
    assert time.process_time() - begin < 0.1
    shown = [stored.order_id, stored.action, stored.reason, stored.task, stored.last_status]
    assert all(len(each) <= 200 for each in shown if each)


@pytest.mark.parametrize("domain", ["", "@example.com"])
def test_no_part_of_an_e_mail_is_left_where_a_long_text_is_cut(domain: str) -> None:
    email = f"{'ada.' * 75}{domain}"
    text = f"{email} " * 20
    stored = letter(json.dumps({"orderId": text, "customerEmail": email}).encode(), reason=text)
    assert "ada" not in f"{stored.order_id} {stored.reason}"


def test_one_short_line_that_a_terminal_does_not_obey() -> None:
    stored = letter(b'{"orderId": "\\u001b[2J\\nORD", "action": "%s"}' % (b"a" * 10_000))
    assert stored.order_id == "\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}ORD"
    assert stored.action == "a" * 199 + "\N{HORIZONTAL ELLIPSIS}"


def attempt(left: float, *, answered: bool) -> Attempt:
    at = NOW - timedelta(seconds=left)
    return Attempt(dispatch_time=at, response_time=at) if answered else Attempt(dispatch_time=at)


@pytest.mark.parametrize(
    ("due", "last", "state"),
    [
        (0, None, "due"),
        (-5, None, "due"),
        (1, None, "scheduled"),
        (3600, attempt(9, answered=True), "backing off"),
        (-1, attempt(9, answered=True), "due"),
        (-1, attempt(9, answered=False), "running"),
        (3600, attempt(599, answered=False), "running"),
        (3600, attempt(600, answered=False), "backing off"),  # its deadline has passed: no answer will come
    ],
)
def test_the_state_follows_from_due_time_and_last_attempt(due: float, last: Attempt | None, state: str) -> None:
    task = Task(name=PATH, schedule_time=NOW + timedelta(seconds=due), dispatch_deadline=timedelta(minutes=10))
    if last:
        task.last_attempt = last
        task.dispatch_count = 1
    assert Entry.from_task(task, NOW).state == state


def test_the_last_status_is_the_answers_text_or_its_codes_name() -> None:
    def last_status(**response: object) -> str | None:
        attempt = {"response_time": NOW, "response_status": response} if response else {}
        return Entry.from_task(Task(last_attempt=attempt), NOW).last_status

    assert last_status(code=14) == "UNAVAILABLE"
    assert last_status(code=99) == "99"
    assert last_status(code=13, message="refused ada@example.com") == "refused [e-mail]"
    assert last_status() is None


@pytest.mark.parametrize(
    ("task_id", "short"),
    [
        ("0123456789abcdef-send_confirmation-ORD-1", "send_confirmation-ORD-1"),
        ("0123456789abcdef" * 4, "0123456789ab"),
        ("0123456789abcdef" * 2, "0123456789ab"),
        ("7041382690124516", "7041382690124516"),
        ("0123456789abcdef-", "0123456789abcdef-"),
        ("ORD-1", "ORD-1"),
    ],
)
def test_a_name_is_shortened_on_the_side_of_its_hash(task_id: str, short: str) -> None:
    assert Entry.from_task(Task(name=f"projects/p/locations/l/queues/q/tasks/{task_id}"), NOW).short == short


def test_spans_are_in_the_largest_unit_that_says_enough() -> None:
    spans = {
        0: "0 s",
        0.1: "0.1 s",
        -3: "0 s",
        119: "119 s",
        120: "2 min",
        7199: "119 min",
        7200: "2 h",
        172_800: "2 d",
    }
    assert {seconds: format_duration(timedelta(seconds=seconds)) for seconds in spans} == spans
    times = [NOW - timedelta(hours=3), NOW + timedelta(minutes=5)]
    assert [format_time(time, NOW) for time in times] == ["3 h ago", "in 5 min"]
