"""Runs the program with Pulumi's real engine, which needs the Pulumi CLI, and stand-ins for the providers."""

import contextlib
import gc
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from pulumi.automation import PulumiFn

from components import lifecycle
from local.program import ROOT, run_file
from tests.engine.deployment import Deployment
from tests.engine.providers import Cloud, serving


def run_program() -> None:
    run_file(ROOT / "__main__.py")


class Deploy(Protocol):
    def __call__(self, stack: str, program: PulumiFn = run_program) -> Deployment:
        """A new stack of the program, with the settings of `Pulumi.<stack>.yaml`."""


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture(autouse=True)
def _waits(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Note each wait for a new grant or API among the requests, and do not wait."""

    async def sleep(seconds: float) -> None:
        cloud.requests.append(f"wait {seconds}")

    monkeypatch.setattr(lifecycle, "sleep", sleep)


@pytest.fixture(autouse=True)
def _engine() -> None:
    if not shutil.which("pulumi"):
        pytest.skip("no pulumi on the path: install the Pulumi CLI, https://www.pulumi.com/docs/install/")


@pytest.fixture
def deploy(cloud: Cloud, tmp_path: Path) -> Iterator[Deploy]:
    asyncio = logging.getLogger("asyncio")
    level = asyncio.level
    with contextlib.ExitStack() as ended:
        providers = ended.enter_context(serving(cloud))

        def deploy(stack: str, program: PulumiFn = run_program) -> Deployment:
            return ended.enter_context(contextlib.closing(Deployment(stack, providers, tmp_path, program)))

        yield deploy
    gc.collect()  # outputs of failed runs, which nobody awaited
    asyncio.setLevel(level)  # the automation API raised it and never restores it


@pytest.fixture
def skopeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in on the path: it notes its calls in this file, and fails with the text of `calls.refused`."""
    calls, program = tmp_path / "calls", tmp_path / "bin" / "skopeo"
    calls.touch()
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n[ ! -e {calls}.refused ] || ! cat {calls}.refused >&2\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return calls


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the policy pack as a program that the engine starts itself, without a language host."""
    folder = tmp_path_factory.mktemp("policies")
    shutil.copy(ROOT / "policy" / "PulumiPolicy.yaml", folder)
    pack = folder / "pack"
    pack.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pulumi.policy "$1" {shlex.quote(str(ROOT / "policy"))}\n'
    )
    pack.chmod(0o755)
    return pack
