"""The official messages of google.cloud.tasks.v2 in their plain protobuf form, and the error that a call answers."""

import base64
import datetime
import zoneinfo
from collections.abc import Iterable
from typing import Any

from google.cloud.tasks_v2 import types
from google.rpc import code_pb2, error_details_pb2, status_pb2

Message = Any
"""A message of google.cloud.tasks.v2 in its plain protobuf form: proto-plus costs more than most calls."""

TaskMessage: Message = types.Task.pb()
QueueMessage: Message = types.Queue.pb()

INVALID = "Request contains an invalid argument."
NOT_FOUND = "Requested entity was not found."

_REFERENCE = "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues"
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


def help_link(description: str, url: str) -> Message:
    """A detail that links to a page."""
    return error_details_pb2.Help(links=[error_details_pb2.Help.Link(description=description, url=url)])


def definition(noun: str) -> Message:
    """The link to the reference of a `queue name`, `queue ID`, `task name` or `task ID`."""
    page = ".tasks#Task" if noun.startswith("task") else "#Queue"
    return help_link(f"Definition of {noun}", f"{_REFERENCE}{page}.FIELDS.name")


def microseconds(seconds: float) -> int:
    """Seconds in the unit that the service keeps times in."""
    return int(seconds * 1_000_000)


def pacific_time(seconds: int, nanos: int) -> str:
    """A time as the service's errors write it, such as `2099-12-31T16:00:00.5-08:00`."""
    at = datetime.datetime.fromtimestamp(seconds, _PACIFIC)
    fraction = f".{nanos:09}".rstrip("0") if nanos else ""
    offset = at.strftime("%z")
    return f"{at:%Y-%m-%dT%H:%M:%S}{fraction}{offset[:3]}:{offset[3:]}"


def page_size(request: Message, largest: int) -> int:
    """How many entries a page of the answer has at most; raises CallError."""
    if request.page_size < 0:
        raise invalid(f"{request.DESCRIPTOR.name}.pageSize cannot be negative.")
    return min(request.page_size or largest, largest)


def page_token(parent: str, names: Iterable[str]) -> str:
    """The token of the page after these entries of a parent; empty after an empty page."""
    last = list(names)[-1:]
    return base64.urlsafe_b64encode(f"{parent}\n{last[0]}".encode()).decode() if last else ""


def page_start(parent: str, token: str) -> str:
    """The entry that a page follows; empty for the first page. Raises CallError."""
    if not token:
        return ""
    try:
        of, _, last = base64.b64decode(token, b"-_", validate=True).decode().partition("\n")
    except ValueError:
        of = last = ""
    if of != parent or not last:
        raise invalid("Invalid page_token")
    return last
