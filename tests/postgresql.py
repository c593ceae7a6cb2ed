"""A PostgreSQL server for the tests or for a benchmark."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.rows import MissingToolError

PATIENCE = 30
"""Seconds that it may take to start or to end."""


@contextmanager
def server(*options: str) -> Iterator[str]:
    """Starts a server with these options, and yields its URL without a database name. Raises MissingToolError."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise MissingToolError("no PostgreSQL under /usr/lib/postgresql: apt-get install postgresql")
    binaries = found[-1]
    # PostgreSQL refuses to run as root.
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    other: dict[str, Any] = {}
    if account.pw_uid != os.geteuid():
        other = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    # A folder of its own, because pytest's lets no other user in.
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
        listen = ["-c", "listen_addresses=127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off", *options]
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
            server.send_signal(signal.SIGINT)  # a fast shutdown: it waits for no client
            server.wait(PATIENCE)
    finally:
        shutil.rmtree(folder)
