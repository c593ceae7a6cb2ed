"""The dispatcher against a real HTTP server: what leaves, and what each answer comes to."""

import asyncio
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


class Target(Listener):
    """A server that records what reaches it, and the queue that sends to it."""

    tasks: CloudTasks

    def __init__(self, url: str, received: list[tuple[str, str, dict[str, str], bytes]]) -> None:
        self.url = url
        self.received = received
        self._ended = asyncio.Event()

    def task_changed(self, event: Event, _: Message) -> None:
        if event is not Event.CREATED:
            self._ended.set()

    async def deliver(self, path: str, **http: Any) -> types.Task:  # noqa: ANN401 - any field of the request
        """Create a task for this path and wait until its first attempt has ended; the task as it is then."""
        name = f"{QUEUE}/tasks/t"
        request = {"url": self.url + path, "body": b"{}", **http}
        call = types.CreateTaskRequest(parent=QUEUE, task={"name": name, "http_request": request})
        self.tasks.create_task(types.CreateTaskRequest.pb(call))
        await asyncio.wait_for(self._ended.wait(), 30)
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
        match request.path:
            case "/moved":
                return web.Response(status=302, headers={"Location": "/here"})
            case "/lost":
                return web.Response(status=302)
            case "/late":
                await over.wait()
                return web.Response()
            case "/here":
                return web.Response()
        return web.Response(status=int(request.path[1:]))

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    store = Store(tmp_path / "state.sqlite")
    identity = Identity("http://issuer.example", "shop", [INVOKER], KEY, time.time)
    dispatcher = HastyDispatcher(identity, time.time, Faults(None, tmp_path / "faults.jsonl"), lambda: None)
    target = Target(url, received)
    target.tasks = CloudTasks(store, time.time, lambda *_: True, [dispatcher, target])
    target.tasks.queues.declare(QueueMessage(name=QUEUE), ())
    dispatcher.start(target.tasks)
    yield target
    await dispatcher.stop(grace=0)
    over.set()
    await runner.cleanup()
    store.close()


@pytest.mark.parametrize("status", [200, 204, 299])
async def test_an_answer_from_200_to_299_ends_the_task(target: Target, status: int) -> None:
    assert (await target.deliver(f"/{status}")).name == ""


@pytest.mark.parametrize(
    ("path", "status"), [("/400", 400), ("/404", 404), ("/429", 429), ("/500", 500), ("/503", 503), ("/lost", 302)]
)
async def test_any_other_answer_is_a_failure(target: Target, path: str, status: int) -> None:
    task = await target.deliver(path)
    assert task.last_attempt.response_status.message.endswith(f"HTTP status code {status}")


async def test_a_redirect_is_followed_as_a_get_within_the_same_attempt(target: Target) -> None:
    assert (await target.deliver("/moved")).name == ""
    assert [(method, path) for method, path, _, _ in target.received] == [("POST", "/moved"), ("GET", "/here")]


async def test_only_the_tasks_own_headers_and_those_of_cloud_tasks_leave(target: Target) -> None:
    await target.deliver("/200", http_method="PUT", headers={"X-Own": "1"}, body=b"\x00\xff")
    [(method, _, headers, body)] = target.received
    assert (method, body) == ("PUT", b"\x00\xff")
    assert {name for name in headers if not name.startswith("X-CloudTasks-")} == {
        *("Host", "User-Agent", "X-Own", "Content-Length", "Connection")
    }
    assert headers["User-Agent"] == "Google-Cloud-Tasks"


async def test_a_task_with_an_account_leaves_with_its_token(target: Target) -> None:
    await target.deliver("/200", oidc_token={"service_account_email": INVOKER, "audience": target.url})
    [(_, _, headers, _)] = target.received
    identity = Identity("http://issuer.example", "shop", [INVOKER], KEY, time.time)
    assert identity.email(headers["Authorization"].removeprefix("Bearer "), target.url) == INVOKER


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
