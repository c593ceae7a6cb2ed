"""The dispatcher against a real server: what leaves, and what cannot. What answers come to is in test_attempts.py."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.cloud.tasks_v2 import types

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.dispatch import Dispatcher
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import CallError, Message, QueueMessage
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from local.faults import Faults
from local.identity import Identity
from tests.local.cloud_tasks.serving import ACCOUNT, KEY, LOCATION, PROJECT

QUEUE = f"{LOCATION}/queues/q"
TASK = f"{QUEUE}/tasks/t"


class Sender(Listener):
    """A queue that sends to a server, which takes the request, or answers at once, and closes the connection."""

    url: str

    def __init__(self, folder: Path) -> None:
        self.ahead = 0.0
        """By how many seconds the clock is set forward."""
        self.reads = True
        """Whether the server reads the request before it answers."""
        self.received: list[bytes] = []
        self.ended = asyncio.Event()
        self.store = Store(folder / "state.sqlite")
        identity = Identity("http://issuer.example", PROJECT, [ACCOUNT], KEY, self.clock)
        self.dispatcher = Dispatcher(identity, self.clock, Faults(None, folder / "faults.jsonl"))
        listeners = [self.dispatcher, self]
        self.tasks = CloudTasks(self.store, self.clock, lambda *_: True, listeners, time.monotonic)
        self.tasks.queues.declare(QueueMessage(name=QUEUE), ())
        self.dispatcher.start(self.tasks)

    def clock(self) -> float:
        return time.time() + self.ahead

    def task_changed(self, event: Event, _: Message) -> None:
        if event is not Event.CREATED:
            self.ended.set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.reads:
            self.received.append(await reader.readuntil(b"{}"))
        writer.write(b"HTTP/1.1 202 Accepted\r\n\r\n")
        writer.close()

    def create(self, schedule_time: dict[str, int] | None = None, **http: Any) -> None:  # noqa: ANN401 - any field
        task = {"name": TASK, "http_request": {"url": self.url, "body": b"{}", **http}, "schedule_time": schedule_time}
        self.tasks.create_task(types.CreateTaskRequest.pb()(parent=QUEUE, task=task))

    async def deliver(self, **http: Any) -> types.Task | None:  # noqa: ANN401 - any field
        """Create a task and wait until its first attempt has ended; the task as it is then, None if it is done."""
        self.create(**http)
        await asyncio.wait_for(self.ended.wait(), 30)
        try:
            return types.Task(self.tasks.get_task(types.GetTaskRequest.pb()(name=TASK)))
        except CallError:
            return None


@pytest_asyncio.fixture
async def sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sender]:
    monkeypatch.setattr("local.cloud_tasks.dispatch._LONGEST_TIMER", 0.02)
    sender = Sender(tmp_path)
    async with await asyncio.start_server(sender.answer, "127.0.0.1", 0) as server:
        sender.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield sender
        await sender.dispatcher.stop(grace=0)
    sender.store.close()


async def test_only_the_tasks_own_headers_and_those_of_cloud_tasks_leave(sender: Sender) -> None:
    reserved = {"Transfer-Encoding": "chunked", "Expect": "100-continue", "Trailer": "X", "x-cloudtasks-taskname": "x"}
    assert await sender.deliver(http_method="PUT", headers={"X-Own": "1", **reserved}, body=b"\x00\xff{}") is None
    head, _, body = sender.received[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    assert (first, body) == ("PUT / HTTP/1.1", b"\x00\xff{}")
    assert {name for name in headers if not name.startswith("X-CloudTasks-")} == {
        *("Host", "User-Agent", "X-Own", "Content-Length", "Connection")
    }
    assert headers["User-Agent"] == "Google-Cloud-Tasks"


async def test_an_account_that_is_no_longer_declared_fails_the_attempt(sender: Sender) -> None:
    task = await sender.deliver(oidc_token={"service_account_email": f"gone@{PROJECT}.iam.gserviceaccount.com"})
    assert task
    assert task.last_attempt.response_status.message == "PERMISSION_DENIED(7): HTTP status code 403"
    assert sender.received == []


async def test_an_answer_that_comes_before_the_request_was_read_counts(sender: Sender) -> None:
    sender.reads = False
    assert await sender.deliver(body=b"x" * 900_000) is None


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999", "http://[::1", "http://\x00/", "https://127.0.0.1:1/", "http://h..h/"]
)
async def test_a_request_that_cannot_be_sent_is_a_failed_attempt(sender: Sender, url: str) -> None:
    """The service takes none of these URLs, so no task has one."""
    status, reason = await sender.dispatcher._request(Attempt(QUEUE, "t", 1, "POST", url, {}, b"", "", "", "", 5))
    assert (status, bool(reason)) == (0, True)


async def test_a_task_that_a_clock_set_forward_makes_due_is_sent(sender: Sender) -> None:
    sender.create(schedule_time={"seconds": int(time.time()) + 3600})
    await asyncio.sleep(0.1)
    assert not sender.ended.is_set()
    sender.ahead = 7200.0
    await asyncio.wait_for(sender.ended.wait(), 30)
