"""Everything that an operator can see and do, on one connection. The commands and the console use it alike.

    with Operations(config, database_url) as operations:
        print(operations.situation().headline)

Blocking, and safe to use from several threads.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Any, Self

from order_tasks.config import Config
from order_tasks.errors import ConfigError
from order_tasks.operations.entry import Entry
from order_tasks.operations.log import HandlerLog
from order_tasks.operations.queues import Queues
from order_tasks.operations.replay import Replay, Replayed
from order_tasks.operations.situation import Situation, look
from order_tasks.operations.story import Story, tasks_of, tell
from order_tasks.operations.times import SYSTEM_CLOCK, Clock
from order_tasks.order import NEW_ORDER_ACTIONS

if TYPE_CHECKING:
    from order_tasks.operations.database import Database

__all__ = ["Entry", "Operations", "Replayed", "Situation", "Story", "open_database", "to_json"]

_MIN_DIGITS = 6
"""Of a beginning of an id that is taken for it."""


class Operations:
    """Raises GoogleAPIError, and with a database OSError. Close it, or use it as a context manager."""

    def __init__(self, config: Config, database_url: str | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        """Raises ConfigError if the database's URL cannot be used."""
        self.database = None if database_url is None else open_database(database_url)
        self.queues = Queues(config, clock)
        self.clock = clock
        self._log = HandlerLog(config)

    def situation(self) -> Situation:
        return look(self.queues, self._log, self.clock.now())

    def story(self, order_id: str) -> Story:
        return tell(self.queues, self._log, self.database, order_id)

    def tasks(self, name: str) -> list[Entry]:
        """The task of the main queue with this id, or the tasks of this order."""
        path = f"{self.queues.main}/tasks/{name}"
        task = self.queues.find(path) if re.fullmatch("[A-Za-z0-9_-]{1,500}", name) else None
        return [task] if task else list(tasks_of(self.queues, name))

    def dead_letters(
        self, names: Sequence[str] = (), reason: str | None = None, action: str | None = None
    ) -> list[Entry]:
        """Those with one of the names, the reason and the action, as far as they are given; the next due first.

        A name is an id, the beginning of one (6 digits or more), a path, or an order's id. A reason is the general one
        of a group, or a part of it if no dead letter has it as a whole.
        """
        found = sorted(
            self.queues.entries(self.queues.dead_letters, full=True), key=lambda entry: (entry.due, entry.id)
        )
        if names:
            found = [entry for entry in found if any(is_called(entry, name) for name in names)]
        if action is not None:
            found = [entry for entry in found if action in (entry.action, entry.effect)]
        if reason is not None:
            exactly = [entry for entry in found if entry.general_reason == reason]
            found = exactly or [entry for entry in found if reason.casefold() in entry.general_reason.casefold()]
        return found

    def replay(self, entries: Sequence[Entry], stop: Event, *, force: bool = False) -> Iterator[Replayed]:
        """See `Replay`."""
        return Replay(self.queues, self._log, self.clock, stop).run(entries, force=force)

    def cancel(self, story: Story) -> None:
        """Prevent the effects of an order that have not begun.

        With a database, a task that is out already finds its effect cancelled and does nothing, so that deleting tasks
        is only tidying. Without one, tasks that run or are created later are not prevented.
        """
        entries = (*story.tasks, *story.dead_letters)
        if self.database:
            known = {*(entry.effect for entry in entries), *(row.effect for row in story.outbox or ())}
            self.database.cancel(story.order_id, {*NEW_ORDER_ACTIONS, *filter(None, known)})
        for entry in entries:
            self.queues.delete(entry.path)

    def close(self) -> None:
        self.queues.close()
        if self.database:
            self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_called(entry: Entry, name: str) -> bool:
    """Whether a dead letter is meant by this name."""
    is_beginning = re.fullmatch(f"[0-9a-f]{{{_MIN_DIGITS},}}", name) and entry.id.startswith(name)
    return name in (entry.path, entry.id, entry.order) or bool(is_beginning)


def open_database(url: str) -> "Database":
    """Raises ConfigError if the URL cannot be used."""
    try:
        from order_tasks.operations.database import Database
    except ImportError as error:
        raise ConfigError(f"{error}: install order-tasks[outbox]") from error
    return Database(url)


def to_json(value: object) -> str:
    """A dataclass of this package as one line of JSON: times in ISO 8601, without fields that are not for display."""
    return json.dumps(_plain(value))


def _plain(value: Any) -> Any:  # noqa: ANN401
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, datetime) else value
