"""The handler's settings, read once from its environment variables at the start.

A missing or malformed value ends the start before the port opens, so Cloud Run sends such a revision no traffic. The
program's settings.py accepts the same values, so that `pulumi up` fails first. An error never contains a secret:
DATABASE_URL, SMTP_URL, WAREHOUSE_URL, WAREHOUSE_SECRET.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from order_handler.action import HOST, WORD, Need
from order_handler.actions import ACTIONS

_QUEUE = r"projects/[A-Za-z0-9.:-]+/locations/[a-z0-9-]+/queues/[A-Za-z0-9-]{1,100}"
# Variable -> pattern, its form in words, remedy.
_TEXTS = {
    "DEAD_LETTER_QUEUE": (_QUEUE, "projects/P/locations/L/queues/Q", "the stack's output dead_letter_queue"),
    "TASK_QUEUE": (_QUEUE, "projects/P/locations/L/queues/Q", "the stack's output queue"),
    "CLOUD_TASKS_EMULATOR_HOST": (
        r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}",
        "host:port",
        "a local cloud's gRPC port, such as 127.0.0.1:8123, or unset it to use Google's",
    ),
}
# Variable -> range, default, remedy.
_NUMBERS = {
    "PORT": (range(2**16), "8080", "a port, or unset it to listen on 8080"),
    "MAX_ATTEMPTS": (range(1, 1001), None, "the program's setting maxAttempts"),
    "HANDLER_TIMEOUT_SECONDS": (range(60, 601), None, "the program's setting handlerTimeoutSeconds"),
    "DATABASE_POOL": (range(1, 101), "4", "the program's setting databasePool"),
}
_LOCAL_HOST = r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])"
_TLS = (
    rf"(?:postgresql://(?:[^@/?]*@)?{_LOCAL_HOST}?(?::[0-9]+)?(?=[/?]|\Z)(?!.*[?&]host(?:addr)?=(?!/[^,&]*(?:&|\Z)))"
    r"|(?!.*[?&]sslmode=(?!(?:require|verify-ca|verify-full)(?:&|\Z))).*[?&]sslmode=)"
)
"""Begins every URL of a database on this machine or in a socket, and of others if they require TLS."""
DATABASE = Need(
    "DATABASE_URL",
    "Database of the orders, the stock and the ledger of effects; a socket needs no sslmode",
    rf"(?=[!-~]+\Z)(?={_TLS})postgresql://(?:{WORD}(?::{WORD})?@)?(?:{HOST}|(?=/[^?]*\?(?:[^&]*&)*host=[^&]))"
    r"(?:/[A-Za-z0-9_.-]*)?(?:\?[a-z_]+=[^&#]*(?:&[a-z_]+=[^&#]*)*)?",
    "postgresql://USER:PASSWORD@HOST/DATABASE?sslmode=require",
)


@dataclass(frozen=True, slots=True)
class Environment:
    host: str
    """Address to listen on."""
    port: int
    """Port to listen on; 0 picks a free one, which the log names."""
    max_attempts: int
    """Attempts, including the first, after which an order has failed."""
    timeout: int
    """Seconds after which Cloud Run gives up a request."""
    dead_letter_queue: str
    """`projects/P/locations/L/queues/Q`."""
    database_pool: int = 4
    """Most database connections of this instance."""
    task_queue: str | None = None
    """Full path of the main queue, which the relay sends to. None: there is no relay."""
    project: str | None = None
    """Google Cloud project of the traces; without it, log lines name no trace."""
    emulator_host: str | None = None
    """`host:port` of a local cloud's gRPC port, used without TLS and credentials; None: Google's."""
    database_url: str | None = field(default=None, repr=False)
    """None: there is no ledger, and the stock is simulated."""
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the actions need, by variable. What is missing is simulated."""

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Self:
        """Read the variables; raises ValueError with one line: the variable, its value unless secret, and a remedy."""
        required = not _simulated(variables)
        url = database_url(variables) if (required and ACTIONS) or variables.get("DATABASE_URL") else None
        values = {need.variable: need.read(variables, required) for a in ACTIONS.values() for need in a.needs}
        for name, action in ACTIONS.items():
            first, *others = [need.variable for need in action.needs] or [""]
            if not values.get(first):
                continue
            if not url:
                raise ValueError(
                    f"DATABASE_URL is not set, but {first} is: without a ledger, effects could repeat. "
                    f"Set it to {DATABASE.accepts}, or unset the other."
                )
            for other in others:
                if not values[other]:
                    raise ValueError(
                        f"{other} is not set, but {first} is: {name} needs both. Set it, or unset {first}."
                    )
        return cls(
            host=variables.get("HOST", "0.0.0.0"),
            port=_number(variables, "PORT"),
            max_attempts=_number(variables, "MAX_ATTEMPTS"),
            timeout=_number(variables, "HANDLER_TIMEOUT_SECONDS"),
            dead_letter_queue=_required(variables, "DEAD_LETTER_QUEUE"),
            database_pool=_number(variables, "DATABASE_POOL"),
            task_queue=_text(variables, "TASK_QUEUE"),
            project=variables.get("GOOGLE_CLOUD_PROJECT") or None,
            emulator_host=_text(variables, "CLOUD_TASKS_EMULATOR_HOST"),
            database_url=url,
            values={name: value for name, value in values.items() if value},
        )


def database_url(variables: Mapping[str, str]) -> str:
    """Return DATABASE_URL; raises ValueError if it is missing or malformed."""
    value = variables.get("DATABASE_URL", "")
    if re.fullmatch(r"sqlite:///\S+", value):
        return value
    return str(DATABASE.read(variables, required=True))


def _simulated(variables: Mapping[str, str]) -> bool:
    value = variables.get("SIMULATE_EFFECTS", "false")
    if value not in ("true", "false"):
        raise ValueError(f"SIMULATE_EFFECTS is {value!r}: neither true nor false. Set it to one of them, or unset it.")
    return value == "true"


def _text(variables: Mapping[str, str], name: str) -> str | None:
    pattern, form, remedy = _TEXTS[name]
    value = variables.get(name)
    if value and not re.fullmatch(pattern, value):
        raise ValueError(f"{name} is {value!r}: not {form}. Set it to {remedy}.")
    return value or None


def _required(variables: Mapping[str, str], name: str) -> str:
    if value := _text(variables, name):
        return value
    raise ValueError(f"{name} is not set and has no default. Set it to {_TEXTS[name][2]}.")


def _number(variables: Mapping[str, str], name: str) -> int:
    allowed, default, remedy = _NUMBERS[name]
    value = variables.get(name, default)
    if value is None:
        raise ValueError(f"{name} is not set and has no default. Set it to {remedy}.")
    # int() alone would also accept " 1" and "1_0".
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) in allowed):
        raise ValueError(
            f"{name} is {value!r}: not a whole number from {allowed[0]} to {allowed[-1]}. Set it to {remedy}."
        )
    return int(value)
