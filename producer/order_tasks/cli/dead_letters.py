"""The dead-letter queue and the calls on its entries.

Guarantees one thing above all: a queue that was resumed is paused again, however the work ends.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from google.api_core import exceptions
from google.cloud import tasks_v2

from order_tasks import connection
from order_tasks.cli.command import UsageError
from order_tasks.cli.dead_letter import DeadLetter
from order_tasks.cli.interrupts import Interrupts
from order_tasks.config import Config
from order_tasks.errors import OrderTasksError

# A page is held in memory, and each body may have a megabyte.
_FULL_PAGE, _BASIC_PAGE = 100, 1000


class NotPausedError(OrderTasksError):
    """The dead-letter queue may be running. While it runs, entries are delivered at once and fail again."""


class DeadLetters:
    """The dead-letter queue of a configuration."""

    def __init__(self, api: tasks_v2.CloudTasksClient, config: Config) -> None:
        assert config.dead_letter_queue is not None, "read_config requires it"
        self.queue = config.dead_letter_queue
        self._api = api
        self._options = connection.call_options(config)
        self._run_options = connection.call_options(config, 90.0)  # the quota is 60 calls a minute

    def paths(self, names: Sequence[str]) -> list[str]:
        """The full paths of entries, without repetitions. `names`: ids or paths. Raises UsageError."""
        paths = [name if "/" in name else f"{self.queue}/tasks/{name}" for name in names]
        for name, path in zip(names, paths, strict=True):
            if not re.fullmatch(rf"{re.escape(self.queue)}/tasks/[A-Za-z0-9_-]{{1,500}}", path):
                raise UsageError(
                    f"{name!r} is not an entry of {self.queue}: `python -m order_tasks status` lists the entries"
                )
        return list(dict.fromkeys(paths))

    def entries(self, *, full: bool) -> Iterator[DeadLetter]:
        """All entries in any order, page by page. Only with `full` do they contain the orders."""
        request = tasks_v2.ListTasksRequest(
            parent=self.queue,
            response_view=tasks_v2.Task.View.FULL if full else tasks_v2.Task.View.BASIC,
            page_size=_FULL_PAGE if full else _BASIC_PAGE,
        )
        tasks = self._api.list_tasks(request, **self._options)
        return map(DeadLetter.from_task, tasks)

    def find(self, path: str) -> DeadLetter | None:
        """One entry in full, or None if it was processed, dropped or never stored."""
        request = tasks_v2.GetTaskRequest(name=path, response_view=tasks_v2.Task.View.FULL)
        try:
            task = self._api.get_task(request, **self._options)
        except exceptions.NotFound:
            self._raise_if_queue_missing()
            return None
        return DeadLetter.from_task(task)

    def run(self, path: str) -> None:
        """Deliver an entry now, although the queue is paused. Does nothing if it is gone."""
        try:
            # After a lost answer it may run twice, which the handler allows.
            self._api.run_task(tasks_v2.RunTaskRequest(name=path), **self._run_options)
        except exceptions.NotFound:
            self._raise_if_queue_missing()

    def drop(self, path: str) -> None:
        """Delete an entry. Does nothing if it is gone."""
        try:
            self._api.delete_task(name=path, **self._options)
        except exceptions.NotFound:
            self._raise_if_queue_missing()

    def while_resumed(self, work: Callable[[], None]) -> None:
        """Resume the queue, do `work`, and pause the queue, also after an error, Ctrl-C, SIGTERM or SIGHUP.

        A signal ends `work` with a KeyboardInterrupt. Signals are ignored while the queue is being paused. Raises
        NotPausedError if it could not be paused. Works only in the main thread, which receives the signals.
        """
        interrupts = Interrupts()
        # Not a context manager: a signal between its frames and the body would leave the queue running.
        try:
            try:
                interrupts.install()
                # Signals wait for this call: if it were abandoned, it could take effect after the pause.
                self._api.resume_queue(name=self.queue, **self._options)
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
            self._api.pause_queue(name=self.queue, **self._options)
        except Exception as error:
            command = pause_command(self.queue)
            raise NotPausedError(
                f"THE DEAD-LETTER QUEUE MAY STILL BE RUNNING. Pausing it failed ({error}): run {command}"
            ) from error

    def _raise_if_queue_missing(self) -> None:
        # A missing queue and a missing task have the same error, and a missing queue must not look like success.
        self._api.get_queue(name=self.queue, **self._options)


@contextmanager
def open_dead_letters(config: Config) -> Iterator[DeadLetters]:
    """Connect to the dead-letter queue of a configuration."""
    with connection.connect(config) as api:
        yield DeadLetters(api, config)


def pause_command(queue: str) -> str:
    """The command that pauses a queue."""
    _, project, _, location, _, name = queue.split("/")
    return f"gcloud tasks queues pause {name} --location={location} --project={project}"
