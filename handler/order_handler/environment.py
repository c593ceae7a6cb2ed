"""What the handler is told at its start: its environment variables, read once.

Refuses a missing or malformed value before the port opens, so that a wrong revision never gets traffic. Never prints
the value of a secret: DATABASE_URL, SMTP_URL, WAREHOUSE_URL, WAREHOUSE_SECRET.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

_QUEUE = re.compile(r"projects/[A-Za-z0-9.:-]+/locations/[a-z0-9-]+/queues/[A-Za-z0-9-]{1,100}")
_ADDRESS = re.compile(r"[^@\s<>]+@[^@\s<>]+", re.ASCII)
_HOST_AND_PORT = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")

_SECRETS = ("DATABASE_URL", "SMTP_URL", "WAREHOUSE_URL", "WAREHOUSE_SECRET")
_DATABASE_FORM = "postgresql://USER:PASSWORD@HOST/DATABASE (or sqlite:///PATH)"
_SMTP_FORM = "smtp[s]://[USER:PASSWORD@]HOST[:PORT]?from=ADDRESS"


@dataclass(frozen=True, slots=True)
class MailServer:
    host: str
    port: int
    tls: bool
    """TLS from the first byte; otherwise STARTTLS, if the server offers it or there is a password."""
    sender: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Webhook:
    url: str = field(repr=False)
    secret: str = field(repr=False)
    """Signs each body."""


@dataclass(frozen=True, slots=True)
class Environment:
    host: str
    """Address to listen on: all of them in a container, which only the front door reaches."""
    port: int
    """Where to listen; 0 takes a free port, which the log names."""
    max_attempts: int
    """Attempts after which an order counts as failed; the first one counts."""
    timeout: int
    """Seconds after which Cloud Run gives a request up."""
    dead_letter_queue: str
    """`projects/P/locations/L/queues/Q`."""
    project: str | None = None
    """The Google Cloud project that traces belong to; without it, log lines name no trace."""
    emulator_host: str | None = None
    """`host:port` of a local cloud's gRPC port, spoken to without TLS and credentials; None: Google's."""
    database_url: str | None = field(default=None, repr=False)
    """None: no ledger, and the stock is simulated."""
    mail: MailServer | None = None
    """None: simulated."""
    warehouse: Webhook | None = None
    """None: simulated."""

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Self:
        """ValueError names variable, value, reason and remedy in one line; of a secret, not the value."""
        environment = cls(
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
            timeout=_number(
                "HANDLER_TIMEOUT_SECONDS",
                variables.get("HANDLER_TIMEOUT_SECONDS"),
                range(1, 24 * 3600 + 1),
                "Set it to the service's timeout: the program's setting handlerTimeoutSeconds.",
            ),
            dead_letter_queue=_matching(
                "DEAD_LETTER_QUEUE",
                variables.get("DEAD_LETTER_QUEUE"),
                _QUEUE,
                "not projects/P/locations/L/queues/Q",
                "Set it to the dead-letter queue's full path: the stack's output dead_letter_queue.",
            ),
            project=variables.get("GOOGLE_CLOUD_PROJECT") or None,
            emulator_host=variables.get("CLOUD_TASKS_EMULATOR_HOST") or None,
        )
        if environment.emulator_host:
            _matching(
                "CLOUD_TASKS_EMULATOR_HOST",
                environment.emulator_host,
                _HOST_AND_PORT,
                "not host:port",
                "Set it to a local cloud's gRPC port, such as 127.0.0.1:8123, or unset it to use Google's.",
            )
        secrets = _secrets(variables)
        return replace(
            environment,
            database_url=secrets["DATABASE_URL"] and database_url(variables),
            mail=_mail_server(secrets["SMTP_URL"]),
            warehouse=_webhook(secrets["WAREHOUSE_URL"], secrets["WAREHOUSE_SECRET"]),
        )


def database_url(variables: Mapping[str, str]) -> str:
    """DATABASE_URL. ValueError if it is missing or of another kind; SQLAlchemy has the last word on its form."""
    value = variables.get("DATABASE_URL")
    if not value:
        raise ValueError(f"DATABASE_URL is not set, and has no default. Set it to {_DATABASE_FORM}.")
    if not value.startswith(("postgresql://", "postgresql+psycopg://")) and not re.match("sqlite:///.", value):
        raise ValueError(
            f"DATABASE_URL is neither PostgreSQL's nor that of an SQLite file. Set it to {_DATABASE_FORM}."
        )
    return value


def _secrets(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Name -> value, None where simulated."""
    simulated = variables.get("SIMULATE_EFFECTS", "false")
    if simulated not in ("true", "false"):
        raise ValueError(
            f"SIMULATE_EFFECTS is {simulated!r}: neither true nor false. Set it to one of them, or unset it."
        )
    values = {name: variables.get(name) or None for name in _SECRETS}
    for name, value in values.items():
        if value is None and simulated == "false":
            raise ValueError(f"{name} is not set, and has no default. Set it, or set SIMULATE_EFFECTS to true.")
        if value and any(character.isspace() for character in value):
            raise ValueError(f"{name} contains white space, perhaps a line end. Set it to the bare value.")
    for name in ("SMTP_URL", "WAREHOUSE_URL"):
        if values[name] and not values["DATABASE_URL"]:
            raise ValueError(
                f"DATABASE_URL is not set, but {name} is: without a ledger its effects would happen twice. "
                f"Set it to {_DATABASE_FORM}, or unset {name}."
            )
    if values["WAREHOUSE_URL"] and not values["WAREHOUSE_SECRET"]:
        raise ValueError(
            "WAREHOUSE_SECRET is not set, but WAREHOUSE_URL is: the warehouse could not tell who calls. "
            "Set it to the secret that the warehouse shares, or unset WAREHOUSE_URL."
        )
    return values


def _mail_server(url: str | None) -> MailServer | None:
    if url is None:
        return None
    malformed = ValueError(f"SMTP_URL is not {_SMTP_FORM}. Set it so, with %40 for an @ in user or password.")
    try:
        parts = urlsplit(url)
        # A plus sign is a plus sign in an address.
        query = parse_qsl(parts.query.replace("+", "%2B"), strict_parsing=True)
        port = parts.port
    # Its own words could quote a password.
    except ValueError:
        raise malformed from None
    match parts.scheme, parts.path, query:
        case "smtp" | "smtps", "" | "/", [("from", sender)] if parts.hostname and _ADDRESS.fullmatch(sender):
            tls = parts.scheme == "smtps"
        case _:
            raise malformed
    if (parts.username is None) != (parts.password is None) or parts.fragment:
        raise malformed
    return MailServer(
        host=parts.hostname,
        # Submission, not relay: Cloud Run lets nothing out to port 25.
        port=port or (465 if tls else 587),
        tls=tls,
        sender=sender,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def _webhook(url: str | None, secret: str | None) -> Webhook | None:
    if url is None or secret is None:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    # Its own words could quote a password.
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("WAREHOUSE_URL is not http[s]://HOST/PATH. Set it to the address that takes the notices.")
    return Webhook(url, secret)


def _matching(name: str, value: str | None, form: re.Pattern[str], reason: str, remedy: str) -> str:
    if value is None:
        raise ValueError(f"{name} is not set, and has no default. {remedy}")
    if not form.fullmatch(value):
        raise ValueError(f"{name} is {value!r}: {reason}. {remedy}")
    return value


def _number(name: str, value: str | None, allowed: range, remedy: str) -> int:
    if value is None:
        raise ValueError(f"{name} is not set, and has no default. {remedy}")
    # int() alone would also take " 1" and "1_0", and refuse thousands of digits in words of its own.
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) in allowed):
        raise ValueError(f"{name} is {value!r}: not a whole number from {allowed[0]} to {allowed[-1]}. {remedy}")
    return int(value)
