"""The web apps beside the local cloud, each a process of its own: the shop of examples/, and the operator's page.

The local cloud owns a web app's socket, so its address is known before it runs, and a request waits while it starts.
The first request starts it, also after it has ended. What the shop had committed and not yet sent, the relay sends.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from local.cloud_run.instances import end, spawn
from local.program import ROOT
from local.streams import lines

log = logging.getLogger("local.web_app")

SHOP = ("uvicorn", "--app-dir", "examples/shop", "--factory", "app:create", "--log-level", "warning")
PAGE = ("order_tasks", "console")
_PAUSE_SECONDS = 1.0
"""Before it starts again, so that one that always fails does not take the machine."""


class WebApp:
    """A Python module behind one socket."""

    def __init__(
        self,
        name: str,
        module: Sequence[str],
        listener: socket.socket,
        environment: Mapping[str, str],
        prepare: Callable[[], Awaitable[object]],
    ) -> None:
        """`module`: with its arguments, and takes `--fd`. `prepare`: creates what it needs."""
        self._name = name
        self._module = module
        self._listener = listener
        self._prepare = prepare
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **environment}
        self._process: asyncio.subprocess.Process | None = None

    def kill(self) -> tuple[()]:
        """Kills (SIGKILL) it; the next request starts it again. Returns the handler's requests that this hits."""
        if self._process and self._process.returncode is None:
            self._process.kill()
        return ()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it until the block ends."""
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await self._called()
            try:
                await self._prepare()
                code = await self._run()
                log.error("The %s ended with exit code %d; the next request starts it again", self._name, code)
            except Exception as error:  # the database may be away for a moment
                log.error("The %s does not start, and tries again: %s", self._name, error)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _called(self) -> None:
        """Waits until a connection waits at the socket, and leaves it to the web app."""
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._listener, called.set)
        try:
            await called.wait()
        finally:
            loop.remove_reader(self._listener)

    async def _run(self) -> int:
        descriptor = self._listener.fileno()
        command = (sys.executable, "-m", *self._module, "--fd", str(descriptor))
        self._process = process = await spawn(command, ROOT, self._environment, pass_fds=[descriptor])
        try:
            assert process.stdout is not None
            async for line in lines(process.stdout):
                log.warning("%s: %s", self._name, line)
            return await process.wait()
        finally:
            await end(process, process.kill)
