"""Cloud Tasks in memory, for the tests of a web app.

While it is active, every client of this package uses it: the functions, `OrderTasks`, `AsyncOrderTasks` and `publish`.
They check orders, name tasks and retry as always. Only the connection is replaced, so a test needs no network.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self
from unittest.mock import patch

from google.api_core import exceptions
from google.cloud import tasks_v2

from order_tasks import connection, default

QUEUE = "projects/test/locations/test/queues/test"
"""The value of ORDER_TASKS_QUEUE while it is active. Other variables of `Config` are not set."""


@dataclass(frozen=True, slots=True)
class CreatedTask:
    """A task that was created."""

    name: str
    """The task's full name."""
    action: str
    fields: Mapping[str, Any]
    """The message, `action` and `key` included."""
    time: datetime
    """When it was created."""
    due: datetime | None
    """When it is to be delivered. None: at once."""
    headers: Mapping[str, str]


class InMemoryCloudTasks:
    """Records the tasks that are created. Active while it is used as a context manager."""

    created: list[CreatedTask]
    """In the order of creation. The tasks of one order are created concurrently, so their order varies."""

    def __init__(self) -> None:
        self.created = []
        self._names: set[str] = set()
        self._refusals: list[_Refusal] = []
        self._lock = threading.Lock()
        self._active = ExitStack()

    def refuse(
        self, error: Exception, *, action: str | None = None, times: int | None = None, stored: bool = False
    ) -> None:
        """Answer the next attempts with this error of `google.api_core.exceptions`.

        `action`: only attempts to create tasks of this action. `times`: so many attempts; None: all. `stored`: create
        the task all the same, as if only the answer were lost. The clients retry transient errors without waiting.
        """
        self._refusals.append(_Refusal(error, action, times, stored))

    def __enter__(self) -> Self:
        variables = {name: text for name, text in os.environ.items() if not name.startswith("ORDER_TASKS_")}
        variables.pop("CLOUD_TASKS_EMULATOR_HOST", None)
        enter = self._active.enter_context
        enter(patch.dict(os.environ, {**variables, "ORDER_TASKS_QUEUE": QUEUE}, clear=True))
        enter(patch.object(connection, "connect", lambda config: _Api(self)))
        enter(patch.object(connection, "connect_async", lambda config: _AsyncApi(self)))
        enter(patch.object(default, "_client", None))
        enter(patch.object(default, "_async_clients", {}))
        return self

    def __exit__(self, *_: object) -> None:
        self._active.close()

    def create(self, request: tasks_v2.CreateTaskRequest) -> tasks_v2.Task:
        """What CreateTask answers, after the retries of the client."""
        message = json.loads(request.task.http_request.body)
        with self._lock:
            while (refusal := self._next_refusal(message["action"])) is not None:
                if refusal.stored and request.task.name not in self._names:
                    self._store(request.task, message)
                if not connection.is_transient(refusal.error):
                    raise refusal.error
                if refusal.times is None:
                    raise exceptions.RetryError("Timeout exceeded", refusal.error)  # type: ignore[no-untyped-call]
            if request.task.name in self._names:
                raise exceptions.AlreadyExists("Requested entity already exists")  # type: ignore[no-untyped-call]
            return self._store(request.task, message)

    def _next_refusal(self, action: str) -> "_Refusal | None":
        for refusal in self._refusals:
            if refusal.action in (None, action) and refusal.times != 0:
                if refusal.times is not None:
                    refusal.times -= 1
                return refusal
        return None

    def _store(self, task: tasks_v2.Task, message: Mapping[str, Any]) -> tasks_v2.Task:
        due = task.schedule_time if isinstance(task.schedule_time, datetime) else None
        headers = dict(task.http_request.headers)
        self.created.append(CreatedTask(task.name, message["action"], message, datetime.now(UTC), due, headers))
        self._names.add(task.name)
        return task


@dataclass(slots=True)
class _Refusal:
    error: Exception
    action: str | None
    times: int | None
    stored: bool


class _Api:
    """The part of the official blocking client that this package uses."""

    def __init__(self, cloud_tasks: InMemoryCloudTasks) -> None:
        self._cloud_tasks = cloud_tasks
        self.transport = self

    def create_task(self, request: tasks_v2.CreateTaskRequest, **_: object) -> tasks_v2.Task:
        return self._cloud_tasks.create(request)

    def close(self) -> None:
        """Nothing is open."""


class _AsyncApi:
    """The same part of the official asyncio client."""

    def __init__(self, cloud_tasks: InMemoryCloudTasks) -> None:
        self._cloud_tasks = cloud_tasks
        self.transport = self

    async def create_task(self, request: tasks_v2.CreateTaskRequest, **_: object) -> tasks_v2.Task:
        return self._cloud_tasks.create(request)

    async def close(self) -> None:
        """Nothing is open."""


try:
    import pytest
except ImportError:  # unittest uses the context manager
    pass
else:

    @pytest.fixture
    def cloud_tasks() -> Iterator[InMemoryCloudTasks]:
        """Cloud Tasks in memory, for one test."""
        with InMemoryCloudTasks() as cloud_tasks:
            yield cloud_tasks
