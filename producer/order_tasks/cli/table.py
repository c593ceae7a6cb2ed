"""A table on standard output: drawn on a terminal if rich is installed, otherwise in plain columns."""

import sys
from collections.abc import Sequence


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one line for each row. On a terminal a cell may take several lines."""
    if sys.stdout.isatty() and _draw(headings, rows):
        return
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{'  '.join(cells).rstrip()}\n")


def _draw(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # rich is an optional dependency
        return False
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
    return True
