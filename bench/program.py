"""The time that the program's own code takes: settings and declaring, without engine and providers.

What: processor time from the first import to the last declared resource, of `__main__.py` as the dev stack, and of a
program that imports the same provider modules and declares one queue. The difference is our own code.
How: each run is a new process under the same mocks. The first run of each side is discarded.
Threats to validity: a first start, which compiles tens of megabytes of generated code; an import that the other side
skips, since pulumi_gcp loads a module only when it is used.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from bench.rows import ROOT, Row, Tool, in_turn, show

TOOLS: Sequence[Tool] = ()
RUNS = 11
CHILD = r"""
import time
started = time.process_time()
import importlib, re, sys
from local.program import evaluate, stack_configuration

def one_queue():
    import pulumi, pulumi_gcp
    for module in sys.argv[2:]:
        hasattr(importlib.import_module(module), "Any")  # asking for a name loads it
    pulumi_gcp.cloudtasks.Queue("queue", project="shop-project", location="us-central1", name="orders")

programs = [] if sys.argv[1] == "program" else [one_queue]
evaluate(*programs, config={**stack_configuration("dev"), "gcp:project": "shop-project"})
print(time.process_time() - started)
loaded = {".".join(name.split(".")[:2]) for name in sys.modules if re.match(r"pulumi_gcp\.\w+\.", name)}
print(*sorted(loaded), "pulumi_docker")
"""


def main() -> Iterator[Row]:
    _, modules = run("program")
    ours, theirs = in_turn(lambda: run("program")[0], lambda: run("queue", *modules)[0], RUNS + 1)
    yield Row("program, against one queue and the same imports", "s", "≤", 1.3, ours[1:], theirs[1:])


def run(*arguments: str) -> tuple[float, list[str]]:
    """Runs CHILD; returns its processor seconds and the provider modules that it loaded."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", CHILD, *arguments]
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    seconds, modules = output.splitlines()
    return float(seconds), modules.split()


if __name__ == "__main__":
    show(main())
