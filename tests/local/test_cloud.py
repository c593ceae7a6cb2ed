"""A local cloud that cannot start leaves nothing open, wherever it fails."""

import asyncio
import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.cloud import Cloud
from local.cloud_run.runtime import Processes
from local.cloud_tasks.listener import Listener
from local.cloud_tasks.store import Store
from local.faults import Faults
from local.ports import Ports, PortTakenError, listen
from local.program import PROJECT, ROOT, evaluate
from local.program.declared import Declared, declared
from local.sinks.effects import PLACEHOLDERS, Effects


@pytest.fixture(scope="module")
def program() -> Declared:
    config = {"gcp:project": "the-shop", f"{PROJECT}:simulateEffects": "true"}
    secrets = {f"{PROJECT}:{key}": text for key, text in PLACEHOLDERS.items()}
    return declared(evaluate(config=config, secrets=secrets))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "state.sqlite")
    yield store
    store.close()


def open_sockets() -> set[str]:
    """What listens, of this process; gRPC's and the event loop's own wake-ups do not."""
    mine = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            mine.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    tables = [Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6")]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine}


async def start(program: Declared, store: Store, folder: Path, ports: Ports) -> None:
    faults, before = Faults(None, folder / "faults.jsonl"), open_sockets()
    with listen(0, "the service") as listener:
        runtime = Processes(ROOT / "handler")
        effects = Effects(folder, faults)
        cloud = Cloud(program, store, listener, ports, effects, faults, runtime, Listener(), folder / "log.jsonl")
        async with cloud:
            assert len(open_sockets() - before) == 8
        assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(("ports", "what"), [((1, 0), "over gRPC"), ((0, 1), "over REST")])
async def test_a_port_that_is_taken_leaves_nothing_open(
    program: Declared, store: Store, tmp_path: Path, ports: tuple[int, int], what: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        before, threads = open_sockets(), threading.active_count()
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port}, for Cloud Tasks {what}"):
            await start(program, store, tmp_path, Ports(ports[0] * port, ports[1] * port, 0))
        assert open_sockets() == before
        assert threading.active_count() <= threads + 1  # gRPC's poller stays with the process
        assert len(asyncio.all_tasks()) == 1


async def test_whatever_cannot_listen_leaves_nothing_open(
    program: Declared, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    create_server, before = loop.create_server, open_sockets()
    for failing in itertools.count(1):
        calls = itertools.count(1)

        async def fail_once(*arguments: object, **options: object) -> object:
            if next(calls) == failing:  # noqa: B023 - of this round
                raise OSError("no descriptor is left")
            return await create_server(*arguments, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(loop, "create_server", fail_once)
        with contextlib.suppress(OSError):
            await start(program, store, tmp_path, Ports(0, 0, 0))
            break
        assert open_sockets() == before
        assert len(asyncio.all_tasks()) == 1
    assert failing == 5  # mail server, warehouse, service and REST had each failed once
