"""The dispatcher against a real HTTP server: what leaves, and what each answer comes to."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from google.cloud.tasks_v2 import types

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.dispatch import Dispatcher
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import Message, QueueMessage
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from local.faults import Faults
from local.identity import Identity, new_key

QUEUE = "projects/shop/locations/us-central1/queues/q"
INVOKER = "cloud-tasks-invoker@shop.iam.gserviceaccount.com"
KEY = new_key()


class HastyDispatcher(Dispatcher):
    """Waits only 0.05 s for the answers to runs that RunTask asked for: the service's least deadline is 15 s."""

    def run_requested(self, attempt: Attempt) -> None:
        super().run_requested(dataclasses.replace(attempt, deadline=0.05))

    async def request(self, url: str) -> tuple[int, str]:
        """Send a request to a URL that no task could have."""
        return await self._request(Attempt(QUEUE, "t", 1, "POST", url, {}, b"", "", "", "", 5))


class Target(Listener):
    """A server that records what reaches it, and the queue that sends to it."""

    tasks: CloudTasks
    dispatcher: HastyDispatcher

    def __init__(self, url: str, received: list[tuple[str, str, dict[str, str], bytes]]) -> None:
        self.url = url
        self.received = received
        self._ended = asyncio.Event()
        self.attempts: list[Attempt] = []
        """Those that RunTask began."""

    def run_requested(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def task_changed(self, event: Event, _: Message) -> None:
        if event is not Event.CREATED:
            self._ended.set()

    def has_ended(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> None:
        """Wait until an attempt has ended."""
        await asyncio.wait_for(self._ended.wait(), 30)

    async def deliver(self, path: str, task_id: str = "t", **http: Any) -> types.Task:  # noqa: ANN401 - any field
        """Create a task for this path and wait until its first attempt has ended; the task as it is then."""
        self._ended.clear()
        name = f"{QUEUE}/tasks/{task_id}"
        request = {"url": self.url + path, "body": b"{}", **http}
        call = types.CreateTaskRequest(parent=QUEUE, task={"name": name, "http_request": request})
        self.tasks.create_task(types.CreateTaskRequest.pb(call))
        await self.wait()
        try:
            return types.Task(self.tasks.get_task(types.GetTaskRequest.pb()(name=name)))
        except Exception:
            return types.Task()


@pytest_asyncio.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    received: list[tuple[str, str, dict[str, str], bytes]] = []
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        received.append((request.method, request.path, dict(request.headers), await request.read()))
        if request.path == "/late":
            await over.wait()
        return web.Response()

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    store = Store(tmp_path / "state.sqlite")
    identity = Identity("http://issuer.example", "shop", [INVOKER], KEY, time.time)
    dispatcher = HastyDispatcher(identity, time.time, Faults(None, tmp_path / "faults.jsonl"))
    target = Target(url, received)
    target.tasks = CloudTasks(store, time.time, lambda *_: True, [dispatcher, target])
    target.tasks.queues.declare(QueueMessage(name=QUEUE), ())
    target.dispatcher = dispatcher
    dispatcher.start(target.tasks)
    yield target
    await dispatcher.stop(grace=0)
    over.set()
    await runner.cleanup()
    store.close()


async def test_only_the_tasks_own_headers_and_those_of_cloud_tasks_leave(target: Target) -> None:
    reserved = {"Transfer-Encoding": "chunked", "Expect": "100-continue", "Trailer": "X", "x-cloudtasks-taskname": "x"}
    await target.deliver("/200", http_method="PUT", headers={"X-Own": "1", **reserved}, body=b"\x00\xff")
    [(method, _, headers, body)] = target.received
    assert (method, body) == ("PUT", b"\x00\xff")
    assert {name for name in headers if not name.startswith("X-CloudTasks-")} == {
        *("Host", "User-Agent", "X-Own", "Content-Length", "Connection")
    }
    assert headers["User-Agent"] == "Google-Cloud-Tasks"


async def test_an_account_that_is_no_longer_declared_fails_the_attempt(target: Target) -> None:
    task = await target.deliver("/200", oidc_token={"service_account_email": "gone@shop.iam.gserviceaccount.com"})
    assert task.last_attempt.response_status.message == "PERMISSION_DENIED(7): HTTP status code 403"
    assert target.received == []


async def test_no_connection_is_a_failure(target: Target) -> None:
    task = await target.deliver("/200", url="http://127.0.0.1:1/")
    assert task.last_attempt.response_status.message == "UNKNOWN(2): HTTP status code 0"


async def test_no_answer_within_the_deadline_is_a_504(target: Target) -> None:
    target.tasks.queues.pause_queue(types.PauseQueueRequest.pb()(name=QUEUE))
    delivery = asyncio.create_task(target.deliver("/late"))
    await asyncio.sleep(0)  # until it has created the task
    target.tasks.run_task(types.RunTaskRequest.pb()(name=f"{QUEUE}/tasks/t"))
    task = await delivery
    assert task.last_attempt.response_status.message == "DEADLINE_EXCEEDED(4): HTTP status code 504"


async def raw(answer: bytes, *, reads: bool = True) -> tuple[asyncio.Server, str]:
    """A server that answers each request with these bytes and closes, and its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reads:
            await reader.readuntil(b"{}")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\r\n",
        b"\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        b"\r\n" + b"X-Many: x\r\n" * 5000 + b"\r\n",
        b"\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nxyz",
        b"\r\nContent-Length: 100\r\n\r\nshort",
        b"\r\nContent-Length: many\r\n\r\n",
        b"\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nzz\r\n",
        b"\r\nno header at all\r\n\xff\x00: \x01\r\n\r\n",
        b"\r\nSet-Cookie: \xff\r\nLocation: http://\xff\r\n\r\n",
    ],
)
async def test_a_2xx_status_ends_the_task_whatever_follows_it(target: Target, rest: bytes) -> None:
    server, url = await raw(b"HTTP/1.1 200 OK" + rest)
    async with server:
        assert (await target.deliver("/", url=url)).name == ""


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"])
async def test_an_interim_answer_is_not_the_status(target: Target, interim: bytes) -> None:
    server, url = await raw(interim + b"HTTP/1.0 204 \r\n\r\n")
    async with server:
        assert (await target.deliver("/", url=url)).name == ""


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP", b"HTTP/1.1 \r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\x16\x03\x01" * 50, b"x" * 2_000_000]
)
async def test_what_is_no_http_answer_has_no_status_and_is_not_told_to_the_next_attempt(
    target: Target, answer: bytes
) -> None:
    server, url = await raw(answer)
    async with server:
        task = await target.deliver("/", url=url)
    assert task.last_attempt.response_status.message == "UNKNOWN(2): HTTP status code 0"
    assert task.response_count == 0
    target.tasks.queues.pause_queue(types.PauseQueueRequest.pb()(name=QUEUE))
    target.attempts.clear()
    target.tasks.run_task(types.RunTaskRequest.pb()(name=f"{QUEUE}/tasks/t"))
    assert not any("Previous" in name for name in target.attempts[0].headers)


async def test_each_attempt_reaches_a_target_that_closes_after_each_answer(target: Target) -> None:
    server, url = await raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with server:
        for number in range(50):
            assert (await target.deliver("/", task_id=f"t{number}", url=url)).name == ""


async def test_an_answer_that_comes_before_the_request_was_read_counts(target: Target) -> None:
    server, url = await raw(b"HTTP/1.1 202 Accepted\r\n\r\n", reads=False)
    async with server:
        assert (await target.deliver("/", url=url, body=b"x" * 900_000)).name == ""


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999", "http://[::1", "http://\x00/", "https://127.0.0.1:1/", "http://h..h/"]
)
async def test_a_request_that_cannot_be_sent_is_a_failed_attempt(target: Target, url: str) -> None:
    status, reason = await target.dispatcher.request(url)
    assert (status, bool(reason)) == (0, True)


async def test_a_task_that_a_clock_set_forward_makes_due_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.cloud_tasks.dispatch._LONGEST_TIMER", 0.02)
    ahead = 0.0

    def clock() -> float:
        return time.time() + ahead

    server, url = await raw(b"HTTP/1.1 200 OK\r\n\r\n")
    with contextlib.closing(Store(tmp_path / "state.sqlite")) as store:
        identity = Identity("http://issuer.example", "shop", [INVOKER], KEY, clock)
        dispatcher = Dispatcher(identity, clock, Faults(None, tmp_path / "faults.jsonl"))
        target = Target(url, [])
        target.tasks = CloudTasks(store, clock, lambda *_: True, [dispatcher, target], time.monotonic)
        target.tasks.queues.declare(QueueMessage(name=QUEUE), ())
        dispatcher.start(target.tasks)
        http = {"url": url, "body": b"{}"}
        task = {"http_request": http, "schedule_time": {"seconds": int(clock()) + 3600}}
        target.tasks.create_task(types.CreateTaskRequest.pb()(parent=QUEUE, task=task))
        await asyncio.sleep(0.1)
        assert not target.has_ended()
        ahead = 7200.0
        await target.wait()
        await dispatcher.stop()
    server.close()
