"""What a benchmark yields, the table it becomes, and the tools that it may miss.

Owns the verdict: the median over the runs of our figure divided by the other side's of the same run, or of our figure
alone where there is no other side. A ratio of two neighbours in time stands, whatever else the machine is at.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar

ROOT = Path(__file__).parents[1]
RUNS = 5
"""Of each side, in turn."""

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
    """Of the same runs; None: the limit is one of our own figure."""

    @property
    def judged(self) -> Sequence[float]:
        if self.theirs is None:
            return self.ours
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def met(self) -> bool:
        found = median(self.judged)
        return found >= self.limit if self.bound == "≥" else found <= self.limit

    def cells(self) -> tuple[str, ...]:
        unit = f" {self.unit}".rstrip()
        target = f"{self.bound} {figure(self.limit)}"
        met = "yes" if self.met else "**no**"
        if self.theirs is None:
            return (self.name, f"{spread(self.ours)}{unit}", "", "", f"{target}{unit}", met)
        ours, theirs = (f"{figure(median(side))}{unit}" for side in (self.ours, self.theirs))
        return (self.name, ours, theirs, spread(self.judged), f"{target} x", met)


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that a benchmark runs and whose version the table names."""

    name: str
    version: Sequence[str]
    """The command that prints it, first of all numbers with dots."""
    remedy: str
    """The command that installs it."""


class MissingToolError(Exception):
    """A tool is not there; the message says how to get it."""


def version(tool: Tool) -> str:
    """What the tool says of itself. Raises MissingToolError."""
    try:
        # wrk tells its version and fails
        ended = subprocess.run(tool.version, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        ended = None
    found = re.search(r"\d+(\.\d+)+", (ended.stdout or ended.stderr) if ended else "")
    if found is None:
        raise MissingToolError(f"{tool.name} is missing: {tool.remedy}")
    return found[0]


def in_turn(ours: Callable[[], _T], theirs: Callable[[], _T], runs: int = RUNS) -> tuple[list[_T], list[_T]]:
    """What both sides gave, run by run: A B A B, so that what drifts on the machine meets both."""
    pairs = [(ours(), theirs()) for _ in range(runs)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def table(rows: Iterable[Row]) -> str:
    """In Markdown."""
    lines = [_HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def show(rows: Iterable[Row]) -> None:
    """Prints the table of one benchmark; exits with 1 unless each target is met."""
    try:
        measured = list(rows)
    except MissingToolError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{table(measured)}\n")
    sys.exit(not all(row.met for row in measured))


def figure(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def spread(numbers: Sequence[float]) -> str:
    return f"{figure(median(numbers))} [{figure(min(numbers))}, {figure(max(numbers))}]"
