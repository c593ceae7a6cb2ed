"""The trace of the request at hand, which its tasks carry to the handler's log lines and to the effects' requests.

traceparent.set(request.headers.get("traceparent"))  # at each request, such as in a middleware
"""

import re
from contextvars import ContextVar

traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The header `traceparent` of W3C Trace Context. Tasks and outbox rows that are made in this context carry it."""

OWN_HEADER = "X-Order-Traceparent"
"""Carries it too: a front end may rewrite `traceparent`. The handler prefers this one."""

_FORM = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def headers() -> dict[str, str]:
    """The headers of a task that is made now."""
    value = traceparent.get() or ""
    return {"traceparent": value, OWN_HEADER: value} if _FORM.fullmatch(value) else {}
