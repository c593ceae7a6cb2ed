"""What a person sees of a run of orders: a progress bar while it goes, then a table by action."""

import collections
import contextlib
import json
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from local.cloud_tasks import CloudTasks, Event, Message

COLUMNS = (Event.CREATED, Event.PROCESSED, Event.RETRIED, Event.GONE)


class Report:
    """Counts of what happened to tasks since the start."""

    def __init__(self, cloud_tasks: CloudTasks, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._first = self._last = 0.0
        self._counts: dict[str, collections.Counter[Event]] = collections.defaultdict(collections.Counter)
        self._changed: Callable[[], None] = lambda: None
        cloud_tasks.on_event = self._count

    def _count(self, event: Event, task: Message) -> None:
        self._last = self._clock()
        self._first = self._first or self._last
        self._counts[_action(task)][event] += 1
        self._changed()

    def total(self, event: Event) -> int:
        return sum(counts[event] for counts in self._counts.values())

    @contextlib.contextmanager
    def bar(self) -> Iterator[None]:
        """A bar of the tasks created so far and how many of them are settled; on a terminal only."""
        with Progress(
            SpinnerColumn(),
            TextColumn("tasks"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        ) as progress:
            bar = progress.add_task("tasks", total=None, detail="")

            def show() -> None:
                progress.update(
                    bar,
                    total=self.total(Event.CREATED),
                    completed=self.total(Event.PROCESSED) + self.total(Event.GONE),
                    detail=f"{self.total(Event.RETRIED)} retried",
                )

            self._changed = show
            try:
                yield
            finally:
                self._changed = lambda: None

    def table(self) -> Table:
        """The counts, a row an action and one for all."""
        settled = self.total(Event.PROCESSED) + self.total(Event.GONE)
        table = Table(title="Tasks by action", caption=f"{settled} settled in {self._last - self._first:.1f} s")
        table.add_column("action")
        for event in COLUMNS:
            table.add_column(event.value, justify="right")
        for action, counts in sorted(self._counts.items()):
            table.add_row(action, *(str(counts[event]) for event in COLUMNS))
        table.add_section()
        table.add_row("all", *(str(self.total(event)) for event in COLUMNS))
        return table


def _action(task: Message) -> str:
    """The order's action, as far as the body tells one."""
    try:
        return str(json.loads(task.http_request.body)["action"])
    except (ValueError, TypeError, KeyError):
        return "(other)"
