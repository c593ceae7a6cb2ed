"""The rows that a benchmark yields, the table they become, and the tools that a benchmark runs.

A row compares the median over the runs with a target: of the ratio of our figure to the other side's in the same run,
or of our figure alone if there is no other side. Both figures of a ratio are measured within seconds of each other, so
other load on the machine affects both.
"""

import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar

ROOT = Path(__file__).parents[1]
RUNS = 5
"""Runs of each side, in turn."""

_HEADINGS = ("what", "ours", "theirs", "ratio, median [min, max]", "target", "met")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    unit: str
    bound: Literal["≥", "≤"]
    limit: float
    ours: Sequence[float]
    """One figure a run."""
    theirs: Sequence[float] | None = None
    """The other side's figures of the same runs. If None, the target is for our figure alone."""

    @property
    def judged(self) -> Sequence[float]:
        if self.theirs is None:
            return self.ours
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def met(self) -> bool:
        found = median(self.judged)
        return found >= self.limit if self.bound == "≥" else found <= self.limit

    @property
    def target(self) -> str:
        return f"{self.bound} {figure(self.limit)} {self.unit if self.theirs is None else 'x'}".rstrip()

    def cells(self) -> tuple[str, ...]:
        unit = f" {self.unit}".rstrip()
        met = "yes" if self.met else "**no**"
        if self.theirs is None:
            return (self.name, f"{spread(self.ours)}{unit}", "", "", self.target, met)
        ours, theirs = (f"{figure(median(side))}{unit}" for side in (self.ours, self.theirs))
        return (self.name, ours, theirs, spread(self.judged), self.target, met)


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that a benchmark runs and whose version the table names."""

    name: str
    version: Sequence[str]
    """The command that prints the version as its first number with dots."""
    remedy: str
    """How to install it."""


class MissingToolError(Exception):
    """A tool cannot be run; the message says how to install it."""


def version(tool: Tool) -> str:
    """Returns the tool's version. Raises MissingToolError if the tool does not print one."""
    try:
        # wrk prints its version and exits with 1
        ended = subprocess.run(tool.version, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        ended = None
    found = re.search(r"\d+(\.\d+)+", (ended.stdout or ended.stderr) if ended else "")
    if found is None:
        raise MissingToolError(f"{tool.name} is missing: {tool.remedy}")
    return found[0]


def in_turn(ours: Callable[[], _T], theirs: Callable[[], _T], runs: int = RUNS) -> tuple[list[_T], list[_T]]:
    """Returns the results of both sides, measured in turn (A B A B), so that a drift of the machine affects both."""
    pairs = [(ours(), theirs()) for _ in range(runs)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def table(rows: Iterable[Row]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [_HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def figure(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def spread(numbers: Sequence[float]) -> str:
    return f"{figure(median(numbers))} [{figure(min(numbers))}, {figure(max(numbers))}]"
