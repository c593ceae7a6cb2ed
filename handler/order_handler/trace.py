"""The trace of a request, from the web app's request through its task to the log lines and the effects' requests.

A task carries the web app's `traceparent` in OWN_HEADER too, since a front end may rewrite `traceparent`.
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar

OWN_HEADER = "X-Order-Traceparent"

# W3C Trace Context: VERSION-TRACE-PARENT-FLAGS.
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
# TRACE/SPAN;o=OPTIONS, where SPAN and OPTIONS may be missing.
_CLOUD_TRACE = re.compile(r"([0-9a-fA-F]{32})(?![^/;])")

_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def begin(received: Mapping[str, str]) -> str | None:
    """Makes the trace in these headers (lower-case names) that of this task, and returns its id."""
    for name in (OWN_HEADER.lower(), "traceparent"):
        value = received.get(name, "")
        if found := _TRACE_PARENT.fullmatch(value):
            _current.set(value)
            return found[1]
    _current.set(None)
    found = _CLOUD_TRACE.match(received.get("x-cloud-trace-context", ""))
    return found[1].lower() if found else None


def headers() -> dict[str, str]:
    """The headers of an effect's request, or of a task."""
    value = _current.get()
    return {"traceparent": value, OWN_HEADER: value} if value else {}
