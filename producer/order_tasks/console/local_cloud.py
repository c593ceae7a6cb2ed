"""What a local cloud has beside Cloud Tasks: mails, calls of web services, its log, and what is broken."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from order_tasks.operations.entry import without_emails
from order_tasks.operations.log import tail

_RECEIVED, _LINES, _TAIL_BYTES = 8, 40, 1 << 16


@dataclass(frozen=True)
class LocalCloud:
    log: Path
    """Its log. The files of mails and calls are beside it."""
    breakages: str
    """The URL that says what is broken, and breaks and mends it."""

    def state(self) -> dict[str, Any]:
        """The latest of each without e-mails, newest first; of the log newest last."""
        mails = [
            {**mail, "to": "", "text": "\n".join(map(without_emails, mail["text"].splitlines()))}
            for mail in self._received("mails")
        ]
        log = [line for line in tail(self.log, _TAIL_BYTES) if "message" in line][-_LINES:]
        return {"mails": mails, "calls": self._received("calls"), "log": log, "broken": self.break_or_mend(None)}

    def _received(self, what: str) -> list[dict[str, Any]]:
        file = self.log.with_name(f"{what}.jsonl")
        return [*tail(file, _TAIL_BYTES)][: -_RECEIVED - 1 : -1] if file.exists() else []

    def break_or_mend(self, changes: bytes | None) -> dict[str, bool]:
        """Apply `{"mail": true}` and the like. Returns what is broken."""
        request = Request(self.breakages, changes, {"Content-Type": "application/json"})
        with build_opener(ProxyHandler({})).open(request, timeout=5) as response:
            broken: dict[str, bool] = json.load(response)
        return broken
