"""Batches of tasks: one call for many, answered with an operation that tells what each came to.

An operation is done when it is answered, and is kept: the same request_id again gets the same operation, and nothing
is done twice.
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

from local.cloud_tasks.messages import CallError, Message, microseconds
from local.cloud_tasks.queues import ENTITY_MISSING
from local.cloud_tasks.store import Store
from local.cloud_tasks.task import view
from local.cloud_tasks.tasks import CloudTasks

MAX_CREATES, MAX_DELETES = 100, 1000

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Batches:
    """The batch calls of a service, and their operations."""

    def __init__(self, cloud_tasks: CloudTasks, store: Store, clock: Callable[[], float]) -> None:
        self._cloud_tasks = cloud_tasks
        self._store = store
        self._clock = clock

    def batch_create_tasks(self, request: Message) -> Message:
        _check_size(len(request.requests), MAX_CREATES, "requests")
        if any(each.parent != request.parent for each in request.requests):
            raise CallError("INVALID_ARGUMENT", f"Each request's parent must be the batch's own, {request.parent!r}.")

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
        _check_size(len(request.names), MAX_DELETES, "names")
        outside = [name for name in request.names if not name.startswith(f"{request.parent}/tasks/")]
        if outside:
            raise CallError(
                "INVALID_ARGUMENT", f"{outside[0]!r} is not a task of the batch's queue, {request.parent!r}."
            )
        act = functools.partial(self._cloud_tasks.delete_tasks, request.names)
        return self._operation(request, act, types.BatchDeleteTasksMetadata, lambda _: empty_pb2.Empty())

    def get_operation(self, request: Message) -> Message:
        kept = self._store.operation(request.name)
        if kept is None:
            raise CallError("NOT_FOUND", ENTITY_MISSING)
        return operations_pb2.Operation.FromString(kept)

    def _operation(
        self,
        request: Message,
        act: Callable[[Callable[[Sequence[Any]], None]], None],
        metadata: Any,  # noqa: ANN401 - a message's class
        response: Callable[[Sequence[Any]], Message],
    ) -> Message:
        """The operation that is kept for this request, or else that of acting now.

        `act` passes on what each part came to, a CallError where it failed. `response`: what to answer of it."""
        self._cloud_tasks.queues[request.parent]  # must exist
        if request.request_id and not _REQUEST_ID.fullmatch(request.request_id):
            raise CallError(
                "INVALID_ARGUMENT", "The request_id must be 1 to 100 letters, digits, hyphens, underscores."
            )
        name = f"{request.parent.partition('/queues/')[0]}/operations/{request.request_id or uuid.uuid4()}"
        kept = self._store.operation(name)
        if kept is not None:
            return operations_pb2.Operation.FromString(kept)
        operation = operations_pb2.Operation(name=name, done=True)
        about = metadata.pb()()
        about.start_time.FromMicroseconds(microseconds(self._clock()))

        def keep(outcomes: Sequence[Any]) -> None:
            for place, outcome in enumerate(outcomes):
                if isinstance(outcome, CallError):
                    about.failed_requests[place].code = code_pb2.Code.Value(outcome.code)
                    about.failed_requests[place].message = outcome.message
            about.state = metadata.State.PARTIALLY_SUCCEEDED if about.failed_requests else metadata.State.SUCCEEDED
            about.end_time.FromMicroseconds(microseconds(self._clock()))
            operation.metadata.Pack(about)
            if len(about.failed_requests) == len(outcomes):
                operation.error.code = code_pb2.ABORTED
                operation.error.message = (
                    f"None of the requests succeeded, refer to {about.DESCRIPTOR.name}.failed_requests "
                    "for individual error details"
                )
            else:
                operation.response.Pack(response(outcomes))
            self._store.add_operation(name, operation.SerializeToString())

        act(keep)
        return operation


def _check_size(size: int, most: int, field: str) -> None:
    if not 1 <= size <= most:
        raise CallError("INVALID_ARGUMENT", f"A batch takes 1 to {most} {field}; this one has {size}.")
