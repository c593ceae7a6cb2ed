"""The account of a drill: what was lost, what was repeated, and which fault explains each repeat.

A repeat is explained only by a fault that can repeat an effect and that lay between the effect and its repeat. All
other faults (a task delivered twice, a lost answer to a delivery, a refusal) must repeat nothing.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from local.faults import REPEATING
from local.sinks.effects import Effects
from local.sinks.web_services import SIGNED

Entry = Mapping[str, Any]
"""An entry of a journal."""


class Account(NamedTuple):
    """The result of a drill."""

    orders: int
    """Orders that were committed."""
    dead_letters: int
    left: int
    """Dead letters that no replay could process."""
    lost: int
    """Effects that never happened."""
    oversold: int
    """Pieces of stock that an order took too much."""
    explained: int
    """Repeated mails and notifications that a fault explains."""
    unexplained: int

    @property
    def failed(self) -> bool:
        return any((self.left, self.lost, self.oversold, self.unexplained)) or not self.orders


def account(
    effects: Effects, addresses: Mapping[str, str], faults: Sequence[Entry], dead_letters: int, left: int
) -> Account:
    """Compares what was committed with what happened. `addresses`: the customer of each order."""
    committed = effects.shop.orders()
    mails, notifications = effects.mail_server.mails.entries(), effects.web_services.calls(SIGNED)
    sold = effects.shop.sold()
    lost = (
        len({addresses[order] for order in committed} - {mail["to"] for mail in mails})
        + len(set(committed) - {notification["order"] for notification in notifications})
        + sum(pieces < 1 for pieces in sold)
        + len(committed) - len(sold)
    )  # fmt: skip
    repeats = [*_repeats(mails), *_repeats(notifications)]
    explained = sum(any(_explains(fault, *repeat) for fault in faults) for repeat in repeats)
    return Account(
        orders=len(committed),
        dead_letters=dead_letters,
        left=left,
        lost=lost,
        oversold=sum(max(0, pieces - 1) for pieces in sold),
        explained=explained,
        unexplained=len(repeats) - explained,
    )


def _repeats(entries: Iterable[Entry]) -> list[tuple[Entry, Entry]]:
    """The first entry of an effect, with each later one of the same effect."""
    first: dict[str, Entry] = {}
    return [(known, entry) for entry in entries if (known := first.setdefault(entry["id"], entry)) is not entry]


def _explains(fault: Entry, effect: Entry, repeat: Entry) -> bool:
    if (fault["place"], fault["kind"]) not in REPEATING or fault["at"] > repeat["at"]:
        return False
    if fault["effect"] is not None:
        return bool(fault["effect"] == effect["id"])
    return bool(fault["until"] >= effect["at"])


def table(title: str, account: Account, faults: Sequence[Entry], attempts: int) -> Table:
    """The account as a table. `attempts`: how many the handler answered."""
    kinds = collections.Counter(f"{fault['place']}: {fault['kind']}" for fault in faults)
    shown = Table(title=title, show_header=False)
    for name, number in (
        ("orders committed", account.orders),
        ("attempts that the handler answered", attempts),
        ("faults injected", kinds.total()),
        *((f"  {kind}", number) for kind, number in sorted(kinds.items())),
        ("dead letters", account.dead_letters),
        ("repeats that a fault explains, under the same id", account.explained),
    ):
        shown.add_row(name, str(number))
    shown.add_section()
    for name, number in (
        ("effects lost", account.lost),
        ("repeats that no fault explains", account.unexplained),
        ("pieces sold too many", account.oversold),
        ("dead letters that cannot be processed", account.left),
    ):
        shown.add_row(name, str(number), style="bold red" if number else "bold green")
    return shown
