"""Everything that an operator can see and do, on one connection. The commands and the console use it alike.

Blocking, and safe to use from several threads.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Any, Self

from order_tasks.config import Config
from order_tasks.errors import ConfigError
from order_tasks.operations.entry import Entry
from order_tasks.operations.log import HandlerLog
from order_tasks.operations.queues import Queues
from order_tasks.operations.replay import Replay, Replayed
from order_tasks.operations.selection import Selection
from order_tasks.operations.situation import Situation, look
from order_tasks.operations.story import Story, tasks_of, tell
from order_tasks.operations.times import SYSTEM_CLOCK, Clock
from order_tasks.order import NEW_ORDER_ACTIONS

if TYPE_CHECKING:
    from order_tasks.operations.database import Database, EffectState


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What the cancellation of an order did."""

    effects: "Mapping[str, EffectState] | None"
    """The state of each effect in the ledger now. None: no database was given, so that nothing was noted."""
    rows: int
    """Rows of the outbox that were deleted."""
    tasks: int
    """Tasks and dead letters that were deleted."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the order was done or is running, as far as the ledger is known."""
        return set((self.effects or {}).values()) <= {"cancelled"}


class Operations:
    """Raises GoogleAPIError, and with a database SQLAlchemyError. Close it, or use it as a context manager."""

    def __init__(self, config: Config, database_url: str | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        """Raises ConfigError if the database's URL cannot be used."""
        self.database = None if database_url is None else open_database(database_url)
        self.queues = Queues(config, clock)
        self.log = HandlerLog(config)
        self.clock = clock

    def situation(self) -> Situation:
        return look(self.queues, self.log, self.clock.now())

    def story(self, order_id: str) -> Story:
        return tell(self.queues, self.log, self.database, order_id)

    def select(self, selection: Selection) -> list[Entry]:
        """The selected dead letters, those that are due first in front."""
        selected = selection.of(self.queues.entries(self.queues.dead_letters, full=True))
        return sorted(selected, key=lambda entry: (entry.due, entry.path))

    def replay(self, entries: Sequence[Entry], stop: Event, *, force: bool = False) -> Iterator[Replayed]:
        """See `Replay`."""
        return Replay(self.queues, self.log, self.clock, stop).run(entries, force=force)

    def cancel(self, story: Story) -> Cancelled:
        """Prevent the effects of an order that have not begun.

        With a database, a task that is out already finds its effect cancelled and does nothing, so that deleting tasks
        is only tidying. Without one, tasks that run or are created later are not prevented.
        """
        entries = (*story.tasks, *story.dead_letters)
        effects = None
        rows = 0
        if self.database:
            open_effects = {*NEW_ORDER_ACTIONS, *(entry.effect for entry in entries if entry.effect)}
            effects, rows = self.database.cancel(story.order_id, open_effects)
        deleted = [self.queues.delete(entry.path) for entry in entries]
        return Cancelled(effects, rows, sum(deleted))

    def tasks(self, name: str) -> list[Entry]:
        """The task of the main queue with this id or path, or the tasks of this order."""
        task_id = name.removeprefix(f"{self.queues.main}/tasks/")
        known = re.fullmatch("[A-Za-z0-9_-]{1,500}", task_id) and self.queues.find(
            f"{self.queues.main}/tasks/{task_id}"
        )
        return [known] if known else list(tasks_of(self.queues, name))

    def close(self) -> None:
        self.queues.close()
        if self.database:
            self.database.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        shown = [field.name for field in dataclasses.fields(value) if field.repr]
        return {name: _plain(getattr(value, name)) for name in shown}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, datetime) else value
