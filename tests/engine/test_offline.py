"""A preview calls Google's provider only, and works without a network."""

import dataclasses
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from local.program import ROOT
from tests.engine.conftest import run_program
from tests.engine.deployment import Deployment
from tests.engine.providers import Cloud, serving

PATIENCE = 60
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def alone(*command: str) -> subprocess.CompletedProcess[str]:
    """Run the test in its own network namespace."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.run(
        ["unshare", "--net", *as_root, *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )


def test_the_first_preview_of_dev_needs_no_network_and_builds_no_image() -> None:
    if not shutil.which("unshare") or alone("true").returncode:
        pytest.skip("no network namespaces here: they need Linux, and root or user namespaces")
    preview = alone(sys.executable, "-m", "tests.engine.test_offline")
    assert preview.returncode == 0, preview.stderr
    result = json.loads(preview.stdout)
    assert result["interfaces"] == ["lo"]
    assert (result["error"], result["warnings"], result["requests"]) == ("", [], [])
    assert result["steps"]["Image handler-image"] == "create"


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
    cloud = Cloud()
    with serving(cloud) as providers, tempfile.TemporaryDirectory() as folder:
        run = Deployment("dev", providers, Path(folder), run_program).preview()
    interfaces = [name for _, name in socket.if_nameindex()]
    print(json.dumps({**dataclasses.asdict(run), "interfaces": interfaces, "requests": cloud.requests}))  # noqa: T201


if __name__ == "__main__":
    main()
