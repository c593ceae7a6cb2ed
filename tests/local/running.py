"""A local cloud in a process of its own, as a user starts it, and what a test says to it over HTTP."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from local.program import ROOT

PATIENCE = 60
"""Seconds until a test gives up on another process; no test takes that long."""


@dataclasses.dataclass
class LocalCloud:
    """A started `python -m local up --json`."""

    process: subprocess.Popen[str]
    at: dict[str, str]
    """Its line of addresses."""
    log: list[str]
    """Its lines on standard error so far."""

    def token(self, *, email: str | None = None, audience: str | None = None) -> str:
        query = {"email": email or self.at["invoker_email"], "audience": audience or self.at["service_url"]}
        return request(f"{self.at['issuer']}/token?{urllib.parse.urlencode(query)}")[1]

    def invoke(self, path: str = "", body: bytes | None = None) -> tuple[int, str]:
        """Status and text of the service's answer to the invoker."""
        return request(self.at["service_url"] + path, body, {"Authorization": f"Bearer {self.token()}"})

    def producer(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the producer's command line with this cloud's addresses."""
        return subprocess.run(
            [sys.executable, "-m", "order_tasks", "send", "--outputs", "-", *arguments],
            input=json.dumps(self.at),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def logged(self, text: str, times: int = 1) -> None:
        """Wait until that many lines of the log have the text."""
        wait_for(lambda: sum(text in line for line in self.log) >= times, lambda: "\n".join(self.log))

    def orders(self) -> list[dict[str, Any]]:
        """What the handlers logged of the orders they processed."""
        entries = [json.loads(line) for line in self.log if line.startswith("{")]
        return [entry for entry in entries if entry.get("status") == 200]


def request(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of a GET, or of a POST where there is a body."""
    outgoing = urllib.request.Request(url, body, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(outgoing, timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wait_for(condition: Callable[[], object], otherwise: Callable[[], str], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.01)


@contextlib.contextmanager
def running(*arguments: str, root: Path = ROOT) -> Iterator[LocalCloud]:
    """A local cloud of the checkout in `root`, ended with the block."""
    with started("--json", "--port", "0", *arguments, cwd=root) as (process, printed, log):
        wait_for(lambda: printed or process.poll() is not None, lambda: "\n".join(log))
        wait_for(lambda: printed, lambda: "\n".join(log), 1)
        yield LocalCloud(process, json.loads(printed[0]), log)


@contextlib.contextmanager
def started(
    *arguments: str, cwd: Path, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], list[str], list[str]]]:
    """A local cloud that starts, with its lines on standard output and standard error; ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "local", "up", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    printed: list[str] = []
    log: list[str] = []
    readers = [
        threading.Thread(target=read, args=(pipe, to), daemon=True)
        for pipe, to in ((process.stdout, printed), (process.stderr, log))
    ]
    for reader in readers:
        reader.start()
    try:
        yield process, printed, log
    finally:
        end(process)
        for reader in readers:
            reader.join(PATIENCE)


def read(pipe: IO[str], to: list[str]) -> None:
    with pipe:
        to.extend(map(str.rstrip, pipe))


def end(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, which must be enough."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        kill(process)
        raise


def up(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A local cloud that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "local", "up", "--port", "0", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def total(text: str) -> list[int]:
    """The last row of the table: created, processed, effects, retried, dead letters, gone."""
    [row] = re.findall(r"^\s*all((?:\s+\d+){6})\s*$", text, re.MULTILINE)
    return list(map(int, row.split()))


def copy_of_checkout(folder: Path) -> Path:
    """The program and the local cloud in a folder where a test may change them; the handler's environment is shared."""
    for file in (*ROOT.glob("*.py"), *ROOT.glob("Pulumi*.yaml")):
        shutil.copy(file, folder)
    for name in ("components", "examples", "local"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "handler").mkdir()
    shutil.copy(ROOT / "handler/contract.json", folder / "handler")
    shutil.copytree(ROOT / "handler/order_handler", folder / "handler/order_handler")
    (folder / "handler/.venv").symlink_to(ROOT / "handler/.venv")
    return folder


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
    file.write_text(text.replace(old, new))


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
