"""The handler's image against the tutorial's: its size, and the layers that a change of the code rebuilds.

What: the image of handler/ as it is deployed, and the image of bench/express/ as the tutorial builds it
(tutorial.Dockerfile). Sizes are Docker's own: unpacked, base image included.
How: BuildKit builds both from the files that git tracks. Then the code of each gets one more line, and both are built
again. The target for the size keeps the size that was reached.
Threats to validity: base images of different Debian releases; untracked files, which the tutorial's `COPY . .` would
copy. Ours contains more: a database driver, the client for dead letters, and bytecode for a faster cold start.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rows import ROOT, MissingToolError, Row, Tool, show

TOOLS = (Tool("docker", ("docker", "version", "--format", "{{.Server.Version}}"), "install Docker and start it"),)


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    context: str
    dockerfile: str
    source: str
    """The file that gets one more line."""
    comment: str


OURS = Side("handler", "handler", "handler/Dockerfile", "order_handler/app.py", "#")
THEIRS = Side("tutorial", "bench/express", "bench/tutorial.Dockerfile", "index.js", "//")


@dataclass(frozen=True, slots=True)
class Built:
    megabytes: float
    layers: Sequence[str]
    """Size and instruction of each layer that is not empty, the last one first."""
    rebuilt: int
    """Number of layers that the change of the code replaced."""
    steps: Sequence[str]
    """The steps of the second build that BuildKit did not find in its cache."""
    seconds: float
    """Duration of the second build."""


def main() -> Iterable[Row]:
    ours, theirs = _build(OURS), _build(THEIRS)
    for side, built in ((OURS, ours), (THEIRS, theirs)):
        layers = "\n".join(f"  {layer}" for layer in built.layers)
        sys.stderr.write(f"{side.name}: {built.megabytes:.0f} MB\n{layers}\n")
        steps = "; ".join(built.steps)
        sys.stderr.write(f"  a change of {side.source} took {built.seconds:.1f} s and rebuilt: {steps}\n")
    yield Row("image, unpacked", "MB", "≤", 1.2, [ours.megabytes], [theirs.megabytes])
    yield Row("layers that a change of the code rebuilds", "", "≤", 1, [ours.rebuilt], [theirs.rebuilt])


def _build(side: Side) -> Built:
    before, after = f"bench-{side.name}:before", f"bench-{side.name}:after"
    with tempfile.TemporaryDirectory() as name:
        context = Path(name)
        for file in subprocess.check_output(["git", "ls-files"], cwd=ROOT / side.context, text=True).splitlines():
            (context / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / side.context / file, context / file)
        build = ("build", "--progress", "plain", "--file", str(ROOT / side.dockerfile))
        _docker(*build, "--tag", before, name)
        with (context / side.source).open("a") as source:
            source.write(f"{side.comment} {time.time_ns()}\n")
        began = time.monotonic()
        log = _docker(*build, "--tag", after, name)
        seconds = time.monotonic() - began
    try:
        size, digests = _inspect(before)
        history = _docker("history", "--format", "{{.Size}}\t{{.CreatedBy}}", before).splitlines()
        rebuilt = sum(old != new for old, new in zip(digests, _inspect(after)[1], strict=True))
    finally:
        _docker("image", "rm", before, after)
    steps = dict(re.findall(r"^#(\d+) \[\S* ?\d+/\d+\] ((?:COPY|RUN|WORKDIR) .*)$", log, re.MULTILINE))
    for cached in re.findall(r"^#(\d+) CACHED", log, re.MULTILINE):
        steps.pop(cached, None)
    layers = [line.expandtabs(8) for line in history if not line.startswith("0B")]
    return Built(size / 1e6, layers, rebuilt, list(steps.values()), seconds)


def _inspect(image: str) -> tuple[int, list[str]]:
    """The image's size in bytes, and the digests of its layers."""
    inspected = json.loads(_docker("image", "inspect", image))[0]
    return inspected["Size"], inspected["RootFS"]["Layers"]


def _docker(*arguments: str) -> str:
    """Runs a Docker command and returns what it prints, BuildKit's progress included.

    Raises MissingToolError if it fails."""
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MissingToolError(f"docker {' '.join(arguments[:2])} failed: {done.stdout.strip()}")
    return done.stdout


if __name__ == "__main__":
    show(main())
