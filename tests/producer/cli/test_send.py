"""`python -m order_tasks send`: every line is sent, counted or reported, and the exit code tells."""

import json
import os
import pty
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from order_tasks import NEW_ORDER_ACTIONS, Config, contract
from order_tasks.cli import orders_file
from order_tasks.cli.main import main

from tests.messages import BAD
from tests.producer.service import Service, process

pytestmark = pytest.mark.usefixtures("environment")

ONE = ["send", "--order-id", "ORD-1", "--email", "ada@example.com"]


def line(order_id: str, **more: object) -> str:
    return json.dumps({"orderId": order_id, "customerEmail": "ada@example.com", **more}) + "\n"


def test_one_order_is_three_tasks(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ONE) == 0
    assert len(service.names) == 3
    summary = "orders: 1; tasks: 3 created, 0 already existed, 0 failed; invalid lines: 0\n"
    assert capsys.readouterr() == (summary, "")


def test_one_action_is_one_task_and_again_is_none(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    one = [*ONE, "--action", "update_inventory", "--json"]
    assert (main(one), main(one)) == (0, 0)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"orders": 1, "created": 1, "already": 0, "failed": 0, "malformed": 0}
    assert second == {"orders": 1, "created": 0, "already": 1, "failed": 0, "malformed": 0}
    assert json.loads(service.received[0].request.task.http_request.body)["action"] == "update_inventory"


BAD_LINES = {
    b"{not json}": "not JSON in UTF-8: ",
    b"\xff\xfe": "not JSON in UTF-8: ",
    b"[" * 100_000: "not JSON in UTF-8: ",
    b"[1]": "not a JSON object",
    b'{"orderId": "x"}': "Missing customerEmail",
    line("").encode().strip(): "Missing orderId or action",
    line("x", acton="update_inventory").encode().strip(): "unknown field 'acton': ",
    line("x", **{"\x1b[2J" + "x" * 1000: 1}).encode().strip(): r"unknown field '\x1b[2J",
    line("x" * 501).encode().strip(): "orderId: Expected `str` of length <= 500",
    line("x" * 500).encode().strip().ljust(1 << 20): "the line has 1048577 bytes, more than 1048576",
    b"x" * 3_000_000: "the line has 3000001 bytes, more than 1048576",
    line("x", action=None).encode().strip(): "Missing orderId or action",
    b'{"orderId": "\\ud800", "customerEmail": "e"}': "the fields are not JSON: UnicodeEncodeError",
    b'{"orderId": 7, "customerEmail": "e"}': "orderId: Expected `str`, got `int`",
}


def test_a_file_is_sent_whole_whatever_some_lines_are(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "orders.jsonl"
    good = [line("ORD-1").encode().strip(), b"  \r", line("ORD-2", action="update_inventory").encode().strip()]
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([*good, *BAD_LINES, line("ORD-3").encode().strip()]))
    assert main(["send", str(path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"orders": 3, "created": 7, "already": 0, "failed": 0, "malformed": len(BAD_LINES)}
    for number, (said, reason) in enumerate(zip(err.splitlines(), BAD_LINES.values(), strict=True), start=4):
        assert said.startswith(f"{path}:{number}: ")
        assert reason in said
        assert len(said) < 400
    assert len(service.names) == 7


def test_a_line_may_be_the_message_of_any_action(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = {"action": {}, "key": {}, "width": {"type": "integer"}}
    resize = {"message": {"type": "object", "properties": properties, "required": ["action", "key", "width"]}}
    actions = {**contract.contract(), "resize": resize}
    for module in (contract, orders_file):
        monkeypatch.setattr(module, "contract", lambda: actions)
    good = [
        {"action": "update_inventory", "orderId": "ORD-1", "key": "second"},
        {"action": "resize", "width": 100},
        {"action": "resize", "width": 100, "key": "again"},
    ]
    bad = {
        '{"action": "resize", "width": "wide"}': "width: Expected `int`, got `str`",
        '{"action": "resize", "widht": 100}': "unknown field 'widht': the fields are action, customerEmail, key, ",
        **{json.dumps(message): words for message, words in BAD},
    }
    path = tmp_path / "orders.jsonl"
    path.write_text("\n".join([*map(json.dumps, good), *bad]))
    for created, already in ((3, 0), (0, 3)):  # the same file again creates nothing
        assert main(["send", str(path), "--json"]) == 1
        out, err = capsys.readouterr()
        counts = json.loads(out)
        assert (counts["created"], counts["already"], counts["malformed"]) == (created, already, len(bad))
        for said, words in zip(err.splitlines(), bad.values(), strict=True):
            assert words in said


def test_a_line_of_many_megabytes_is_read_in_linear_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], environment: None
) -> None:
    def seconds(megabytes: int) -> float:
        path = tmp_path / "orders.jsonl"
        path.write_bytes(b"x" * (megabytes << 20))
        begin = time.process_time()
        assert main(["send", str(path)]) == 1
        return time.process_time() - begin

    seconds(2)
    assert seconds(48) < 16 * seconds(6)  # in quadratic time: 64 times as long


def test_a_failed_task_is_reported_with_line_order_action_and_reason(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.faults["notify_warehouse"] = [grpc.StatusCode.PERMISSION_DENIED]
    path = tmp_path / "orders.jsonl"
    path.write_text("\n" + line("ORD-1"))
    assert main(["send", str(path)]) == 1
    out, err = capsys.readouterr()
    assert err == f"{path}:2: order 'ORD-1', notify_warehouse: 403 on command\n"
    assert out.startswith("orders: 1; tasks: 2 created, 0 already existed, 1 failed; invalid lines: 0\nSend the same")


def test_outputs_take_the_place_of_the_environment(
    service: Service,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in [name for name in os.environ if name.startswith(("ORDER_TASKS_", "CLOUD_TASKS_"))]:
        monkeypatch.delenv(variable)
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps(asdict(config) | {"tasks_grpc": service.grpc, "image": "ignored"}))
    assert main([*ONE, "--outputs", str(path)]) == 0
    assert len(service.names) == 3
    problems = {
        "[]": "is not a JSON object (not an object): pass the output of `pulumi stack output --json`",
        "queue  projects/p": "is not a JSON object (",
        "[" * 100_000: "is not a JSON object (",
    }
    for text, problem in problems.items():
        path.write_text(text)
        assert main([*ONE, "--outputs", str(path)]) == 2
        assert problem in capsys.readouterr().err
    assert main(ONE) == 2
    assert 'export ORDER_TASKS_QUEUE="$(pulumi stack output queue)"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "either a FILE"),
        (["orders.jsonl", *ONE[1:]], "either a FILE of orders, or one order"),
        (["--order-id", "ORD-1"], "--order-id needs --email"),
        (["orders.jsonl", "--action", "update_inventory"], "need --order-id"),
        (["-", "--outputs", "-"], "cannot both be standard input"),
        (["missing.jsonl"], "missing.jsonl"),
        (["."], "Is a directory"),
        (["--order-id", "x", "--email", "e", "--in", "10"], "--in is a time such as 90s, 10m, 2h or 3d"),
        (["--order-id", "x", "--email", "e", "--in", "xm"], "--in is a time such as 90s, 10m, 2h or 3d"),
        (["--order-id", "x", "--email", "e", "--at", "soon"], "--at one such as 2026-12-24T18:00"),
        (["--order-id", "", "--email", "e"], "Missing orderId or action"),
    ],
)
def test_a_command_that_cannot_start_ends_with_2_and_no_summary(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err


def test_standard_input_may_hold_the_orders_or_the_outputs(config: Config, service: Service) -> None:
    with process("send", "-", "--json") as sending:
        out, err = sending.communicate("nonsense\n" + line("ORD-1"))
    assert sending.returncode == 1
    assert err.startswith("<stdin>:1: not JSON")
    assert json.loads(out)["created"] == len(NEW_ORDER_ACTIONS)
    with process(*ONE, "--outputs", "-", "--json") as sending:
        out, err = sending.communicate(json.dumps(asdict(config) | {"tasks_grpc": service.grpc}))
    assert (sending.returncode, err) == (0, "")
    assert json.loads(out)["already"] == len(NEW_ORDER_ACTIONS)


def test_a_slow_pipe_is_sent_as_it_comes_and_can_be_interrupted(service: Service) -> None:
    arrived = threading.Semaphore(0)
    service.before["CreateTask"] = arrived.release
    with process("send", "-", "--json") as sending:
        assert sending.stdin
        sending.stdin.write(line("ORD-1"))
        sending.stdin.flush()
        assert all(arrived.acquire(timeout=20) for _ in NEW_ORDER_ACTIONS)  # although the pipe stays open
        sending.send_signal(signal.SIGINT)
        out, err = sending.communicate()
    assert sending.returncode == 130
    assert err == "interrupted: send the same again to create the missing tasks\n"
    assert json.loads(out)["malformed"] == 0


def test_a_person_at_a_terminal_sees_a_bar_and_the_lines_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text(line("ORD-1") + "nonsense [bold]\n")
    watching, terminal = pty.openpty()
    with process("send", str(path), "--json", stderr=terminal) as sending:
        os.close(terminal)
        seen = "".join(_screen(watching))
        out, _ = sending.communicate()
    assert sending.returncode == 1
    assert json.loads(out)["created"] == len(NEW_ORDER_ACTIONS)
    for text in ("sending 100%, 1 orders, 0 s left", f"{path}:2: not JSON"):
        assert text in seen


def _screen(watching: int) -> Iterator[str]:
    with suppress(OSError), os.fdopen(watching, "rb", buffering=0) as screen:  # Linux's end of a terminal is an error
        while shown := screen.read(1 << 16):
            yield shown.decode(errors="replace")


@pytest.mark.parametrize(("delay", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("0.5d", 43200)])
def test_tasks_are_delivered_later_on_request(service: Service, tmp_path: Path, delay: str, seconds: float) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text(line("ORD-2"))
    assert service.command(*ONE, "--in", delay) == 0
    assert service.command("send", str(path), "--in", delay) == 0
    due = service.time + timedelta(seconds=seconds)
    assert [call.request.task.schedule_time for call in service.calls("CreateTask")] == [due] * 6


@pytest.mark.parametrize("at", ["2026-02-01T18:00+01:00", "2026-02-01T17:00Z", "2026-02-01T17:00"])
def test_tasks_are_delivered_at_a_time(service: Service, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert service.command(*ONE, "--at", at) == 0
    due = datetime(2026, 2, 1, 17, tzinfo=UTC)
    assert [call.request.task.schedule_time for call in service.calls("CreateTask")] == [due] * 3
