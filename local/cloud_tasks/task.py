"""A task as the service takes it and shows it: checks, limits, defaults, views."""

import functools
import re
import string
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlsplit

from google.cloud.tasks_v2 import types

from local.cloud_tasks.messages import CallError, Message, TaskMessage, invalid, microseconds, pacific_time
from local.cloud_tasks.queue_config import check_email, complete_retries, nanoseconds

MAX_TASK_BYTES = 1024 * 1024 - 7
"""Of the task as it is stored here; recorded: the service takes a body that makes it so long, and not one byte more."""
MAX_SCHEDULE_AHEAD_SECONDS = 30 * 24 * 3600
YEAR_10000 = 253_402_300_800
MAX_URL_LENGTH = 2083
MAX_HEADERS_BYTES = 80 * 1024
MAX_HEADER_BYTES = 8192
"""Of one header line, its CRLF included."""
DEFAULT_DEADLINE, MIN_DEADLINE, MAX_DEADLINE = 600_000, 15_000, 1_800_000
"""Milliseconds that an attempt may take."""

_DROPPED_HEADER = re.compile(
    r"(?i)host|content-length|connection|keep-alive|proxy-authorization|proxy-connection|te|transfer-encoding|upgrade"
    r"|via|accept-encoding|x-forwarded-for|from|user-agent|x-google|x-google-.*|x-appengine-.*",
    re.DOTALL,
)
_HEADER_NAME = re.compile(r"[\x21-\x39\x3b-\x7e]+")
_HEADER_VALUE = re.compile(r"[\t\n\r\x20-\x7e]+")
BODY_METHODS = ("POST", "PUT", "PATCH")
# as plain numbers: the client's own enumerations take longer to compare than a task to store
_METHODS = {int(method): method.name for method in iter(types.HttpMethod) if method}
_POST = int(types.HttpMethod.POST)
_UNSPECIFIED, BASIC, FULL = 0, int(types.Task.View.BASIC), int(types.Task.View.FULL)
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
DEFAULT_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def new_task(
    requested: Message, name: str, queue: Message, now: float, account_exists: Callable[[str, str], bool]
) -> Message:
    """The task to store for the requested one, in its queue; raises CallError where the service refuses it.

    `account_exists`: whether a queue of a project may sign in as an e-mail. The texts of errors are the service's own
    where a recorded answer gives them."""
    if requested.HasField("app_engine_http_request"):
        raise CallError("UNIMPLEMENTED", "App Engine tasks are not served here; create an HTTP task")
    if not requested.HasField("http_request"):
        raise invalid("Task.payload_type is not set.")
    task = TaskMessage(name=name, http_request=requested.http_request)
    http = task.http_request
    scheme, hostname = _address(http.url)
    if http.http_method not in _METHODS:
        http.http_method = _POST
    if http.body and _METHODS[http.http_method] not in BODY_METHODS:
        raise invalid("Body can only be set if the http_method is POST, PUT, or PATCH.")
    headers = dict(http.headers)
    if len("".join(map("".join, headers.items())).encode()) >= MAX_HEADERS_BYTES:
        raise invalid("HttpRequest.headers must be smaller than 80 KB.")
    kept = kept_headers(headers)
    if kept != headers:
        http.headers.clear()
        http.headers.update(kept)
    http.headers["User-Agent"] = "Google-Cloud-Tasks"
    kind = _set_token(http, queue, account_exists)
    if kind == "oauth_token" and not hostname.endswith(".googleapis.com"):
        raise invalid(
            'Invalid url for HttpRequest.oauth_token. The hostname in the url must end with ".googleapis.com"'
        )
    if kind and scheme == "http" and hostname not in _LOCAL_HOSTS:
        raise invalid("HttpRequest.url must start with 'https://' for request with HttpRequest.authorization_header")
    if requested.HasField("retry_config"):
        task.retry_config.CopyFrom(requested.retry_config)
        complete_retries(task.retry_config)
    deadline = DEFAULT_DEADLINE
    if requested.HasField("dispatch_deadline"):
        deadline = nanoseconds(requested.dispatch_deadline) // 1_000_000
    if not MIN_DEADLINE <= deadline <= MAX_DEADLINE:
        raise invalid("Task.dispatchDeadline must be between [15s, 30m].")
    # set one by one: protobuf's own conversions take longer
    task.dispatch_deadline.seconds, task.dispatch_deadline.nanos = deadline // 1000, deadline % 1000 * 10**6
    due = _due(requested, microseconds(now))
    task.schedule_time.seconds, task.schedule_time.nanos = due // 10**6, due % 10**6 * 1000
    task.create_time.seconds = int(now)
    if task.ByteSize() > MAX_TASK_BYTES:
        raise invalid("Task size too large")
    return task


def view(task: Message, wanted: int) -> Message:
    """The task as a response shows it: the body only in the FULL view."""
    shown = TaskMessage()
    shown.CopyFrom(task)
    shown.view = BASIC if wanted == _UNSPECIFIED else wanted if wanted in (BASIC, FULL) else _UNSPECIFIED
    if shown.view != FULL:
        shown.http_request.ClearField("body")
    return shown


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a task that the service keeps, as it keeps them."""
    kept = {name: _kept_value(name, value) for name, value in headers.items()}
    return {name: value for name, value in kept.items() if value}


@functools.lru_cache(maxsize=256)  # the tasks of a queue mostly have the same
def _kept_value(name: str, text: str) -> str:
    """The value that the service keeps of a header; empty if it drops the header."""
    value = text.partition("\0")[0]
    if _DROPPED_HEADER.fullmatch(name) or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        return ""
    fits = len(f"{name}: {value}\r\n") <= MAX_HEADER_BYTES
    return value.replace("\r", "_").replace("\n", "_") if fits else ""


def _set_token(http: Message, queue: Message, account_exists: Callable[[str, str], bool]) -> str:
    """Check the task's token, replace it by the queue's, and fill in its audience or scope; raises CallError.

    Returns its kind; empty if there is none."""
    kind = http.WhichOneof("authorization_header")
    if kind:
        email = getattr(http, kind).service_account_email
        check_email(email)
        if not account_exists(queue.name.split("/")[1], email):
            text = 'The principal lacks IAM permission "iam.serviceAccounts.actAs" for the resource'
            raise CallError("PERMISSION_DENIED", f'{text} "{email}" (or the resource may not exist).')
    of_queue = queue.HasField("http_target") and queue.http_target.WhichOneof("authorization_header")
    if of_queue:
        kind = of_queue
        getattr(http, kind).CopyFrom(getattr(queue.http_target, kind))
    if kind == "oauth_token":
        http.oauth_token.scope = http.oauth_token.scope or DEFAULT_SCOPE
    elif kind and not http.oidc_token.audience:
        http.oidc_token.audience = http.url
    return kind or ""


def _due(requested: Message, now: int) -> int:
    """When the task is to be dispatched, in microseconds; raises CallError."""
    if not requested.HasField("schedule_time"):
        return now
    seconds, nanos = requested.schedule_time.seconds, requested.schedule_time.nanos
    if seconds >= YEAR_10000 or not 0 <= nanos <= 999_999_999:
        raise invalid()
    due = max(now, int(seconds * 1_000_000 + nanos // 1000))
    if due - now > MAX_SCHEDULE_AHEAD_SECONDS * 10**6:
        raise invalid(
            f"The Task.scheduleTime, {pacific_time(seconds, nanos)}, is too far in the future. "
            "Schedule time must be no more than 720h in the future."
        )
    return due


@functools.lru_cache(maxsize=64)  # the tasks of a queue mostly have the same
def _address(url: str) -> tuple[str, str]:
    """The scheme and the host of a URL; raises CallError where the service does not take it."""
    if not url:
        raise invalid("HttpRequest.url is required.")
    if not re.match(r"https?://[^/?#]", url):
        raise invalid("HttpTarget.url must start with 'http://' or 'https://'.")
    if len(quote(url, safe=string.punctuation)) > MAX_URL_LENGTH:
        raise invalid(f"HttpRequest.url must be at most {MAX_URL_LENGTH} characters long.")
    try:
        parts = urlsplit(url)
        if (parts.port or 0) >= 0 and parts.hostname and parts.hostname.encode("idna"):
            return parts.scheme, parts.hostname
    except ValueError:
        pass
    raise invalid(f"HttpRequest.url {url!r} is not a valid URL.")
