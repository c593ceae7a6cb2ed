"""The handler's image against the tutorial's: what it weighs, and what a change of the code renews.

Compared: the image of handler/ as it is deployed, and that of bench/express/ made as the tutorial makes it
(tutorial.Dockerfile), both built with BuildKit from what git tracks. Sizes are Docker's own, unpacked and with their
bases. Then the code of each gets one more line, and both are built again. The limit of the size keeps what was reached.

Unfair would be bases of two Debians: where none can be pulled, .ci/docker.sh makes ours and this module the tutorial's
on one bookworm, with npm from its registry as in the real base, since Debian's brings 200 MB along; or a context with
what a checkout has gathered, which the tutorial's `COPY . .` would take. Ours carries what the tutorial's does not do:
a database's driver, the client for dead letters, and the bytecode that a cold start would otherwise compile.
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

TOOLS = (Tool("docker", ("docker", "version", "--format", "{{.Server.Version}}"), "run `. .ci/docker.sh` as root"),)

NODE_IMAGE = "node:20-slim"
STAND_IN = """
FROM debian:bookworm-slim AS npm
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends npm
RUN npm install --global --prefix /opt/npm npm@10
FROM debian:bookworm-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs && \\
    rm -rf /var/cache/apt/* /var/lib/apt/lists/*
COPY --from=npm /opt/npm /usr/local
"""


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    context: str
    dockerfile: str
    source: str
    """The file that changes."""
    comment: str


OURS = Side("handler", "handler", "handler/Dockerfile", "order_handler/app.py", "#")
THEIRS = Side("tutorial", "bench/express", "bench/tutorial.Dockerfile", "index.js", "//")


@dataclass(frozen=True, slots=True)
class Built:
    megabytes: float
    layers: Sequence[str]
    """Size and instruction of each that is not empty, the last first."""
    renewed: int
    """Layers that are others after the change."""
    steps: Sequence[str]
    """What BuildKit did not take from its cache for them."""
    seconds: float
    """That the second build took."""


def main() -> Iterable[Row]:
    if not _succeeds("image", "inspect", NODE_IMAGE) and not _succeeds("pull", "--quiet", NODE_IMAGE):
        _docker("build", "--tag", NODE_IMAGE, "-", given=STAND_IN)
    ours, theirs = _built(OURS), _built(THEIRS)
    for side, built in ((OURS, ours), (THEIRS, theirs)):
        layers = "\n".join(f"  {layer}" for layer in built.layers)
        sys.stderr.write(f"{side.name}: {built.megabytes:.0f} MB\n{layers}\n")
        steps = "; ".join(built.steps)
        sys.stderr.write(f"  a change of {side.source} took {built.seconds:.1f} s and renewed: {steps}\n")
    yield Row("image, unpacked", "MB", "≤", 1.2, [ours.megabytes], [theirs.megabytes])
    yield Row("layers that a change of the code renews", "", "≤", 1, [ours.renewed], [theirs.renewed])


def _built(side: Side) -> Built:
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
        renewed = sum(old != new for old, new in zip(digests, _inspect(after)[1], strict=True))
    finally:
        _docker("image", "rm", before, after)
    steps = dict(re.findall(r"^#(\d+) \[\S* ?\d+/\d+\] ((?:COPY|RUN|WORKDIR) .*)$", log, re.MULTILINE))
    for cached in re.findall(r"^#(\d+) CACHED", log, re.MULTILINE):
        steps.pop(cached, None)
    layers = [line.expandtabs(8) for line in history if not line.startswith("0B")]
    return Built(size / 1e6, layers, renewed, list(steps.values()), seconds)


def _inspect(image: str) -> tuple[int, list[str]]:
    """Bytes, and the digests of the layers."""
    inspected = json.loads(_docker("image", "inspect", image))[0]
    return inspected["Size"], inspected["RootFS"]["Layers"]


def _docker(*arguments: str, given: str = "") -> str:
    """What a command of Docker prints, BuildKit's progress included. Raises MissingToolError where it fails."""
    done = subprocess.run(
        ["docker", *arguments],
        input=given,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MissingToolError(f"docker {' '.join(arguments[:2])} failed: {done.stdout.strip()}")
    return done.stdout


def _succeeds(*arguments: str) -> bool:
    return subprocess.run(["docker", *arguments], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    show(main())
