"""The official clients for Node, Go and Java: a program of each updates a queue and creates a task for the handler.

The client for Python is used by every other test, gcloud by test_gcloud.py.
"""

import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.running import PATIENCE, LocalCloud, running

CLIENTS = Path(__file__).parent / "clients"
BUILD_SECONDS = 600
"""A first build downloads the client."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program in a folder of `clients`."""

    folder: str
    tools: tuple[str, ...]
    build: tuple[str, ...]
    run: tuple[str, ...]
    made_of: str
    """The file that lists the packages."""
    made: str
    """What the build leaves."""


PROGRAMS = (
    Program(
        "node",
        ("node", "npm"),
        ("npm", "ci", "--no-audit", "--no-fund"),
        ("node", "create_task.js"),
        "package-lock.json",
        "node_modules/.package-lock.json",
    ),
    Program("go", ("go",), ("go", "build", "-o", "build/create_task", "."), ("build/create_task",), "go.sum", "build"),
    Program(
        "java",
        ("java", "mvn"),
        ("mvn", "-q", "-B", "compile", "dependency:copy-dependencies", "-DoutputDirectory=target/lib"),
        ("java", "-cp", "target/classes:target/lib/*", "CreateTask"),
        "pom.xml",
        "target/classes/CreateTask.class",
    ),
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[LocalCloud]:
    with running() as cloud:
        yield cloud


@pytest.fixture(params=PROGRAMS, ids=lambda program: program.folder)
def program(request: pytest.FixtureRequest) -> Program:
    return built(request.param)


def built(program: Program) -> Program:
    """Builds a program; what was built stays for the next run. Skips the test if a tool is missing."""
    missing = [tool for tool in program.tools if not shutil.which(tool)]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on the path: install it to test the client for {program.folder}")
    folder = CLIENTS / program.folder
    made, made_of = folder / program.made, folder / program.made_of
    # The tests of another file may build it at the same time. A lock of the list would stop Go, which takes one too.
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.stat().st_mtime < made_of.stat().st_mtime:
            run(program, *program.build, seconds=BUILD_SECONDS)
    finally:
        os.close(lock)
    return program


def run(program: Program, *command: str, seconds: float = 2 * PATIENCE) -> list[str]:
    """The lines that a command prints."""
    ended = subprocess.run(
        command, cwd=CLIENTS / program.folder, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.timeout(BUILD_SECONDS + 4 * PATIENCE)
def test_a_client_updates_a_queue_by_mask_and_delivers_to_the_handler_over_grpc_and_rest(
    cloud: LocalCloud, program: Program
) -> None:
    created = set()
    for transport in ("grpc", "rest"):
        order = f"{program.folder}-{transport}"
        limits, name = run(program, *program.run, json.dumps(cloud.at), transport, order)
        assert limits.split() == ["7", "1000"]
        created.add((order, name.rpartition("/")[2]))
        cloud.logged(f"Confirmation mail for {order} sent")
    assert created <= {(entry["orderId"], entry["task"]) for entry in cloud.orders()}
