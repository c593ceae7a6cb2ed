"""The page's server: shows live what is going on, and runs the commands that the page's buttons show."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files

from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from order_tasks.console.guard import Guard
from order_tasks.console.local_cloud import LocalCloud
from order_tasks.operations import Operations, Situation, to_json

_VERBS = frozenset({"cancel", "drop", "pause", "rate", "replay", "resume", "run", "send"})
_COMMAND = """
import json, sys
from order_tasks.cli.main import main
words = sys.stdin.read()
sys.exit(main(json.loads(words)) if words else 0)
"""
_MAX_GROUPS, _MAX_ENTRIES = 20, 60
"""Dead letters in the document: each group shows its whole number, and some of its entries."""
_TYPES = {"index.html": "text/html", "console.css": "text/css", "console.js": "text/javascript"}


@dataclass
class Console:
    """The page of one stack."""

    operations: Operations
    environment: Mapping[str, str]
    """Of the commands that it runs."""
    local: LocalCloud | None
    """None: a deployed stack, or a local cloud that is known through its API alone."""
    dashboard: str | None
    every: float
    """Seconds between two looks at Cloud Tasks."""
    token: str

    def __post_init__(self) -> None:
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._event = ""
        self._changed = asyncio.Event()
        self._ready: asyncio.subprocess.Process | None = None

    def address(self, port: int) -> str:
        """What a browser opens."""
        return f"http://127.0.0.1:{port}/{'' if self.local else f'?token={self.token}'}"

    def application(self) -> Starlette:
        routes = [
            *(Route(path, self._file) for path in ("/", "/console.css", "/console.js")),
            Route("/events", self._events),
            Route("/orders", self._story),
            Route("/run", self._run, methods=["POST"]),
        ]
        return Starlette(routes=routes, middleware=[Middleware(Guard, self.token, public=self.local is not None)])

    async def _file(self, request: Request) -> Response:
        name = request.url.path.removeprefix("/") or "index.html"
        text = (files("order_tasks.console") / name).read_text().replace("SESSION_TOKEN", self.token)
        return Response(text, media_type=_TYPES[name])

    async def _events(self, _: Request) -> Response:
        await self._prepare()

        async def stream() -> AsyncIterator[str]:
            while True:
                yield await self._look()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), self.every)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def _look(self) -> str:
        """The event of now, shared by all pages that are open."""
        async with self._looking:
            if time.monotonic() - self._looked > self.every / 2:
                try:
                    situation = _cut(await asyncio.to_thread(self.operations.situation))
                    local = await asyncio.to_thread(self.local.state) if self.local else None
                    state = {"situation": json.loads(to_json(situation)), "local": local, "dashboard": self.dashboard}
                    self._event = f"data: {json.dumps(state)}\n\n"
                except (GoogleAPIError, GoogleAuthError, OSError) as error:
                    self._event = f"event: trouble\ndata: {json.dumps(str(error))}\n\n"
                self._looked = time.monotonic()
            return self._event

    def _look_again(self) -> None:
        """Let the open pages see at once what a command changed."""
        self._looked = float("-inf")
        self._changed.set()
        self._changed = asyncio.Event()

    async def _story(self, request: Request) -> Response:
        try:
            story = await asyncio.to_thread(self.operations.story, request.query_params["order"])
        except (GoogleAPIError, GoogleAuthError, OSError) as error:
            return PlainTextResponse(str(error), 502)
        return Response(to_json(story), media_type="application/json")

    async def _run(self, request: Request) -> Response:
        """Run a command, and answer with its output as it comes."""
        words = await request.json()
        if words[0] == "break" and self.local:
            broken = await asyncio.to_thread(self.local.break_or_mend, words[1].encode())
            self._look_again()
            return JSONResponse(broken)
        if words[0] not in _VERBS:
            return PlainTextResponse(f"{words[0]} is not a command of this page\n", 400)
        process, self._ready = await self._prepare(), None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(words).encode())
        process.stdin.close()
        lines = process.stdout

        async def output() -> AsyncIterator[bytes]:
            try:
                async for line in lines:
                    yield line
                yield b"done\n" if await process.wait() == 0 else f"exit code {process.returncode}\n".encode()
            finally:
                if process.returncode is None:  # the page is gone: a replay pauses the queue again before it ends
                    process.send_signal(signal.SIGINT)
                    await process.wait()
                self._look_again()

        return StreamingResponse(output(), media_type="text/plain", background=BackgroundTask(self._prepare))

    async def _prepare(self) -> asyncio.subprocess.Process:
        """Have a process ready that waits for the words of a command: loading the client takes a second."""
        if self._ready is None:
            self._ready = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _COMMAND),
                env={**self.environment, "PYTHONUNBUFFERED": "1"},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        return self._ready


def _cut(situation: Situation) -> Situation:
    """Without the dead letters that the document has no room for."""
    groups, room = [], _MAX_ENTRIES
    for group in situation.dead_letters[:_MAX_GROUPS]:
        groups.append(replace(group, entries=group.entries[:room]))
        room = max(0, room - len(group.entries))
    return replace(situation, failures=situation.failures[:_MAX_GROUPS], dead_letters=tuple(groups))
