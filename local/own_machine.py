"""Who may call the local cloud over HTTP: programs on this machine, and no web page in a browser on it.

A page may send requests to any address, and by DNS rebinding read the answers too. Refuses a Host that is not this
machine, and whatever a browser says comes from a page of another origin.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web
from yarl import URL

HOSTS = frozenset(("127.0.0.1", "localhost", "::1"))
ALSO_HOST = web.AppKey("ALSO_HOST", str)
"""One more Host that an application answers to, as containers on this machine call it."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def own_machine(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 403 to a request that a web page may have sent."""
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin", f"http://{host}")
    if _hostname(host) not in HOSTS | {request.app.get(ALSO_HOST, "localhost")}:
        text = f"The Host {host!r} is not this machine; call the local cloud as {', '.join(sorted(HOSTS))}.\n"
        return web.Response(status=403, text=text)
    if origin != f"http://{host}" or request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return web.Response(status=403, text="Web pages may not call the local cloud.\n")
    return await handler(request)


@web.middleware
async def json_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 415 to a body that is not declared as JSON, such as a form's; BufferTask's is the task's own."""
    if request.path.endswith(":buffer"):
        return await handler(request)
    if ("Content-Type" in request.headers or request.can_read_body) and request.content_type != "application/json":
        return web.Response(status=415, text="The body must be JSON: send Content-Type: application/json.\n")
    return await handler(request)


def _hostname(host: str) -> str | None:
    try:
        return URL(f"http://{host}").host
    except ValueError:
        return None
