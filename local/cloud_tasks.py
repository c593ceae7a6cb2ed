"""Cloud Tasks v2 on the official messages: what each call does, and what follows from each attempt.

Synchronous and clocked from outside, so that a test can live through a day in a moment. A call has been committed
when it returns. Knows nothing of gRPC, REST or HTTP dispatch: those are api.py and dispatch.py.
"""

import bisect
import contextlib
import enum
import logging
import re
import secrets
import sqlite3
from collections.abc import Callable

from google.cloud.tasks_v2 import types
from google.protobuf import empty_pb2

from local.attempt import Attempt, attempt, note_answer
from local.messages import CallError, Message, QueueMessage, TaskMessage, microseconds
from local.queue import Queue, RateLimits, RetryConfig
from local.store import Store, StoredTask
from local.task import new_task, view

log = logging.getLogger("local.cloud_tasks")

ListQueuesResponse: Message = types.ListQueuesResponse.pb()
ListTasksResponse: Message = types.ListTasksResponse.pb()

NAME_BLOCKED_SECONDS = 24 * 3600
"""How long the name of an ended task stays blocked; the service promises 1 to 24 hours."""
MAX_PAGE_QUEUES, MAX_PAGE_TASKS = 9800, 1000
"""The service's largest pages, which are its default ones too."""

INTERRUPTED_STATUS = 503
"""What an attempt counts as that was under way when the process ended."""
QUEUE_MISSING = (
    "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
)
NAME_BLOCKED = (
    "The task cannot be created because a task with this name existed too recently. "
    "For more information about task de-duplication see "
    "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks/create#body.request_body.FIELDS.task."
)
TASK_ENDED = (
    "The task no longer exists, though a task with this name existed recently. "
    "The task either successfully completed or was deleted."
)
TASK_NAME_INVALID = (
    'Task name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>/tasks/<TASK_ID>"'
)

_QUEUE_PATH = re.compile(r"projects/[^/]+/locations/[^/]+/queues/[A-Za-z0-9-]{1,100}")
_TASK_PATH = re.compile(r"(projects/[^/]+/locations/[^/]+/queues/[^/]+)/tasks/([A-Za-z0-9_-]{1,500})")


class Event(enum.Enum):
    """What happened to a task."""

    CREATED = "created"
    PROCESSED = "processed"
    RETRIED = "retried"
    GONE = "gone"
    """Deleted after its last attempt."""


class CloudTasks:
    """The service: queues and tasks in a store."""

    def __init__(self, store: Store, clock: Callable[[], float], account_exists: Callable[[str], bool]) -> None:
        """`clock`: seconds since the epoch. A queue that the store has comes back when it is declared again."""
        self._store = store
        self._clock = clock
        self._account_exists = account_exists
        self._queues: dict[str, tuple[Message, Queue]] = {}
        self.on_event: Callable[[Event, Message], None] = lambda event, task: None
        """Called after each event with the task."""
        self.on_forced: Callable[[Attempt], None] = lambda attempt: None
        """Called with an attempt to send at once."""
        self.on_schedule: Callable[[str], None] = lambda queue: None
        """Called with a queue's path when it may have something to dispatch."""
        store.forget_names(clock())
        self._stored = {message.name: message for message in map(QueueMessage.FromString, store.queues())}

    # Queues

    def declare_queue(self, declared: Message) -> None:
        """Have a queue of the program: new, or with these figures and the tasks and the state that the store has.

        An attempt that was under way when the process ended counts as failed."""
        path = declared.name
        stored = self._stored.pop(path, None)
        limits = _rate_limits(declared)
        declared.rate_limits.max_burst_size = limits.max_burst_size
        declared.state = (stored or declared).state or types.Queue.State.RUNNING
        queue = Queue(limits, self._clock(), rested=stored is None)
        self._put_queue(declared, queue)
        interrupted = []
        for task, due, in_flight in self._store.schedule(path):
            if in_flight:
                interrupted.append(task)
            else:
                queue.add(task, due)
        for task in interrupted:
            found = self._store.task(path, task)
            assert found is not None
            self._fail(path, found, TaskMessage.FromString(found.message), INTERRUPTED_STATUS)

    def undeclared(self) -> list[str]:
        """The paths of queues that the store has and nobody declared; they do not exist here."""
        return sorted(self._stored)

    def paths(self) -> list[str]:
        """The paths of all queues."""
        return sorted(self._queues)

    def busy(self) -> bool:
        """Whether a running queue has a task."""
        return any(len(queue) and not queue.paused for _, queue in self._queues.values())

    def get_queue(self, request: Message) -> Message:
        return self._queue(request.name)[0]

    def list_queues(self, request: Message) -> Message:
        paths = [path for path in self.paths() if path.startswith(f"{request.parent}/queues/")]
        size = _page_size(request, MAX_PAGE_QUEUES)
        rest = paths[bisect.bisect_right(paths, request.page_token) :]
        return ListQueuesResponse(
            queues=[self._queues[path][0] for path in rest[:size]],
            next_page_token=rest[size - 1] if len(rest) > size else "",
        )

    def pause_queue(self, request: Message) -> Message:
        return self._set_state(request.name, types.Queue.State.PAUSED)

    def resume_queue(self, request: Message) -> Message:
        return self._set_state(request.name, types.Queue.State.RUNNING)

    def purge_queue(self, request: Message) -> Message:
        message, queue = self._queue(request.name)
        now = self._clock()
        message.purge_time.FromMicroseconds(microseconds(now))
        self._store.end_all_tasks(message.name, now + NAME_BLOCKED_SECONDS)
        queue.clear()
        self._put_queue(message, queue)
        return message

    def _queue(self, path: str) -> tuple[Message, Queue]:
        if not _QUEUE_PATH.fullmatch(path):
            raise CallError(
                "INVALID_ARGUMENT",
                f"{path!r} is no queue name; it must be projects/PROJECT_ID/locations/LOCATION_ID/queues/QUEUE_ID",
            )
        if path not in self._queues:
            raise CallError("NOT_FOUND", QUEUE_MISSING)
        return self._queues[path]

    def _set_state(self, path: str, state: Message) -> Message:
        message, queue = self._queue(path)
        message.state = state
        self._put_queue(message, queue)
        return message

    def _put_queue(self, message: Message, queue: Queue) -> None:
        queue.paused = message.state == types.Queue.State.PAUSED
        self._store.put_queue(message.name, message.SerializeToString())
        self._queues[message.name] = message, queue
        self.on_schedule(message.name)

    # Tasks

    def create_task(self, request: Message) -> Message:
        path, task = request.parent, request.task
        _, queue = self._queue(path)
        if task.name:
            match = _TASK_PATH.fullmatch(task.name)
            if not match:
                raise CallError("INVALID_ARGUMENT", TASK_NAME_INVALID)
            if match[1] != path:
                text = f"The queue name from request ('{path}') must be the same as the queue name in the named task"
                raise CallError("INVALID_ARGUMENT", f"{text} ('{match[1]}').")
            task_id = match[2]
        else:
            task_id = str(secrets.randbelow(9 * 10**18) + 10**18)
        now = self._clock()
        stored_task = new_task(task, f"{path}/tasks/{task_id}", now, self._account_exists)
        due = stored_task.schedule_time.ToMicroseconds() / 1e6
        if self._store.name_blocked(path, task_id, now):
            raise CallError("ALREADY_EXISTS", NAME_BLOCKED)
        try:
            self._store.add_task(path, StoredTask(task_id, stored_task.SerializeToString(), due))
        except sqlite3.IntegrityError:
            raise CallError("ALREADY_EXISTS", "Requested entity already exists") from None
        queue.add(task_id, due)
        self.on_schedule(path)
        self.on_event(Event.CREATED, stored_task)
        return view(stored_task, request.response_view)

    def get_task(self, request: Message) -> Message:
        return view(self._task(request.name)[2], request.response_view)

    def list_tasks(self, request: Message) -> Message:
        self._queue(request.parent)
        size = _page_size(request, MAX_PAGE_TASKS)
        page = self._store.tasks(request.parent, request.page_token, size + 1)
        return ListTasksResponse(
            tasks=[view(TaskMessage.FromString(stored.message), request.response_view) for stored in page[:size]],
            next_page_token=page[size - 1].id if len(page) > size else "",
        )

    def delete_task(self, request: Message) -> Message:
        path, stored, _ = self._task(request.name)
        self._end(path, stored.id)
        return empty_pb2.Empty()

    def run_task(self, request: Message) -> Message:
        path, stored, message = self._task(request.name)
        message = self._begin(path, stored, message)
        self._queues[path][1].force(stored.id)
        self.on_forced(attempt(stored, message, self._queues[path][0]))
        return view(message, request.response_view)

    def _task(self, name: str) -> tuple[str, StoredTask, Message]:
        """The queue's path, the stored task and its message."""
        match = _TASK_PATH.fullmatch(name)
        if not match:
            raise CallError("INVALID_ARGUMENT", TASK_NAME_INVALID)
        path, task_id = match.groups()
        self._queue(path)
        stored = self._store.task(path, task_id)
        if stored is None:
            blocked = self._store.name_blocked(path, task_id, self._clock())
            raise CallError("NOT_FOUND", TASK_ENDED if blocked else "Requested entity was not found.")
        return path, stored, TaskMessage.FromString(stored.message)

    # Attempts

    def next_dispatch(self, path: str) -> float | None:
        """When `start_attempts` next yields one, other things being equal."""
        return self._queues[path][1].next_dispatch()

    def start_attempts(self, path: str) -> list[Attempt]:
        """The attempts to send now, each already counted."""
        queue = self._queues[path][1]
        taken = queue.take(self._clock())
        attempts = []
        try:
            with self._store.transaction() if taken else contextlib.nullcontext():
                for task_id in taken:
                    stored = self._store.task(path, task_id)
                    assert stored is not None, f"{path}/tasks/{task_id} is scheduled but not stored"
                    message = self._begin(path, stored, TaskMessage.FromString(stored.message))
                    attempts.append(attempt(stored, message, self._queues[path][0]))
        except BaseException:
            for task_id in taken:  # nothing was counted, so nothing may leave
                queue.finish(task_id)
                queue.add(task_id, self._clock())
            raise
        return attempts

    def _begin(self, path: str, stored: StoredTask, message: Message) -> Message:
        """Count an attempt before its request leaves: an attempt that nobody counted could go on for ever."""
        now = microseconds(self._clock())
        message.dispatch_count += 1
        if message.dispatch_count == 1:
            message.first_attempt.dispatch_time.FromMicroseconds(now)
        message.last_attempt.Clear()
        message.last_attempt.schedule_time.CopyFrom(message.schedule_time)
        message.last_attempt.dispatch_time.FromMicroseconds(now)
        stored.message = message.SerializeToString()
        stored.in_flight = True
        self._store.update_task(path, stored)
        return message

    def end_attempt(self, attempt: Attempt, status: int) -> None:
        """Take an attempt's HTTP status, 504 for none in time: the task is done, tried again later, or gone."""
        stored = self._store.task(attempt.queue, attempt.task)
        queue = self._queues[attempt.queue][1]
        if stored is None:  # deleted or purged meanwhile
            queue.finish(attempt.task)
            self.on_schedule(attempt.queue)
            return
        message = TaskMessage.FromString(stored.message)
        if 200 <= status < 300:
            self._end(attempt.queue, attempt.task)
            queue.finish(attempt.task)
            self.on_schedule(attempt.queue)
            self.on_event(Event.PROCESSED, message)
        elif attempt.number == message.dispatch_count:  # else a forced run has begun since, and decides
            self._fail(attempt.queue, stored, message, status)

    def _fail(self, path: str, stored: StoredTask, message: Message, status: int) -> None:
        declared, queue = self._queues[path]
        now = self._clock()
        first = message.first_attempt.dispatch_time.ToMicroseconds() / 1e6
        retry_at = _retry_config(declared).retry_at(message.dispatch_count, first, now)
        if retry_at is None:
            self._end(path, stored.id)
            queue.finish(stored.id)
            log.error("Task %s is gone: attempt %d was its last, HTTP %d", message.name, message.dispatch_count, status)
            self.on_schedule(path)
            self.on_event(Event.GONE, message)
            return
        note_answer(message, status, now)
        message.schedule_time.FromMicroseconds(microseconds(retry_at))
        stored.message = message.SerializeToString()
        stored.due = retry_at
        stored.in_flight = False
        stored.executions += status < 500
        stored.previous_status = status
        self._store.update_task(path, stored)
        queue.finish(stored.id)
        queue.add(stored.id, retry_at)
        self.on_schedule(path)
        self.on_event(Event.RETRIED, message)

    def _end(self, path: str, task_id: str) -> None:
        self._store.end_task(path, task_id, self._clock() + NAME_BLOCKED_SECONDS)
        self._queues[path][1].remove(task_id)


def _rate_limits(queue: Message) -> RateLimits:
    given = queue.rate_limits
    default = RateLimits()
    return RateLimits(
        given.max_dispatches_per_second or default.max_dispatches_per_second,
        given.max_concurrent_dispatches or default.max_concurrent_dispatches,
    )


def _retry_config(queue: Message) -> RetryConfig:
    given, default = queue.retry_config, RetryConfig()
    return RetryConfig(
        given.max_attempts or default.max_attempts,
        given.max_retry_duration.ToMicroseconds() / 1e6,
        given.min_backoff.ToMicroseconds() / 1e6 or default.min_backoff,
        given.max_backoff.ToMicroseconds() / 1e6 or default.max_backoff,
        given.max_doublings or default.max_doublings,
    )


def _page_size(request: Message, largest: int) -> int:
    if request.page_size < 0:
        raise CallError("INVALID_ARGUMENT", "The page size must not be negative.")
    return min(request.page_size or largest, largest)
