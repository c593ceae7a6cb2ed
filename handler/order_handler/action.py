"""What an action is made of: its message, what it needs from the environment, its effect and its function.

Each module of `actions` declares one as ACTION; its name is the action's. The check of messages, the check of the
environment and contract.json follow from these declarations.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar
from urllib.parse import urlsplit

import msgspec

from order_handler.delivery import Delivery

if TYPE_CHECKING:
    from order_handler.database import Database
    from order_handler.ledger import Ledger

# No NUL: no index of PostgreSQL takes it.
OrderId = Annotated[str, msgspec.Meta(min_length=1, max_length=500, pattern="^[^\\0]*$")]
Key = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$(?!\n)")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Email = Annotated[str, msgspec.Meta(min_length=1, max_length=320)]


class AnyMessage(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """What every message has. Its fields are camelCase in JSON; fields that it does not declare are ignored."""

    action: Name
    key: Key | None = None
    """Tells several tasks of one order and action apart, such as a second refund."""

    @property
    def effect(self) -> str:
        """The action and the key, as the ledger records them. No action contains a #."""
        return self.action if self.key is None else f"{self.action}#{self.key}"


def identity(order_id: str, action: str) -> str:
    """32 hex digits, the same for each repeat of an effect, so that its receiver can recognise a repeat."""
    return hashlib.sha256(f"{order_id}\0{action}".encode()).hexdigest()[:32]


class OrderMessage(AnyMessage, rename="camel", frozen=True, kw_only=True):
    """A message about an order. Order, action and key are its identity."""

    order_id: OrderId


class Message(AnyMessage, rename="camel", frozen=True, kw_only=True):
    """A message about nothing else. Action and key are its identity."""

    key: Key


@dataclass(frozen=True, slots=True)
class Need:
    """An environment variable of an action."""

    variable: str
    meaning: str
    pattern: str
    accepts: str
    """The pattern in words."""
    secret: bool = True
    """The value comes from Secret Manager, and no error shows it."""
    url: bool = True
    """The value is a URL, whose port is checked too."""

    def read(self, variables: Mapping[str, str], required: bool) -> str | None:
        """The value; None if it is not set and not required. ValueError names variable, reason and remedy."""
        value = variables.get(self.variable)
        if not value:
            if required:
                raise ValueError(
                    f"{self.variable} is not set and has no default. Set it, or set SIMULATE_EFFECTS to true."
                )
            return None
        if any(character.isspace() for character in value):
            raise ValueError(f"{self.variable} contains white space, perhaps a line end. Set it to a value without.")
        if not re.fullmatch(self.pattern, value, re.ASCII) or (self.url and not _has_valid_port(value)):
            encoding = " Percent-encode special characters, such as %40 for @." if self.url else ""
            raise ValueError(f"{self.variable} is malformed. Set it to {self.accepts}.{encoding}")
        return value


_LABEL = r"[A-Za-z0-9_-]{1,63}"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
HOST = (
    rf"(?:(?:{_LABEL}\.)*(?![0-9]+(?![A-Za-z0-9_-])){_LABEL}|{_OCTET}(?:\.{_OCTET}){{3}}|\[[0-9A-Fa-f:.]+\])"
    r"(?::[0-9]{1,5})?"
)
WORD = r"(?:[^\s:@/?#\[\]%]|%[0-9A-Fa-f]{2})+"


def http_url(variable: str, meaning: str) -> Need:
    """A URL that the action calls. It is a secret, since such URLs often hold a key."""
    pattern = rf"(?=[!-~]+\Z)https?://(?:{WORD}(?::{WORD})?@)?{HOST}(?:[/?][^#]*)?"
    return Need(variable, meaning, pattern, "http[s]://HOST[:PORT]/PATH")


def secret_key(variable: str, meaning: str) -> Need:
    return Need(variable, meaning, "[!-~]{16,}", "at least 16 ASCII characters without spaces", url=False)


@dataclass(frozen=True, slots=True)
class Opening:
    """What an effect is made of."""

    values: Mapping[str, str]
    """Every need of the action by its variable."""
    database: "Database"
    ledger: "Ledger"


_M = TypeVar("_M", bound=AnyMessage)
_E = TypeVar("_E")


@dataclass(frozen=True, slots=True)
class Action(Generic[_M, _E]):
    """One action. `run` may happen twice, so what it does to the world goes through its effect."""

    message: type[_M]
    run: Callable[[_M, _E | None, Delivery | None], Awaitable[str]]
    """Gets the message, the effect (None: simulated) and the delivery (None: a direct call). Returns what it did.

    Raises PermanentError, TransientError or AlreadyProcessedError. A later attempt, `delivery.attempt`, may take a
    simpler path."""
    open: Callable[[Opening], _E]
    """Makes the effect once, at the start, unless it is simulated. Imports the libraries that the effect needs: others
    would cost every start time and memory. If the effect has a coroutine method `close`, it is called at the end."""
    needs: tuple[Need, ...] = ()
    """If the first one is set, the effect is real and needs the others too."""
    max_attempts: int | None = None
    """The action's own attempt budget, if it is lower than the handler's."""


AnyAction = Action[Any, Any]


def _has_valid_port(url: str) -> bool:
    """Whether the port, if there is one, is from 1 to 65535, and a host in brackets is an IPv6 address."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
