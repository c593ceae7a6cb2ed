"""The official messages of google.cloud.tasks.v2 in their plain protobuf form, and the error that a call answers."""

from typing import Any

from google.cloud.tasks_v2 import types

Message = Any
"""A message of google.cloud.tasks.v2 in its plain protobuf form: proto-plus costs more than most calls."""

TaskMessage: Message = types.Task.pb()
QueueMessage: Message = types.Queue.pb()


class CallError(Exception):
    """The answer to a call that failed: a canonical code by name, and its text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def microseconds(seconds: float) -> int:
    """What the messages' times are kept in."""
    return int(seconds * 1_000_000)


def page_size(request: Message, largest: int) -> int:
    """How many entries a page of the answer has at most; raises CallError."""
    if request.page_size < 0:
        raise CallError("INVALID_ARGUMENT", "The page size must not be negative.")
    return min(request.page_size or largest, largest)
