"""Who may speak to the page's server: the pages that it served, to users of this machine who may see them."""

import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOSTS = frozenset({"127.0.0.1", "localhost"})
_FILES = frozenset({"/console.css", "/console.js"})
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """Answers 403 to a request without the session's token, of another Host, or from a page of another origin.

    Only a `public` page is served without the token: that of a local cloud, to which every user of this machine may
    speak. The page of a deployed stack acts with its operator's credentials.
    """

    def __init__(self, app: ASGIApp, token: str, *, public: bool) -> None:
        self._app = app
        self._token = token
        self._open = _FILES | {"/"} if public else _FILES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(Request(scope))):
            await PlainTextResponse(refusal, 403)(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> str | None:
        host, headers = request.headers.get("Host", ""), request.headers
        if host.partition(":")[0] not in _HOSTS:
            return "Open this page as 127.0.0.1 or localhost.\n"
        if headers.get("Origin", f"http://{host}") != f"http://{host}":
            return "Pages of other origins may not call this server.\n"
        in_query = request.query_params.get("token", "") if request.method == "GET" else ""  # of a page or its stream
        token = headers.get("X-Token", in_query)
        if request.url.path not in self._open and not secrets.compare_digest(token.encode(), self._token.encode()):
            return "This address lacks the token of the session: open the one that the command printed.\n"
        return None
