"""Fixtures for all tests: a PostgreSQL server, and the image of the handler."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from order_handler.actions import ACTIONS
from order_tasks.testing import cloud_tasks as cloud_tasks
from playwright.sync_api import Browser
from sqlalchemy import create_engine, text

import settings
from bench.browser import browser
from bench.rows import MissingToolError
from local.program import ROOT
from tests.postgresql import server

# A script in the background and nohup ignore these signals, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Starts a PostgreSQL server, and yields its URL without a database name."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(server())
        except MissingToolError as error:
            pytest.skip(str(error))
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Starts a browser. Not for modules with asynchronous tests: Playwright keeps an event loop running."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(browser())
        except MissingToolError as error:
            pytest.skip(str(error))
        yield started


@pytest.fixture
def postgresql_url(postgresql: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Creates a database for one test, and yields its URL."""
    name = re.sub(r"\W", "_", request.node.name.lower())[:50]
    engine = create_engine(
        f"{postgresql}postgres".replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
        yield postgresql + name
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shop.sqlite'}"
    found: str = request.getfixturevalue("postgresql_url")
    return found


@pytest.fixture(scope="session")
def image() -> str:
    """Builds the handler's image, and returns its id."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "ps"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker daemon answers: install Docker and start it")
    built = subprocess.run(
        [docker, "build", "--quiet", ROOT / "handler"],
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "buildx" in built.stderr:
        pytest.skip(f"{docker} has no BuildKit: install its plugin buildx")
    assert built.returncode == 0, built.stderr
    return built.stdout.strip()


@pytest.fixture(autouse=True)
def _needs_of_the_shop_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of settings and environment speak of the shop's actions: an action that is added breaks none of them."""
    shop = ("notify_warehouse", "send_confirmation", "update_inventory")
    declared: list[dict[str, Any]] = [settings.CONTRACT]
    if request.module.__name__.endswith(("test_environment", "test_handler_service")):
        declared.append(ACTIONS)
    for actions in declared:
        for name in [name for name in actions if name not in shop]:
            monkeypatch.delitem(actions, name)
