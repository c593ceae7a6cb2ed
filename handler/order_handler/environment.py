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

_QUEUE = re.compile(r"projects/[A-Za-z0-9.:-]+/locations/[a-z0-9-]+/queues/[A-Za-z0-9-]{1,100}")
_HOST_AND_PORT = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")

_LABEL = r"[A-Za-z0-9_-]{1,63}"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HOST = (
    rf"(?:(?:{_LABEL}\.)*(?![0-9]+(?![A-Za-z0-9_-])){_LABEL}|{_OCTET}(?:\.{_OCTET}){{3}}|\[[0-9A-Fa-f:.]+\])"
    r"(?::[0-9]{1,5})?"
)
_WORD = r"(?:[^\s:@/?#\[\]%]|%[0-9A-Fa-f]{2})+"
_ATOM = r"(?:[A-Za-z0-9!'*+=_~-]|%2[Bb])+"
_POSTGRESQL = re.compile(
    rf"(?=[!-~]+\Z)postgresql://(?:{_WORD}(?::{_WORD})?@)?(?:{_HOST}|(?=/[^?]*\?(?:[^&]*&)*host=[^&]))"
    r"(?:/[A-Za-z0-9_.-]*)?(?:\?[a-z_]+=[^&#]*(?:&[a-z_]+=[^&#]*)*)?"
)
_SMTP = re.compile(
    rf"(?=[!-~]+\Z)smtps?://(?:{_WORD}:{_WORD}@)?{_HOST}/?"
    rf"\?from={_ATOM}(?:\.{_ATOM})*(?:@|%40)[A-Za-z0-9-]{{1,63}}(?:\.[A-Za-z0-9-]{{1,63}})*"
)
_HTTP = re.compile(rf"(?=[!-~]+\Z)https?://(?:{_WORD}(?::{_WORD})?@)?{_HOST}(?:[/?][^#]*)?")
_KEY = re.compile(r"[!-~]{16,}")

_DATABASE_FORM = "postgresql://USER:PASSWORD@HOST/DATABASE (or sqlite:///PATH)"
_SMTP_FORM = "smtp[s]://[USER:PASSWORD@]HOST[:PORT]?from=ADDRESS"
_HTTP_FORM = "http[s]://HOST[:PORT]/PATH"
_ENCODING = "Percent-encode special characters, such as %40 for @."


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
    mail: MailServer | None = None
    """None: mails are simulated."""
    warehouse: Webhook | None = None
    """None: notifications are simulated."""

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
        url = database_url(variables) if required or variables.get("DATABASE_URL") else None
        smtp = _secret(variables, "SMTP_URL", _SMTP, _SMTP_FORM, required)
        webhook = _secret(variables, "WAREHOUSE_URL", _HTTP, _HTTP_FORM, required)
        key = _secret(variables, "WAREHOUSE_SECRET", _KEY, "at least 16 ASCII characters without spaces", required)
        if (smtp or webhook) and not url:
            raise ValueError(
                f"DATABASE_URL is not set, but {'SMTP_URL' if smtp else 'WAREHOUSE_URL'} is: without a ledger, effects "
                f"could repeat. Set it to {_DATABASE_FORM}, or unset the other."
            )
        if webhook and not key:
            raise ValueError(
                "WAREHOUSE_SECRET is not set, but WAREHOUSE_URL is: the warehouse could not tell who calls. "
                "Set it to the key that the warehouse knows, or unset WAREHOUSE_URL."
            )
        return replace(
            environment,
            database_url=url,
            mail=_mail_server(smtp) if smtp else None,
            warehouse=Webhook(webhook, key) if webhook and key else None,
        )


def database_url(variables: Mapping[str, str]) -> str:
    """Return DATABASE_URL; raises ValueError if it is missing or malformed."""
    value = variables.get("DATABASE_URL", "")
    if re.fullmatch(r"sqlite:///\S+", value):
        return value
    return str(_secret(variables, "DATABASE_URL", _POSTGRESQL, _DATABASE_FORM, True))


def _simulated(variables: Mapping[str, str]) -> bool:
    value = variables.get("SIMULATE_EFFECTS", "false")
    if value not in ("true", "false"):
        raise ValueError(f"SIMULATE_EFFECTS is {value!r}: neither true nor false. Set it to one of them, or unset it.")
    return value == "true"


def _secret(variables: Mapping[str, str], name: str, form: re.Pattern[str], shape: str, required: bool) -> str | None:
    """The variable's value; None if it is not set and not required."""
    value = variables.get(name)
    if not value:
        if required:
            raise ValueError(f"{name} is not set and has no default. Set it, or set SIMULATE_EFFECTS to true.")
        return None
    if any(character.isspace() for character in value):
        raise ValueError(f"{name} contains white space, perhaps a line end. Set it to a value without.")
    if not form.fullmatch(value) or not (form is _KEY or _has_valid_port(value)):
        raise ValueError(f"{name} is malformed. Set it to {shape}. {'' if form is _KEY else _ENCODING}".rstrip())
    return value


def _has_valid_port(url: str) -> bool:
    """Whether the port, if there is one, is from 1 to 65535, and a host in brackets is an IPv6 address."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _mail_server(url: str) -> MailServer:
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
