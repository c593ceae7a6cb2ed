"""A gRPC server that answers CreateTask, GetTask and DeleteTask as Cloud Tasks does, and fails on command.

The handler's official client talks to it unchanged. What it knows of names: a live one and a blocked one both answer
ALREADY_EXISTS to a create; only GetTask tells them apart.
"""

import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.cloud.tasks_v2 import CreateTaskRequest, DeleteTaskRequest, GetTaskRequest, Task
from google.protobuf.empty_pb2 import Empty
from order_handler import cloud_tasks  # noqa: F401  # what the first dead letter would otherwise wait for

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Fault:
    """What one call is answered instead."""

    status: grpc.StatusCode
    after: bool = False
    """Whether the call was obeyed before its answer got lost."""
    hangs: bool = False
    """Whether no answer comes at all, until the server stops."""


class FakeCloudTasks:
    tasks: dict[str, Task]
    """The live ones by name."""
    blocked: set[str]
    """Names of tasks that were deleted."""
    calls: list[str]
    """Each method that was called, in order."""
    timeouts: list[float]
    """Seconds that the client gives each call."""
    faults: dict[str, list[Fault]]
    """Method -> what its next calls are answered, first to last."""
    when_called: Callable[[str], object]
    """Hears of each method as it is called, on a thread of the server."""

    def __init__(self) -> None:
        self.tasks = {}
        self.blocked = set()
        self.calls = []
        self.timeouts = []
        self.faults = defaultdict(list)
        self.when_called = lambda _: None
        self._ended = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8))
        handlers = {
            "CreateTask": self._handler("CreateTask", self._create, CreateTaskRequest.deserialize, Task.serialize),
            "GetTask": self._handler("GetTask", self._get, GetTaskRequest.deserialize, Task.serialize),
            "DeleteTask": self._handler(
                "DeleteTask", self._delete, DeleteTaskRequest.deserialize, Empty.SerializeToString
            ),
        }
        service = "google.cloud.tasks.v2.CloudTasks"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    @property
    def entry(self) -> Task:
        """The only one."""
        [task] = self.tasks.values()
        return task

    def stop(self) -> None:
        self._ended.set()
        self._server.stop(None).wait()

    def _handler(
        self,
        method: str,
        obey: Callable[[_Request, grpc.ServicerContext], _Answer],
        deserialize: Callable[[bytes], _Request],
        serialize: Callable[[_Answer], bytes],
    ) -> "grpc.RpcMethodHandler[_Request, _Answer]":
        def answer(request: _Request, context: grpc.ServicerContext) -> _Answer:
            self.calls.append(method)
            self.when_called(method)
            self.timeouts.append(context.time_remaining())
            fault = self.faults[method].pop(0) if self.faults[method] else None
            if fault and fault.hangs:
                self._ended.wait()
            if fault and not fault.after:
                context.abort(fault.status, "on command")
            answered = obey(request, context)
            if fault:
                context.abort(fault.status, "on command")
            return answered

        return grpc.unary_unary_rpc_method_handler(answer, deserialize, serialize)

    def _create(self, request: CreateTaskRequest, context: grpc.ServicerContext) -> Task:
        name = request.task.name
        assert name.startswith(f"{request.parent}/tasks/")
        if name in self.tasks:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "Requested entity already exists")
        if name in self.blocked:
            context.abort(
                grpc.StatusCode.ALREADY_EXISTS,
                "The task cannot be created because a task with this name existed too recently.",
            )
        self.tasks[name] = request.task
        return request.task

    def _get(self, request: GetTaskRequest, context: grpc.ServicerContext) -> Task:
        if request.name not in self.tasks:
            context.abort(grpc.StatusCode.NOT_FOUND, "The task no longer exists.")
        return self.tasks[request.name]

    def _delete(self, request: DeleteTaskRequest, context: grpc.ServicerContext) -> Empty:
        if self.tasks.pop(request.name, None) is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "The task no longer exists.")
        self.blocked.add(request.name)
        return Empty()
