"""`python -m bench` runs every benchmark, prints one table and writes it to bench/RESULTS.md.

A benchmark is a module of this folder: its docstring says what is compared, how, and what would make it unfair; TOOLS
names the programs that it runs; `main()` yields a Row a target. Also runnable alone, as `python -m bench.NAME`.
"""

import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, cast

from bench.rows import ROOT, RUNS, MissingToolError, Row, Tool, table, version

BENCHMARKS = (
    "handler",
    "producer",
    "local_cloud",
    "image",
    "program",
)

RESULTS = ROOT / "bench" / "RESULTS.md"


class Benchmark(Protocol):
    TOOLS: Sequence[Tool]
    main: Callable[[], Iterable[Row]]


def main() -> int:
    rows: list[Row] = []
    versions = {"Python": platform.python_version(), "Linux": platform.release().split("-")[0]}
    missing = []
    for name in BENCHMARKS:
        benchmark = cast("Benchmark", importlib.import_module(f"bench.{name}"))
        sys.stderr.write(f"{name} ...\n")
        try:
            versions.update({tool.name: version(tool) for tool in benchmark.TOOLS})
            rows.extend(benchmark.main())
        except MissingToolError as error:
            missing.append(f"Not measured: {name}. {error}")
    versions_line = ", ".join(f"{name} {number}" for name, number in versions.items())
    text = "\n".join(
        [
            "# Results of `make bench`",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {machine()}. {versions_line}.",
            f"{RUNS} runs of each side in turn unless a benchmark says otherwise; each file here says what is",
            "compared, how, and what would make it unfair.",
            "",
            table(rows),
            *(["", *missing] if missing else []),
        ]
    )
    sys.stdout.write(f"{text}\n")
    RESULTS.write_text(f"{text}\n")
    return int(bool(missing) or not all(row.met for row in rows))


def machine() -> str:
    """Cores, processor and memory, in general terms."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in processors if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB of memory"


if __name__ == "__main__":
    sys.exit(main())
