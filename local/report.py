"""The report of a run of orders: a progress bar during the run, then a table by action."""

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import Message
from local.journal import order_of

_OTHER = "(other)"
"""Instead of an action, for a body that names none."""


class Report(Listener):
    """Counts the events of one queue's tasks since the start."""

    def __init__(self, queue: str, console: Console, clock: Callable[[], float]) -> None:
        self._prefix = f"{queue}/tasks/"
        self._console = console
        self._clock = clock
        self._first = self._last = 0.0
        self._counts: dict[str, collections.Counter[Event]] = collections.defaultdict(collections.Counter)
        self._changed: Callable[[], None] = lambda: None

    def task_changed(self, event: Event, task: Message) -> None:
        if not task.name.startswith(self._prefix):
            return
        self._last = self._clock()
        self._first = self._first or self._last
        self._counts[order_of(task.http_request.body).get("action", _OTHER)][event] += 1
        self._changed()

    def total(self, event: Event) -> int:
        return sum(counts[event] for counts in self._counts.values())

    @contextlib.contextmanager
    def bar(self, expected: int) -> Iterator[None]:
        """Shows how many of the expected tasks are settled, on a terminal only."""
        with Progress(
            *Progress.get_default_columns(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        ) as progress:
            bar = progress.add_task("tasks", total=expected, detail="")

            def show() -> None:
                detail = f"{progress.tasks[bar].speed or 0:.0f}/s, {self.total(Event.RETRIED)} retried"
                progress.update(bar, completed=self.settled(), detail=detail)

            self._changed = show
            try:
                yield
            finally:
                self._changed = lambda: None

    def settled(self) -> int:
        return self.total(Event.PROCESSED) + self.total(Event.GONE)

    def table(self, dead_letters: Iterable[Message], effects: Mapping[str, int], waiting: int, paused: bool) -> Table:
        """Returns the counts, one row for each action and one for all.

        `effects`: action -> number of effects, for the actions whose effects are known. `waiting`: tasks that the
        queue still has."""
        dead = collections.Counter(order_of(task.http_request.body).get("action", _OTHER) for task in dead_letters)
        caption = f"{self.settled()} settled in {self._last - self._first:.1f} s"
        if waiting:
            caption += f"; {waiting} wait" + (": the queue is PAUSED (order_tasks resume)" if paused else "")
        table = Table(title="Tasks by action", caption=caption, box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("action", no_wrap=True)
        for column in ("created", "processed", "effects", "retried", "dead\nletters", "gone"):
            table.add_column(column, justify="right")
        rows = [
            (
                action,
                counts[Event.CREATED],
                counts[Event.PROCESSED] - dead[action],
                effects.get(action),
                counts[Event.RETRIED],
                dead[action],
                counts[Event.GONE],
            )
            for action, counts in sorted(self._counts.items())
        ]
        for action, *counts in rows:
            table.add_row(Text(action), *("-" if count is None else str(count) for count in counts))
        table.add_section()
        table.add_row("all", *(str(sum(filter(None, column))) for column in list(zip(*rows, strict=True))[1:]))
        return table
