"""The front door of a private Cloud Run service: checks token and binding, then forwards to an instance.

403 without a token or to an account without roles/run.invoker, 401 to a token that is invalid, expired or of another
audience, 429 when every instance is full, 503 when none starts or one dies over the request, 504 after the timeout.
The token is in X-Serverless-Authorization, or in Authorization if a request does not have that header.
"""

import asyncio
import contextlib
import dataclasses
import logging
import re
import secrets
from collections.abc import Iterator, Mapping

import aiohttp
from aiohttp import web
from yarl import URL

from local.cloud_run.instances import Instances, NoInstanceError
from local.cloud_run.running_handler import RunningHandler
from local.identity import Identity, InvalidTokenError

log = logging.getLogger("local.cloud_run.front_door")

MAX_REQUEST_BYTES = 32 * 1024 * 1024
_HOP_BY_HOP = frozenset(
    ("connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


_TOKEN_HEADERS = ("X-Serverless-Authorization", "Authorization")
"""The first one that a request has is read, and no other."""
_NO_INSTANCE = "The request could not be served by an instance.\n"
_TEXTS = {
    401: "Unauthorized: the access token could not be verified.\n",
    403: "Forbidden: your client has no permission to invoke this service.\n",
    429: _NO_INSTANCE,
    503: _NO_INSTANCE,
    504: "upstream request timeout\n",
}
"""The answer to the caller; the log has the reason."""


@dataclasses.dataclass(frozen=True)
class Service:
    """A declared Cloud Run service."""

    name: str
    timeout: float
    """Seconds."""
    max_instances: int
    concurrency: int
    environment: Mapping[str, str]
    invokers: frozenset[str]
    """Members with roles/run.invoker."""
    audiences: frozenset[str] = frozenset()
    """Custom audiences: accepted in a token besides the service's URL."""


class FrontDoor:
    """The address of one service."""

    def __init__(self, service: Service, url: str, identity: Identity, instances: Instances | RunningHandler) -> None:
        self._service = service
        self._url = url
        self._identity = identity
        self._instances = instances
        self._broken = False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_REQUEST_BYTES)
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def close(self) -> None:
        await self._session.close()

    @contextlib.contextmanager
    def breaking(self) -> Iterator[None]:
        """Breaks the handler until the block ends: its instances die, and none starts."""
        self._broken = True
        self._instances.kill_all()
        yield
        self._broken = False

    async def _answer(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is None:
            body = await request.read()
            try:
                if self._broken:
                    raise NoInstanceError(503, "the handler is broken on purpose")
                async with asyncio.timeout(self._service.timeout), self._instances.slot(body) as instance:
                    return await self._forward(request, body, instance)
            except NoInstanceError as error:
                refusal = error.status, str(error)
            except TimeoutError:
                refusal = 504, f"no answer within {self._service.timeout:g} s"
            except aiohttp.ClientError as error:
                refusal = 503, f"the instance broke off: {error}"
        status, reason = refusal
        fields: dict[str, str | int] = {"status": status, "message": reason}
        if task := request.headers.get("X-CloudTasks-TaskName"):
            count = request.headers.get("X-CloudTasks-TaskRetryCount", "")
            attempt = str(int(count) + 1) if re.fullmatch("[0-9]{1,9}", count) else "?"
            fields |= {"queue": request.headers.get("X-CloudTasks-QueueName", ""), "task": task, "attempt": attempt}
        log.warning("%d for service %s: %s", status, self._service.name, reason, extra={"fields": fields})
        headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'} if status == 401 else {}
        return web.Response(status=status, text=_TEXTS[status], headers=headers)

    def _refusal(self, request: web.Request) -> tuple[int, str] | None:
        """Status and reason if the caller may not invoke the service."""
        if "allUsers" in self._service.invokers:
            return None
        scheme, _, token = request.headers.get(_token_header(request), "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return 403, "the request has no token"
        try:
            email = self._identity.email(token, self._url, self._service.audiences)
        except InvalidTokenError as error:
            return 401, f"{error} (audience must be {self._url})"
        if self._service.invokers.isdisjoint((f"serviceAccount:{email}", "allAuthenticatedUsers")):
            return 403, f"{email} has no binding of roles/run.invoker; declare a gcp.cloudrunv2.ServiceIamMember for it"
        return None

    async def _forward(self, request: web.Request, body: bytes, instance: str) -> web.Response:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP_BY_HOP}
        if "allUsers" not in self._service.invokers:
            header = _token_header(request)
            signed, _, _ = request.headers[header].rpartition(".")
            headers = {key: value for key, value in headers.items() if key.lower() != header.lower()}
            headers[header] = f"{signed}.SIGNATURE_REMOVED_BY_GOOGLE"
        trace, span = secrets.token_hex(16), secrets.randbits(63)
        headers.setdefault("X-Cloud-Trace-Context", f"{trace}/{span};o=1")
        headers.setdefault("traceparent", f"00-{trace}-{span:016x}-01")
        headers["X-Forwarded-For"] = request.remote or ""
        headers["X-Forwarded-Proto"] = "https"
        async with self._session.request(
            request.method,
            URL(instance + request.rel_url.raw_path_qs, encoded=True),
            data=body or None,
            headers=headers,
            allow_redirects=False,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as response:
            kept = [(key, value) for key, value in response.headers.items() if key.lower() not in _HOP_BY_HOP]
            return web.Response(status=response.status, body=await response.read(), headers=kept)


def _token_header(request: web.Request) -> str:
    """The header whose token counts."""
    return next((header for header in _TOKEN_HEADERS if header in request.headers), _TOKEN_HEADERS[-1])
