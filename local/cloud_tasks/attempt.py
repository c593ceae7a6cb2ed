"""One attempt at a task: the request that is sent, and what is stored of its answer."""

import dataclasses
import re
from urllib.parse import urlsplit, urlunsplit

from google.cloud.tasks_v2 import types
from google.rpc import code_pb2

from local.cloud_tasks.messages import Message, microseconds
from local.cloud_tasks.store import StoredTask
from local.cloud_tasks.task import BODY_METHODS, kept_headers

_STATUS_CODES = {
    0: "UNKNOWN",
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status -> canonical code. For any other status, its hundreds decide, as below."""
_CODES_BY_HUNDREDS = {4: "FAILED_PRECONDITION", 5: "INTERNAL"}
_NOT_SENT = re.compile(r"(?i)expect|trailer|x-cloudtasks-.*")
"""Headers that a task keeps and that are not sent: they would change how the request is read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One dispatch of a task, ready to be sent."""

    queue: str
    task: str
    number: int  # from 1 on
    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    account: str
    """E-mail of the account to sign in as; empty if the request carries no token."""
    audience: str  # of the OIDC token, or empty
    scope: str  # of the OAuth token, or empty
    deadline: float  # seconds until the attempt counts as timed out
    forced: bool = False  # RunTask started it
    unsendable: str = ""  # why the request cannot be sent


def attempt(task: StoredTask, queue: Message, *, forced: bool = False) -> Attempt:
    """Returns the next attempt at a stored task. It must be counted already."""
    message, http, target = task.message, task.message.http_request, queue.http_target
    method = types.HttpMethod(target.http_method or http.http_method).name
    overrides = kept_headers({each.header.key: each.header.value for each in target.header_overrides})
    replaced = {key.lower() for key in overrides}
    headers = {key: value for key, value in http.headers.items() if key.lower() not in replaced} | overrides
    headers = {key: value for key, value in headers.items() if not _NOT_SENT.fullmatch(key)} | {
        "X-CloudTasks-QueueName": queue.name.rpartition("/")[2],
        "X-CloudTasks-TaskName": task.id,
        "X-CloudTasks-TaskRetryCount": str(message.dispatch_count - 1),
        "X-CloudTasks-TaskExecutionCount": str(message.response_count),
        "X-CloudTasks-TaskETA": f"{task.due:.6f}".rstrip("0").rstrip("."),
    }
    if task.previous_status:
        headers["X-CloudTasks-TaskPreviousResponse"] = str(task.previous_status)
        headers["X-CloudTasks-TaskRetryReason"] = ""
    no_body = f"the queue's method {method} takes no body, and the task has one"
    return Attempt(
        queue=queue.name,
        task=task.id,
        number=message.dispatch_count,
        method=method,
        url=_overridden(http.url, target.uri_override),
        headers=headers,
        body=http.body,
        account=http.oidc_token.service_account_email or http.oauth_token.service_account_email,
        audience=http.oidc_token.audience,
        scope=http.oauth_token.scope,
        deadline=message.dispatch_deadline.ToMilliseconds() / 1e3,
        forced=forced,
        unsendable=no_body if http.body and method not in BODY_METHODS else "",
    )


def note_answer(message: Message, status: int, now: float) -> None:
    """Store a failed attempt's HTTP status in its task's message."""
    code = _STATUS_CODES.get(status) or _CODES_BY_HUNDREDS.get(status // 100, "UNKNOWN")
    number = code_pb2.Code.Value(code)
    message.response_count += 0 < status < 500  # recorded: answers from 500 up do not count
    message.last_attempt.response_time.FromMicroseconds(microseconds(now))
    message.last_attempt.response_status.code = number
    message.last_attempt.response_status.message = f"{code}({number}): HTTP status code {status}"


def _overridden(url: str, override: Message) -> str:
    """The URL that a task of the queue is sent to: the queue's parts replace the task's own.

    Under IF_NOT_EXISTS they only fill in a URL that has neither path nor query. Raises ValueError."""
    if not override.ByteSize():
        return url
    parts = urlsplit(url)
    always = override.uri_override_enforce_mode != types.UriOverride.UriOverrideEnforceMode.IF_NOT_EXISTS
    fills = always or (parts.path in ("", "/") and not parts.query)
    scheme = types.UriOverride.Scheme(override.scheme).name.lower() if override.scheme and always else parts.scheme
    host = override.host if override.host and always else parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = override.port if override.HasField("port") and (always or not parts.port) else parts.port
    path: str = parts.path
    query: str = parts.query
    if override.HasField("path_override") and fills:
        path = override.path_override.path
        path = path if path.startswith("/") or not path else f"/{path}"
    if override.HasField("query_override") and fills:
        query = override.query_override.query_params.removeprefix("?")
    overridden: str = urlunsplit((scheme, f"{host}:{port}" if port else host, path, query, ""))
    return overridden
