"""The messages of messages.yaml, which tests of the producer and of the handler share."""

from typing import Any

import yaml

from local.program import ROOT

_TABLE = yaml.safe_load((ROOT / "tests/messages.yaml").read_text())
GOOD: dict[str, Any] = _TABLE["good"]
BAD: list[tuple[dict[str, Any], str]] = [
    ({name: value for name, value in {**GOOD, **row.get("change", {})}.items() if name != row.get("without")}, words)
    for row in _TABLE["bad"]
    for words in [row["words"]]
]
"""Messages, and the words that refuse them."""
