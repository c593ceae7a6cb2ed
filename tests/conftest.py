"""Fixtures for all tests: a PostgreSQL server, and the image of the handler."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from local.program import ROOT

PATIENCE = 30
"""Seconds that PostgreSQL may take to start or to end."""

# In the background of a script a process ignores Ctrl-C, and so would all that the tests start and end with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Starts a PostgreSQL server, and yields its URL without a database name."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        pytest.skip("no PostgreSQL under /usr/lib/postgresql: apt-get install postgresql")
    binaries = found[-1]
    # PostgreSQL refuses to run as root.
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    other: dict[str, Any] = {}
    if account.pw_uid != os.geteuid():
        other = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    # Not in pytest's folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    try:
        os.chown(folder, account.pw_uid, account.pw_gid)
        data = folder / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-A", "trust", "-U", "shop", "-E", "UTF8", "--no-locale", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=PATIENCE,
            **other,
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        listen = ["-c", "listen_addresses=127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, *listen], stdout=log, stderr=log, cwd=folder, **other
            )
        try:
            ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            for _ in range(PATIENCE * 20):
                if subprocess.run(ready, check=False).returncode == 0:
                    break
                assert server.poll() is None, (folder / "log").read_text()
                try:
                    server.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
            yield f"postgresql://shop@127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait(PATIENCE)
    finally:
        shutil.rmtree(folder)


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
