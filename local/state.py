"""The state folder: the tasks, the ports and the signing key of a local cloud, kept across restarts.

Only its owner may read it. Refuses the folder of another stack, of a running local cloud, or of other ports.
"""

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from local.cloud_tasks.store import Store
from local.ports import Ports, PortTakenError, listen

log = logging.getLogger("local")


class StateError(Exception):
    """The state folder cannot be used; the message says what to do."""


DEFAULT_PORT = 8123
_PREFIX, _STORE = "cloud-run-tasks-", "state.sqlite"
_JOURNALS = ("mails.jsonl", "calls.jsonl", "faults.jsonl", "log.jsonl")


@contextlib.contextmanager
def open_state(folder: Path | None, stack: str) -> Iterator[tuple[Path, Store]]:
    """Open the state of `stack` in `folder`, or in a new one, which is deleted at the end unless tasks are left."""
    os.umask(0o077)
    path = folder or Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        store = Store(path / _STORE)
    except (OSError, sqlite3.DatabaseError) as error:
        locked = "end the local cloud that uses it, or " if "locked" in str(error) else ""
        raise StateError(f"the state folder {path} cannot be opened: {error}; {locked}choose another --state") from None
    with contextlib.closing(store):
        owner = store.fact("stack")
        if owner not in (None, stack):
            raise StateError(f"the state folder {path} is of {owner}, not of {stack}; choose another --state")
        store.set_fact("stack", stack)
        try:
            yield path, store
        finally:
            left = store.open_tasks()
            if folder is None and not left:
                shutil.rmtree(path)
            elif left:
                log.warning("%d tasks are not done yet; to go on with them: --state %s", left, path)


def reset(folder: Path | None) -> list[Path]:
    """Deletes the state in a folder, or what local clouds without --state have left. Returns the folders.

    Raises StateError if a local cloud uses the folder, or if it has no state."""
    if folder and not (folder / _STORE).exists():
        raise StateError(f"{folder} is not the state folder of a local cloud: it has no {_STORE}")
    if folder and _in_use(folder):
        raise StateError(f"a local cloud uses {folder}: end it first")
    left = Path(tempfile.gettempdir()).glob(f"{_PREFIX}????????")
    found = [folder] if folder else [path for path in left if not _in_use(path)]
    for path in found:
        for name in (*_JOURNALS, "local.env", *(file.name for file in path.glob(f"{_STORE}*"))):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / "database", ignore_errors=True)
        with contextlib.suppress(OSError):
            path.rmdir()  # unless it has files of its owner
    return found


def _in_use(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path / _STORE, timeout=0)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def ports_of(store: Store, first: int | None) -> Ports:
    """Returns the stored ports, since tasks contain them, or else ports from `first` on. 0: free ports.

    None: the default ports, or the first free ones of those ten, twenty, ... higher."""
    known = store.fact("ports")
    if known is None:
        return Ports.from_first(_first_free() if first is None else first)
    ports = Ports(**json.loads(known))
    if first and ports != Ports.from_first(first):
        raise StateError(
            f"the state folder keeps port {ports.tasks_grpc}, which its tasks carry, not {first}; "
            "leave out --port, or choose another --state"
        )
    return ports


def _first_free() -> int:
    for first in range(DEFAULT_PORT, DEFAULT_PORT + 100, 10):
        with contextlib.ExitStack() as taken, contextlib.suppress(PortTakenError):
            for port in range(first, first + 4):
                taken.enter_context(listen(port, "this local cloud"))
            if first != DEFAULT_PORT:
                taken_by = f"{DEFAULT_PORT} to {DEFAULT_PORT + 3} is in use, perhaps by another local cloud"
                log.warning("One of the ports %s: listening on %d to %d", taken_by, first, first + 3)
            return first
    return 0
