"""A file of JSON lines that survives kill -9: each entry is one write."""

import json
import os
import time
from pathlib import Path
from typing import Any


class Journal:
    """Entries in the order they were added, each with its time, `at`. The file appears with the first one."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, entry: dict[str, Any]) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, json.dumps({"at": time.time(), **entry}).encode() + b"\n")
        finally:
            os.close(descriptor)

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []
