"""The events that Cloud Tasks announces, to the sender of attempts and to whoever counts tasks."""

import enum

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.messages import Message


class Event(enum.Enum):
    """What happened to a task."""

    CREATED = "created"
    PROCESSED = "processed"
    RETRIED = "retried"
    GONE = "gone"
    """Deleted after its last attempt."""


class Listener:
    """Called after each change, in the order of the listeners. A subclass overrides the methods that it needs."""

    def queue_changed(self, queue: str) -> None:
        """A queue, given by its path, may have a task to dispatch earlier than before."""

    def run_requested(self, attempt: Attempt) -> None:
        """RunTask began this attempt: it is to be sent at once."""

    def task_changed(self, event: Event, task: Message) -> None:
        """An event happened to a task."""
