"""The dead-letter queue: what an operator may do with it and its entries.

Owns the calls, and the one promise that matters: a queue that was resumed is paused again, whatever ends the work.
"""

import re
from collections.abc import Callable, Iterator

from google.api_core import exceptions
from google.cloud import tasks_v2

from order_tasks import calls
from order_tasks.cli.dead_letter import DeadLetter
from order_tasks.cli.interrupts import Interrupts
from order_tasks.errors import OrderTasksError

# A body may have a megabyte, and a page is held in memory.
_FULL_PAGE, _BASIC_PAGE = 100, 1000


class NotPausedError(OrderTasksError):
    """The dead-letter queue may be running: what is stored there next is delivered at once and fails again."""


class DeadLetters:
    """The dead-letter queue at `queue`, its full path. Does not own the client."""

    def __init__(self, api: tasks_v2.CloudTasksClient, queue: str) -> None:
        self._api = api
        self.queue = queue

    def path(self, name: str) -> str:
        """An entry's full path from that or its short id. Raises ValueError for what can be neither."""
        path = name if "/" in name else f"{self.queue}/tasks/{name}"
        if not re.fullmatch(rf"{re.escape(self.queue)}/tasks/[A-Za-z0-9_-]{{1,500}}", path):
            raise ValueError(f"{name!r} is no entry of {self.queue}: `python -m order_tasks status` names them")
        return path

    def entries(self, *, full: bool) -> Iterator[DeadLetter]:
        """Every entry, page by page, in any order. Only a full list knows the orders."""
        request = tasks_v2.ListTasksRequest(
            parent=self.queue,
            response_view=tasks_v2.Task.View.FULL if full else tasks_v2.Task.View.BASIC,
            page_size=_FULL_PAGE if full else _BASIC_PAGE,
        )
        return map(DeadLetter.of, self._api.list_tasks(request, retry=calls.RETRY, timeout=calls.ATTEMPT_TIMEOUT))

    def find(self, path: str) -> DeadLetter | None:
        """An entry in full, or None: it was processed or dropped, or never was."""
        request = tasks_v2.GetTaskRequest(name=path, response_view=tasks_v2.Task.View.FULL)
        try:
            return DeadLetter.of(self._api.get_task(request, retry=calls.RETRY, timeout=calls.ATTEMPT_TIMEOUT))
        except exceptions.NotFound as error:
            self._refuse_missing_queue(error)
            return None

    def run(self, path: str) -> None:
        """Have an entry delivered now, although the queue is paused. One that is gone meanwhile is no error."""
        try:
            # Repeated after a lost answer, it may run twice: the handler is made for that. The quota is 60 a minute.
            retry = calls.RETRY.with_timeout(90.0)
            self._api.run_task(tasks_v2.RunTaskRequest(name=path), retry=retry, timeout=calls.ATTEMPT_TIMEOUT)
        except exceptions.NotFound as error:
            self._refuse_missing_queue(error)

    def drop(self, path: str) -> None:
        """Delete an entry. One that is gone meanwhile is no error."""
        try:
            self._api.delete_task(name=path, retry=calls.RETRY, timeout=calls.ATTEMPT_TIMEOUT)
        except exceptions.NotFound as error:
            self._refuse_missing_queue(error)

    def while_resumed(self, work: Callable[[], None]) -> None:
        """Resume the queue, do `work`, pause the queue: also after an error, Ctrl-C, SIGTERM or SIGHUP.

        A signal ends `work` by KeyboardInterrupt; while the queue is being paused, signals are ignored. Raises
        NotPausedError if it could not be paused. Main thread only, which is where signals arrive.
        """
        interrupts = Interrupts()
        # Not a context manager: a signal between its frames and the body would leave the queue running.
        try:
            try:
                interrupts.install()
                # Not interrupted either: a call that was given up could take effect after the pause.
                self._api.resume_queue(name=self.queue, retry=calls.RETRY, timeout=calls.ATTEMPT_TIMEOUT)
                interrupts.allow()
                work()
            finally:
                interrupts.hold()
        finally:
            try:
                self._pause()
            finally:
                interrupts.restore()

    def _pause(self) -> None:
        try:
            self._api.pause_queue(name=self.queue, retry=calls.RETRY, timeout=calls.ATTEMPT_TIMEOUT)
        except Exception as error:
            raise NotPausedError(
                f"THE DEAD-LETTER QUEUE MAY STILL BE RUNNING, it could not be paused ({error}): {pausing(self.queue)}"
            ) from error

    def _refuse_missing_queue(self, error: exceptions.NotFound) -> None:
        # The answers for a missing queue and a missing task share a code: an absent queue must not read as success.
        if "Queue does not exist" in str(error):
            raise error


def pausing(queue: str) -> str:
    """The command that pauses a queue."""
    _, project, _, location, _, name = queue.split("/")
    return f"gcloud tasks queues pause {name} --location={location} --project={project}"
