"""Log lines as Cloud Logging reads them: one JSON object a line on standard output, the server's own lines too.

Each line says which request it belongs to. E-mail addresses and the user and password of a URL are replaced, since
messages and stacks contain texts of libraries. An order's line does not go through `logging`, which would take twice
the time.
"""

import logging
import re
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime

import orjson

# Each word is matched once, so a search takes time in proportion to the text.
_WORD = re.compile(r"""[^\s<>"'(),;]+""")
MAX_MESSAGE = 10_000
"""Characters. What follows is cut before the text is searched."""
MAX_STACK = 50_000
"""Characters of a stack's end."""

_context: ContextVar[Mapping[str, object] | None] = ContextVar("context", default=None)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        failure = record.exc_info[1] if record.exc_info else None
        return _line(record.levelname, record.getMessage(), {}, failure, record.created)


def to_stdout() -> None:
    """Sends every record of `logging`, from INFO up, to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    # A line that cannot be written is lost, and nothing else.
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def begin(fields: Mapping[str, object]) -> None:
    """Puts these fields alone into each line that this task, or one that it creates, writes from now on."""
    _context.set(fields)


def add(fields: Mapping[str, object]) -> None:
    """Puts these fields too into each such line."""
    _context.set({**(_context.get() or {}), **fields})


def write(level: int, message: str, fields: Mapping[str, object], failure: BaseException | None = None) -> None:
    """Writes one line at a level of `logging`, without the fields that are None. Never fails."""
    try:
        sys.stdout.write(f"{_line(logging.getLevelName(level), message, fields, failure, time.time())}\n")
        sys.stdout.flush()
    # A failed log line must not repeat an order that is done.
    except Exception as error:
        with suppress(Exception):
            sys.stderr.write(f"A log line is lost: {error!r}\n")


def _line(
    severity: str, message: str, fields: Mapping[str, object], failure: BaseException | None, seconds: float
) -> str:
    line: dict[str, object] = {
        "severity": severity,
        "message": redacted(message),
        "time": datetime.fromtimestamp(seconds, UTC),
    }
    for known in (fields, _context.get() or {}):
        line.update({name: value for name, value in known.items() if value is not None})
    if failure:
        # Error Reporting looks for failures in this field.
        line["stack_trace"] = _mask("".join(traceback.format_exception(failure)).rstrip()[-MAX_STACK:])
    return orjson.dumps(line, option=orjson.OPT_UTC_Z).decode()


def redacted(message: str) -> str:
    """A message, without what is private and not too long."""
    return _mask(message[:MAX_MESSAGE])


def _mask(text: str) -> str:
    return _WORD.sub(_masked, text) if "@" in text else text


def _masked(word: re.Match[str]) -> str:
    return "***@***" if "@" in word[0][1:-1] else word[0]
