"""A task as the service takes it and shows it: checks, limits, defaults, views."""

import functools
import re
import string
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlsplit

from google.cloud.tasks_v2 import types

from local.cloud_tasks.messages import CallError, Message, TaskMessage, microseconds
from local.cloud_tasks.queue_config import complete_retries

MAX_TASK_BYTES = 1024 * 1024
MAX_SCHEDULE_AHEAD_SECONDS = 30 * 24 * 3600
MAX_URL_LENGTH = 2083
MAX_HEADERS_BYTES = 80 * 1024
DEFAULT_DEADLINE, MIN_DEADLINE, MAX_DEADLINE = 600_000, 15_000, 1_800_000
"""Milliseconds that an attempt may take."""

_REPLACED_HEADER = re.compile(r"(?i)host|content-length|user-agent|x-google-.*|x-appengine-.*|x-cloudtasks-.*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
BODY_METHODS = ("POST", "PUT", "PATCH")
# as plain numbers: the client's own enumerations take longer to compare than a task to store
_METHODS = {int(method): method.name for method in iter(types.HttpMethod)}
_POST = int(types.HttpMethod.POST)
_BASIC, _FULL = int(types.Task.View.BASIC), int(types.Task.View.FULL)


def new_task(given: Message, name: str, now: float, account_exists: Callable[[str, str], bool]) -> Message:
    """The task to store, out of the one given; raises CallError where the service refuses it.

    `account_exists`: whether a queue of a project may sign in as an e-mail. The texts of errors are the service's own
    where a recorded answer gives them."""
    if given.HasField("app_engine_http_request"):
        raise CallError("UNIMPLEMENTED", "App Engine tasks are not served here; create an HTTP task")
    if not given.HasField("http_request"):
        raise CallError("INVALID_ARGUMENT", "Task must have a payload: one of http_request.")
    http = given.http_request
    _check_url(http.url)
    if any(_CONTROL.search(text) for header in http.headers.items() for text in header):
        raise CallError("INVALID_ARGUMENT", "HttpRequest.headers must not contain control characters.")
    if sum(len(text.encode()) for header in http.headers.items() for text in header) >= MAX_HEADERS_BYTES:
        raise CallError("INVALID_ARGUMENT", "HttpRequest.headers must be smaller than 80 KB.")
    method = http.http_method or _POST
    if method not in _METHODS:
        raise CallError("INVALID_ARGUMENT", f"HttpRequest.httpMethod {method} is not known.")
    if http.body and _METHODS[method] not in BODY_METHODS:
        raise CallError("INVALID_ARGUMENT", "HTTP Body is only allowed with methods POST, PUT, PATCH.")
    if http.HasField("oauth_token"):
        raise CallError("UNIMPLEMENTED", "OAuth tokens are for Google's own APIs; use an OIDC token")
    email = http.oidc_token.service_account_email
    if email and not account_exists(name.split("/")[1], email):
        text = 'The principal lacks IAM permission "iam.serviceAccounts.actAs" for the resource'
        raise CallError("PERMISSION_DENIED", f'{text} "{email}" (or the resource may not exist).')
    task = TaskMessage(name=name)
    task.http_request.CopyFrom(http)
    task.http_request.http_method = method
    task.http_request.headers.clear()
    task.http_request.headers.update({**sent_headers(http.headers), "User-Agent": "Google-Cloud-Tasks"})
    if given.HasField("retry_config"):
        task.retry_config.CopyFrom(given.retry_config)
        complete_retries(task.retry_config)
    deadline = given.dispatch_deadline.ToMilliseconds() if given.HasField("dispatch_deadline") else DEFAULT_DEADLINE
    if not MIN_DEADLINE <= deadline <= MAX_DEADLINE:
        raise CallError("INVALID_ARGUMENT", "Task.dispatchDeadline must be between [15s, 30m].")
    task.dispatch_deadline.FromMilliseconds(deadline)
    due = microseconds(now)
    if given.HasField("schedule_time"):
        due = max(due, given.schedule_time.seconds * 1_000_000 + given.schedule_time.nanos // 1000)
    if due - microseconds(now) > MAX_SCHEDULE_AHEAD_SECONDS * 10**6:
        at = given.schedule_time.ToJsonString()
        raise CallError(
            "INVALID_ARGUMENT",
            f"The Task.scheduleTime, {at}, is too far in the future. "
            "Schedule time must be no more than 720h in the future.",
        )
    task.schedule_time.FromMicroseconds(due)
    task.create_time.FromSeconds(int(now))
    if task.ByteSize() > MAX_TASK_BYTES:
        raise CallError("INVALID_ARGUMENT", "Task size too large")
    return task


def view(task: Message, wanted: int) -> Message:
    """The task as a response shows it: the body only in the FULL view."""
    shown = TaskMessage()
    shown.CopyFrom(task)
    shown.view = _FULL if wanted == _FULL else _BASIC
    if shown.view == _BASIC:
        shown.http_request.ClearField("body")
    return shown


def sent_headers(given: Mapping[str, str]) -> dict[str, str]:
    """Those that leave as they are; the service sets or drops the others."""
    return {key: value for key, value in given.items() if not _REPLACED_HEADER.fullmatch(key)}


@functools.lru_cache(maxsize=64)  # the tasks of a queue mostly have the same
def _check_url(url: str) -> None:
    """Raises CallError for what the service does not take as a URL."""
    if not url:
        raise CallError("INVALID_ARGUMENT", "HttpRequest.url is required.")
    if not re.match(r"https?://[^/?#]", url):
        raise CallError("INVALID_ARGUMENT", "HttpTarget.url must start with 'http://' or 'https://'.")
    if len(quote(url, safe=string.punctuation)) > MAX_URL_LENGTH:
        raise CallError("INVALID_ARGUMENT", f"HttpRequest.url must be at most {MAX_URL_LENGTH} characters long.")
    try:
        parts = urlsplit(url)
        valid = (parts.port or 0) >= 0 and bool((parts.hostname or "").encode("idna"))
    except ValueError:
        valid = False
    if not valid:
        raise CallError("INVALID_ARGUMENT", f"HttpRequest.url {url!r} is not a valid URL.")
