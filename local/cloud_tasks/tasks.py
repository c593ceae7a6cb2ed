"""Cloud Tasks v2 on the official messages: what each call on tasks does, and what follows from each attempt.

Synchronous and clocked from outside, so that a test can live through a day in a moment. A call has been committed
when it returns. Knows nothing of gRPC, REST or HTTP dispatch: those are api.py, rest.py and dispatch.py.
"""

import contextlib
import logging
import random
import sqlite3
from collections.abc import Callable, Sequence

from google.cloud.tasks_v2 import types
from google.protobuf import empty_pb2

from local.cloud_tasks.attempt import Attempt, attempt, note_answer
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import NOT_FOUND, CallError, Message, microseconds, page
from local.cloud_tasks.names import check_task_in_queue, split_task
from local.cloud_tasks.queue_config import retry_config
from local.cloud_tasks.queues import NAME_BLOCKED_SECONDS, Queues
from local.cloud_tasks.store import Store, StoredTask
from local.cloud_tasks.task import BASIC, FULL, new_task, view

log = logging.getLogger("local.cloud_tasks.tasks")

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
        for task_id, due, in_flight in list(self._store.schedule(path)):
            if in_flight:
                task = self._store.task(f"{path}/tasks/{task_id}")
                assert task is not None
                self._fail(path, task, INTERRUPTED_STATUS, self._clock())
            else:
                self.queues[path].schedule.add(task_id, due)

    # Calls

    def create_task(self, request: Message) -> Message:
        path, name = request.parent, request.task.name
        task_id = check_task_in_queue(name, path) if name else str(random.randrange(10**18, 10**19))
        queue, now = self.queues[path], self._clock()
        message = new_task(request.task, f"{path}/tasks/{task_id}", queue.message, now, self._account_exists)
        task = StoredTask(message)
        try:
            if not self._store.add_task(task, now):
                raise CallError("ALREADY_EXISTS", NAME_BLOCKED)
        except sqlite3.IntegrityError:
            raise CallError("ALREADY_EXISTS", "Requested entity already exists") from None

        def announce() -> None:
            queue.schedule.add(task_id, task.due)
            self._queue_changed(path)
            self._task_changed(Event.CREATED, message)

        self._store.after_commit(announce)
        return view(message, request.response_view)

    def get_task(self, request: Message) -> Message:
        return view(self._task(request.name, ended=TASK_ENDED).message, request.response_view)

    def list_tasks(self, request: Message) -> Message:
        self.queues[request.parent]  # must exist
        wanted = FULL if request.response_view == FULL else BASIC
        tasks, token = page(
            request,
            MAX_PAGE,
            lambda after, size: [view(task.message, wanted) for task in self._store.tasks(request.parent, after, size)],
        )
        return types.ListTasksResponse.pb()(tasks=tasks, next_page_token=token)

    def delete_task(self, request: Message) -> Message:
        self._end(split_task(request.name)[0], self._task(request.name))
        return empty_pb2.Empty()

    def run_task(self, request: Message) -> Message:
        path = split_task(request.name)[0]
        queue = self.queues[path]
        task = self._task(request.name)
        begun = self._begin(task, queue.message, forced=True)
        queue.schedule.force(task.id)
        for listener in self._listeners:
            listener.run_requested(begun)
        message = task.message
        message.last_attempt.ClearField("dispatch_time")  # recorded: the answer is given before the dispatch
        if message.dispatch_count == 1:
            message.ClearField("first_attempt")
        return view(message, request.response_view)

    def _task(self, name: str, ended: str = NOT_FOUND) -> StoredTask:
        """The task; raises CallError, with the text `ended` for one that ended."""
        task = self._store.task(name) if split_task(name)[0] in self.queues else None
        if task is None:
            blocked = self._store.name_blocked(name, self._clock())
            raise CallError("NOT_FOUND", ended if blocked else NOT_FOUND)
        return task

    # Attempts

    def next_dispatch(self, path: str) -> float | None:
        """When `start_attempts` next yields one, in seconds since the epoch, as far as is known now."""
        if path not in self.queues:
            return None
        return self.queues[path].schedule.next_dispatch(self._clock(), self._monotonic())

    def start_attempts(self, path: str) -> list[Attempt]:
        """The attempts to send now, each already counted."""
        if path not in self.queues:
            return []
        queue = self.queues[path]
        taken = queue.schedule.take(self._clock(), self._monotonic())
        try:
            with self._store.transaction() if taken else contextlib.nullcontext():
                return [self._begin(self._task(f"{path}/tasks/{task_id}"), queue.message) for task_id in taken]
        except BaseException:
            for task_id in taken:  # nothing was counted, so nothing may leave
                queue.schedule.finish(task_id)
                queue.schedule.add(task_id, self._clock())
            raise

    def _begin(self, task: StoredTask, queue: Message, *, forced: bool = False) -> Attempt:
        """Count an attempt before its request leaves, so that a crash cannot repeat it without an end."""
        message, now = task.message, microseconds(self._clock())
        message.dispatch_count += 1
        if message.dispatch_count == 1:
            message.first_attempt.dispatch_time.FromMicroseconds(now)
        message.last_attempt.Clear()
        message.last_attempt.schedule_time.CopyFrom(message.schedule_time)
        message.last_attempt.dispatch_time.FromMicroseconds(now)
        task.in_flight = True
        self._store.update_task(task)
        return attempt(task, queue, forced=forced)

    def end_attempt(self, attempt: Attempt, status: int) -> None:
        """End an attempt by its HTTP status: the task is done, is tried again later, or is gone.

        504 stands for no answer in time, 0 for no HTTP answer at all."""
        path = attempt.queue
        if path not in self.queues:  # deleted meanwhile, and its tasks with it
            return
        try:
            task = self._store.task(f"{path}/tasks/{attempt.task}")
            if task is None:  # deleted or purged meanwhile
                return
            if 200 <= status < 300:
                self._end(path, task)
                self._task_changed(Event.PROCESSED, task.message)
            elif attempt.number == task.message.dispatch_count:  # else a forced run has begun since, and decides
                # a forced run is scheduled again from the moment at which it was asked for
                asked_for = task.message.last_attempt.dispatch_time.ToMicroseconds() / 1e6
                self._fail(path, task, status, asked_for if attempt.forced else self._clock())
        finally:
            self.queues[path].schedule.finish(attempt.task, self._monotonic())
            self._queue_changed(path)

    def _fail(self, path: str, task: StoredTask, status: int, since: float) -> None:
        queue, message, now = self.queues[path], task.message, self._clock()
        config = retry_config(message.retry_config if message.HasField("retry_config") else queue.message.retry_config)
        if config.gives_up(message.dispatch_count, message.first_attempt.dispatch_time.ToMicroseconds() / 1e6, now):
            self._end(path, task)
            log.error("Task %s is gone: attempt %d was its last, HTTP %d", message.name, message.dispatch_count, status)
            self._task_changed(Event.GONE, message)
            return
        retry_at = min(LATEST, max(now, since + config.backoff(message.dispatch_count)))
        note_answer(message, status, now)
        message.schedule_time.FromMicroseconds(microseconds(retry_at))
        task.in_flight, task.previous_status = False, status
        self._store.update_task(task)
        queue.schedule.add(task.id, retry_at, self._monotonic() + retry_at - now)
        self._task_changed(Event.RETRIED, message)

    def _end(self, path: str, task: StoredTask) -> None:
        self._store.end_task(task.message.name, self._clock() + NAME_BLOCKED_SECONDS)
        self._store.after_commit(lambda: self.queues[path].schedule.remove(task.id))
