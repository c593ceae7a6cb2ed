"""Batches of tasks: one call for many, answered with an operation that lists what failed.

An operation is done when it is answered, and is stored. A request_id names it and can be used once.
"""

import functools
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.rpc import code_pb2

from local.cloud_tasks.messages import NOT_FOUND, CallError, Message, invalid, microseconds
from local.cloud_tasks.names import check_task_in_queue
from local.cloud_tasks.store import Store
from local.cloud_tasks.task import view
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

        def response(outcomes: Sequence[Message | CallError]) -> Message:
            tasks = [
                view(outcome, each.response_view)
                for outcome, each in zip(outcomes, request.requests, strict=True)
                if not isinstance(outcome, CallError)
            ]
            return types.BatchCreateTasksResponse.pb()(tasks=tasks)

        act = functools.partial(self._cloud_tasks.create_tasks, request.requests)
        return self._operation(request, act, types.BatchCreateTasksMetadata, response)

    def batch_delete_tasks(self, request: Message) -> Message:
        size = len(request.names)
        if not size:
            raise invalid()
        if size > MAX_DELETES:
            raise invalid(f"A maximum of {MAX_DELETES} tasks can be handled in a batch, but {size} were requested.")
        act = functools.partial(self._cloud_tasks.delete_tasks, request.parent, request.names)
        return self._operation(request, act, types.BatchDeleteTasksMetadata, lambda _: empty_pb2.Empty())

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
        act: Callable[[Callable[[Sequence[Any]], None]], None],
        metadata: Any,  # noqa: ANN401 - a message's class
        response: Callable[[Sequence[Any]], Message],
    ) -> Message:
        """Do the batch, and store its operation.

        `act` calls its argument with the outcome of each part, a CallError if it failed. `response`: the operation's
        response for these outcomes."""
        if request.request_id and not _REQUEST_ID.fullmatch(request.request_id):
            raise invalid("The request_id must be 1 to 100 letters, digits, hyphens, underscores.")
        name = f"{request.parent.partition('/queues/')[0]}/operations/{request.request_id or uuid.uuid4()}"
        if self._store.operation(name) is not None:
            raise invalid(f"Duplicate operation id in the batch request: {request.request_id}")
        operation = operations_pb2.Operation(name=name, done=True)
        about = metadata.pb()()
        about.start_time.FromMicroseconds(microseconds(self._clock()))

        def keep(outcomes: Sequence[Any]) -> None:
            for place, outcome in enumerate(outcomes):
                if isinstance(outcome, CallError):
                    about.failed_requests[place].code = code_pb2.Code.Value(outcome.code)
                    about.failed_requests[place].message = _SINGLE_TEXTS.get(outcome.message, outcome.message)
            all_failed = len(about.failed_requests) == len(outcomes)
            creates = metadata is types.BatchCreateTasksMetadata
            about.state = metadata.State.PARTIALLY_SUCCEEDED if about.failed_requests else metadata.State.SUCCEEDED
            if all_failed and creates:  # recorded: neither error nor response
                about.state = metadata.State.FAILED
            about.end_time.FromMicroseconds(microseconds(self._clock()))
            operation.metadata.Pack(about)
            if all_failed and not creates:
                operation.error.code = code_pb2.ABORTED
                operation.error.message = (
                    f"None of the requests succeeded, refer to {about.DESCRIPTOR.name}.failed_requests "
                    "for individual error details"
                )
            elif not all_failed:
                operation.response.Pack(response(outcomes))
            self._store.add_operation(name, operation.SerializeToString())

        act(keep)
        return operation
