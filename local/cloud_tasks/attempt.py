"""One attempt at a task: the request that leaves, and what is kept of its answer."""

import dataclasses
from urllib.parse import urlsplit, urlunsplit

from google.cloud.tasks_v2 import types
from google.rpc import code_pb2

from local.cloud_tasks.messages import Message, microseconds
from local.cloud_tasks.store import StoredTask
from local.cloud_tasks.task import BODY_METHODS, sent_headers

_STATUS_CODES = {
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


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One dispatch of a task, as it is to leave."""

    queue: str
    task: str
    number: int
    """1 for the first."""
    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    account: str
    """E-mail to sign in as; empty for none."""
    audience: str
    deadline: float
    """Seconds."""
    forced: bool = False
    """By RunTask."""


def attempt(stored: StoredTask, message: Message, queue: Message, *, forced: bool = False) -> Attempt:
    """The next attempt at a stored task, its message and its queue's; already counted."""
    http = message.http_request
    path, target = queue.name, queue.http_target
    url = _overridden(http.url, target.uri_override)
    oidc = target.oidc_token if target.HasField("oidc_token") else http.oidc_token
    method = types.HttpMethod(target.http_method or http.http_method).name
    overrides = sent_headers({each.header.key: each.header.value for each in target.header_overrides})
    replaced = {key.lower() for key in overrides}
    headers = {
        **{key: value for key, value in http.headers.items() if key.lower() not in replaced},
        **overrides,
        "X-CloudTasks-QueueName": path.rpartition("/")[2],
        "X-CloudTasks-TaskName": stored.id,
        "X-CloudTasks-TaskRetryCount": str(message.dispatch_count - 1),
        "X-CloudTasks-TaskExecutionCount": str(stored.executions),
        "X-CloudTasks-TaskETA": f"{stored.due:.6f}".rstrip("0").rstrip("."),
    }
    if stored.previous_status:
        headers |= {
            "X-CloudTasks-TaskPreviousResponse": str(stored.previous_status),
            "X-CloudTasks-TaskRetryReason": "",
        }
    return Attempt(
        queue=path,
        task=stored.id,
        number=message.dispatch_count,
        method=method,
        url=url,
        headers=headers,
        body=http.body if method in BODY_METHODS else b"",  # a queue's GET drops it
        account=oidc.service_account_email,
        audience=oidc.audience or url,
        deadline=message.dispatch_deadline.ToMilliseconds() / 1e3,
        forced=forced,
    )


def note_answer(message: Message, status: int, now: float) -> None:
    """Keep a failed attempt's HTTP status in its task's message."""
    code = _STATUS_CODES.get(status) or ("INTERNAL" if status >= 500 else "UNKNOWN")
    number = code_pb2.Code.Value(code)
    message.response_count += 1
    message.last_attempt.response_time.FromMicroseconds(microseconds(now))
    message.last_attempt.response_status.code = number
    message.last_attempt.response_status.message = f"{code}({number}): HTTP status code {status}"


def _overridden(url: str, override: Message) -> str:
    """The URL that a task of the queue is sent to: the queue's parts replace the task's own."""
    if not override.ByteSize():
        return url
    parts = urlsplit(url)
    always = override.uri_override_enforce_mode != types.UriOverride.UriOverrideEnforceMode.IF_NOT_EXISTS
    scheme = types.UriOverride.Scheme(override.scheme).name.lower() if override.scheme and always else parts.scheme
    host = override.host if override.host and always else parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = override.port if override.HasField("port") and (always or not parts.port) else parts.port
    path: str = parts.path
    query: str = parts.query
    if override.HasField("path_override") and (always or path in ("", "/")):
        path = override.path_override.path
    if override.HasField("query_override") and (always or not query):
        query = override.query_override.query_params
    overridden: str = urlunsplit((scheme, f"{host}:{port}" if port else host, path, query, ""))
    return overridden
