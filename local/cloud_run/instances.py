"""The instances behind the front door: started on demand, up to the declared number, and again when the code changes.

A runtime says how one is started: as a process, by a command or as a container. Output of all goes to one logger, as to
Cloud Logging.
"""

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from local.cloud_run.runtime import Runtime
from local.cloud_run.sources import changes
from local.faults import FROZEN_SECONDS
from local.streams import lines

log = logging.getLogger("local.cloud_run.instances")
handler_log = logging.getLogger("handler")

STARTUP_SECONDS = 60
STOP_SECONDS = 10
"""Seconds between SIGTERM and SIGKILL, as on Cloud Run."""
_LINE_BYTES = 1024 * 1024
_SHELL_TERMINATED = 128 + signal.SIGTERM
"""The exit code of a shell whose program was ended by SIGTERM."""


class NoInstanceError(Exception):
    """No instance can take the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        """`status`: 429 if all instances are busy, 503 if an instance did not start."""


@dataclasses.dataclass(eq=False, slots=True)
class Instance:
    """One running handler."""

    host: str
    port: int
    requests: list[bytes] = dataclasses.field(default_factory=list)
    """The bodies of the requests that it handles."""
    frozen: bool = False
    started: "asyncio.Task[None] | None" = None
    process: asyncio.subprocess.Process | None = None
    """The handler, or the Docker client that waits for it."""

    @property
    def busy(self) -> int:
        return len(self.requests)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Instances:
    """All instances of one service."""

    def __init__(
        self,
        runtime: Runtime,
        environment: Mapping[str, str],
        *,
        max_instances: int,
        concurrency: int,
    ) -> None:
        self._runtime = runtime
        self._environment = environment
        self._max_instances = max_instances
        self._concurrency = concurrency
        self._instances: list[Instance] = []
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._restarting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start one instance, as a deployment does, and restart all when the code changes. Raises NoInstanceError."""
        async with self.slot():
            pass
        if self._runtime.sources:
            self._restarting = asyncio.create_task(self._restart_on_change())

    async def _restart_on_change(self) -> None:
        try:
            async for _ in changes(self._runtime.sources):
                log.info("The handler's code changed: its instances restart")
                await self._restart()
        except OSError as error:
            log.warning("Changes of the handler's code are not noticed: %s", error)

    async def _restart(self) -> None:
        for instance in list(self._instances) or [self._new()]:
            instance.started = asyncio.create_task(self._replace(instance, instance.started))
        starting = [instance.started for instance in self._instances if instance.started]
        for failure in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(failure, NoInstanceError):
                log.error("The handler does not start: %s", failure)
                break

    def _new(self) -> Instance:
        instance = Instance(*_free_address(self._runtime.obeys_host))
        self._instances.append(instance)
        return instance

    async def _replace(self, instance: Instance, started: "asyncio.Task[None] | None") -> None:
        """End an instance, which answers its requests first, and start it again on its port."""
        if started:
            await asyncio.wait([started])
        await self._stop(instance)
        await self._start(instance)

    @contextlib.asynccontextmanager
    async def slot(self, body: bytes = b"") -> AsyncIterator[str]:
        """Yields the address of an instance with room for a request of this body. Raises NoInstanceError."""
        if self._stopped:
            raise NoInstanceError(503, "the local cloud is ending")
        instance = next((i for i in self._instances if i.busy < self._concurrency), None)
        if instance is None:
            if len(self._instances) >= self._max_instances:
                raise NoInstanceError(429, f"all {self._max_instances} instances are busy")
            instance = self._new()
            instance.started = asyncio.create_task(self._start(instance))
        instance.requests.append(body)
        try:
            assert instance.started is not None
            await asyncio.shield(instance.started)
            yield instance.url
        finally:
            instance.requests.remove(body)

    async def _start(self, instance: Instance) -> None:
        try:
            await self._started(instance)
        except BaseException:
            self._discard(instance)
            raise

    def _discard(self, instance: Instance) -> None:
        if instance in self._instances:
            self._instances.remove(instance)

    async def _started(self, instance: Instance) -> None:
        command, environment = self._runtime.command(
            {**self._environment, "HOST": instance.host, "PORT": str(instance.port)}
        )
        try:
            process = await spawn(command, self._runtime.folder, environment, self._runtime.end_signal)
            instance.process = process
        except OSError as error:
            raise NoInstanceError(503, f"the handler cannot be started: {error}; {self._runtime.remedy}") from None
        watcher = asyncio.create_task(self._watch(instance, process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        deadline = asyncio.get_running_loop().time() + STARTUP_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if process.returncode is not None:
                await watcher
                raise NoInstanceError(503, f"the handler ended with exit code {process.returncode} before it was ready")
            try:
                _, writer = await asyncio.open_connection(instance.host, instance.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        await self._stop(instance)
        raise NoInstanceError(503, f"the handler did not listen on PORT {instance.port} within {STARTUP_SECONDS} s")

    async def _watch(self, instance: Instance, process: asyncio.subprocess.Process) -> None:
        """Forwards the output of an instance until the instance ends."""
        assert process.stdout is not None
        last = "none"
        async for line in lines(process.stdout):
            last = _relay(line)
        code = await process.wait()
        if instance.started is not None and instance.started.done():
            self._discard(instance)
        if code not in (0, -signal.SIGTERM, _SHELL_TERMINATED):
            log.error("A handler process ended with exit code %d; its last output: %s", code, last)

    def kill_one(self) -> list[bytes] | None:
        """Kills (SIGKILL) the instance with the most requests. Returns their bodies, or None if nothing runs."""
        busiest = self._busiest()
        if busiest is None:
            return None
        self._kill(busiest)
        return list(busiest.requests)

    def freeze_one(self) -> list[bytes] | None:
        """Stops (SIGSTOP) the instance with the most requests for FROZEN_SECONDS. Returns their bodies, or None if one
        is frozen already."""
        busiest = self._busiest()
        if busiest is None or busiest.process is None or any(instance.frozen for instance in self._instances):
            return None
        busiest.frozen = True
        _signal(busiest.process, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(FROZEN_SECONDS, self._thaw, busiest, busiest.process)
        return list(busiest.requests)

    def _thaw(self, instance: Instance, process: asyncio.subprocess.Process) -> None:
        instance.frozen = False
        _signal(process, signal.SIGCONT)

    def _busiest(self) -> Instance | None:
        running = [instance for instance in self._instances if instance.process and not instance.frozen]
        return max(running, key=lambda instance: instance.busy, default=None)

    def kill_all(self) -> list[bytes]:
        """Kills (SIGKILL) every instance. Returns the bodies of their requests."""
        for instance in self._instances:
            self._kill(instance)
        return [body for instance in self._instances for body in instance.requests]

    async def stop(self) -> None:
        """Ends every instance with SIGTERM, and with SIGKILL if it still runs after ten seconds."""
        self._stopped = True
        if self._restarting:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        for instance in self._instances:
            if instance.started:
                instance.started.cancel()
        await asyncio.gather(*map(self._stop, list(self._instances)))
        await asyncio.gather(*self._watchers)

    def _kill(self, instance: Instance) -> None:
        if instance.process:
            with contextlib.suppress(ProcessLookupError):
                self._runtime.kill(instance.process, instance.port)

    async def _stop(self, instance: Instance) -> None:
        if instance.process:
            await end(instance.process, lambda: self._kill(instance))


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _relay(line: str) -> str:
    """Logs one line of a handler at the severity that it names, and returns its message."""
    try:
        entry = json.loads(line)
        level = logging.getLevelNamesMapping().get(entry["severity"], logging.INFO)
    except (ValueError, TypeError, KeyError):
        level, entry = logging.WARNING, {}  # not a log entry: a traceback, or a library's own output
    handler_log.log(level, "%s", line, extra={"fields": entry})
    return str(entry.get("message", line))


def _free_address(any_host: bool) -> tuple[str, int]:
    """Host and port on the loopback interface. Behind the front door nobody checks a token, so the host is one that no
    web page can guess, if the handler listens on `any_host` and the system has more than one."""
    host = f"127.{secrets.randbelow(256)}.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"
    with socket.socket() as probe:
        probe.bind((host if any_host and sys.platform == "linux" else "127.0.0.1", 0))
        found: tuple[str, int] = probe.getsockname()
        return found


async def spawn(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    end_signal: signal.Signals = signal.SIGTERM,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Start a program whose whole output is its `stdout`. It gets `end_signal` if the local cloud dies."""
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_LINE_BYTES,
        pass_fds=pass_fds,
        start_new_session=True,  # Ctrl-C is for the local cloud, which then ends its programs gracefully
        preexec_fn=end_with(os.getpid(), end_signal) if sys.platform == "linux" else None,
    )


async def end(process: asyncio.subprocess.Process, kill: Callable[[], None]) -> None:
    """End a program with SIGTERM, and by `kill` if it still runs after STOP_SECONDS."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            kill()
            await process.wait()


def end_with(parent: int, number: signal.Signals) -> Callable[[], None]:
    """Runs in a child before its program, so that kill -9 of the local cloud leaves no instance behind."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(set_parent_death_signal, number)
        if os.getppid() != parent:  # the local cloud died before the call above
            os._exit(1)

    return prepare
