"""What is broken on purpose until it is mended: by `--break`, or by a switch of the operator's page."""

import json
import logging
import threading
from collections.abc import Callable, Mapping

from aiohttp import web

from local.sinks.shop import Shop

log = logging.getLogger("local.breakages")

NAMES = ("mail", "database", "warehouse", "handler")


class Breakages:
    """The switches, all mended at first."""

    def __init__(self, switches: Mapping[str, Callable[[bool], None]]) -> None:
        """`switches`: by each of NAMES, what breaks it (True) or mends it."""
        self._switches = switches
        self._broken: set[str] = set()

    def state(self) -> dict[str, bool]:
        return {name: name in self._broken for name in NAMES}

    def set(self, name: str, broken: bool) -> None:
        if broken == (name in self._broken):
            return
        self._switches[name](broken)
        self._broken ^= {name}
        event = "broken" if broken else "mended"
        log.warning(
            "%s %s",
            name,
            "is broken on purpose" if broken else "works again",
            extra={"fields": {"event": event, "what": name}},
        )

    def mend_all(self) -> None:
        for name in NAMES:
            self.set(name, False)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/breakages", self._get), web.post("/breakages", self._post)]

    async def _get(self, _: web.Request) -> web.Response:
        return web.json_response(self.state())

    async def _post(self, request: web.Request) -> web.Response:
        try:
            wanted = dict(await request.json())
        except (ValueError, TypeError):
            wanted = {"": None}
        if wrong := {name: value for name, value in wanted.items() if name not in NAMES or not isinstance(value, bool)}:
            error = f"{json.dumps(wrong)[:200]}: send some of {', '.join(NAMES)} with true (broken) or false"
            return web.json_response({"error": error}, status=400)
        for name, broken in wanted.items():
            self.set(name, broken)
        return web.json_response(self.state())


def database_switch(shop: Shop) -> Callable[[bool], None]:
    """Locks the database while it is broken, in a thread, since a connection belongs to one."""
    mended = threading.Event()

    def lock() -> None:
        try:
            with shop.locked():
                mended.wait()
        except Exception as error:
            log.error("The database cannot be locked: %s", error)

    def switch(broken: bool) -> None:
        if broken:
            mended.clear()
            threading.Thread(target=lock, daemon=True).start()
        else:
            mended.set()

    return switch
