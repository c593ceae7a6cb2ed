"""Which dead letters are meant: by name, by order, by reason, by action, or all."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from order_tasks.operations.entry import Entry
from order_tasks.operations.situation import reason_of

_MIN_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Selection:
    """Of the dead letters with any of these names, those with this reason and this action."""

    names: tuple[str, ...] = ()
    """Ids or paths, beginnings of ids (6 digits or more), or order ids. None: all."""
    reason: str | None = None
    """The whole reason, or a part of it if none has it as a whole."""
    action: str | None = None

    def of(self, entries: Iterable[Entry]) -> list[Entry]:
        """The selected ones of these."""
        named = [
            entry
            for entry in entries
            if (not self.names or any(_is_called(entry, name) for name in self.names))
            and self.action in (None, entry.action, entry.effect)
        ]
        if self.reason is None:
            return named
        wanted = self.reason.casefold()
        exactly = [entry for entry in named if reason_of(entry).casefold() == wanted]
        return exactly or [entry for entry in named if wanted in reason_of(entry).casefold()]

    def missing(self, selected: Sequence[Entry]) -> list[str]:
        """The names that select nothing."""
        return [name for name in self.names if not any(_is_called(entry, name) for entry in selected)]


def _is_called(entry: Entry, name: str) -> bool:
    is_beginning = len(name) >= _MIN_DIGITS and re.fullmatch("[0-9a-f]+", name) and entry.id.startswith(name)
    return name in (entry.path, entry.id, entry.order) or bool(is_beginning)
