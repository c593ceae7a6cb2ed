import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bench import __main__ as bench
from bench.rows import MissingToolError, Row, Tool, in_turn, table, version

MET, MISSED = Row("start", "s", "≤", 2, [1]), Row("throughput", "orders/s", "≥", 2, [300], [200])


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (
            Row("throughput", "orders/s", "≥", 3, [30_000, 36_000, 9_000], [10_000, 9_000, 9_000]),
            ("throughput", "30,000 orders/s", "9,000 orders/s", "3 [1, 4]", "≥ 3 x", "yes"),
        ),
        (
            Row("p99", "ms", "≤", 0.3, [4.0, 5.0], [10.0, 12.5]),
            ("p99", "4.5 ms", "11.2 ms", "0.4 [0.4, 0.4]", "≤ 0.3 x", "**no**"),
        ),
        (
            Row("lag", "ms", "≤", 5, [4, 7, 5]),
            ("lag", "5 [4, 7] ms", "", "", "≤ 5 ms", "yes"),
        ),
    ],
)
def test_a_row_is_judged_by_the_median_of_its_runs(row: Row, cells: tuple[str, ...]) -> None:
    assert row.cells() == cells


def test_the_table_is_markdown_whose_columns_stand_below_each_other() -> None:
    lines = table([Row("a long name", "s", "≤", 1, [0.5]), Row("b", "", "≥", 1, [2], [1])]).splitlines()
    assert len(lines) == 4
    assert len({tuple(at for at, character in enumerate(line) if character == "|") for line in lines}) == 1


def test_the_sides_run_in_turn() -> None:
    order: list[str] = []
    assert in_turn(lambda: order.append("A"), lambda: order.append("B"), 2) == ([None, None], [None, None])
    assert order == ["A", "B", "A", "B"]


def test_a_tool_tells_its_version_or_how_to_get_it() -> None:
    assert version(Tool("Python", [sys.executable, "--version"], "")) == sys.version.split()[0]
    with pytest.raises(MissingToolError, match="wrench is missing: apt-get install wrench"):
        version(Tool("wrench", ["wrench-that-is-nowhere", "-v"], "apt-get install wrench"))


def _no_rows() -> Iterator[Row]:
    raise MissingToolError("wrench is missing: apt-get install wrench")
    yield MET


@pytest.mark.parametrize(
    ("main", "code", "printed"),
    [
        (lambda: [MET, MISSED], 0, ["1 of 2 targets are met.", "- Missed: throughput: 1.5 [1.5, 1.5], target ≥ 2 x."]),
        (_no_rows, 1, ["Not measured: fake. wrench is missing: apt-get install wrench"]),
    ],
)
def test_a_miss_is_told_and_only_what_was_not_measured_fails(
    main: object,
    code: int,
    printed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = ModuleType("bench.fake")
    vars(module).update(TOOLS=(), main=main)
    monkeypatch.setitem(sys.modules, "bench.fake", module)
    monkeypatch.setattr(bench, "BENCHMARKS", ("fake",))
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "RESULTS.md")
    assert bench.main([]) == code
    text = capsys.readouterr().out
    assert set(printed) <= set(text.splitlines())
    assert (tmp_path / "RESULTS.md").read_text() == text
