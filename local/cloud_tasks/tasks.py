"""Cloud Tasks v2 on the official messages: what each call does, and what follows from each attempt.

Synchronous and clocked from outside, so that a test can live through a day in a moment. A call has been committed
when it returns. Knows nothing of gRPC, REST or HTTP dispatch: those are api.py and dispatch.py.
"""

import contextlib
import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence

from google.cloud.tasks_v2 import types
from google.protobuf import empty_pb2
from google.protobuf.message import DecodeError

from local.cloud_tasks.attempt import Attempt, attempt, note_answer
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import (
    NOT_FOUND,
    CallError,
    Message,
    TaskMessage,
    microseconds,
    page_size,
    page_start,
    page_token,
)
from local.cloud_tasks.names import check_task_in_queue, split_task
from local.cloud_tasks.queue_config import retry_config
from local.cloud_tasks.queues import NAME_BLOCKED_SECONDS, Queues
from local.cloud_tasks.store import Store, StoredTask
from local.cloud_tasks.task import BASIC, FULL, new_task, view

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
LATEST = 253_402_300_799.0
"""The last second of the year 9999, which a Timestamp can hold: whatever is later is then."""


class CloudTasks:
    """The service: queues and tasks in a store."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        account_exists: Callable[[str, str], bool],
        listeners: Sequence[Listener] = (),
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        """Open the queues of `store` that API calls created; those of the program open when they are declared.

        `clock`: seconds since the epoch, for due times. `monotonic`: seconds of a clock that never jumps, for rates and
        retries; `clock` if left out. `account_exists`: whether a queue of a project may sign in as an e-mail."""
        self._store = store
        self._clock = clock
        self._monotonic = monotonic or clock
        self._account_exists = account_exists
        self._listeners = listeners
        store.forget_names(clock())
        self.queues = Queues(store, clock, self._monotonic, self._schedule_stored, self._queue_changed)
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
            try:
                message = TaskMessage.FromString(found.message)
                self._fail(path, found, message, INTERRUPTED_STATUS, self._clock())
            except DecodeError:
                log.exception("The stored task %s of %s cannot be read; it is not sent", task, path)

    # Tasks

    def create_task(self, request: Message) -> Message:
        task, stored = self._store_new(request)
        self._announce(request.parent, task, stored)
        return view(task, request.response_view)

    def create_tasks(self, requests: Iterable[Message], keep: Callable[[list[Message | CallError]], None]) -> None:
        """Create each task. `keep` is called with the task or the error of each request; what it stores is committed
        together with the tasks."""
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
        path, requested = request.parent, request.task
        if requested.name:
            task_id = check_task_in_queue(requested.name, path)
        else:
            task_id = str(secrets.randbelow(9 * 10**18) + 10**18)
        queue = self.queues[path].message
        now = self._clock()
        task = new_task(requested, f"{path}/tasks/{task_id}", queue, now, self._account_exists)
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
        return view(self._task(request.name, ended=TASK_ENDED)[2], request.response_view)

    def list_tasks(self, request: Message) -> Message:
        self.queues[request.parent]  # must exist
        size = page_size(request, MAX_PAGE)
        page = self._store.tasks(request.parent, page_start(request.parent, request.page_token), size)
        wanted = FULL if request.response_view == FULL else BASIC
        return ListTasksResponse(
            tasks=[view(TaskMessage.FromString(stored.message), wanted) for stored in page],
            next_page_token=page_token(request.parent, (stored.id for stored in page)),
        )

    def delete_task(self, request: Message) -> Message:
        path, stored, _ = self._task(request.name)
        self._end(path, stored.id)
        return empty_pb2.Empty()

    def delete_tasks(self, queue: str, names: Iterable[str], keep: Callable[[list[CallError | None]], None]) -> None:
        """Delete each task of a queue. `keep` is called with the error of each, or None; what it stores is committed
        together with the deletions. A name that is given twice succeeds or fails twice."""
        outcomes: dict[str, CallError | None] = {}
        names = list(names)
        with self._store.transaction():
            for name in dict.fromkeys(names):
                try:
                    outcomes[name] = None
                    task_id = _task_to_delete(name, queue)
                    self._task(name)
                    self._store.end_task(queue, task_id, self._clock() + NAME_BLOCKED_SECONDS)
                except CallError as error:
                    outcomes[name] = error
            keep([outcomes[name] for name in names])
        for name in [name for name, error in outcomes.items() if error is None]:
            self.queues[queue].schedule.remove(split_task(name)[1])

    def run_task(self, request: Message) -> Message:
        self.queues[split_task(request.name)[0]]  # must exist
        path, stored, message = self._task(request.name)
        message = self._begin(path, stored, message)
        queue = self.queues[path]
        queue.schedule.force(stored.id)
        begun = attempt(stored, message, queue.message, forced=True)
        for listener in self._listeners:
            listener.run_requested(begun)
        message.last_attempt.ClearField("dispatch_time")  # recorded: the answer is given before the dispatch
        if message.dispatch_count == 1:
            message.ClearField("first_attempt")
        return view(message, request.response_view)

    def _task(self, name: str, ended: str = NOT_FOUND) -> tuple[str, StoredTask, Message]:
        """The queue's path, the task and its message; raises CallError, with the text `ended` for one that ended."""
        path, task_id = split_task(name)
        stored = self._store.task(path, task_id) if path in self.queues else None
        if stored is None:
            blocked = self._store.name_blocked(path, task_id, self._clock())
            raise CallError("NOT_FOUND", ended if blocked else NOT_FOUND)
        return path, stored, TaskMessage.FromString(stored.message)

    # Attempts

    def next_dispatch(self, path: str) -> float | None:
        """When `start_attempts` next yields one, in seconds since the epoch, as far as is known now."""
        if path not in self.queues:
            return None
        return self.queues[path].schedule.next_dispatch(self._clock(), self._monotonic())

    def start_attempts(self, path: str) -> list[Attempt]:
        """The attempts to send now, each already counted. A stored task that cannot be read is left out."""
        if path not in self.queues:
            return []
        queue = self.queues[path]
        taken = queue.schedule.take(self._clock(), self._monotonic())
        attempts = []
        try:
            with self._store.transaction() if taken else contextlib.nullcontext():
                for task_id in taken:
                    stored = self._store.task(path, task_id)
                    assert stored is not None, f"{path}/tasks/{task_id} is scheduled but not stored"
                    try:
                        message = self._begin(path, stored, TaskMessage.FromString(stored.message))
                    except DecodeError:
                        log.exception("The stored task %s of %s cannot be read; it is not sent", task_id, path)
                        queue.schedule.finish(task_id)
                    else:
                        attempts.append(attempt(stored, message, queue.message))
        except BaseException:
            for task_id in taken:  # nothing was counted, so nothing may leave
                queue.schedule.finish(task_id)
                queue.schedule.add(task_id, self._clock())
            raise
        return attempts

    def _begin(self, path: str, stored: StoredTask, message: Message) -> Message:
        """Count an attempt before its request leaves, so that a crash cannot repeat it without an end."""
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
        """End an attempt by its HTTP status: the task is done, is tried again later, or is gone.

        504 stands for no answer in time, 0 for no HTTP answer at all."""
        path = attempt.queue
        if path not in self.queues:  # deleted meanwhile, and its tasks with it
            return
        try:
            stored = self._store.task(path, attempt.task)
            if stored is None:  # deleted or purged meanwhile
                return
            message = TaskMessage.FromString(stored.message)
            if 200 <= status < 300:
                self._end(path, attempt.task)
                self._task_changed(Event.PROCESSED, message)
            elif attempt.number == message.dispatch_count:  # else a forced run has begun since, and decides
                now = self._clock()
                # a forced run is scheduled again from the moment at which it was asked for
                since = message.last_attempt.dispatch_time.ToMicroseconds() / 1e6 if attempt.forced else now
                self._fail(path, stored, message, status, since)
        finally:
            self._free(path, attempt.task)

    def _fail(self, path: str, stored: StoredTask, message: Message, status: int, since: float) -> None:
        queue = self.queues[path]
        now = self._clock()
        config = retry_config(message.retry_config if message.HasField("retry_config") else queue.message.retry_config)
        if config.gives_up(message.dispatch_count, message.first_attempt.dispatch_time.ToMicroseconds() / 1e6, now):
            self._end(path, stored.id)
            log.error("Task %s is gone: attempt %d was its last, HTTP %d", message.name, message.dispatch_count, status)
            self._task_changed(Event.GONE, message)
            return
        retry_at = min(LATEST, max(now, since + config.backoff(message.dispatch_count)))
        note_answer(message, status, now)
        message.schedule_time.FromMicroseconds(microseconds(retry_at))
        stored.message = message.SerializeToString()
        stored.due = retry_at
        stored.in_flight = False
        stored.executions = message.response_count
        stored.previous_status = status
        self._store.update_task(path, stored)
        queue.schedule.add(stored.id, retry_at, self._monotonic() + retry_at - now)
        self._task_changed(Event.RETRIED, message)

    def _free(self, path: str, task_id: str) -> None:
        """End a dispatch, so that the queue may dispatch another task."""
        self.queues[path].schedule.finish(task_id, self._monotonic())
        self._queue_changed(path)

    def _end(self, path: str, task_id: str) -> None:
        self._store.end_task(path, task_id, self._clock() + NAME_BLOCKED_SECONDS)
        self.queues[path].schedule.remove(task_id)


def _task_to_delete(name: str, queue: str) -> str:
    """The id of a task of the queue; raises the CallError of BatchDeleteTasks, which has no details."""
    try:
        split_task(name)
    except CallError as error:
        raise CallError(error.code, f"Invalid task name: {error.message}") from None
    return check_task_in_queue(name, queue)


def _due(task: Message) -> float:
    return float(task.schedule_time.ToMicroseconds() / 1e6)
