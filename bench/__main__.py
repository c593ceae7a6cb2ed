"""`python -m bench` runs every benchmark, prints one table and writes it to bench/RESULTS.md.

A benchmark is a module of this folder. Its docstring says what is compared, how, and what threatens the validity of
the figures. TOOLS names the programs that it runs, and `main()` yields a Row for each target. `python -m bench.NAME`
runs one alone. The exit code is 0 if everything was measured, whether or not the targets are met.
"""

import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, cast

from bench.rows import ROOT, RUNS, MissingToolError, Row, Tool, table, verdict, version

BENCHMARKS = ("handler", "producer", "outbox", "local_cloud", "page")

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
            "compared, how, and what threatens the validity of the figures.",
            "",
            table(rows),
            "",
            verdict(rows),
            *(["", *missing] if missing else []),
        ]
    )
    sys.stdout.write(f"{text}\n")
    RESULTS.write_text(f"{text}\n")
    return int(bool(missing))


def machine() -> str:
    """Returns the number of cores, the processor's model and the memory."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in processors if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB of memory"


if __name__ == "__main__":
    sys.exit(main())
