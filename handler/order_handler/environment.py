"""What the handler is told at its start: its environment variables, read once.

Refuses a missing or malformed value before the port opens, so that a wrong revision never gets traffic.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Environment:
    host: str
    """Address to listen on: all of them in a container, which only the front door reaches."""
    port: int
    """Where to listen; 0 takes a free port, which the log names."""
    max_attempts: int
    """Attempts after which an order counts as failed; the first one counts."""
    project: str | None
    """The Google Cloud project that traces belong to; without it, log lines name no trace."""

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Self:
        """ValueError names variable, value, reason and remedy in one line."""
        return cls(
            host=variables.get("HOST", "0.0.0.0"),
            port=_number(
                "PORT",
                variables.get("PORT", "8080"),
                range(2**16),
                "Give it a port, or unset it to listen on 8080.",
            ),
            max_attempts=_number(
                "MAX_ATTEMPTS",
                variables.get("MAX_ATTEMPTS"),
                range(1, 2**31),
                "Set it to the attempts after which an order counts as failed: the program's setting maxAttempts.",
            ),
            project=variables.get("GOOGLE_CLOUD_PROJECT") or None,
        )


def _number(name: str, value: str | None, allowed: range, remedy: str) -> int:
    if value is None:
        raise ValueError(f"{name} is not set, and has no default. {remedy}")
    # int() alone would also take " 1" and "1_0", and refuse thousands of digits in words of its own.
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) in allowed):
        raise ValueError(f"{name} is {value!r}: not a whole number from {allowed[0]} to {allowed[-1]}. {remedy}")
    return int(value)
