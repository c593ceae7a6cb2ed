"""Google's side of a simulation: Cloud Tasks, whose own logic runs here, and the official client that reaches it."""

import asyncio
import collections
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.api_core import exceptions
from google.cloud import tasks_v2
from google.protobuf import json_format

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.dispatch import Dispatcher
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import CallError, Message, QueueMessage
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from local.simulate.world import NoAnswerError, World

_QUEUE = "projects/shop/locations/us-central1/queues/tasks"
DEAD_LETTERS = "-dead-letters"
"""How the name of a dead-letter queue ends."""
Deliver = Callable[[Attempt], Awaitable[int]]
"""Delivers an attempt and returns the HTTP status; 0: no answer."""


class Service(Listener):
    """Cloud Tasks. What its store holds survives a restart."""

    def __init__(self, world: World, figures: Mapping[str, Any], deliver: Deliver) -> None:
        """`figures`: of the main queue, in JSON."""
        self.bodies: dict[str, bytes] = {}
        """The body of each task that was ever created, by its name."""
        self.problems: list[str] = []
        self.queues = [_QUEUE]
        """The main queues, of which the last is in use."""
        self._world = world
        self._figures = figures
        self._deliver = deliver
        self._store = Store(Path(":memory:"))

    def start(self) -> None:
        self._dispatcher = _Dispatcher(self._world, self._deliver, self._figures, self.problems)
        self.tasks = CloudTasks(
            self._store,
            self._world.service_now,
            lambda *_: True,
            (self, self._dispatcher),
            lambda: self._world.loop.now,
        )
        for queue in self.queues:
            self._declare(queue)
        self._dispatcher.start(self.tasks)

    def _declare(self, queue: str) -> None:
        unlimited = {"maxAttempts": -1, "minBackoff": "3600s", "maxBackoff": "86400s", "maxDoublings": 5}
        limits = {"maxDispatchesPerSecond": 5, "maxConcurrentDispatches": 2}
        for path, fields in (
            (queue, self._figures),
            (dead_letters(queue), {"state": "PAUSED", "retryConfig": unlimited, "rateLimits": limits}),
        ):
            self.tasks.queues.declare(json_format.ParseDict({"name": path, **fields}, QueueMessage()), ())

    def rename(self) -> None:
        """Puts two new queues into use. The old ones go on with their tasks."""
        self._limit_pages()
        self.queues.append(f"{_QUEUE}-{len(self.queues) + 1}")
        self._declare(self.queues[-1])

    def fill(self, seconds: float) -> None:
        """Fills the disk of the store, until somebody does something to a queue, or for some seconds."""
        self._limit_pages(1)
        self._world.loop.outside(seconds, self._limit_pages)

    def _limit_pages(self, pages: int = 2**31 - 2) -> None:
        self._store._db.execute(f"PRAGMA max_page_count = {pages}")

    def restart(self) -> None:
        """Dies, and starts again with what it has stored."""
        self._world.note("Cloud Tasks restarts")
        self._limit_pages()
        self._dispatcher.die()
        self.start()

    def close(self) -> None:
        self._dispatcher.die()
        self._store.close()

    def task_changed(self, event: Event, task: Message) -> None:
        name = task.name.rpartition("/")[2]
        if event is Event.CREATED:
            body = task.http_request.body
            if self.bodies.setdefault(task.name, body) != body:
                self.problems.append(f"the name {task.name} is used for two messages")
            self._world.note(f"Cloud Tasks: {_queue(task.name)} has {name[:60]} {body.decode(errors='replace')}")
        elif event is Event.GONE:
            self.problems.append(f"Cloud Tasks gave up {name}")

    def listed(self, queue: str) -> list[Message]:
        """The tasks of a queue, with their bodies."""
        request = tasks_v2.ListTasksRequest(parent=queue, response_view=tasks_v2.Task.View.FULL)
        return list(self.tasks.list_tasks(tasks_v2.ListTasksRequest.pb(request)).tasks)

    def waiting(self) -> list[str]:
        """The names of the tasks in the main queues."""
        return [task.name for queue in self.queues for task in self.listed(queue)]

    def dead_letters(self) -> list[Message]:
        return [task for queue in self.queues for task in self.listed(dead_letters(queue))]

    def is_paused(self, queue: str) -> bool:
        return self.tasks.queues[queue].schedule.paused

    def pause(self, queue: str) -> None:
        self._limit_pages()
        self.perform("pause_queue", tasks_v2.PauseQueueRequest.pb(tasks_v2.PauseQueueRequest(name=queue)))

    def resume(self, queue: str) -> None:
        self._limit_pages()
        self.perform("resume_queue", tasks_v2.ResumeQueueRequest.pb(tasks_v2.ResumeQueueRequest(name=queue)))

    def perform(self, method: str, request: Message) -> Message:
        """What the service answers. Raises an exception of the official client."""
        owner = self.tasks if hasattr(self.tasks, method) else self.tasks.queues
        try:
            response = getattr(owner, method)(request)
        except CallError as error:
            raise exceptions.from_grpc_status(grpc.StatusCode[error.code], error.message) from None  # type: ignore[no-untyped-call]
        except sqlite3.Error as error:
            raise exceptions.InternalServerError(str(error)) from None  # type: ignore[no-untyped-call]
        if method in ("delete_task", "run_task", "pause_queue", "resume_queue"):
            self._world.note(f"Cloud Tasks: {method} {request.name.rpartition('/')[2][:60]}")
        return response


class _Dispatcher(Dispatcher):
    """Cloud Tasks' sender. Measures the queue's rate and concurrency as it sends."""

    def __init__(self, world: World, deliver: Deliver, figures: Mapping[str, Any], problems: list[str]) -> None:
        super().__init__(None, world.service_now, None)  # type: ignore[arg-type]  # tasks without a token need neither
        self._world = world
        self._forward = deliver
        self._limits = figures["rateLimits"]
        self._problems = problems
        self._level: dict[str, float] = collections.defaultdict(float)
        self._out: dict[str, int] = collections.defaultdict(int)
        """How much of its burst each queue has used, and its attempts that are under way."""
        self._at: dict[str, float] = {}

    def die(self) -> None:
        """Sends nothing more, and hears no answer."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        for delivery in self._under_way:
            delivery.cancel()

    async def _deliver(self, attempt: Attempt) -> None:
        measured = not attempt.queue.endswith(DEAD_LETTERS) and not attempt.forced
        if measured:
            self._measure(attempt.queue)
        self._world.note(f"Cloud Tasks sends {_queue(attempt.queue)} {attempt.task[:60]}, attempt {attempt.number}")
        try:
            async with asyncio.timeout(attempt.deadline):
                status = await self._forward(attempt)
        except TimeoutError:
            status = 504
        finally:
            self._out[attempt.queue] -= measured
        self._world.note(f"Cloud Tasks hears {status} of {_queue(attempt.queue)} {attempt.task[:60]}")
        await self._end(attempt, status)

    def _measure(self, queue: str) -> None:
        rate, now = self._limits["maxDispatchesPerSecond"], self._world.loop.now
        self._out[queue] += 1
        self._level[queue] = max(0.0, self._level[queue] - rate * (now - self._at.get(queue, now))) + 1
        self._at[queue] = now
        if self._level[queue] > max(10, int(rate / 5)) + 1e-3:
            self._problems.append(f"the queue exceeded its rate at {now:.3f} s")
        if self._out[queue] > self._limits["maxConcurrentDispatches"]:
            self._problems.append(f"the queue exceeded its concurrency at {now:.3f} s")


class Client:
    """The official asyncio client as a process sees it: a call is a message there and one back."""

    def __init__(self, world: World, service: Callable[[], Service]) -> None:
        self._world = world
        self._service = service
        self.transport = self

    async def close(self) -> None:
        """Nothing is open."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        noun = "".join(word.title() for word in method.split("_"))
        request_type, wrap = getattr(tasks_v2, f"{noun}Request"), _WRAPS.get(method)

        async def once(request: Any, timeout: float) -> Any:  # noqa: ANN401, ASYNC109 - the official client's name
            try:
                serve = partial(self._service().perform, method, request)
                response = await self._world.call("cloud tasks", serve, timeout)
            except NoAnswerError as error:
                kind = exceptions.DeadlineExceeded if "within" in str(error) else exceptions.ServiceUnavailable
                raise kind(str(error)) from None
            return wrap.wrap(response) if wrap else response

        async def call(request: Any = None, *, retry: Any = None, timeout: Any = 60.0, **fields: Any) -> Any:  # noqa: ANN401, ASYNC109
            ready = partial(once, request_type.pb(request_type(request, **fields)))
            limited = timeout(ready) if callable(timeout) else partial(ready, timeout=timeout)
            return await (retry(limited)() if retry else limited())

        return call


_WRAPS: Mapping[str, Any] = {"get_task": tasks_v2.Task, "list_tasks": tasks_v2.ListTasksResponse}


def dead_letters(queue: str) -> str:
    return queue + DEAD_LETTERS


def _queue(path: str) -> str:
    return "dead letter" if f"{DEAD_LETTERS}/" in f"{path}/" else "task"
