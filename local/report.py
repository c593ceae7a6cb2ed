"""The report of a run of orders: a progress bar during the run, then a table by action."""

import collections
import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import Message


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
        self._counts[_action(task)][event] += 1
        self._changed()

    def total(self, event: Event) -> int:
        return sum(counts[event] for counts in self._counts.values())

    @contextlib.contextmanager
    def bar(self) -> Iterator[None]:
        """Shows how many of the created tasks are settled, on a terminal only."""
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

    def table(self, dead_letters: Iterable[Message], effects: Mapping[str, int]) -> Table:
        """Returns the counts, one row for each action and one for all.

        `effects`: action -> number of effects, for the actions whose effects are known."""
        dead = collections.Counter(map(_action, dead_letters))
        settled = self.total(Event.PROCESSED) + self.total(Event.GONE)
        caption = f"{settled} settled in {self._last - self._first:.1f} s"
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


def _action(task: Message) -> str:
    """Returns the order's action, or `(other)` if the body contains none."""
    try:
        return str(json.loads(task.http_request.body)["action"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "(other)"
