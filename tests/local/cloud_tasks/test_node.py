"""The official client for Node: a program of it creates tasks that reach the handler."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.local.running import PATIENCE, running

FOLDER = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def packages() -> None:
    """The program's packages, installed as locked; they stay for the next run."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("no node or no npm on the path: apt-get install nodejs npm")
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules/.package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        run("npm", "ci", "--no-audit", "--no-fund")


def run(*command: str) -> str:
    ended = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.usefixtures("packages")
def test_a_program_for_node_delivers_to_the_handler_over_grpc_and_rest() -> None:
    with running() as cloud:
        created = {
            (order, run("node", "create_task.js", json.dumps(cloud.at), transport, order).rpartition("/")[2])
            for transport, order in (("grpc", "NODE-1"), ("rest", "NODE-2"))
        }
        cloud.logged("Confirmation mail for NODE-", times=2)
        assert {(entry["orderId"], entry["task"]) for entry in cloud.orders()} == created
        assert {entry["queue"] for entry in cloud.orders()} == {"cloud-run-tasks"}
