"""Queues and their tasks behind the fake service, in a time of their own: nothing happens until a test says `tick`."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar, cast

import grpc
from google.cloud import tasks_v2
from google.cloud.tasks_v2 import Queue, Task
from google.protobuf import empty_pb2, timestamp_pb2

MISSING = "Requested entity was not found."
QUEUE_MISSING = (
    "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
)
BACKOFF = timedelta(hours=1)
NEVER = 0

Request = TypeVar("Request")
Response = TypeVar("Response")
Message = TypeVar("Message", covariant=True)


class _Deserializes(Protocol[Message]):
    def deserialize(self, payload: bytes) -> Message: ...


class FakeQueues:
    """A due task of a running queue, and a forced one, is under way until the next `tick`."""

    queues: dict[str, Queue]
    tasks: dict[str, Task]
    answers: dict[str, list[int]]
    """Task id -> the statuses of its next attempts; 200 where none is left, NEVER for one that does not end."""
    calls: list[str]
    """Every call but CreateTask, as `Method`."""
    faults: dict[str, list[grpc.StatusCode]]
    """Method -> what its next calls are answered, first to last, before one succeeds."""
    before_answer: dict[str, Callable[[], object]]
    """Method -> what runs in each of its calls."""
    hidden: set[str]
    """Task ids that a list misses."""
    max_page: int
    stalled: bool
    """Whether running queues deliver nothing."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.queues = {}
        self.tasks = {}
        self.answers = defaultdict(list)
        self.calls = []
        self.faults = defaultdict(list)
        self.before_answer = {}
        self.hidden = set()
        self.max_page = 1000
        self.stalled = False
        self._lock = threading.RLock()

    def tick(self, seconds: float) -> None:
        """Let time pass: what is under way ends, then running queues begin what is due."""
        with self._lock:
            self.now += timedelta(seconds=seconds)
            for path, task in list(self.tasks.items()):
                if task.dispatch_count and not task.last_attempt.response_time:
                    self._end(path, task)
            for path, task in self.tasks.items() if not self.stalled else ():
                queue = self.queues[path.partition("/tasks/")[0]]
                if queue.state == Queue.State.RUNNING and cast(datetime, task.schedule_time) <= self.now:
                    self._begin(task)

    def _begin(self, task: Task) -> None:
        task.dispatch_count += 1
        task.last_attempt = tasks_v2.Attempt(dispatch_time=self.now)

    def _end(self, path: str, task: Task) -> None:
        answers = self.answers[path.rpartition("/")[2]]
        status = answers[0] if answers else 200
        if status == NEVER:
            return
        if answers:
            answers.pop(0)
        if status == 200:
            del self.tasks[path]
            return
        task.last_attempt.response_time = _timestamp(self.now)
        task.last_attempt.response_status = {"code": 13, "message": f"INTERNAL(13): HTTP status code {status}"}
        task.schedule_time = _timestamp(self.now + BACKOFF)

    def handlers(self) -> Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]:
        """The methods, for a gRPC server."""
        return {
            "GetQueue": self._method("GetQueue", self._get_queue, tasks_v2.GetQueueRequest, Queue.serialize),
            "PauseQueue": self._method("PauseQueue", self._pause_queue, tasks_v2.PauseQueueRequest, Queue.serialize),
            "ResumeQueue": self._method(
                "ResumeQueue", self._resume_queue, tasks_v2.ResumeQueueRequest, Queue.serialize
            ),
            "ListTasks": self._method(
                "ListTasks", self._list_tasks, tasks_v2.ListTasksRequest, tasks_v2.ListTasksResponse.serialize
            ),
            "GetTask": self._method("GetTask", self._get_task, tasks_v2.GetTaskRequest, Task.serialize),
            "RunTask": self._method("RunTask", self._run_task, tasks_v2.RunTaskRequest, Task.serialize),
            "DeleteTask": self._method(
                "DeleteTask", self._delete_task, tasks_v2.DeleteTaskRequest, empty_pb2.Empty.SerializeToString
            ),
        }

    def _method(
        self,
        name: str,
        answer: Callable[[Request], Response],
        request: _Deserializes[Request],
        serialize: Callable[[Response], bytes],
    ) -> "grpc.RpcMethodHandler[Request, Response]":
        def call(message: Request, context: grpc.ServicerContext) -> Response:
            with self._lock:
                self.calls.append(name)
                fault = self.faults[name].pop(0) if self.faults[name] else None
            self.before_answer.get(name, lambda: None)()
            if fault is not None:
                context.abort(fault, "on command")
            with self._lock:
                try:
                    return answer(message)
                except KeyError as missing:
                    context.abort(grpc.StatusCode.NOT_FOUND, MISSING if "/tasks/" in str(missing) else QUEUE_MISSING)

        return grpc.unary_unary_rpc_method_handler(call, request.deserialize, serialize)

    def _get_queue(self, request: tasks_v2.GetQueueRequest) -> Queue:
        return self.queues[request.name]

    def _pause_queue(self, request: tasks_v2.PauseQueueRequest) -> Queue:
        self.queues[request.name].state = Queue.State(Queue.State.PAUSED)
        return self.queues[request.name]

    def _resume_queue(self, request: tasks_v2.ResumeQueueRequest) -> Queue:
        self.queues[request.name].state = Queue.State(Queue.State.RUNNING)
        return self.queues[request.name]

    def _list_tasks(self, request: tasks_v2.ListTasksRequest) -> tasks_v2.ListTasksResponse:
        _ = self.queues[request.parent]
        paths = sorted(path for path in self.tasks if path.startswith(f"{request.parent}/tasks/"))
        rest = [path for path in paths if path > request.page_token]
        page = rest[: min(request.page_size or 1000, self.max_page)]
        return tasks_v2.ListTasksResponse(
            tasks=[
                self._view(self.tasks[path], request.response_view)
                for path in page
                if path.rpartition("/")[2] not in self.hidden
            ],
            next_page_token=page[-1] if len(rest) > len(page) else "",
        )

    def _get_task(self, request: tasks_v2.GetTaskRequest) -> Task:
        _ = self.queues[request.name.partition("/tasks/")[0]]
        return self._view(self.tasks[request.name], request.response_view)

    def _run_task(self, request: tasks_v2.RunTaskRequest) -> Task:
        task = self.tasks[request.name]
        self._begin(task)
        return self._view(task, request.response_view)

    def _delete_task(self, request: tasks_v2.DeleteTaskRequest) -> empty_pb2.Empty:
        del self.tasks[request.name]
        return empty_pb2.Empty()

    def _view(self, task: Task, view: Task.View) -> Task:
        shown = Task(task)
        if view != Task.View.FULL:
            shown.http_request.body = b""
        return shown


def _timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(time)
    return stamp
