"""The three calls of Cloud Tasks that dead letters need, through the official client.

Owns channel, timeouts and what each answer means. No call is retried: whoever delivers the order repeats all of it.
"""

import asyncio
from typing import Self

import google.auth
import grpc.aio
from google.api_core.exceptions import AlreadyExists, GoogleAPICallError, NotFound
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcAsyncIOTransport

from order_handler.dead_letters import Entry, Outcome, Stored

CALL_SECONDS = 5.0

# The dead-letter queue sends its tasks to the service's address instead.
_URL = "https://dead-letter.invalid/process-order"
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
        request = tasks_v2.HttpRequest(
            url=_URL, http_method=tasks_v2.HttpMethod.POST, headers=entry.headers, body=entry.body
        )
        task = tasks_v2.Task(
            name=entry.name, http_request=request, schedule_time=entry.due, dispatch_deadline=entry.deadline
        )
        queue = entry.name.partition("/tasks/")[0]
        try:
            await self._client.create_task(parent=queue, task=task, retry=None, timeout=CALL_SECONDS)
        except AlreadyExists:
            return await self._find(entry.name)
        except GoogleAPICallError as error:
            return Stored(Outcome.NOT_STORED, str(error))
        return Stored(Outcome.STORED)

    async def delete(self, name: str) -> str | None:
        """Returns why the entry may still be there, or None."""
        try:
            await self._client.delete_task(name=name, retry=None, timeout=CALL_SECONDS)
        except NotFound:
            return None
        except GoogleAPICallError as error:
            return str(error)
        return None

    async def close(self) -> None:
        await self._client.transport.close()  # type: ignore[no-untyped-call]

    async def _find(self, name: str) -> Stored:
        """Tells a live entry from one that was deleted within a day: both make CreateTask answer ALREADY_EXISTS."""
        try:
            await self._client.get_task(name=name, retry=None, timeout=CALL_SECONDS)
        except GoogleAPICallError as error:
            return Stored(Outcome.NOT_STORED, str(error))
        return Stored(Outcome.LIVE)
