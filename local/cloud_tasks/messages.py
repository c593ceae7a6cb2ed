"""The official messages of google.cloud.tasks.v2 in their plain protobuf form, and the error that a call answers."""

import base64
import contextlib
import datetime
import zoneinfo
from collections.abc import Callable, Sequence
from typing import Any

from google.cloud.tasks_v2 import types
from google.rpc import code_pb2, error_details_pb2, status_pb2

Message = Any
"""A message of google.cloud.tasks.v2 in its plain protobuf form: proto-plus costs more than most calls."""

TaskMessage: Message = types.Task.pb()
QueueMessage: Message = types.Queue.pb()

INVALID = "Request contains an invalid argument."
NOT_FOUND = "Requested entity was not found."

_PACIFIC = zoneinfo.ZoneInfo("America/Los_Angeles")


class CallError(Exception):
    """The answer to a call that failed: a canonical code by name, its text, and the details that go with it."""

    def __init__(self, code: str, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def status(self) -> Message:
        """The error as a google.rpc.Status."""
        status = status_pb2.Status(code=code_pb2.Code.Value(self.code), message=self.message)
        for detail in self.details:
            status.details.add().Pack(detail)
        return status


def invalid(message: str = INVALID, *details: Message) -> CallError:
    """The error of a request that is wrong in itself."""
    return CallError("INVALID_ARGUMENT", message, *details)


def error_info(reason: str, domain: str, **metadata: str) -> Message:
    """A detail that names the reason of an error for programs."""
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)


def microseconds(seconds: float) -> int:
    """Seconds in the unit that the service keeps times in."""
    return int(seconds * 1_000_000)


def pacific_time(seconds: int, nanos: int) -> str:
    """A time as the service's errors write it, such as `2099-12-31T16:00:00.5-08:00`."""
    at = datetime.datetime.fromtimestamp(seconds, _PACIFIC).isoformat()
    fraction = f".{nanos:09}".rstrip("0") if nanos else ""
    return at[:19] + fraction + at[19:]


def page(
    request: Message, largest: int, entries: Callable[[str, int], Sequence[Message]]
) -> tuple[Sequence[Message], str]:
    """The page of a parent's entries that a request asks for, and the token of the next; raises CallError.

    `entries`: up to so many entries that follow a name, sorted by name."""
    if request.page_size < 0:
        raise invalid(f"{request.DESCRIPTOR.name}.pageSize cannot be negative.")
    after = ""
    if request.page_token:
        with contextlib.suppress(ValueError):
            after = base64.urlsafe_b64decode(request.page_token).decode()
        if not after.startswith(f"{request.parent}/"):
            raise invalid("Invalid page_token")
    found = entries(after, min(request.page_size or largest, largest))
    return found, base64.urlsafe_b64encode(found[-1].name.encode()).decode() if found else ""
