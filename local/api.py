"""Cloud Tasks v2 over gRPC and over REST, from one table of its calls.

Follows the official protos: names, messages and URL patterns are theirs. Errors carry the same canonical code and
text on both sides.
"""

import json
import logging
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from aiohttp import web
from google.cloud.tasks_v2 import types
from google.protobuf import empty_pb2, json_format

from local.cloud_tasks import CallError, CloudTasks, Message

log = logging.getLogger("local.api")

_QUEUES = "projects/[^/]+/locations/[^/]+"
_QUEUE = f"{_QUEUES}/queues/[^/:]+"
_TASK = f"{_QUEUE}/tasks/[^/:]+"
MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""More than any valid call: a task's 1 MiB body in base64, and its envelope."""
_SYSTEM_PARAMETERS = frozenset(("$alt", "alt", "fields", "key", "prettyPrint", "quotaUser", "access_token", "$.xgafv"))
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
    request: Any
    response: Any
    verb: str
    path: str
    """Of REST, below /v2/, with the request's fields as patterns."""
    body: bool = False
    """REST sends the request's other fields as a JSON body, not in the query."""


CALLS = (
    Call("GetQueue", types.GetQueueRequest.pb(), types.Queue.pb(), "GET", f"{{name:{_QUEUE}}}"),
    Call(
        "ListQueues", types.ListQueuesRequest.pb(), types.ListQueuesResponse.pb(), "GET", f"{{parent:{_QUEUES}}}/queues"
    ),
    Call("PauseQueue", types.PauseQueueRequest.pb(), types.Queue.pb(), "POST", f"{{name:{_QUEUE}}}:pause", True),
    Call("ResumeQueue", types.ResumeQueueRequest.pb(), types.Queue.pb(), "POST", f"{{name:{_QUEUE}}}:resume", True),
    Call("PurgeQueue", types.PurgeQueueRequest.pb(), types.Queue.pb(), "POST", f"{{name:{_QUEUE}}}:purge", True),
    Call("CreateTask", types.CreateTaskRequest.pb(), types.Task.pb(), "POST", f"{{parent:{_QUEUE}}}/tasks", True),
    Call("GetTask", types.GetTaskRequest.pb(), types.Task.pb(), "GET", f"{{name:{_TASK}}}"),
    Call("ListTasks", types.ListTasksRequest.pb(), types.ListTasksResponse.pb(), "GET", f"{{parent:{_QUEUE}}}/tasks"),
    Call("DeleteTask", types.DeleteTaskRequest.pb(), empty_pb2.Empty, "DELETE", f"{{name:{_TASK}}}"),
    Call("RunTask", types.RunTaskRequest.pb(), types.Task.pb(), "POST", f"{{name:{_TASK}}}:run", True),
)


def _method(cloud_tasks: CloudTasks, call: Call) -> Callable[[Message], Message]:
    method: Callable[[Message], Message] = getattr(cloud_tasks, re.sub(r"(?<!^)([A-Z])", r"_\1", call.name).lower())
    return method


def grpc_handler(cloud_tasks: CloudTasks) -> grpc.GenericRpcHandler:
    """The service for a gRPC server; a call that is not in the table answers UNIMPLEMENTED."""

    def handler(call: Call) -> "grpc.RpcMethodHandler[Message, Message]":
        method = _method(cloud_tasks, call)

        async def answer(request: Message, context: "grpc.aio.ServicerContext[Message, Message]") -> Message:
            try:
                return method(request)
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


def rest_routes(cloud_tasks: CloudTasks) -> list[web.RouteDef]:
    """The service over HTTP and JSON, with Google's mapping and error bodies."""
    return [
        *(web.route(call.verb, f"/v2/{call.path}", _rest_handler(_method(cloud_tasks, call), call)) for call in CALLS),
        web.route("*", "/v2/{rest:.*}", _unknown_call),
    ]


def _rest_handler(method: Callable[[Message], Message], call: Call) -> Callable[[web.Request], Any]:
    async def answer(http: web.Request) -> web.Response:
        try:
            response = method(_rest_request(call, http, await http.text() if call.body else ""))
        except CallError as error:
            return _rest_error(error)
        return web.json_response(
            text=json_format.MessageToJson(response, use_integers_for_enums="enum-encoding=int" in http.query_string)
        )

    return answer


def _rest_request(call: Call, http: web.Request, body: str) -> Message:
    fields: dict[str, Any] = {key: value for key, value in http.query.items() if key not in _SYSTEM_PARAMETERS}
    try:
        if body:
            fields |= json.loads(body)
        return json_format.ParseDict({**fields, **http.match_info}, call.request())
    except (TypeError, ValueError, json_format.ParseError) as error:
        raise CallError("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None


def _rest_error(error: CallError) -> web.Response:
    status = _HTTP_STATUS[error.code]
    return web.json_response({"error": {"code": status, "message": error.message, "status": error.code}}, status=status)


async def _unknown_call(http: web.Request) -> web.Response:
    return _rest_error(CallError("UNIMPLEMENTED", f"{http.method} {http.path} is not served here"))
