"""The handler as the container starts it: a process of its own, a socket, signals, standard output."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any

import pytest

from tests.handler.calls import DELIVERED, DIRECT, LAST
from tests.handler.fake_cloud_tasks import FakeCloudTasks

ORDER = b'{"orderId": "ORD-1", "action": "update_inventory"}'

# Ends an order when a line arrives on standard input.
WAITING = """
import asyncio, sys
from order_handler import orders
from order_handler.__main__ import main

@orders.action("wait")
async def wait(order, effects):
    print('{"message": "waiting"}', flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return "waited"

main()
"""

# Never ends an order, and has no time for those that are in flight at its end.
HANGING = """
import asyncio
from order_handler import orders, server
from order_handler.__main__ import main

@orders.action("wait")
async def wait(order, effects):
    print('{"message": "waiting"}', flush=True)
    await asyncio.Event().wait()

server.GRACE_SECONDS = 0
main()
"""


class Server:
    def __init__(self, process: subprocess.Popen[str], stdout: IO[str]) -> None:
        self.process = process
        self.stdout = stdout
        self.port = int(self.line_with("Listening on")["message"].rpartition(":")[2])

    def line_with(self, text: str) -> dict[str, Any]:
        for line in self.stdout:
            found: dict[str, Any] = json.loads(line)
            if text in found["message"]:
                return found
        pytest.fail(f"The handler ended without a line with {text!r}")

    def connect(self) -> closing[HTTPConnection]:
        return closing(HTTPConnection("127.0.0.1", self.port, timeout=30))

    def post(self, body: bytes, headers: Mapping[str, str] = DIRECT) -> tuple[int, Any]:
        with self.connect() as connection:
            return post(connection, body, headers)

    def end(self) -> list[dict[str, Any]]:
        """Sends SIGTERM; the log lines not read so far, once the process ended well."""
        self.process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in self.stdout]
        assert self.process.wait(30) == 0
        return lines


def post(connection: HTTPConnection, body: bytes, headers: Mapping[str, str] = DIRECT) -> tuple[int, Any]:
    connection.request("POST", "/process-order", body, dict(headers))
    response = connection.getresponse()
    return response.status, json.load(response)


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    variables = {
        **os.environ,
        "PORT": "0",
        "MAX_ATTEMPTS": "5",
        "HANDLER_TIMEOUT_SECONDS": "300",
        "DEAD_LETTER_QUEUE": "projects/shop/locations/us-central1/queues/dead-letters",
        "SIMULATE_EFFECTS": "true",
        **changes,
    }
    return {name: value for name, value in variables.items() if value is not None}


@contextmanager
def serve(*arguments: str, changes: Mapping[str, str | None] | None = None) -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=environment(changes or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield Server(process, process.stdout)
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_it_answers_on_its_port_and_logs_one_line_an_order() -> None:
    with serve("-m", "order_handler") as server:
        with server.connect() as connection:
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"Task handler is running"
            assert post(connection, ORDER) == (200, {"status": "processed", "orderId": "ORD-1"})
            assert post(connection, b"{}") == (400, {"error": "Missing orderId or action"})
        lines = server.end()
    assert all(line.keys() >= {"severity", "message", "time"} for line in lines)
    assert [line["message"] for line in lines[:3]] == [
        "Stock for ORD-1 updated (simulated)",
        "Missing orderId or action",
        "Shutting down",
    ]


def test_a_body_over_1_mib_is_refused_and_the_connection_lives_on() -> None:
    with serve("-m", "order_handler") as server:
        with server.connect() as connection:
            assert post(connection, bytes(3 * 2**20)) == (400, {"error": "Body is over 1 MiB"})
            assert post(connection, ORDER)[0] == 200
        server.end()


def test_what_is_not_http_is_logged_in_json_too() -> None:
    with serve("-m", "order_handler") as server:
        with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
            connection.sendall(b"hello\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
        assert server.line_with("Invalid HTTP request")["severity"] == "WARNING"
        server.end()


@contextmanager
def at_an_order(script: str, folder: Path) -> Iterator[tuple[Server, list[tuple[int, Any]]]]:
    """A handler of this script that has begun an order, and what the order was answered, at the end."""
    file = folder / "script.py"
    file.write_text(script)
    answers: list[tuple[int, Any]] = []
    with serve(str(file)) as server:
        order = b'{"orderId": "ORD-1", "action": "wait"}'
        caller = threading.Thread(target=lambda: answers.append(server.post(order)))
        caller.start()
        server.line_with("waiting")
        yield server, answers
        caller.join(30)


def test_sigterm_lets_the_order_in_flight_finish(tmp_path: Path) -> None:
    with at_an_order(WAITING, tmp_path) as (server, answers):
        server.process.send_signal(signal.SIGTERM)
        server.line_with("Shutting down")
        assert server.process.stdin is not None
        server.process.stdin.write("\n")
        server.process.stdin.flush()
        assert server.line_with("waited")["status"] == 200
        assert server.process.wait(30) == 0
    assert answers == [(200, {"status": "processed", "orderId": "ORD-1"})]


def test_what_outlasts_the_grace_is_500_and_the_end_is_well(tmp_path: Path) -> None:
    with at_an_order(HANGING, tmp_path) as (server, answers):
        lines = server.end()
    assert answers == [(500, {"error": "Internal error"})]
    assert [line["message"] for line in lines] == ["Shutting down", "CancelledError()", "Ended"]


def test_an_idle_connection_does_not_hold_up_the_end() -> None:
    with serve("-m", "order_handler") as server, server.connect() as connection:
        assert post(connection, ORDER)[0] == 200
        assert server.end()[-1]["message"] == "Ended"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_ATTEMPTS", None),
        ("MAX_ATTEMPTS", "0"),
        ("MAX_ATTEMPTS", "many"),
        ("PORT", "http"),
        ("DEAD_LETTER_QUEUE", None),
        ("SIMULATE_EFFECTS", None),
        ("DATABASE_URL", "postgresql://shop:geheim@db:port/shop"),
    ],
)
def test_a_bad_environment_ends_it_with_one_line(name: str, value: str | None) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "order_handler"],
        env=environment({name: value}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.splitlines()
    # Without simulation, the first secret is what is missing.
    assert line.startswith("DATABASE_URL" if name == "SIMULATE_EFFECTS" else name)
    assert "geheim" not in line


def test_a_port_in_use_ends_it_with_an_error_line() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "order_handler"],
            env=environment({"PORT": str(port)}),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert ended.returncode != 0
    [error] = [line for line in map(json.loads, ended.stdout.splitlines()) if line["severity"] == "ERROR"]
    assert str(port) in error["message"]


def test_it_keeps_orders_in_the_dead_letter_queue_and_ends_well(cloud: FakeCloudTasks) -> None:
    changes = {"CLOUD_TASKS_EMULATOR_HOST": cloud.address}
    with serve("-m", "order_handler", changes=changes) as server:
        assert server.post(b"{}", DELIVERED) == (200, {"status": "dead-lettered", "orderId": None})
        assert server.post(ORDER, LAST) == (200, {"status": "processed", "orderId": "ORD-1"})
        lines = server.end()
    assert cloud.calls == ["CreateTask", "CreateTask", "DeleteTask"]
    assert cloud.entry.http_request.body == b"{}"
    assert [line["message"] for line in lines[:3]] == [
        "Missing orderId or action",
        "Last attempt",
        "Stock for ORD-1 updated (simulated)",
    ]


def test_a_database_that_is_away_does_not_keep_it_from_starting() -> None:
    changes = {"DATABASE_URL": "postgresql://shop:geheim@127.0.0.1:1/shop"}
    with serve("-m", "order_handler", changes=changes) as server:
        assert server.post(ORDER) == (500, {"error": "Internal error"})
        assert server.post(b"{}")[0] == 400
        lines = server.end()
    assert "geheim" not in str(lines)
    assert any("Connection refused" in line["message"] for line in lines)


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({}, ("sqlalchemy", "psycopg", "httpx", "aiosmtplib", "grpc", "google")),
        ({"DATABASE_URL": "sqlite:///shop.db"}, ("psycopg", "httpx", "aiosmtplib", "grpc", "google")),
    ],
)
def test_a_library_is_loaded_only_if_its_effect_is_configured(changes: dict[str, str], absent: tuple[str, ...]) -> None:
    script = "import os, sys; from order_handler import __main__ as m; m.App.configured(m.Environment.read(os.environ))"
    shown = subprocess.run(
        [sys.executable, "-c", f"{script}; print(*sys.modules)"],
        env=environment(changes),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert set(shown.stdout.split()).isdisjoint(absent)
