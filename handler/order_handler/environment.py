"""The handler's settings, read once from its environment variables at the start.

A missing or malformed value ends the start before the port opens, so Cloud Run sends such a revision no traffic. The
program's settings.py accepts the same values, so that `pulumi up` fails first. An error never contains a secret:
DATABASE_URL, SMTP_URL, WAREHOUSE_URL, WAREHOUSE_SECRET.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from order_handler.action import HOST, WORD, Need
from order_handler.actions import ACTIONS

_QUEUE = re.compile(r"projects/[A-Za-z0-9.:-]+/locations/[a-z0-9-]+/queues/[A-Za-z0-9-]{1,100}")
_HOST_AND_PORT = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")

_LOCAL_HOST = r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])"
_TLS = (
    rf"(?:postgresql://(?:[^@/?]*@)?{_LOCAL_HOST}?(?::[0-9]+)?(?=[/?]|\Z)(?!.*[?&]host(?:addr)?=(?!/[^,&]*(?:&|\Z)))"
    r"|(?!.*[?&]sslmode=(?!(?:require|verify-ca|verify-full)(?:&|\Z))).*[?&]sslmode=)"
)
"""Begins every URL of a database on this machine or in a socket, and of others if they require TLS."""
_DATABASE_FORM = "postgresql://USER:PASSWORD@HOST/DATABASE?sslmode=require (or sqlite:///PATH)"
_DATABASE = Need(
    "DATABASE_URL",
    "Database of the orders, the stock and the ledger of effects",
    rf"(?=[!-~]+\Z)(?={_TLS})postgresql://(?:{WORD}(?::{WORD})?@)?(?:{HOST}|(?=/[^?]*\?(?:[^&]*&)*host=[^&]))"
    r"(?:/[A-Za-z0-9_.-]*)?(?:\?[a-z_]+=[^&#]*(?:&[a-z_]+=[^&#]*)*)?",
    _DATABASE_FORM,
)


@dataclass(frozen=True, slots=True)
class MailServer:
    host: str
    port: int
    tls: bool
    """TLS from the first byte. If false, STARTTLS is used when the server offers it, and required with a password."""
    sender: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Webhook:
    url: str = field(repr=False)
    secret: str = field(repr=False)
    """Key that signs each body."""


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
        environment = cls(
            host=variables.get("HOST", "0.0.0.0"),
            port=_number(
                "PORT",
                variables.get("PORT", "8080"),
                range(2**16),
                "Set it to a port, or unset it to listen on 8080.",
            ),
            max_attempts=_number(
                "MAX_ATTEMPTS",
                variables.get("MAX_ATTEMPTS"),
                range(1, 1001),
                "Set it to the program's setting maxAttempts.",
            ),
            timeout=_number(
                "HANDLER_TIMEOUT_SECONDS",
                variables.get("HANDLER_TIMEOUT_SECONDS"),
                range(60, 601),
                "Set it to the program's setting handlerTimeoutSeconds.",
            ),
            dead_letter_queue=_matching(
                "DEAD_LETTER_QUEUE",
                variables.get("DEAD_LETTER_QUEUE"),
                _QUEUE,
                "not projects/P/locations/L/queues/Q",
                "Set it to the stack's output dead_letter_queue.",
            ),
            database_pool=_number(
                "DATABASE_POOL",
                variables.get("DATABASE_POOL", "4"),
                range(1, 101),
                "Set it to the program's setting databasePool.",
            ),
            task_queue=variables.get("TASK_QUEUE") or None,
            project=variables.get("GOOGLE_CLOUD_PROJECT") or None,
            emulator_host=variables.get("CLOUD_TASKS_EMULATOR_HOST") or None,
        )
        if environment.task_queue:
            _matching(
                "TASK_QUEUE",
                environment.task_queue,
                _QUEUE,
                "not projects/P/locations/L/queues/Q",
                "Set it to the stack's output queue.",
            )
        if environment.emulator_host:
            _matching(
                "CLOUD_TASKS_EMULATOR_HOST",
                environment.emulator_host,
                _HOST_AND_PORT,
                "not host:port",
                "Set it to a local cloud's gRPC port, such as 127.0.0.1:8123, or unset it to use Google's.",
            )
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
                    f"Set it to {_DATABASE_FORM}, or unset the other."
                )
            for other in others:
                if not values[other]:
                    raise ValueError(
                        f"{other} is not set, but {first} is: {name} needs both. Set it, or unset {first}."
                    )
        return replace(environment, database_url=url, values={name: value for name, value in values.items() if value})


def database_url(variables: Mapping[str, str]) -> str:
    """Return DATABASE_URL; raises ValueError if it is missing or malformed."""
    value = variables.get("DATABASE_URL", "")
    if re.fullmatch(r"sqlite:///\S+", value):
        return value
    return str(_DATABASE.read(variables, required=True))


def _simulated(variables: Mapping[str, str]) -> bool:
    value = variables.get("SIMULATE_EFFECTS", "false")
    if value not in ("true", "false"):
        raise ValueError(f"SIMULATE_EFFECTS is {value!r}: neither true nor false. Set it to one of them, or unset it.")
    return value == "true"


def mail_server(url: str) -> MailServer:
    parts = urlsplit(url)
    tls = parts.scheme == "smtps"
    return MailServer(
        host=str(parts.hostname),
        # Submission ports: Cloud Run blocks port 25.
        port=parts.port or (465 if tls else 587),
        tls=tls,
        # A plus sign in an address is not a space.
        sender=parse_qs(parts.query.replace("+", "%2B"))["from"][0],
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def _matching(name: str, value: str | None, form: re.Pattern[str], reason: str, remedy: str) -> str:
    if value is None:
        raise ValueError(f"{name} is not set and has no default. {remedy}")
    if not form.fullmatch(value):
        raise ValueError(f"{name} is {value!r}: {reason}. {remedy}")
    return value


def _number(name: str, value: str | None, allowed: range, remedy: str) -> int:
    if value is None:
        raise ValueError(f"{name} is not set and has no default. {remedy}")
    # int() alone would also accept " 1" and "1_0".
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) in allowed):
        raise ValueError(f"{name} is {value!r}: not a whole number from {allowed[0]} to {allowed[-1]}. {remedy}")
    return int(value)
