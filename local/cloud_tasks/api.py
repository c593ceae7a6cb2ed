"""The calls as one kind of caller may make them, and as a gRPC server answers them.

Errors carry the same canonical code, text and details over gRPC and over REST, which is rest.py.
"""

import asyncio
import logging
import re
import time
from urllib.parse import unquote_plus

import grpc
from google.cloud.tasks_v2 import types
from google.protobuf.message import DecodeError

from local.cloud_tasks import beta
from local.cloud_tasks.batches import Batches
from local.cloud_tasks.beta import BETA_CALLS, BETA_SERVICE
from local.cloud_tasks.calls import CALLS, SERVICE, Call
from local.cloud_tasks.messages import CallError, Message, invalid, pacific_time
from local.cloud_tasks.names import check_resource, denied
from local.cloud_tasks.tasks import CloudTasks
from local.faults import LATE_SECONDS, Faults

log = logging.getLogger("local.cloud_tasks.api")

MAX_CALL_SECONDS = 30
"""The service refuses a call whose deadline is further ahead."""
_ROUNDING_SECONDS = 0.5
"""By how much gRPC may round a deadline up."""
_ROUTING = "x-goog-request-params"


class Api:
    """The calls as one kind of caller may make them."""

    def __init__(
        self, cloud_tasks: CloudTasks, batches: Batches, member: str = "", faults: Faults | None = None
    ) -> None:
        """`member`: whose grants count, `serviceAccount:...`; if left out, every caller may do everything."""
        self._queues = cloud_tasks.queues
        self._member = member
        self._faults = faults
        self._methods = {
            call.name: getattr(owner, method)
            for call in CALLS
            for method in [re.sub(r"(?<!^)([A-Z])", r"_\1", call.name).lower()]
            for owner in (cloud_tasks, cloud_tasks.queues, batches)
            if hasattr(owner, method)
        }

    def perform(self, call: Call, request: Message) -> Message:
        """Check the resource's name and the caller's grants, then do the call; raises CallError."""
        try:
            if call.service == BETA_SERVICE:
                return beta.perform(call, request, self._perform, self._queues.statistics)
            return self._perform(call, request)
        except CallError:
            raise
        except Exception:
            log.exception("%s failed", call.name)
            raise CallError("INTERNAL", "Internal error encountered.") from None

    def _perform(self, call: Call, request: Message) -> Message:
        resource = call.resource(request)
        if call.service == SERVICE:
            permission = "queues.list" if call.field == "resource" else call.permission
            check_resource(call.kind, resource, f"{call.service}.{call.name}", permission)
        if self._member:
            self._check_grants(call, request, resource)
        response = self._methods[call.name](request)
        if self._member and call.name == "TestIamPermissions":
            own = [each for each in response.permissions if self._allowed(each.removeprefix("cloudtasks."), resource)]
            return call.response(permissions=own)
        return response

    def _check_grants(self, call: Call, request: Message, resource: str) -> None:
        needed = [call.permission] if call.permission else []
        if getattr(request, "response_view", None) == types.Task.View.FULL:
            needed.append("tasks.fullView")
        for permission in needed:
            if not self._allowed(permission, resource):
                remedy = "declare a gcp.cloudtasks.QueueIamMember for it"
                log.warning("%s has no role with cloudtasks.%s on %s; %s", self._member, permission, resource, remedy)
                raise denied(permission, resource)

    def _allowed(self, permission: str, resource: str) -> bool:
        return self._queues.allows(self._member, permission, "/".join(resource.split("/")[:6]))

    def grpc_handlers(self) -> list[grpc.GenericRpcHandler]:
        """The services for a gRPC server; a call that is not in the table answers UNIMPLEMENTED."""
        calls = CALLS + BETA_CALLS
        return [
            grpc.method_handlers_generic_handler(
                service, {call.name: self._grpc_handler(call) for call in calls if call.service == service}
            )
            for service in dict.fromkeys(call.service for call in calls)
        ]

    def _grpc_handler(self, call: Call) -> "grpc.RpcMethodHandler[bytes, Message]":
        async def answer(body: bytes, context: "grpc.aio.ServicerContext[bytes, Message]") -> Message:
            try:
                fault = self._faults.draw("dead letter" if self._member else "create") if self._faults else None
                if fault == "refused":
                    raise CallError("UNAVAILABLE", "The service is currently unavailable.")
                response = self.perform(call, _request(call, body, context))
                if fault == "answer lost":
                    raise CallError("UNAVAILABLE", "Connection reset by peer")
                if fault == "answered late":
                    await asyncio.sleep(LATE_SECONDS)
                return response
            except CallError as error:
                details = (("grpc-status-details-bin", error.status().SerializeToString()),) if error.details else ()
                await context.abort(grpc.StatusCode[error.code], error.message, details)

        # the request is parsed in `answer`: whatever does not parse is the caller's error
        return grpc.unary_unary_rpc_method_handler(answer, response_serializer=call.response.SerializeToString)


def _request(call: Call, body: bytes, context: "grpc.aio.ServicerContext[bytes, Message]") -> Message:
    """The request of a gRPC call; raises CallError for one that does not parse, or has no good deadline or routing."""
    try:
        request = call.request.FromString(body)
    except DecodeError:
        raise invalid() from None
    left = context.time_remaining()
    if left is not None and left > MAX_CALL_SECONDS + _ROUNDING_SECONDS:
        seconds, fraction = divmod(time.time() + min(left, 10**9), 1)
        deadline = pacific_time(int(seconds), int(fraction * 10**9))
        raise invalid(
            f"The request deadline is {deadline}. The deadline cannot be more than {MAX_CALL_SECONDS}s in the future."
        )
    if call.service in (SERVICE, BETA_SERVICE):
        wanted = f"{call.routing_field}={call.resource(request)}"
        given = [str(value) for key, value in context.invocation_metadata() or () if key == _ROUTING]
        if wanted not in given and not any(wanted in map(unquote_plus, value.split("&")) for value in given):
            raise invalid(
                f'"{_ROUTING}" header is either missing or misformatted. "{_ROUTING}" must contain "{wanted}".'
            )
    return request
