"""Cloud Tasks v2 over gRPC and over REST, from one table of its calls.

Follows the official protos: names, messages and URL patterns are theirs. Errors carry the same canonical code and
text on both sides.
"""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from aiohttp import web
from google.cloud.tasks_v2 import types
from google.protobuf import empty_pb2, json_format

from local.cloud_tasks import CloudTasks
from local.faults import LATE_SECONDS, Faults
from local.messages import CallError, Message

_LOCATION = "projects/[^/]+/locations/[^/]+"
_QUEUE = f"{_LOCATION}/queues/[^/:]+"
_TASK = f"{_QUEUE}/tasks/[^/:]+"
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
    "UNIMPLEMENTED": 501,
}


class Call(NamedTuple):
    """One call of the service."""

    name: str
    """As in the proto; the method of CloudTasks is its snake case."""
    permission: str
    """Of IAM, below cloudtasks."""
    request: Any
    response: Any
    verb: str
    path: str
    """Of REST, below /v2/, with the request's fields as patterns; POST has the other fields in a JSON body."""


def _call(name: str, permission: str, response: Any, rest: str) -> Call:  # noqa: ANN401 - a message's class
    verb, path = rest.split(" ")
    for noun, pattern in (("TASK", _TASK), ("QUEUE", _QUEUE), ("LOCATION", _LOCATION)):
        path = path.replace(noun, pattern)
    return Call(name, permission, getattr(types, f"{name}Request").pb(), response, verb, path)


CALLS = (
    _call("GetQueue", "queues.get", types.Queue.pb(), "GET {name:QUEUE}"),
    _call("ListQueues", "queues.list", types.ListQueuesResponse.pb(), "GET {parent:LOCATION}/queues"),
    _call("PauseQueue", "queues.pause", types.Queue.pb(), "POST {name:QUEUE}:pause"),
    _call("ResumeQueue", "queues.resume", types.Queue.pb(), "POST {name:QUEUE}:resume"),
    _call("PurgeQueue", "queues.purge", types.Queue.pb(), "POST {name:QUEUE}:purge"),
    _call("CreateTask", "tasks.create", types.Task.pb(), "POST {parent:QUEUE}/tasks"),
    _call("GetTask", "tasks.get", types.Task.pb(), "GET {name:TASK}"),
    _call("ListTasks", "tasks.list", types.ListTasksResponse.pb(), "GET {parent:QUEUE}/tasks"),
    _call("DeleteTask", "tasks.delete", empty_pb2.Empty, "DELETE {name:TASK}"),
    _call("RunTask", "tasks.run", types.Task.pb(), "POST {name:TASK}:run"),
)


def _method(cloud_tasks: CloudTasks, call: Call) -> Callable[[Message], Message]:
    method: Callable[[Message], Message] = getattr(cloud_tasks, re.sub(r"(?<!^)([A-Z])", r"_\1", call.name).lower())
    return method


def grpc_handler(
    cloud_tasks: CloudTasks,
    allow: Callable[[str, str], bool] = lambda permission, queue: True,
    faults: Faults | None = None,
) -> grpc.GenericRpcHandler:
    """The service for a gRPC server; a call that is not in the table answers UNIMPLEMENTED.

    `allow`: whether the server's callers have a permission, such as `tasks.create`, on a queue."""

    def handler(call: Call) -> "grpc.RpcMethodHandler[Message, Message]":
        method = _method(cloud_tasks, call)

        async def answer(request: Message, context: "grpc.aio.ServicerContext[Message, Message]") -> Message:
            try:
                _authorize(call, request, allow)
                fault = faults.draw("dead letter") if faults else None
                if fault == "refused":
                    raise CallError("UNAVAILABLE", "The service is currently unavailable.")
                response = method(request)
                if fault == "answer lost":
                    raise CallError("UNAVAILABLE", "Connection reset by peer")
                if fault == "answered late":
                    await asyncio.sleep(LATE_SECONDS)
                return response
            except CallError as error:
                await context.abort(grpc.StatusCode[error.code], error.message)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=call.request.FromString,
            response_serializer=call.response.SerializeToString,
        )

    return grpc.method_handlers_generic_handler(
        "google.cloud.tasks.v2.CloudTasks", {call.name: handler(call) for call in CALLS}
    )


def _authorize(call: Call, request: Message, allow: Callable[[str, str], bool]) -> None:
    resource = request.parent if "parent" in request.DESCRIPTOR.fields_by_name else request.name
    if not allow(call.permission, resource.partition("/tasks/")[0]):
        text = f'The principal lacks IAM permission "cloudtasks.{call.permission}" for the resource "{resource}"'
        raise CallError("PERMISSION_DENIED", f"{text} (or the resource may not exist).")


def rest_routes(cloud_tasks: CloudTasks) -> list[web.RouteDef]:
    """The service over HTTP and JSON, with Google's mapping and error bodies."""
    return [
        *(web.route(call.verb, f"/v2/{call.path}", _rest_handler(_method(cloud_tasks, call), call)) for call in CALLS),
        web.route("*", "/v2/{rest:.*}", _unknown_call),
    ]


def _rest_handler(method: Callable[[Message], Message], call: Call) -> Callable[[web.Request], Any]:
    async def answer(http: web.Request) -> web.Response:
        try:
            response = method(_rest_request(call, http, await _body(http) if call.verb == "POST" else b""))
        except CallError as error:
            return _rest_error(error)
        return web.json_response(
            text=json_format.MessageToJson(response, use_integers_for_enums="enum-encoding=int" in http.query_string)
        )

    return answer


async def _body(http: web.Request) -> bytes:
    try:
        return await http.read()
    except web.HTTPRequestEntityTooLarge:
        raise CallError("INVALID_ARGUMENT", "Request payload size exceeds the limit.") from None


def _rest_request(call: Call, http: web.Request, body: bytes) -> Message:
    fields: dict[str, Any] = {key: value for key, value in http.query.items() if key not in _SYSTEM_PARAMETERS}
    try:
        payload = json.loads(body or b"{}")
        if not isinstance(payload, dict):
            raise CallError("INVALID_ARGUMENT", "Invalid JSON payload received. Root element must be a message.")
        return json_format.ParseDict({**fields, **payload, **http.match_info}, call.request())
    except (TypeError, ValueError, RecursionError, json_format.ParseError) as error:
        raise CallError("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None


def _rest_error(error: CallError) -> web.Response:
    status = _HTTP_STATUS[error.code]
    return web.json_response({"error": {"code": status, "message": error.message, "status": error.code}}, status=status)


async def _unknown_call(http: web.Request) -> web.Response:
    return _rest_error(CallError("UNIMPLEMENTED", f"{http.method} {http.path} is not served here"))
