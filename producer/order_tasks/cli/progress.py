"""A progress bar on standard error. Nothing is drawn without a terminal or without rich."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """Shows how much of `total` is done, and prints lines above the bar. `total` None: not known."""

    def __init__(self, description: str, total: int | None = None) -> None:
        self._bar = _bar() if sys.stderr.isatty() else None
        if self._bar:
            self._task = self._bar.add_task(description, total=total)

    def set_total(self, total: int) -> None:
        """Set a total that was not known before."""
        if self._bar:
            self._bar.update(self._task, total=total)

    def advance(self, size: int = 1) -> None:
        """Count `size` more as done."""
        if self._bar:
            self._bar.advance(self._task, size)

    def print(self, text: str) -> None:
        """Print one line on standard error."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(f"{text}\n")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()


def _bar() -> "Bar | None":
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    except ImportError:  # rich is an optional dependency
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))
