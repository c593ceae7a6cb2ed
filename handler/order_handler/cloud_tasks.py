"""The calls of Cloud Tasks that dead letters and the relay need, through the official client.

Owns channel, timeouts and what each answer means. No call is retried: whoever delivers the order repeats all of it.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Self

import google.auth
import grpc.aio
from google.api_core.exceptions import (
    AlreadyExists,
    DeadlineExceeded,
    Forbidden,
    GoogleAPICallError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceUnavailable,
    Unauthenticated,
)
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcAsyncIOTransport

from order_handler.dead_letters import Entry, Outcome, Stored
from order_handler.errors import BlockedError, PermanentError

CALL_SECONDS = 5.0

# Both queues send their tasks to the service's address instead.
_URL = "https://handler.invalid/process-order"
# The permissions, the queue, the quota or the service itself: the next row would fare no better.
_BLOCKING = (Forbidden, Unauthenticated, NotFound, ResourceExhausted, ServiceUnavailable, DeadlineExceeded)
_EMULATOR_CHANNEL = [
    # A proxy cannot reach a local cloud.
    ("grpc.enable_http_proxy", 0),
    # A local cloud that restarts is back within a second.
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class CloudTasks:
    def __init__(self, client: tasks_v2.CloudTasksAsyncClient) -> None:
        self._client = client

    @classmethod
    async def open(cls, emulator_host: str | None) -> Self:
        if emulator_host:
            channel = grpc.aio.insecure_channel(emulator_host, options=_EMULATOR_CHANNEL)
            transport = CloudTasksGrpcAsyncIOTransport(channel=channel)
            return cls(tasks_v2.CloudTasksAsyncClient(transport=transport))
        # In a thread, because it blocks while it asks the metadata server.
        credentials, _ = await asyncio.to_thread(google.auth.default)
        return cls(tasks_v2.CloudTasksAsyncClient(credentials=credentials))

    async def create(self, entry: Entry) -> Stored:
        """Stores a dead letter."""
        try:
            await self._create(entry.name, entry.body, entry.headers, entry.due, dispatch_deadline=entry.deadline)
        except AlreadyExists:
            return Stored(Outcome.EXISTS)
        except InvalidArgument as error:
            return Stored(Outcome.INVALID, str(error))
        except GoogleAPICallError as error:
            return Stored(Outcome.UNKNOWN, str(error))
        return Stored(Outcome.STORED)

    async def find(self, name: str) -> Stored:
        """Tells a live entry from one that was deleted within a day: both make CreateTask answer ALREADY_EXISTS."""
        try:
            await self._client.get_task(name=name, retry=None, timeout=CALL_SECONDS)
        except NotFound as error:
            return Stored(Outcome.BLOCKED, str(error))
        except GoogleAPICallError as error:
            return Stored(Outcome.UNKNOWN, str(error))
        return Stored(Outcome.LIVE)

    async def delete(self, name: str) -> str | None:
        """Returns why the entry may still be there, or None."""
        try:
            await self._client.delete_task(name=name, retry=None, timeout=CALL_SECONDS)
        except NotFound:
            return None
        except GoogleAPICallError as error:
            return str(error)
        return None

    async def send(self, name: str, body: bytes, headers: Mapping[str, str], due: datetime | None) -> None:
        """Creates the task of this name, unless it was created before.

        PermanentError if it can never be created, BlockedError if no task can be created now; any other exception if
        this one may be created later.
        """
        try:
            await self._create(name, body, headers, due)
        except AlreadyExists:
            return
        except InvalidArgument as error:
            raise PermanentError(str(error)) from error
        except _BLOCKING as error:
            raise BlockedError(str(error)) from error

    async def close(self) -> None:
        await self._client.transport.close()  # type: ignore[no-untyped-call]

    async def _create(
        self, name: str, body: bytes, headers: Mapping[str, str], due: datetime | None, **more: timedelta
    ) -> None:
        request = tasks_v2.HttpRequest(url=_URL, http_method=tasks_v2.HttpMethod.POST, headers=headers, body=body)
        task = tasks_v2.Task(name=name, http_request=request, schedule_time=due, **more)
        queue = name.rpartition("/tasks/")[0]
        await self._client.create_task(parent=queue, task=task, retry=None, timeout=CALL_SECONDS)
