"""The page's server: shows live what goes on, and runs the commands that the page's buttons show."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from order_tasks.console.guard import Guard
from order_tasks.console.local_cloud import LocalCloud
from order_tasks.operations import Operations, Situation, to_json
from order_tasks.operations.entry import without_emails

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
        self._changed = asyncio.Event()
        self._ready: asyncio.subprocess.Process | None = None

    def address(self, port: int) -> str:
        """What a browser opens."""
        return f"http://127.0.0.1:{port}/{'' if self.local else f'?token={self.token}'}"

    def application(self) -> Starlette:
        routes = [
            *(Route(path, self._file) for path in ("/", "/console.css", "/console.js")),
            Route("/events", self._events),
            Route("/run", self._run, methods=["POST"]),
        ]
        return Starlette(routes=routes, middleware=[Middleware(Guard, self.token, public=self.local is not None)])

    async def _file(self, request: Request) -> Response:
        name = request.url.path.removeprefix("/") or "index.html"
        text = (files("order_tasks.console") / name).read_text().replace("SESSION_TOKEN", self.token)
        return Response(text, media_type=_TYPES[name])

    async def _events(self, request: Request) -> Response:
        """What goes on, and the story of the order that the page asks for, at once and whenever a command has ended."""
        order = request.query_params.get("order", "")
        await self._prepare()

        async def stream() -> AsyncIterator[str]:
            while True:
                changed = self._changed
                yield f"data: {json.dumps(await self._look(order))}\n\n"
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), self.every)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def _look(self, order: str) -> dict[str, object]:
        parts: dict[str, Callable[[], object]] = {"situation": lambda: _cut(self.operations.situation())}
        if order:
            parts["story"] = partial(self.operations.story, order)
        if self.local:
            parts["local"] = self.local.state
        seen: dict[str, object] = {"dashboard": self.dashboard, "order": order, "trouble": None}
        for name, part in parts.items():
            try:
                seen[name] = json.loads(to_json(await asyncio.to_thread(part)))
            except Exception as error:  # the page says what cannot be seen, and shows the rest
                seen["trouble"] = without_emails(f"{name}: {error}")
        return seen

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

    def _look_again(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _cut(situation: Situation) -> Situation:
    """Without the dead letters that the document has no room for."""
    groups, room = [], _MAX_ENTRIES
    for group in situation.dead_letters[:_MAX_GROUPS]:
        groups.append(replace(group, entries=group.entries[:room]))
        room = max(0, room - len(group.entries))
    return replace(situation, failures=situation.failures[:_MAX_GROUPS], dead_letters=tuple(groups))
