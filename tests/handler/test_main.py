"""The handler as the container starts it: a process of its own, a socket, signals, standard output."""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from email.message import Message
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import IO, Any

import pytest

from tests.handler.calls import DELIVERED, DIRECT, LAST
from tests.handler.conftest import PATIENCE, DeadLetterQueue

ORDER = b'{"orderId": "ORD-1", "action": "update_inventory"}'
DONE = (200, {"status": "processed", "orderId": "ORD-1"})
HEAD = b"POST /process-order HTTP/1.1\r\nHost: shop\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(ORDER) + ORDER
MIB = 2**20

# Ends an order when a line arrives on standard input.
WAITING = """
import asyncio, sys
from order_handler.__main__ import main
from order_handler.action import Action, OrderMessage
from order_handler.actions import ACTIONS

async def wait(*_):
    print('{"message": "waiting"}', flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return "waited"

ACTIONS["wait"] = Action(OrderMessage, wait, lambda _: None)
main()
"""

# Never ends an order, and has hardly any time for those that run at its end.
HANGING = """
import asyncio
from order_handler import __main__
from order_handler.action import Action, OrderMessage
from order_handler.actions import ACTIONS

async def wait(*_):
    print('{"message": "waiting"}', flush=True)
    await asyncio.Event().wait()

ACTIONS["wait"] = Action(OrderMessage, wait, lambda _: None)
__main__.GRACE_SECONDS = 0.2
__main__.main()
"""


class Server:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        assert process.stdout is not None
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()
        found = re.search(r":(\d+) ", self.line_with("Uvicorn running on")["message"])
        assert found
        self.port = int(found[1])

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._lines.put(line)
        self._lines.put(None)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Until the process ends."""
        while line := self._lines.get(timeout=PATIENCE):
            yield json.loads(line)

    def line_with(self, text: str) -> dict[str, Any]:
        for line in self.lines():
            if text in line["message"]:
                return line
        pytest.fail(f"The handler ended without a line with {text!r}")

    def connect(self) -> closing[HTTPConnection]:
        return closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE))

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def post(self, body: bytes, headers: Mapping[str, str] = DIRECT) -> tuple[int, Any]:
        with self.connect() as connection:
            return post(connection, body, headers)

    def end(self) -> list[dict[str, Any]]:
        """Sends SIGTERM; the log lines not read so far, once the process ended well."""
        self.process.send_signal(signal.SIGTERM)
        lines = list(self.lines())
        assert self.process.wait(PATIENCE) == 0
        return lines


def post(connection: HTTPConnection, body: bytes, headers: Mapping[str, str] = DIRECT) -> tuple[int, Any]:
    connection.request("POST", "/process-order", body, dict(headers))
    response = connection.getresponse()
    return response.status, json.load(response)


def answer(connection: socket.socket, method: str = "POST") -> tuple[int, Message, bytes]:
    """The next answer on this connection."""
    response = HTTPResponse(connection, method=method)
    response.begin()
    return response.status, response.headers, response.read()


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    variables = {
        **os.environ,
        "HOST": "127.0.0.1",
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
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(
            [sys.executable, *(arguments or ("-m", "order_handler"))],
            env=environment(changes or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            yield Server(process)
            process.terminate()
            process.wait(PATIENCE)
            stderr.seek(0)
            assert stderr.read() == ""
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


def run(changes: Mapping[str, str | None], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A handler that is to end by itself."""
    return subprocess.run(
        [sys.executable, *(arguments or ("-m", "order_handler"))],
        env=environment(changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


# HTTP


def test_it_answers_on_its_port_and_logs_one_line_an_order() -> None:
    with serve() as server:
        with server.connect() as connection:
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"Task handler is running"
            assert post(connection, ORDER) == DONE
            assert post(connection, b"{}") == (400, {"error": "Missing orderId or action"})
        lines = server.end()
    assert all(line.keys() >= {"severity", "message", "time"} for line in lines)
    assert [line["message"] for line in lines[:3]] == [
        "Stock for ORD-1 updated (simulated)",
        "Missing orderId or action",
        "Shutting down",
    ]


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + ORDER[:5] + b"\r\n2d\r\n" + ORDER[5:] + b"\r\n0\r\n\r\n",
    ],
    ids=["sized", "chunked"],
)
@pytest.mark.parametrize("piece", [1, 50, 1000])
def test_a_request_is_read_in_any_pieces_and_the_connection_lives_on(
    server: Server, request_: bytes, piece: int
) -> None:
    with server.socket() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for at in range(0, len(request_), piece):
                connection.sendall(request_[at : at + piece])
            status, _, body = answer(connection)
            assert (status, json.loads(body)) == DONE


def test_a_head_has_the_headers_of_a_get_and_no_body(server: Server) -> None:
    with server.socket() as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n")
        status, headers, body = answer(connection, "HEAD")
        assert (status, headers["Content-Length"], body) == (200, "23", b"")
        connection.sendall(REQUEST)
        assert answer(connection)[0] == 200


@pytest.mark.parametrize(
    ("size", "error"),
    [
        (MIB, "Malformed order: unexpected character, expected a JSON value: line 1 column 1 (char 0)"),
        (MIB + 1, "Body is over 1 MiB"),
        (3 * MIB, "Body is over 1 MiB"),
    ],
)
def test_a_body_over_1_mib_is_refused_and_the_connection_lives_on(server: Server, size: int, error: str) -> None:
    with server.connect() as connection:
        assert post(connection, bytes(size)) == (400, {"error": error})
        assert post(connection, ORDER) == DONE


@pytest.mark.parametrize("headers", [DIRECT, DELIVERED], ids=["direct", "delivered"])
@pytest.mark.parametrize("upgrade", ["h2c", "websocket", None])
def test_a_request_for_an_upgrade_is_refused_and_stored_nowhere(
    server: Server, headers: dict[str, str], upgrade: str | None
) -> None:
    asked = {**headers, "Connection": "Upgrade", **({"Upgrade": upgrade} if upgrade else {})}
    with server.connect() as connection:
        assert post(connection, ORDER, asked) == (400, {"error": "Upgrades are not supported"})
        # the connection was closed, and another one serves
        assert post(connection, ORDER) == DONE


def test_a_caller_that_asks_before_it_sends_a_body_is_told_to(server: Server) -> None:
    head, body = REQUEST.split(b"\r\n\r\n")
    with server.socket() as connection:
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert answer(connection)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + b"X : y\r\n\r\n",
    ],
)
def test_a_malformed_request_is_refused_and_logged_in_json(server: Server, sent: bytes) -> None:
    with server.socket() as connection:
        connection.sendall(sent)
        status, headers, _ = answer(connection)
        assert (status, headers["Connection"]) == (400, "close")
        assert connection.recv(100) == b""
    assert server.line_with("Invalid HTTP request")["severity"] == "WARNING"


def test_a_request_whose_end_is_missing_never_runs() -> None:
    with serve() as server:
        with server.socket() as connection:
            connection.sendall(REQUEST[:-1])
        assert "Stock for" not in str(server.end())


# The end


@contextmanager
def at_an_order(script: str, folder: Path) -> Iterator[tuple[Server, socket.socket]]:
    """A handler of this script that has begun an order, and the connection of its caller."""
    file = folder / "script.py"
    file.write_text(script)
    with serve(str(file)) as server, server.socket() as caller:
        caller.sendall(REQUEST.replace(b"update_inventory", b"wait").replace(b": 50", b": 38"))
        server.line_with("waiting")
        yield server, caller


@pytest.mark.parametrize("hung_up", [False, True])
def test_sigterm_lets_an_order_finish_even_if_its_caller_has_hung_up(tmp_path: Path, hung_up: bool) -> None:
    with at_an_order(WAITING, tmp_path) as (server, caller):
        if hung_up:
            caller.close()
            # once it is answered, the handler has seen the other one go
            assert server.post(b"{}")[0] == 400
        server.process.send_signal(signal.SIGTERM)
        server.line_with("Shutting down")
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset
            server.post(ORDER)
        assert server.process.stdin is not None
        server.process.stdin.write("\n")
        server.process.stdin.flush()
        assert server.line_with("waited")["status"] == 200
        assert server.process.wait(PATIENCE) == 0
        if not hung_up:
            assert answer(caller)[0] == 200


def test_an_order_that_outlasts_the_grace_is_500_and_the_exit_code_is_0(tmp_path: Path) -> None:
    with at_an_order(HANGING, tmp_path) as (server, caller):
        lines = server.end()
        assert answer(caller)[0] == 500
    assert "The instance stopped while the order ran" in [line["message"] for line in lines]
    assert "Traceback" not in "".join(line["message"] for line in lines)


def test_an_idle_connection_does_not_delay_the_end() -> None:
    with serve() as server, server.connect() as connection:
        assert post(connection, ORDER) == DONE
        assert "Cancel" not in str(server.end())


# The start


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_ATTEMPTS", None),
        ("SIMULATE_EFFECTS", None),
        ("DATABASE_URL", "postgresql://shop:geheim@db:port/shop"),
    ],
)
def test_a_bad_environment_ends_it_with_one_line(name: str, value: str | None) -> None:
    ended = run({name: value})
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.splitlines()
    # Without simulation, the first secret is missing.
    assert line.startswith("DATABASE_URL" if name == "SIMULATE_EFFECTS" else name)
    assert "geheim" not in line


def test_a_port_in_use_ends_it_with_an_error_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run({"PORT": str(port)})
    assert ended.returncode != 0
    [error] = [line for line in map(json.loads, ended.stdout.splitlines()) if line["severity"] == "ERROR"]
    assert str(port) in error["message"]


def test_it_keeps_orders_in_the_dead_letter_queue_and_ends_well(cloud: DeadLetterQueue) -> None:
    with serve(changes={"CLOUD_TASKS_EMULATOR_HOST": cloud.grpc}) as server:
        assert server.post(b"{}", DELIVERED) == (200, {"status": "dead-lettered", "orderId": None})
        assert server.post(ORDER, LAST) == DONE
        lines = server.end()
    assert cloud.names == ["CreateTask", "CreateTask", "DeleteTask", "DeleteTask"]
    assert cloud.entry.http_request.body == b"{}"
    assert [line["message"] for line in lines[:3]] == [
        "Missing orderId or action",
        "Last attempt",
        "Stock for ORD-1 updated (simulated)",
    ]


def test_a_database_that_is_away_does_not_keep_it_from_starting() -> None:
    with serve(changes={"DATABASE_URL": "postgresql://shop:geheim@127.0.0.1:1/shop"}) as server:
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
    shown = run(changes, "-c", f"{script}; print(*sys.modules)")
    assert set(shown.stdout.split()).isdisjoint(absent)
