"""The calls over HTTP and JSON, with Google's mapping of JSON and its error bodies."""

import base64
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from local.cloud_tasks.api import Api
from local.cloud_tasks.calls import CALLS, Call
from local.cloud_tasks.messages import CallError, Message

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""More than any valid call: a task's 1 MiB body in base64, and its envelope."""
_SYSTEM_PARAMETERS = frozenset(
    (
        "$.xgafv",
        "$alt",
        "access_token",
        "alt",
        "callback",
        "fields",
        "key",
        "oauth_token",
        "prettyPrint",
        "quotaUser",
        "uploadType",
        "upload_protocol",
    )
)
_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "UNIMPLEMENTED": 501,
}


def routes(api: Api) -> list[web.RouteDef]:
    """One a call, and one for what is not served."""
    served = [web.route(call.verb, call.path, _handler(api, call)) for call in CALLS]
    return [*served, web.route("*", "/v2{rest:.*}", _unknown_call)]


def _handler(api: Api, call: Call) -> Callable[[web.Request], Any]:
    async def answer(http: web.Request) -> web.Response:
        try:
            response = api.perform(call, _request(call, http, await _body(http) if call.body else b""))
        except CallError as error:
            return _error(error)
        numbers = "enum-encoding=int" in http.query_string
        return web.json_response(text=json_format.MessageToJson(response, use_integers_for_enums=numbers))

    return answer


async def _body(http: web.Request) -> bytes:
    try:
        return await http.read()
    except web.HTTPRequestEntityTooLarge:
        raise CallError("INVALID_ARGUMENT", "Request payload size exceeds the limit.") from None


def _request(call: Call, http: web.Request, body: bytes) -> Message:
    try:
        payload = json.loads(body or b"{}")
        if not isinstance(payload, dict):
            raise CallError("INVALID_ARGUMENT", "Invalid JSON payload received. Root element must be a message.")
        fields: dict[str, Any] = payload if call.body == "*" else {call.body: payload} if call.body else {}
        for key, value in (*http.query.items(), (call.field, http.match_info["resource"])):
            if key not in _SYSTEM_PARAMETERS:
                *parents, leaf = key.split(".")
                within = fields
                for parent in parents:
                    within = within.setdefault(parent, {})
                within[leaf] = value
        _check_bytes(fields, call.request.DESCRIPTOR)
        return json_format.ParseDict(fields, call.request())
    except (AttributeError, TypeError, ValueError, RecursionError, json_format.ParseError) as error:
        raise CallError("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None


def _error(error: CallError) -> web.Response:
    status = _HTTP_STATUS[error.code]
    return web.json_response({"error": {"code": status, "message": error.message, "status": error.code}}, status=status)


async def _unknown_call(http: web.Request) -> web.Response:
    return _error(CallError("UNIMPLEMENTED", f"{http.method} {http.path} is not served here"))


def _check_bytes(fields: dict[str, Any], message: Descriptor) -> None:
    """Raises ValueError for bytes that are no base64: the parser would skip what it cannot read."""
    for key, value in fields.items():
        field = message.fields_by_camelcase_name.get(key) or message.fields_by_name.get(key)
        if field is not None and field.type == FieldDescriptor.TYPE_BYTES and isinstance(value, str):
            text = value.replace("-", "+").replace("_", "/").rstrip("=")
            try:
                base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
            except ValueError:
                raise ValueError(f"Base64 decoding failed for {key!r}") from None
        elif field is not None and field.message_type and not field.message_type.GetOptions().map_entry:
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict):
                    _check_bytes(each, field.message_type)
