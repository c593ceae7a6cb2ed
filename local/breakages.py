"""What is broken on purpose until it is mended: by `--break`, or by a switch of the operator's page."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack

from aiohttp import web

log = logging.getLogger("local.breakages")

NAMES = ("mail", "database", "warehouse", "handler")


class Breakages:
    """The switches, all mended at first and at the end."""

    def __init__(self, breaks: Mapping[str, Callable[[], AbstractContextManager[object]]]) -> None:
        """`breaks`: by each of NAMES, a context in which it is broken."""
        self._breaks = breaks
        self._broken: dict[str, ExitStack] = {}

    def state(self) -> dict[str, bool]:
        return {name: name in self._broken for name in NAMES}

    def set(self, name: str, broken: bool) -> None:
        if broken == (name in self._broken):
            return
        if broken:
            with ExitStack() as stack:
                stack.enter_context(self._breaks[name]())
                self._broken[name] = stack.pop_all()
        else:
            self._broken.pop(name).close()
        event, text = ("broken", "is broken on purpose") if broken else ("mended", "works again")
        log.warning("%s %s", name, text, extra={"fields": {"event": event, "what": name}})

    def mend(self) -> None:
        for name in NAMES:
            self.set(name, False)

    async def answer(self, request: web.Request) -> web.Response:
        """GET, and POST with what to break (true) or mend (false): the state."""
        try:
            wanted = dict(await request.json()) if request.method == "POST" else {}
        except (ValueError, TypeError):
            wanted = {"": None}
        if not all(name in NAMES and isinstance(broken, bool) for name, broken in wanted.items()):
            error = f"send an object of {', '.join(NAMES)} with true (broken) or false"
            return web.json_response({"error": error}, status=400)
        for name, broken in wanted.items():
            self.set(name, broken)
        return web.json_response(self.state())
