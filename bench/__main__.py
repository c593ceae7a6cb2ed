"""`python -m bench` runs every benchmark, prints one table and writes it to bench/RESULTS.md.

A benchmark is a module of this folder. Its docstring says what is compared, how, and what threatens the validity of
the figures. TOOLS names the programs that it runs, and `main()` yields a Row for each target. `python -m bench NAME`
runs one alone and writes nothing. The exit code is 0 if everything was measured, whether or not the targets are met.
"""

import importlib
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.rows import ROOT, RUNS, MissingToolError, Row, spread, table, version

BENCHMARKS = ("handler", "producer", "outbox", "local_cloud", "page")

RESULTS = ROOT / "bench" / "RESULTS.md"
HEADING = """\
# Results of `make bench`

{date:%Y-%m-%d}, {machine}. {versions}.
{runs} runs of each side in turn unless a benchmark says otherwise; each file here says what is
compared, how, and what threatens the validity of the figures.
"""


def main(names: Sequence[str]) -> int:
    rows: list[Row] = []
    versions = {"Python": platform.python_version(), "Linux": platform.release().split("-")[0]}
    missing = []
    for name in names or BENCHMARKS:
        benchmark = importlib.import_module(f"bench.{name}")
        sys.stderr.write(f"{name} ...\n")
        try:
            versions.update({tool.name: version(tool) for tool in benchmark.TOOLS})
            rows.extend(benchmark.main())
        except MissingToolError as error:
            missing.append(f"Not measured: {name}. {error}")
    figures = ", ".join(f"{name} {number}" for name, number in versions.items())
    met = f"{sum(row.met for row in rows)} of {len(rows)} targets are met."
    missed = [f"- Missed: {row.name}: {spread(row.judged)}, target {row.target}." for row in rows if not row.met]
    heading = HEADING.format(date=datetime.now(UTC), machine=machine(), versions=figures, runs=RUNS)
    text = "\n".join([heading, table(rows), "", met, *missed, *(["", *missing] if missing else [])])
    sys.stdout.write(f"{text}\n")
    if not names:
        RESULTS.write_text(f"{text}\n")
    return int(bool(missing))


def machine() -> str:
    """Returns the number of cores, the processor's model and the memory."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in processors if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB of memory"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
