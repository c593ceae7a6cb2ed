"""The calls over HTTP and JSON, as Google's front end takes and gives them."""

import functools
import json
import re
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any

from aiohttp import web
from google.cloud.tasks_v2 import types
from google.protobuf import json_format
from google.rpc import code_pb2, error_details_pb2  # noqa: F401 - the details of errors are printed by their types

from local.cloud_tasks.api import Api
from local.cloud_tasks.beta import BETA_CALLS, BETA_SERVICE
from local.cloud_tasks.calls import CALLS, SERVICE, Call
from local.cloud_tasks.json_request import parse_request
from local.cloud_tasks.messages import CallError, Message, invalid

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""More than any valid call: a task's 1 MiB body in base64, and its envelope."""
_HTTP_STATUS = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_BETA = (*BETA_CALLS, *(call for call in CALLS if call.service not in (SERVICE, BETA_SERVICE)))
_BUFFER = re.compile(r"/v2(?:beta3)?/(projects/[^/]+/locations/[^/]+/queues/[^/]+)/tasks(?:/([^/:]+))?:buffer")
_GET_QUEUE, _CREATE_TASK = (next(call for call in CALLS if call.name == name) for name in ("GetQueue", "CreateTask"))
_NOT_FOUND_PAGE = """<!DOCTYPE html>
<html lang=en>
  <meta charset=utf-8>
  <title>Error 404 (Not Found)!!1</title>
  <p><b>404.</b> <ins>That's an error.</ins>
  <p>The requested URL <code>{}</code> was not found on this server.  <ins>That's all we know.</ins>
"""


def routes(api: Api) -> list[web.RouteDef]:
    """One route for all calls; a path or method that no call has is answered with Google's page."""
    return [web.route("*", "/v2{rest:.*}", _handler(api))]


def _handler(api: Api) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(http: web.Request) -> web.Response:
        verb = http.headers.get("X-HTTP-Method-Override", http.method) if http.method == "POST" else http.method
        for call in _BETA if http.path.startswith("/v2beta3/") else CALLS:
            match = call.path.fullmatch(http.path)
            if match and verb == call.verb:
                return await _answer(http, functools.partial(_perform, api, call, match[1], http))
        buffered = _BUFFER.fullmatch(http.path)
        if buffered and verb == "POST":
            return await _answer(http, functools.partial(_buffer, api, buffered, http))
        page = _NOT_FOUND_PAGE.format(escape(http.path))
        return web.Response(status=404, text=page, content_type="text/html")

    return answer


def _perform(api: Api, call: Call, resource: str, http: web.Request, body: bytes) -> dict[str, Any]:
    request = parse_request(call, resource, list(http.query.items()), body if call.body else b"")
    numbers = http.query.get("$alt", http.query.get("alt", "")).endswith("enum-encoding=int")
    return _json(api.perform(call, request), use_integers_for_enums=numbers)


def _buffer(api: Api, path: re.Match[str], http: web.Request, body: bytes) -> dict[str, Any]:
    """BufferTask: create a task of the raw body, for the address that the queue's target has; raises CallError."""
    queue, task_id = path[1], path[2]
    target = api.perform(_GET_QUEUE, _GET_QUEUE.request(name=queue)).http_target
    uri = target.uri_override
    if not uri.host:
        raise invalid("The queue has no http_target with a host, which BufferTask needs.")
    scheme = "http" if uri.scheme == types.UriOverride.Scheme.HTTP else "https"
    task: dict[str, Any] = {"http_request": {"url": f"{scheme}://{uri.host}", "body": body}}
    if "Content-Type" in http.headers:
        task["http_request"]["headers"] = {"Content-Type": http.headers["Content-Type"]}
    if task_id:
        task["name"] = f"{queue}/tasks/{task_id}"
    return {"task": _json(api.perform(_CREATE_TASK, _CREATE_TASK.request(parent=queue, task=task)))}


async def _answer(http: web.Request, perform: Callable[[bytes], dict[str, Any]]) -> web.Response:
    status = 200
    try:
        answer = perform(await _body(http))
        if "fields" in http.query or "$fields" in http.query:
            answer = _partial(answer, http.query.get("fields") or http.query["$fields"])
    except CallError as error:
        status = _HTTP_STATUS.get(error.code, 500)
        details = _json(error.status()).get("details")
        answer = {"error": {"code": status, "message": error.message, "status": error.code}}
        if details:
            answer["error"]["details"] = details
    if http.query.get("prettyPrint", http.query.get("$prettyPrint", "")) in ("false", "0"):
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    else:
        text = json.dumps(answer, ensure_ascii=False, indent=2) + "\n"
    return web.Response(status=status, text=text, content_type="application/json", charset="utf-8")


async def _body(http: web.Request) -> bytes:
    try:
        return await http.read()
    except web.HTTPRequestEntityTooLarge:
        raise invalid("Request payload size exceeds the limit.") from None


def _json(message: Message, *, use_integers_for_enums: bool = False) -> dict[str, Any]:
    """A message in proto3's JSON; numbers without a fraction are printed without one."""
    found = json_format.MessageToDict(message, use_integers_for_enums=use_integers_for_enums)
    return _whole(found)  # type: ignore[no-any-return]


def _whole(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _partial(answer: dict[str, Any], fields: str) -> dict[str, Any]:
    """The part of an answer that `fields` selects, as in `name,rateLimits(maxBurstSize),tasks/name`."""
    tokens = re.findall(r"[^,()/\s]+|[,()/]", fields)
    mask, rest = _field_mask(tokens)
    if rest or not mask:
        raise invalid(f"Request contains an invalid argument. Invalid field selection {fields}")
    return _selected(answer, mask)  # type: ignore[no-any-return]


def _field_mask(tokens: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The fields up to a closing parenthesis, with the fields below each; and the tokens that are left."""
    mask: dict[str, Any] = {}
    while tokens and tokens[0] not in (")", ",", "/", "("):
        below, path = mask, [tokens[0]]
        tokens = tokens[1:]
        while len(tokens) > 1 and tokens[0] == "/":
            path.append(tokens[1])
            tokens = tokens[2:]
        for name in path:
            below = below.setdefault(name, {})
        if tokens and tokens[0] == "(":
            inner, tokens = _field_mask(tokens[1:])
            below.update(inner)
            if not tokens or tokens[0] != ")":
                return {}, ["("]
            tokens = tokens[1:]
        if not tokens or tokens[0] != ",":
            break
        tokens = tokens[1:]
    return mask, tokens


def _selected(value: Any, mask: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    if not mask or not isinstance(value, dict | list):
        return value
    if isinstance(value, list):
        return [_selected(each, mask) for each in value]
    names = {re.sub(r"_([a-z])", lambda match: match[1].upper(), name): below for name, below in mask.items()}
    kept = {name: names.get(name, names.get("*")) for name in value if name in names or "*" in names}
    return {name: _selected(value[name], below or {}) for name, below in kept.items()}
