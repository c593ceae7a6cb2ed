"""Log lines as Cloud Logging reads them: one JSON object a line on standard output, the server's own lines too.

A record's fields come as `extra={"fields": {...}}`; those that are None are left out. What looks like an e-mail address
or like a URL's user and password is blotted out, since messages and stacks carry the words of libraries.
"""

import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

# TRACE/SPAN;o=OPTIONS, where SPAN and OPTIONS may be missing.
_CLOUD_TRACE = re.compile(r"([0-9a-fA-F]{32})(?![^/;])")
# W3C Trace Context: VERSION-TRACE-SPAN-FLAGS.
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-")
_PRIVATE = re.compile(r"""[^\s<>"'(),;]+@[^\s<>"'(),;]+""")


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "severity": record.levelname,
            "message": _blot(record.getMessage()),
            "time": datetime.fromtimestamp(record.created, UTC),
        }
        fields: Mapping[str, object] = getattr(record, "fields", {})
        line.update({name: value for name, value in fields.items() if value is not None})
        if record.exc_info:
            # The field in which Error Reporting looks for failures.
            line["stack_trace"] = _blot(self.formatException(record.exc_info))
        return orjson.dumps(line, option=orjson.OPT_UTC_Z).decode()


def to_stdout() -> None:
    """Sends every record of this process, from INFO up, to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # What no line shows; the logging HOWTO's own way to save the third of a record's time that it takes.
    logging._srcfile = None
    for unused in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, unused, False)


def trace(headers: Mapping[str, str], project: str | None) -> str | None:
    """`projects/P/traces/ID` from these headers (lower-case names); None without an id or a project."""
    if project is None:
        return None
    found = _CLOUD_TRACE.match(headers.get("x-cloud-trace-context", ""))
    found = found or _TRACE_PARENT.match(headers.get("traceparent", ""))
    return f"projects/{project}/traces/{found[1].lower()}" if found else None


def _blot(text: str) -> str:
    return _PRIVATE.sub("***@***", text) if "@" in text else text
