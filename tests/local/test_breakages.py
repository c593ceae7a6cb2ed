"""What is broken on purpose is named in the log within ten seconds, and works again once it is mended."""

import json
from collections.abc import Iterator

import pytest

from tests.local.running import LocalCloud, request, running, wait_for

SECONDS = 10


@pytest.fixture(scope="module")
def cloud() -> Iterator[LocalCloud]:
    with running("--break", "warehouse", "--config", "minBackoffSeconds=0.1") as cloud:
        yield cloud


def switch(cloud: LocalCloud, **broken: object) -> tuple[int, dict[str, object]]:
    status, text = request(f"{cloud.at['tasks_rest']}/breakages", json.dumps(broken).encode())
    return status, json.loads(text)


def test_the_command_line_breaks_and_calls_switch(cloud: LocalCloud) -> None:
    whole = {"mail": False, "database": False, "warehouse": False, "handler": False}
    assert json.loads(request(f"{cloud.at['tasks_rest']}/breakages")[1]) == {**whole, "warehouse": True}
    for wrong in ({"door": True}, {"mail": "yes"}):
        status, answer = switch(cloud, warehouse=False, **wrong)
        assert (status, "mail, database, warehouse, handler" in str(answer["error"])) == (400, True)
    assert switch(cloud, warehouse=False, mail=True) == (200, {**whole, "mail": True})
    assert switch(cloud, mail=False) == (200, whole)


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("mail", "The mail server refused the message: 451"),
        ("warehouse", "The warehouse answered 500"),
        ("database", "The database is away, read-only or too slow"),
        ("handler", "the handler is broken on purpose"),
    ],
)
def test_the_log_names_the_cause_until_it_is_mended(cloud: LocalCloud, what: str, cause: str) -> None:
    assert switch(cloud, **{what: True})[0] == 200
    action = "notify_warehouse" if what == "warehouse" else "send_confirmation"
    sent = cloud.producer("--order-id", f"ORD-{what}", "--email", "ada@example.com", "--action", action)
    assert sent.returncode == 0, sent.stderr
    wait_for(lambda: any(cause in line for line in cloud.log), lambda: "\n".join(cloud.log), SECONDS)
    assert switch(cloud, **{what: False})[0] == 200
    wait_for(lambda: f"ORD-{what}" in str(cloud.orders()), lambda: "\n".join(cloud.log))
