"""What is broken on purpose is named in the log within ten seconds, and works again once it is mended."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from order_tasks import Config
from order_tasks.operations import Operations, to_json

from local.logs import FILE, read
from tests.local.running import PATIENCE, LocalCloud, request, running, wait_for

SECONDS = 15
"""Ten on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def cloud(state: Path) -> Iterator[LocalCloud]:
    settings = ("retryUntilHandled=true", "minBackoffSeconds=0.5", "maxBackoffSeconds=1")
    configured = [part for setting in settings for part in ("--config", setting)]
    with running("--state", str(state), "--break", "warehouse", *configured) as cloud:
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


def send(cloud: LocalCloud, order: str, action: str) -> None:
    sent = cloud.producer("--order-id", order, "--email", "ada@example.com", "--action", action)
    assert sent.returncode == 0, sent.stderr


@pytest.fixture
def status(cloud: LocalCloud, state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """What `status` says."""
    monkeypatch.setenv("ORDER_TASKS_LOG", str(state / FILE))
    at = cloud.at
    config = Config(at["queue"], dead_letter_queue=at["dead_letter_queue"], emulator_host=at["tasks_grpc"])
    with Operations(config) as operations:
        yield lambda: to_json(operations.situation())


def shown(state: Path, order: str | None = None) -> str:
    return "\n".join(line.plain for line in read(state / FILE, order))


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("mail", "The mail server refused the message: 451"),
        ("warehouse", "The warehouse answered 500"),
        ("database", "The database "),
        ("handler", "the handler is broken on purpose"),
    ],
)
def test_log_and_status_name_the_cause_until_it_is_mended(
    cloud: LocalCloud, state: Path, status: Callable[[], str], what: str, cause: str
) -> None:
    order = f"ORD-{what}"
    assert switch(cloud, **{what: True})[0] == 200
    try:
        send(cloud, order, "notify_warehouse" if what == "warehouse" else "send_confirmation")
        wait_for(lambda: cause in shown(state, order), lambda: shown(state), SECONDS)
        assert f"[broken on purpose: {what}]" in shown(state, order)
        wait_for(lambda: cause in status(), status, SECONDS)
    finally:
        assert switch(cloud, **{what: False})[0] == 200
    wait_for(lambda: "done" in shown(state, order), lambda: shown(state))


def test_log_and_status_name_a_paused_queue_and_a_message_that_nobody_knows(
    cloud: LocalCloud, state: Path, status: Callable[[], str]
) -> None:
    queue = f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}"
    assert request(f"{queue}:pause", b"{}")[0] == 200
    wait_for(lambda: "The queue cloud-run-tasks is paused" in shown(state), lambda: shown(state), SECONDS)
    assert "paused" in json.loads(status())["headline"].lower()
    body = base64.b64encode(b'{"orderId": "ORD-dance", "action": "dance"}').decode()
    task = {"task": {"httpRequest": {"url": "https://handler.invalid", "body": body}}}
    assert request(f"{queue}/tasks", json.dumps(task).encode())[0] == 200
    assert request(f"{queue}:resume", b"{}")[0] == 200
    wait_for(lambda: "Unknown action: dance: replay " in shown(state, "ORD-dance"), lambda: shown(state), SECONDS)
    assert "Unknown action: dance" in status()
    command = [sys.executable, "-m", "local", "logs", "--order", "ORD-dance", "--state", str(state)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "1 of 5  dead letter  Unknown action: dance" in run.stdout
    assert "ORD-mail" not in run.stdout
