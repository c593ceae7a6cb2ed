"""`python -m order_tasks send`: every line is sent, counted or named, and the exit code says so."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import grpc
import pytest
from order_tasks import NEW_ORDER_ACTIONS, Config
from order_tasks.cli.main import main

from tests.producer.service import Service

pytestmark = pytest.mark.usefixtures("environment")
COMMAND = [sys.executable, "-m", "order_tasks", "send"]


def line(order_id: str, **more: object) -> str:
    return json.dumps({"orderId": order_id, "customerEmail": "ada@example.com", **more}) + "\n"


def test_one_order_is_three_tasks(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "--order-id", "ORD-1", "--email", "ada@example.com"]) == 0
    assert len(service.names) == 3
    assert capsys.readouterr() == ("orders: 1; tasks: 3 created, 0 already existed, 0 failed; invalid lines: 0\n", "")


def test_one_action_is_one_task_and_again_is_none(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    one = ["send", "--order-id", "ORD-1", "--email", "ada@example.com", "--action", "update_inventory", "--json"]
    assert (main(one), main(one)) == (0, 0)
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {"orders": 1, "created": 1, "already": 0, "failed": 0, "malformed": 0}
    assert json.loads(second) == {"orders": 1, "created": 0, "already": 1, "failed": 0, "malformed": 0}
    assert json.loads(service.received[0].request.task.http_request.body)["action"] == "update_inventory"


def test_a_file_is_sent_whole_whatever_some_lines_are(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [
        b"{not json}\n",
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"orderId": "x"}\n',
        line("").encode(),
        line("x", acton="update_inventory").encode(),
        line("x", action=None).encode(),
        b'{"orderId": "\\ud800", "customerEmail": "e"}\n',
        b'{"orderId": 7, "customerEmail": "e"}\n',
        b"[" * 100_000 + b"\n",
    ]
    reasons = [
        "not JSON in UTF-8: ",
        "not JSON in UTF-8: ",
        "not a JSON object",
        "customerEmail missing",
        "the order id is empty",
        "unknown field acton: ",
        "the action is None: ",
        "is not valid Unicode",
        "the order id is 7: ",
        "not JSON in UTF-8: ",
    ]
    path = tmp_path / "orders.jsonl"
    good = [line("ORD-1").encode(), b"  \r\n", line("ORD-2", action="update_inventory").encode()]
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(good) + b"".join(bad) + line("ORD-3").rstrip().encode())

    assert main(["send", str(path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"orders": 3, "created": 7, "already": 0, "failed": 0, "malformed": len(bad)}
    for number, (said, reason) in enumerate(zip(err.splitlines(), reasons, strict=True), start=4):
        assert said.startswith(f"{path}:{number}: ")
        assert reason in said
    assert len(service.names) == 7


def test_a_failed_task_is_named_with_line_order_action_and_reason(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.faults["notify_warehouse"] = [grpc.StatusCode.PERMISSION_DENIED]
    path = tmp_path / "orders.jsonl"
    path.write_text("\n" + line("ORD-1"))
    assert main(["send", str(path)]) == 1
    out, err = capsys.readouterr()
    assert err == f"{path}:2: order 'ORD-1', notify_warehouse: 403 on command\n"
    assert out.startswith(
        "orders: 1; tasks: 2 created, 0 already existed, 1 failed; invalid lines: 0\nSend the same again"
    )


def test_outputs_take_the_environments_place(
    service: Service,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outputs = asdict(config) | {"tasks_grpc": service.grpc, "image": "ignored"}
    for variable in [name for name in os.environ if name.startswith(("ORDER_TASKS_", "CLOUD_TASKS_"))]:
        monkeypatch.delenv(variable)
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps(outputs))
    one = ["send", "--order-id", "ORD-1", "--email", "ada@example.com"]
    assert main([*one, "--outputs", str(path)]) == 0
    assert len(service.names) == 3
    path.write_text("[]")
    assert main([*one, "--outputs", str(path)]) == 2
    path.write_text("queue  projects/p")
    assert main([*one, "--outputs", str(path)]) == 2
    assert main(one) == 2
    err = capsys.readouterr().err
    assert "is not a JSON object: pass the output of `pulumi stack output --json`" in err
    assert "is not valid JSON (" in err
    assert 'export ORDER_TASKS_QUEUE="$(pulumi stack output queue)"' in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "either a FILE"),
        (["orders.jsonl", "--order-id", "ORD-1", "--email", "e"], "either a FILE of orders, or one order"),
        (["--order-id", "ORD-1"], "--order-id needs --email"),
        (["orders.jsonl", "--action", "update_inventory"], "need --order-id"),
        (["-", "--outputs", "-"], "cannot both be standard input"),
    ],
)
def test_a_wrong_usage_ends_with_2(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_what_cannot_start_ends_with_2_and_no_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", str(tmp_path / "missing.jsonl")]) == 2
    assert main(["send", str(tmp_path)]) == 2
    assert main(["send", "--order-id", "", "--email", "e"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "missing.jsonl" in err
    assert "the order id is empty" in err


def test_standard_input_may_hold_the_orders_or_the_outputs(config: Config, service: Service) -> None:
    sent = subprocess.run(
        [*COMMAND, "-", "--json"], input="nonsense\n" + line("ORD-1"), capture_output=True, text=True, timeout=30
    )
    assert sent.returncode == 1
    assert sent.stderr.startswith("<stdin>:1: not JSON")
    assert json.loads(sent.stdout)["created"] == len(NEW_ORDER_ACTIONS)

    one = [*COMMAND, "--order-id", "ORD-1", "--email", "e", "--outputs", "-", "--json"]
    outputs = json.dumps(asdict(config) | {"tasks_grpc": service.grpc})
    again = subprocess.run(one, input=outputs, capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(again.stdout)["already"] == len(NEW_ORDER_ACTIONS)


def test_a_slow_pipe_is_sent_as_it_comes_and_can_be_interrupted(service: Service) -> None:
    arrived = threading.Semaphore(0)
    service.before["CreateTask"] = arrived.release
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND, "-", "--json"], text=True, **pipes) as sending:  # type: ignore[call-overload]
        sending.stdin.write(line("ORD-1"))
        sending.stdin.flush()
        assert all(arrived.acquire(timeout=20) for _ in NEW_ORDER_ACTIONS)  # although the pipe stays open
        sending.send_signal(signal.SIGINT)
        out, err = sending.communicate(timeout=20)
    assert sending.returncode == 130
    assert err == "interrupted: send the same again to create the missing tasks\n"
    assert json.loads(out)["malformed"] == 0


def test_a_person_at_a_terminal_sees_a_bar_and_the_lines_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text(line("ORD-1") + "nonsense [bold]\n")
    watching, terminal = pty.openpty()
    with subprocess.Popen([*COMMAND, str(path), "--json"], stdout=subprocess.PIPE, stderr=terminal) as sending:
        os.close(terminal)
        limit = threading.Timer(20, sending.kill)
        limit.start()
        seen = "".join(_screen(watching))
        out, _ = sending.communicate(timeout=20)
        limit.cancel()
    assert sending.returncode == 1
    assert json.loads(out)["created"] == len(NEW_ORDER_ACTIONS)
    assert "sending orders" in seen
    assert "100%" in seen
    assert f"{path}:2: not JSON" in seen


def _screen(watching: int) -> Iterator[str]:
    with suppress(OSError), os.fdopen(watching, "rb", buffering=0) as screen:  # Linux's end of a terminal is an error
        while shown := screen.read(1 << 16):
            yield shown.decode(errors="replace")


def test_without_rich_there_is_no_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["send", "--order-id", "ORD-1", "--email", "ada@example.com"]) == 0
    assert capsys.readouterr().err == ""
