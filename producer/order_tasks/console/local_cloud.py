"""What a local cloud has beside Cloud Tasks: mails, calls of web services, the handler's log, and what is broken."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from order_tasks.operations.entry import without_emails

_MAILS, _CALLS, _LINES = 8, 8, 40
_TAIL_BYTES = 256 << 10


@dataclass(frozen=True)
class LocalCloud:
    log: Path
    """The file of the log. The files of mails and calls are beside it."""
    breakages: str
    """The URL that says what is broken, and breaks and mends it."""

    def state(self) -> dict[str, Any]:
        """The latest of each without e-mails, newest first; of the log newest last."""
        mails = [
            {**mail, "to": "", "text": "\n".join(map(without_emails, mail["text"].splitlines()))}
            for mail in _tail(self.log.with_name("mails.jsonl"), _MAILS)
        ]
        calls = _tail(self.log.with_name("calls.jsonl"), _CALLS)
        log = _tail(self.log, _LINES)[::-1]
        return {"mails": mails, "calls": calls, "log": log, "broken": self.break_or_mend(None)}

    def break_or_mend(self, changes: bytes | None) -> dict[str, bool]:
        """Apply `{"mail": true}` and the like. Returns what is broken."""
        request = Request(self.breakages, changes, {"Content-Type": "application/json"})
        with build_opener(ProxyHandler({})).open(request, timeout=5) as response:
            broken: dict[str, bool] = json.load(response)
        return broken


def _tail(file: Path, count: int) -> list[dict[str, Any]]:
    """The last entries of a file of JSON lines, newest first, without those that were cut off."""
    found: list[dict[str, Any]] = []
    with suppress(FileNotFoundError), file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
        for line in reversed(stream.read().splitlines()):
            with suppress(ValueError):
                found.append(json.loads(line))
            if len(found) == count:
                break
    return found
