"""A file of JSON lines that survives kill -9 and a full disk: each entry is one write."""

import json
import os
import time
from pathlib import Path
from typing import Any


def order_of(body: bytes) -> dict[str, str]:
    """`orderId` and `action` of a message, as far as it has them."""
    try:
        message = json.loads(body)
        return {name: str(message[name]) for name in ("orderId", "action") if name in message}
    except (ValueError, TypeError, RecursionError):
        return {}


class Journal:
    """Entries in the order they were added, each with its time, `at`. The file appears with the first one."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, entry: dict[str, Any]) -> None:
        """Raises OSError if the entry cannot be written, or not whole."""
        line = json.dumps({"at": time.time(), **entry}).encode() + b"\n"
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # The line break before it ends an entry that was cut off.
            if os.write(descriptor, b"\n" + line) <= len(line):
                raise OSError(f"an entry of {self._file} was cut off: the disk is full")
        finally:
            os.close(descriptor)

    def entries(self) -> list[dict[str, Any]]:
        """Returns all entries but those that were cut off."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]
