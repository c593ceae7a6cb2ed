"""The handler processes behind the front door: started on demand, up to the declared number.

An instance is the handler's own command in its own locked environment. Output of all goes to one logger, as to Cloud
Logging.
"""

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from local.lines import lines

log = logging.getLogger("local.instances")
handler_log = logging.getLogger("handler")

STARTUP_SECONDS = 60
STOP_SECONDS = 10
"""Between SIGTERM and SIGKILL, as on Cloud Run."""
_LINE_BYTES = 1024 * 1024


class NoInstanceError(Exception):
    """No instance can take the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        """429 when all are busy, 503 when one did not start."""


@dataclasses.dataclass(eq=False, slots=True)
class Instance:
    """One handler process."""

    port: int
    busy: int = 0
    started: "asyncio.Task[None] | None" = None
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Instances:
    """All instances of one service."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        max_instances: int,
        concurrency: int,
    ) -> None:
        self._command = command
        self._folder = folder
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **environment}
        self._max_instances = max_instances
        self._concurrency = concurrency
        self._instances: list[Instance] = []
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopped = False

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[str]:
        """The address of an instance that has room for one more request; raises NoInstanceError."""
        if self._stopped:
            raise NoInstanceError(503, "the local cloud is ending")
        instance = next((i for i in self._instances if i.busy < self._concurrency), None)
        if instance is None:
            if len(self._instances) >= self._max_instances:
                raise NoInstanceError(429, f"all {self._max_instances} instances are busy")
            instance = Instance(_free_port())
            instance.started = asyncio.create_task(self._start(instance))
            self._instances.append(instance)
        instance.busy += 1
        try:
            assert instance.started is not None
            await asyncio.shield(instance.started)
            yield instance.url
        finally:
            instance.busy -= 1

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
        try:
            instance.process = process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self._folder,
                env={**self._environment, "HOST": "127.0.0.1", "PORT": str(instance.port)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=_LINE_BYTES,
                start_new_session=True,  # Ctrl-C is for the local cloud, which then ends its instances gracefully
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            remedy = "make setup prepares the handler's environment"
            log.error("The handler cannot be started: %s; %s", error, remedy)
            raise NoInstanceError(503, f"the handler cannot be started: {error}") from None
        watcher = asyncio.create_task(self._watch(instance, process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        deadline = asyncio.get_running_loop().time() + STARTUP_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if process.returncode is not None:
                await watcher
                raise NoInstanceError(503, f"the handler ended with exit code {process.returncode} before it was ready")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", instance.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        await _stop(process)
        raise NoInstanceError(503, f"the handler did not listen on PORT {instance.port} within {STARTUP_SECONDS} s")

    async def _watch(self, instance: Instance, process: asyncio.subprocess.Process) -> None:
        """Pass the output on; when it ends, so has the instance."""
        assert process.stdout is not None
        last = "none"
        async for line in lines(process.stdout):
            last = line
            _relay(line)
        code = await process.wait()
        if instance.started is not None and instance.started.done():
            self._discard(instance)
        if code not in (0, -signal.SIGTERM):
            log.error("A handler process ended with exit code %d; its last words: %s", code, last)

    def kill_one(self) -> None:
        """kill -9 the instance that has the most to do."""
        running = [instance for instance in self._instances if instance.process]
        if running:
            _kill(max(running, key=lambda instance: instance.busy))

    def kill_all(self) -> None:
        """kill -9 every instance."""
        for instance in self._instances:
            _kill(instance)

    async def stop(self) -> None:
        """End every instance: SIGTERM, and SIGKILL for what is still there after ten seconds."""
        self._stopped = True
        for instance in self._instances:
            if instance.started:
                instance.started.cancel()
        await asyncio.gather(*(_stop(i.process) for i in list(self._instances) if i.process))
        await asyncio.gather(*self._watchers)


def _kill(instance: Instance) -> None:
    if instance.process:
        with contextlib.suppress(ProcessLookupError):
            instance.process.kill()


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _relay(line: str) -> None:
    """One line of a handler to its logger, at the severity it says."""
    try:
        entry = json.loads(line)
        level = logging.getLevelNamesMapping().get(entry["severity"], logging.INFO)
    except (ValueError, TypeError, KeyError):
        level = logging.WARNING  # not a log entry: a traceback, or a library's own words
    handler_log.log(level, "%s", line)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> None:
    """Ask the kernel to end this process with its parent: kill -9 leaves no instance behind."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
