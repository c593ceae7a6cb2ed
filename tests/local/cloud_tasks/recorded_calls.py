"""Calls over gRPC or REST as the recordings made them, and their answers in the form that `recorded.json` has.

That form: a message is an object of its set fields; a scalar without presence that is at its default is left out; an
enum is its name without prefix in camel case, as `IfNotExists`; a time or duration is `SECONDS+NANOSns`; bytes are text
where they can be; an error is its code and text, with its details by their types.
"""

import base64
import collections
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.cloud.tasks_v2 import types
from google.iam.v1 import policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, duration_pb2, empty_pb2, json_format, timestamp_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from local.cloud_tasks.calls import CALLS, SERVICE, Call
from tests.local.cloud_tasks.serving import START, Serving

TOMORROW = int(START) + 24 * 3600
PLACEHOLDERS = {str(TOMORROW): "{tomorrow}", str(int(START)): "{create_time}"}
_BY_NAME = {call.name: call for call in CALLS}


class CallFailedError(Exception):
    """A call was refused; `form` is its error as `recorded.json` has it."""

    def __init__(self, form: dict[str, Any]) -> None:
        super().__init__(form["error"])
        self.form = form


class Caller:
    """Makes the calls of one case. Over REST, a call that JSON or a URL cannot express goes over gRPC."""

    def __init__(self, service: Serving, channel: grpc.Channel, *, rest: bool) -> None:
        self._service = service
        self._channel = channel
        self._rest = rest

    def __call__(self, name: str, /, **fields: Any) -> Any:  # noqa: ANN401 - any message
        """The response to a call, by its name in the proto; raises CallFailedError."""
        call = _BY_NAME[name]
        request = call.request(**fields)
        asked = self._http_request(call, request) if self._rest else None
        return self._over_rest(call, *asked) if asked else self._over_grpc(call, request)

    def _over_grpc(self, call: Call, request: Any) -> Any:  # noqa: ANN401 - any message
        method = self._channel.unary_unary(
            f"/{call.service}/{call.name}",
            request_serializer=call.request.SerializeToString,
            response_deserializer=call.response.FromString,
        )
        routing = (("x-goog-request-params", f"{call.routing_field}={call.resource(request)}"),)
        try:
            return method(request, metadata=routing, timeout=30)
        except grpc.RpcError as error:
            status = status_pb2.Status()
            answer: Any = error
            for key, value in answer.trailing_metadata() or ():
                if key == "grpc-status-details-bin":
                    status.ParseFromString(value)
            form = {"error": f"{answer.code().name}: {answer.details()}"}
            raise CallFailedError(form | _details(status.details)) from None

    def _http_request(self, call: Call, request: Any) -> tuple[str, str, bytes | None] | None:  # noqa: ANN401
        resource = call.resource(request)
        template = call.path.pattern
        path = re.sub(r"\((?:[^()]|\[[^\]]*\])*\)", lambda _: resource, template, count=1)
        if not call.verb or not call.path.fullmatch(path) or " " in path:
            return None
        try:
            fields = json_format.MessageToDict(request, preserving_proto_field_name=False)
        except (ValueError, json_format.SerializeToJsonError):
            return None
        body = fields if call.body == "*" else fields.pop(_camel(call.body), {}) if call.body else None
        if call.service == SERVICE and call.body == "*":
            body.pop(call.field, None)  # type: ignore[union-attr]
        query = {} if call.body == "*" else {key: value for key, value in fields.items() if key != call.field}
        if any(isinstance(value, dict | list) for value in query.values()):
            return None
        if call.name == "UpdateQueue" and request.HasField("update_mask"):
            paths = request.update_mask.paths
            if not paths or not all(re.fullmatch(r"[a-z_.]+", path) for path in paths):
                return None
        address = urllib.parse.quote(f"/v2/{path}") + (f"?{urllib.parse.urlencode(query)}" if query else "")
        return call.verb, address, None if body is None else json.dumps(body).encode()

    def _over_rest(self, call: Call, verb: str, path: str, body: bytes | None) -> Any:  # noqa: ANN401 - any message
        status, text = self.http(verb, path, body)
        if status == 200:
            return json_format.Parse(text, call.response())
        error = json.loads(text)["error"]
        details = [json_format.ParseDict(each, any_pb2.Any()) for each in error.get("details", ())]
        raise CallFailedError({"error": f"{error['status']}: {error['message']}"} | _details(details))

    def http(self, verb: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        """Status and body of an HTTP request to the REST front end."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        request = urllib.request.Request(f"http://{self._service.rest}{path}", body, headers, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _details(details: Any) -> dict[str, Any]:  # noqa: ANN401 - packed messages
    found = []
    for detail in details:
        name = detail.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        assert detail.Unpack(message)
        found.append({name: form(message)})
    return {"details": found} if found else {}


def form(message: Any) -> Any:  # noqa: ANN401 - any message
    """A message in the form of `recorded.json`, with the placeholders of the recordings."""
    if isinstance(message, timestamp_pb2.Timestamp | duration_pb2.Duration):
        return f"{PLACEHOLDERS.get(str(message.seconds), message.seconds)}+{message.nanos}ns"
    if isinstance(message, any_pb2.Any):
        name = message.type_url.rpartition(".")[2]
        unpacked: Message = empty_pb2.Empty() if name == "Empty" else getattr(types, name).pb()()
        assert message.Unpack(unpacked)
        return [message.type_url, form(unpacked)]
    if isinstance(message, policy_pb2.Policy):
        etag = base64.b64encode(message.etag).decode()
        bindings = {"bindings": [form(each) for each in message.bindings]} if message.bindings else {}
        version = {"version": message.version} if message.version else {}
        return {**version, "etag": etag if etag == "ACAB" else "{etag}", **bindings}
    found = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name):
            continue
        if field.is_repeated and field.message_type and field.message_type.GetOptions().map_entry:
            value = {str(key): form(each) if isinstance(each, Message) else each for key, each in value.items()}
        elif field.is_repeated:
            value = [form(each) if isinstance(each, Message) else each for each in value]
        elif field.message_type:
            found[field.name] = form(value)
            continue
        elif field.enum_type:
            value = enum(field, value) if value or field.has_presence else 0
        elif isinstance(value, bytes):
            value = list(value)
        if value or field.has_presence:
            found[field.name] = value
    if isinstance(message, operations_pb2.Operation):
        kind = message.WhichOneof("result")
        found.pop("error", None)
        result = found.pop("response", None) if kind == "response" else {"error": form(message.error)}
        if kind:
            found["result"] = result
        if not re.search(r"/operations/r[0-9a-f]{8}", message.name):
            found["name"] = message.name.rpartition("/")[0] + "/{operation}"
    return found


def enum(field: Any, number: int) -> str:  # noqa: ANN401 - a descriptor
    """The name of an enum's number, without prefix and in camel case; `Unspecified` for an unknown one."""
    value = field.enum_type.values_by_number.get(number)
    name = "UNSPECIFIED" if value is None or value.name.endswith("UNSPECIFIED") else value.name
    return "".join(part.capitalize() for part in name.split("_"))


class Receiver(ThreadingHTTPServer):
    """The HTTP server of the recordings: it answers KEY/STEPS with the next step at each request to that path."""

    daemon_threads = True

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.requests: dict[str, list[Request]] = collections.defaultdict(list)
        """By key."""
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class Request:
    """A request that the receiver got."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: str, at: float) -> None:
        self.method, self.body, self.at = handler.command, body, at
        self.path, _, query = handler.path.partition("?")
        self.query = query or None
        self.headers = [(name.lower(), value) for name, value in handler.headers.items()]

    def seen(self, *also: str) -> dict[str, str]:
        """The headers that the recordings show."""
        names = ("authorization", "content-type", "user-agent", "x-custom", *also)
        shown = [(name, value) for name, value in self.headers if name.startswith("x-cloudtasks-") or name in names]
        return dict(sorted(shown))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        _, key, steps = self.path.partition("?")[0].split("/", 2)
        requests = self.server.requests[key]
        before = sum(each.path.endswith(steps) for each in requests)
        requests.append(Request(self, body, self.server.now()))
        listed = steps.rpartition("/")[2].split(",")
        step = listed[min(before, len(listed) - 1)]
        if step == "slow":
            self.server.over.wait(10)
        self.send_response({"slow": 200, "redirect": 302}.get(step) or int(step))
        if step == "redirect":
            self.send_header("Location", f"/{key}/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - the names are the library's

    def log_message(self, *_: object) -> None:
        """Print nothing."""
