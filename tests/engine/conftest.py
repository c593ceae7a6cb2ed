"""Runs the program with Pulumi's real engine, which needs the Pulumi CLI, and stand-ins for the providers."""

import contextlib
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from pulumi.automation import PulumiFn

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
    asyncio.setLevel(level)  # the automation API raised it and never restores it


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
