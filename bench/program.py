"""The program's own time: imports, settings and declaring, without engine and providers.

Ours is `__main__.py` as the dev stack; theirs is a program that imports pulumi and pulumi_gcp and declares one queue,
and, in the second row, one that imports each provider module that ours uses as well: what is left is our own code.
Each runs in a new process under the same mocks; counted is processor time, from the first import to the last declared
resource. Unfair would be a first start, which compiles tens of megabytes of generated code: one run of each is thrown
away. So would a queue that is never declared, since pulumi_gcp loads a module only when it is used.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from bench.rows import ROOT, Row, Tool, show

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
    sides = (["program"], ["queue"], ["queue", *modules])
    rounds = [[run(*side)[0] for side in sides] for _ in range(RUNS + 1)][1:]
    ours, queue, imports = zip(*rounds, strict=True)
    yield Row("program, against one queue", "s", "≤", 1.3, ours, queue)
    yield Row("program, against one queue and the same imports", "s", "≤", 1.3, ours, imports)


def run(*arguments: str) -> tuple[float, list[str]]:
    """Seconds that a child took, and the provider modules that it loaded."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", CHILD, *arguments]
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    seconds, modules = output.splitlines()
    return float(seconds), modules.split()


if __name__ == "__main__":
    show(main())
