"""A gRPC server that answers as Cloud Tasks does, and fails on command.

The official client talks to it unchanged, so what these tests see of retries, names and messages is what Google sees.
"""

import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.cloud.tasks_v2 import CreateTaskRequest, Task

from tests.producer.cli.fake_queues import FakeQueues


class FakeCloudTasks:
    """Records each CreateTask. A name that was created once answers ALREADY_EXISTS. Everything else is of `queues`."""

    queues: FakeQueues
    requests: list[CreateTaskRequest]
    """Every attempt, in order of arrival."""
    timeouts: list[float]
    """Seconds that the client gives each attempt."""
    faults: dict[str, list[grpc.StatusCode]]
    """Action -> what its next attempts are answered, first to last, before it succeeds."""
    lose_answers: bool
    """Whether a fault strikes after the task was created rather than before."""
    before_answer: Callable[[], object]
    """Runs in each call, while it is in flight."""

    def __init__(self) -> None:
        self.queues = FakeQueues()
        self.requests = []
        self.timeouts = []
        self.faults = defaultdict(list)
        self.lose_answers = False
        self.before_answer = lambda: None
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(32))
        method = grpc.unary_unary_rpc_method_handler(
            self._create_task,
            request_deserializer=CreateTaskRequest.deserialize,
            response_serializer=Task.serialize,
        )
        service = "google.cloud.tasks.v2.CloudTasks"
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"CreateTask": method, **self.queues.handlers()}),),
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    @property
    def names(self) -> list[str]:
        return [request.task.name for request in self.requests]

    def stop(self) -> None:
        self._server.stop(None).wait()

    def _create_task(self, request: CreateTaskRequest, context: grpc.ServicerContext) -> Task:
        with self._lock:
            self.requests.append(request)
            self.timeouts.append(context.time_remaining())
        self.before_answer()
        name = request.task.name
        with self._lock:
            faults = next((left for action, left in self.faults.items() if f"-{action}-" in name), [])
            fault = faults.pop(0) if faults else None
            known = name in self._names
            if fault is None or self.lose_answers:
                self._names.add(name)
        if fault is not None:
            context.abort(fault, "on command")
        if known:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "Requested entity already exists")
        return request.task
