"""Batches of tasks: one call for many, answered with an operation that lists what failed.

An operation is done when it is answered, and is stored. A request_id names it and can be used once.
"""

import functools
import random
import re
from collections.abc import Callable, Iterable
from typing import Any

from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.rpc import code_pb2

from local.cloud_tasks.messages import NOT_FOUND, CallError, Message, invalid, microseconds
from local.cloud_tasks.names import check_task_in_queue, split_task
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks

MAX_CREATES, MAX_DELETES = 100, 1000

UNREGISTERED = (
    "Method doesn't allow unregistered callers (callers without established identity). "
    "Please use API Key or other form of API consumer identity to call this API."
)
_SINGLE_TEXTS = {"Task.payload_type is not set.": "Payload type must be set."}
"""Errors of CreateTask that read otherwise in a batch."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Batches:
    """The batch calls of a service, and their operations."""

    def __init__(self, cloud_tasks: CloudTasks, store: Store, clock: Callable[[], float]) -> None:
        self._cloud_tasks = cloud_tasks
        self._store = store
        self._clock = clock

    def batch_create_tasks(self, request: Message) -> Message:
        queue, size = request.parent, len(request.requests)
        if not size:
            raise invalid("Request must contain at least one task.")
        if size > MAX_CREATES:
            raise invalid(f"A maximum of {MAX_CREATES} tasks can be created in a single batch, but got {size} tasks.")
        for each in request.requests:
            if each.parent != queue:
                raise invalid(
                    "All tasks in a batch request must target the same queue. "
                    f"Found task for queue {each.parent} in batch request for queue {queue}."
                )
        names = [each.task.name for each in request.requests if each.task.name]
        for name in names:
            if names.count(name) > 1:
                raise invalid(f"Duplicate task name in the batch request: {name}")
            check_task_in_queue(name, queue)

        def response(created: list[Message]) -> Message:
            return types.BatchCreateTasksResponse.pb()(tasks=created)

        metadata = types.BatchCreateTasksMetadata.pb()()
        return self._operation(request, request.requests, self._cloud_tasks.create_task, metadata, response)

    def batch_delete_tasks(self, request: Message) -> Message:
        size = len(request.names)
        if not size:
            raise invalid()
        if size > MAX_DELETES:
            raise invalid(f"A maximum of {MAX_DELETES} tasks can be handled in a batch, but {size} were requested.")

        @functools.cache  # a name that is given twice succeeds twice
        def delete(name: str) -> Message:
            try:
                split_task(name)
            except CallError as error:
                raise invalid(f"Invalid task name: {error.message}") from None
            check_task_in_queue(name, request.parent)
            return self._cloud_tasks.delete_task(types.DeleteTaskRequest.pb()(name=name))

        metadata = types.BatchDeleteTasksMetadata.pb()()
        return self._operation(request, request.names, delete, metadata, lambda _: empty_pb2.Empty())

    def get_operation(self, request: Message) -> Message:
        stored = self._store.operation(request.name)
        if stored is None:
            raise CallError("NOT_FOUND", NOT_FOUND)
        return operations_pb2.Operation.FromString(stored)

    def list_operations(self, _: Message) -> Message:
        raise CallError("PERMISSION_DENIED", UNREGISTERED)

    wait_operation = cancel_operation = delete_operation = list_operations

    def _operation(
        self,
        request: Message,
        parts: Iterable[Any],
        act: Callable[[Any], Message],
        metadata: Message,
        response: Callable[[list[Message]], Message],
    ) -> Message:
        """Do the batch part by part, and store its operation together with what was done.

        `response`: the operation's, for the answers of the parts that succeeded."""
        if request.request_id and not _REQUEST_ID.fullmatch(request.request_id):
            raise invalid("The request_id must be 1 to 100 letters, digits, hyphens, underscores.")
        name = f"{request.parent.partition('/queues/')[0]}/operations/{request.request_id or random.getrandbits(64)}"
        if self._store.operation(name) is not None:
            raise invalid(f"Duplicate operation id in the batch request: {request.request_id}")
        operation, done = operations_pb2.Operation(name=name, done=True), []
        metadata.start_time.FromMicroseconds(microseconds(self._clock()))
        with self._store.transaction():
            for place, part in enumerate(parts):
                try:
                    done.append(act(part))
                except CallError as error:
                    metadata.failed_requests[place].code = code_pb2.Code.Value(error.code)
                    metadata.failed_requests[place].message = _SINGLE_TEXTS.get(error.message, error.message)
            if done:
                operation.response.Pack(response(done))
            elif isinstance(metadata, types.BatchDeleteTasksMetadata.pb()):  # recorded: a create has no error
                operation.error.code = code_pb2.ABORTED
                operation.error.message = (
                    f"None of the requests succeeded, refer to {metadata.DESCRIPTOR.name}.failed_requests "
                    "for individual error details"
                )
            state = "PARTIALLY_SUCCEEDED" if metadata.failed_requests else "SUCCEEDED"
            metadata.state = metadata.State.Value(state if done or operation.HasField("error") else "FAILED")
            metadata.end_time.FromMicroseconds(microseconds(self._clock()))
            operation.metadata.Pack(metadata)
            self._store.add_operation(name, operation.SerializeToString())
        return operation
