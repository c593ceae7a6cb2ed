"""The account of a drill: what was lost, what was repeated, and which fault explains each repeat.

A repeat is explained only by a fault that met the run of the effect, and that lay between the effect and its repeat:
the answer to this very effect was lost or late, the run's handler was killed or frozen, or the whole local cloud was
killed before the run could record the effect. All other faults (a task delivered twice, a lost answer to a delivery, a
refusal, a database that is away) must repeat nothing.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from local.faults import REPEATING
from local.sinks.effects import Effects
from local.sinks.web_services import SIGNED

Entry = Mapping[str, Any]
"""An entry of a journal."""
RECORD_SECONDS = 5.0
"""Within this time a run records its effect, unless the database is disturbed."""


class Account(NamedTuple):
    """The result of a drill."""

    orders: int
    """Orders that were committed."""
    dead_letters: int
    left: int
    """Dead letters that no replay could process."""
    lost: int
    """Effects that never happened."""
    unordered: int
    """Mails and notifications of orders that were never committed."""
    oversold: int
    """Pieces of stock that an order took too much."""
    explained: int
    """Repeated mails and notifications that a fault explains."""
    unexplained: int

    @property
    def failed(self) -> bool:
        return any((self.left, self.lost, self.unordered, self.oversold, self.unexplained)) or not self.orders


def account(
    effects: Effects, addresses: Mapping[str, str], faults: Sequence[Entry], dead_letters: int, left: int
) -> Account:
    """Compares what was committed with what happened. `addresses`: the customer of each order."""
    committed = effects.shop.orders()
    mails, notifications = effects.mail_server.mails.entries(), effects.web_services.calls(SIGNED)
    mailed = {mail["to"] for mail in mails}
    notified = {notification["order"] for notification in notifications}
    sold = effects.shop.sold()
    lost = (
        len({addresses[order] for order in committed} - mailed)
        + len(set(committed) - notified)
        + sum(pieces < 1 for pieces in sold)
        + len(committed) - len(sold)
    )  # fmt: skip
    orders = {address: order for order, address in addresses.items()}
    repeats = [
        *_repeats(mails, lambda mail: f"{orders[mail['to']]} send_confirmation"),
        *_repeats(notifications, lambda notification: f"{notification['order']} notify_warehouse"),
    ]
    explained = sum(_is_explained(*repeat, faults) for repeat in repeats)
    return Account(
        orders=len(committed),
        dead_letters=dead_letters,
        left=left,
        lost=lost,
        unordered=len(mailed - {addresses[order] for order in committed}) + len(notified - set(committed)),
        oversold=sum(max(0, pieces - 1) for pieces in sold),
        explained=explained,
        unexplained=len(repeats) - explained,
    )


def _repeats(entries: Iterable[Entry], run: Callable[[Entry], str]) -> list[tuple[str, Entry, Entry]]:
    """Returns each repeat of an effect: its run as `ORDER ACTION`, the entry before it, and its own."""
    last: dict[str, Entry] = {}
    found = []
    for entry in entries:
        if entry["id"] in last:
            found.append((run(entry), last[entry["id"]], entry))
        last[entry["id"]] = entry
    return found


def _is_explained(run: str, effect: Entry, repeat: Entry, faults: Sequence[Entry]) -> bool:
    recorded_at = effect["at"] + RECORD_SECONDS
    for fault in faults:
        if fault["place"] == "database" and fault["at"] <= recorded_at and fault["until"] >= effect["at"]:
            recorded_at = max(recorded_at, fault["until"] + RECORD_SECONDS)
    return any(
        (fault["place"], fault["kind"]) in REPEATING
        and fault["at"] <= repeat["at"]
        and fault["until"] >= effect["at"]
        and (
            run in fault["runs"]
            if "runs" in fault
            else fault["effect"] == effect["id"]
            if fault["effect"]
            else fault["at"] <= recorded_at
        )
        for fault in faults
    )


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
        ("effects of orders that were not committed", account.unordered),
        ("repeats that no fault explains", account.unexplained),
        ("pieces sold too many", account.oversold),
        ("dead letters that cannot be processed", account.left),
    ):
        shown.add_row(name, str(number), style="bold red" if number else "bold green")
    return shown
