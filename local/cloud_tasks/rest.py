"""The calls over HTTP and JSON, as Google's front end takes and gives them."""

import functools
import json
import re
from collections.abc import Callable
from html import escape
from typing import Any

from aiohttp import web
from google.cloud.tasks_v2 import types
from google.protobuf import json_format
from google.rpc import error_details_pb2  # noqa: F401 - the details of errors are printed by their types

from local.cloud_tasks.api import Api
from local.cloud_tasks.beta import BETA_CALLS
from local.cloud_tasks.calls import CALLS, SERVICE
from local.cloud_tasks.json_request import camel_case, parse_request
from local.cloud_tasks.messages import CallError, Message, invalid

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""More than any valid call: a task's 1 MiB body in base64, and its envelope."""
_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "UNIMPLEMENTED": 501,
}
"""Of each code that a call answers; any other is 500."""
_BY_VERSION = {"v2": CALLS, "v2beta3": (*BETA_CALLS, *(call for call in CALLS if call.service != SERVICE))}
_BUFFER = re.compile(r"(projects/[^/]+/locations/[^/]+/queues/[^/]+)/tasks(?:/([^/:]+))?:buffer")
_V2 = {call.name: call for call in CALLS}
_NOT_FOUND_PAGE = """<!DOCTYPE html>
<html lang=en>
  <meta charset=utf-8>
  <title>Error 404 (Not Found)!!1</title>
  <p><b>404.</b> <ins>That's an error.</ins>
  <p>The requested URL <code>{}</code> was not found on this server.  <ins>That's all we know.</ins>
"""


def routes(api: Api) -> list[web.RouteDef]:
    """One route for all calls; a path or method that no call has is answered with Google's page."""
    return [web.route("*", r"/{version:v2(?:beta3)?}/{path:.*}", functools.partial(_answer, api))]


async def _answer(api: Api, http: web.Request) -> web.Response:
    perform = _performer(api, http)
    if perform is None:
        page = _NOT_FOUND_PAGE.format(escape(http.path))
        return web.Response(status=404, text=page, content_type="text/html")
    status = 200
    try:
        answer = perform(await http.read())
        fields = http.query.get("fields", http.query.get("$fields"))
        if fields is not None:
            answer = _selected(answer, _field_mask(fields))
    except CallError as error:
        status = _HTTP_STATUS.get(error.code, 500)
        answer = {"error": {"code": status, "message": error.message, "status": error.code}}
        if error.details:
            answer["error"]["details"] = _json(error.status())["details"]
    if http.query.get("prettyPrint", http.query.get("$prettyPrint")) in ("false", "0"):
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    else:
        text = json.dumps(answer, ensure_ascii=False, indent=2) + "\n"
    return web.Response(status=status, text=text, content_type="application/json", charset="utf-8")


def _performer(api: Api, http: web.Request) -> Callable[[bytes], dict[str, Any]] | None:
    """What turns the request's body into the answer; None if no call has this path and method."""
    path, verb = http.match_info["path"], http.method
    verb = http.headers.get("X-HTTP-Method-Override", verb) if verb == "POST" else verb
    query = {key: http.query.getall(key) for key in http.query}
    numbers = http.query.get("$alt", http.query.get("alt", "")).endswith("enum-encoding=int")
    for call in _BY_VERSION[http.match_info["version"]]:
        if verb == call.verb and (match := call.path.fullmatch(path)):
            request = functools.partial(parse_request, call, match[1], query)
            return lambda body: _json(api.perform(call, request(body if call.body else b"")), enums_as_numbers=numbers)
    match = _BUFFER.fullmatch(path)
    return functools.partial(_buffer, api, match[1], match[2], http) if match and verb == "POST" else None


def _buffer(api: Api, queue: str, task_id: str, http: web.Request, body: bytes) -> dict[str, Any]:
    """BufferTask: create a task of the raw body, for the address that the queue's target has; raises CallError."""
    uri = api.perform(_V2["GetQueue"], types.GetQueueRequest.pb()(name=queue)).http_target.uri_override
    if not uri.host:
        raise invalid("The queue has no http_target with a host, which BufferTask needs.")
    scheme = "http" if uri.scheme == types.UriOverride.Scheme.HTTP else "https"
    headers = {name: http.headers[name] for name in ("Content-Type",) if name in http.headers}
    task = {"http_request": {"url": f"{scheme}://{uri.host}", "body": body, "headers": headers}}
    request = types.CreateTaskRequest.pb()(parent=queue, task=task)
    if task_id:
        request.task.name = f"{queue}/tasks/{task_id}"
    return {"task": _json(api.perform(_V2["CreateTask"], request))}


def _json(message: Message, *, enums_as_numbers: bool = False) -> dict[str, Any]:
    """A message in proto3's JSON; numbers without a fraction are printed without one."""
    found = json_format.MessageToDict(message, use_integers_for_enums=enums_as_numbers)
    return _whole(found)  # type: ignore[no-any-return]


def _whole(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _field_mask(fields: str) -> dict[str, Any]:
    """The fields that `fields` selects, as in `name,rateLimits(maxBurstSize),tasks/name`, with those below each."""
    flat, found = re.sub(r"\s", "", fields), 1
    while found:  # a(b,c) is a/b,a/c
        flat, found = re.subn(
            r"([^,()]+)\(([^()]+)\)",
            lambda match: ",".join(f"{match[1]}/{each}" for each in match[2].split(",")),
            flat,
        )
    mask: dict[str, Any] = {}
    for path in flat.split(","):
        below = mask
        for name in path.split("/"):
            if not name or "(" in name or ")" in name:
                raise invalid(f"Request contains an invalid argument. Invalid field selection {fields}")
            below = below.setdefault(camel_case(name), {})
    return mask


def _selected(value: Any, mask: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, list):
        return [_selected(each, mask) for each in value]
    if not mask or not isinstance(value, dict):
        return value
    return {
        name: _selected(each, mask.get(name) or mask.get("*", {}))
        for name, each in value.items()
        if name in mask or "*" in mask
    }
