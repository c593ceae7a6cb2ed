"""Cloud Tasks v2 on the official messages: what each call does, and what follows from each attempt.

Synchronous and clocked from outside, so that a test can live through a day in a moment. A call has been committed
when it returns. Knows nothing of gRPC, REST or HTTP dispatch: those are api.py and dispatch.py.
"""

import contextlib
import logging
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence

from google.cloud.tasks_v2 import types
from google.protobuf import empty_pb2

from local.cloud_tasks.attempt import Attempt, attempt, note_answer
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import CallError, Message, TaskMessage, microseconds, page_size
from local.cloud_tasks.queue_config import retry_config
from local.cloud_tasks.queues import ENTITY_MISSING, NAME_BLOCKED_SECONDS, Queues
from local.cloud_tasks.store import Store, StoredTask
from local.cloud_tasks.task import new_task, view

log = logging.getLogger("local.cloud_tasks.tasks")

ListTasksResponse: Message = types.ListTasksResponse.pb()

MAX_PAGE = 1000
"""The service's largest page, which is its default one too."""
INTERRUPTED_STATUS = 503
"""What an attempt counts as that was under way when the process ended."""
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
TASK_ID_INVALID = (
    'Task ID "{}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or underscores (_). '
    "Task ID must between 1 and 500 characters."
)

_TASK_PATH = re.compile(r"(projects/[^/]+/locations/[^/]+/queues/[^/]+)/tasks/([^/]*)")
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")


class CloudTasks:
    """The service: queues and tasks in a store."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        account_exists: Callable[[str, str], bool],
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Open the queues of `store` that API calls created; those of the program open when they are declared.

        `clock`: seconds since the epoch. `account_exists`: whether a queue of a project may sign in as an e-mail."""
        self._store = store
        self._clock = clock
        self._account_exists = account_exists
        self._listeners = listeners
        store.forget_names(clock())
        self.queues = Queues(store, clock, self._schedule_stored, self._queue_changed)
        self.queues.reopen()

    def _queue_changed(self, path: str) -> None:
        for listener in self._listeners:
            listener.queue_changed(path)

    def _task_changed(self, event: Event, task: Message) -> None:
        for listener in self._listeners:
            listener.task_changed(event, task)

    def _schedule_stored(self, path: str) -> None:
        """Schedule the stored tasks of a queue. An attempt that was under way when the process ended has failed."""
        schedule = self.queues[path].schedule
        interrupted = []
        for task, due, in_flight in self._store.schedule(path):
            if in_flight:
                interrupted.append(task)
            else:
                schedule.add(task, due)
        for task in interrupted:
            found = self._store.task(path, task)
            assert found is not None
            message = TaskMessage.FromString(found.message)
            self._fail(path, found, message, INTERRUPTED_STATUS, self._clock())

    # Tasks

    def create_task(self, request: Message) -> Message:
        task, stored = self._store_new(request)
        self._announce(request.parent, task, stored)
        return view(task, request.response_view)

    def create_tasks(self, requests: Iterable[Message], keep: Callable[[list[Message | CallError]], None]) -> None:
        """Create each; `keep` is called with what each came to, and what it stores is committed with the tasks."""
        outcomes: list[Message | CallError] = []
        created = []
        with self._store.transaction():
            for request in requests:
                try:
                    task, stored = self._store_new(request)
                except CallError as error:
                    outcomes.append(error)
                else:
                    outcomes.append(task)
                    created.append((request.parent, task, stored))
            keep(outcomes)
        for each in created:
            self._announce(*each)

    def _store_new(self, request: Message) -> tuple[Message, StoredTask]:
        path, given = request.parent, request.task
        self.queues[path]  # must exist
        if not given.name:
            task_id = str(secrets.randbelow(9 * 10**18) + 10**18)
        else:
            queue, task_id = _split(given.name)
            if queue != path:
                text = f"The queue name from request ('{path}') must be the same as the queue name in the named task"
                raise CallError("INVALID_ARGUMENT", f"{text} ('{queue}').")
        now = self._clock()
        task = new_task(given, f"{path}/tasks/{task_id}", now, self._account_exists)
        stored = StoredTask(task_id, task.SerializeToString(), _due(task))
        try:
            if not self._store.add_task(path, stored, now):
                raise CallError("ALREADY_EXISTS", NAME_BLOCKED)
        except sqlite3.IntegrityError:
            raise CallError("ALREADY_EXISTS", "Requested entity already exists") from None
        return task, stored

    def _announce(self, path: str, task: Message, stored: StoredTask) -> None:
        """Schedule a task that was stored."""
        self.queues[path].schedule.add(stored.id, stored.due)
        self._queue_changed(path)
        self._task_changed(Event.CREATED, task)

    def get_task(self, request: Message) -> Message:
        return view(self._task(request.name)[2], request.response_view)

    def list_tasks(self, request: Message) -> Message:
        self.queues[request.parent]  # must exist
        size = page_size(request, MAX_PAGE)
        page = self._store.tasks(request.parent, request.page_token, size + 1)
        return ListTasksResponse(
            tasks=[view(TaskMessage.FromString(stored.message), request.response_view) for stored in page[:size]],
            next_page_token=page[size - 1].id if len(page) > size else "",
        )

    def delete_task(self, request: Message) -> Message:
        path, stored, _ = self._task(request.name)
        self._end(path, stored.id)
        return empty_pb2.Empty()

    def delete_tasks(self, names: Iterable[str], keep: Callable[[list[CallError | None]], None]) -> None:
        """Delete each; `keep` is called with what each failed with, and what it stores is committed with the rest."""
        outcomes: list[CallError | None] = []
        ended = []
        with self._store.transaction():
            for name in names:
                try:
                    path, stored, _ = self._task(name)
                except CallError as error:
                    outcomes.append(error)
                else:
                    self._store.end_task(path, stored.id, self._clock() + NAME_BLOCKED_SECONDS)
                    outcomes.append(None)
                    ended.append((path, stored.id))
            keep(outcomes)
        for path, task_id in ended:
            self.queues[path].schedule.remove(task_id)

    def run_task(self, request: Message) -> Message:
        path, stored, message = self._task(request.name)
        message = self._begin(path, stored, message)
        queue = self.queues[path]
        queue.schedule.force(stored.id)
        begun = attempt(stored, message, queue.message, forced=True)
        for listener in self._listeners:
            listener.run_requested(begun)
        return view(message, request.response_view)

    def _task(self, name: str) -> tuple[str, StoredTask, Message]:
        """The queue's path, the stored task and its message."""
        path, task_id = _split(name)
        self.queues[path]  # must exist
        stored = self._store.task(path, task_id)
        if stored is None:
            blocked = self._store.name_blocked(path, task_id, self._clock())
            raise CallError("NOT_FOUND", TASK_ENDED if blocked else ENTITY_MISSING)
        return path, stored, TaskMessage.FromString(stored.message)

    # Attempts

    def next_dispatch(self, path: str) -> float | None:
        """When `start_attempts` next yields one, other things being equal."""
        return self.queues[path].schedule.next_dispatch() if path in self.queues else None

    def start_attempts(self, path: str) -> list[Attempt]:
        """The attempts to send now, each already counted."""
        if path not in self.queues:
            return []
        queue = self.queues[path]
        taken = queue.schedule.take(self._clock())
        attempts = []
        try:
            with self._store.transaction() if taken else contextlib.nullcontext():
                for task_id in taken:
                    stored = self._store.task(path, task_id)
                    assert stored is not None, f"{path}/tasks/{task_id} is scheduled but not stored"
                    message = self._begin(path, stored, TaskMessage.FromString(stored.message))
                    attempts.append(attempt(stored, message, queue.message))
        except BaseException:
            for task_id in taken:  # nothing was counted, so nothing may leave
                queue.schedule.finish(task_id)
                queue.schedule.add(task_id, self._clock())
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
        path = attempt.queue
        if path not in self.queues:  # deleted meanwhile, and its tasks with it
            return
        stored = self._store.task(path, attempt.task)
        if stored is None:  # deleted or purged meanwhile
            self._free(path, attempt.task)
            return
        message = TaskMessage.FromString(stored.message)
        if 200 <= status < 300:
            self._end(path, attempt.task)
            self._free(path, attempt.task)
            self._task_changed(Event.PROCESSED, message)
        elif attempt.number == message.dispatch_count:  # else a forced run has begun since, and decides
            now = self._clock()
            # a run that somebody forced is scheduled anew from when they did
            since = message.last_attempt.dispatch_time.ToMicroseconds() / 1e6 if attempt.forced else now
            self._fail(path, stored, message, status, since)

    def _fail(self, path: str, stored: StoredTask, message: Message, status: int, since: float) -> None:
        queue = self.queues[path]
        now = self._clock()
        config = retry_config(message.retry_config if message.HasField("retry_config") else queue.message.retry_config)
        if config.gives_up(message.dispatch_count, message.first_attempt.dispatch_time.ToMicroseconds() / 1e6, now):
            self._end(path, stored.id)
            self._free(path, stored.id)
            log.error("Task %s is gone: attempt %d was its last, HTTP %d", message.name, message.dispatch_count, status)
            self._task_changed(Event.GONE, message)
            return
        retry_at = max(now, since + config.backoff(message.dispatch_count))
        note_answer(message, status, now)
        message.schedule_time.FromMicroseconds(microseconds(retry_at))
        stored.message = message.SerializeToString()
        stored.due = retry_at
        stored.in_flight = False
        stored.executions += status < 500
        stored.previous_status = status
        self._store.update_task(path, stored)
        queue.schedule.add(stored.id, retry_at)
        self._free(path, stored.id)
        self._task_changed(Event.RETRIED, message)

    def _free(self, path: str, task_id: str) -> None:
        """Give the place of a dispatch to the next one."""
        self.queues[path].schedule.finish(task_id)
        self._queue_changed(path)

    def _end(self, path: str, task_id: str) -> None:
        self._store.end_task(path, task_id, self._clock() + NAME_BLOCKED_SECONDS)
        self.queues[path].schedule.remove(task_id)


def _split(name: str) -> tuple[str, str]:
    """The queue's path and the task's id in a task's name; raises CallError."""
    match = _TASK_PATH.fullmatch(name)
    if not match:
        raise CallError("INVALID_ARGUMENT", TASK_NAME_INVALID)
    if not _TASK_ID.fullmatch(match[2]):
        raise CallError("INVALID_ARGUMENT", TASK_ID_INVALID.format(match[2]))
    return match[1], match[2]


def _due(task: Message) -> float:
    return float(task.schedule_time.ToMicroseconds() / 1e6)
