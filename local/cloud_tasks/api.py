"""The calls as one kind of caller may make them, and as a gRPC server answers them.

Errors carry the same canonical code and text over gRPC and over REST, which is rest.py.
"""

import asyncio
import logging
import operator
import re
from collections.abc import Callable

import grpc
from google.cloud.tasks_v2 import types

from local.cloud_tasks.batches import Batches
from local.cloud_tasks.calls import CALLS, Call
from local.cloud_tasks.messages import CallError, Message
from local.cloud_tasks.tasks import CloudTasks
from local.faults import LATE_SECONDS, Faults

log = logging.getLogger("local.cloud_tasks.api")


class Api:
    """The calls as one kind of caller may make them."""

    def __init__(
        self, cloud_tasks: CloudTasks, batches: Batches, member: str = "", faults: Faults | None = None
    ) -> None:
        """`member`: whose grants count, `serviceAccount:...`; without one everything is allowed."""
        self._queues = cloud_tasks.queues
        self._member = member
        self._faults = faults
        self._methods: dict[str, Callable[[Message], Message]] = {}
        for call in CALLS:
            method = re.sub(r"(?<!^)([A-Z])", r"_\1", call.name).lower()
            [owner] = [part for part in (cloud_tasks, cloud_tasks.queues, batches) if hasattr(part, method)]
            self._methods[call.name] = getattr(owner, method)

    def perform(self, call: Call, request: Message) -> Message:
        """Check the caller's grants, then do it; raises CallError."""
        if not self._member:
            return self._methods[call.name](request)
        resource = operator.attrgetter(call.field)(request)
        needed = [call.permission] if call.permission else []
        if getattr(request, "response_view", None) == types.Task.View.FULL:
            needed.append("tasks.fullView")
        for permission in needed:
            if not self._allowed(permission, resource):
                text = f'The principal lacks IAM permission "cloudtasks.{permission}" for the resource "{resource}"'
                remedy = "declare a gcp.cloudtasks.QueueIamMember for it"
                log.warning("%s has no role with cloudtasks.%s on %s; %s", self._member, permission, resource, remedy)
                raise CallError("PERMISSION_DENIED", f"{text} (or the resource may not exist).")
        response = self._methods[call.name](request)
        if call.name == "TestIamPermissions":
            own = [each for each in response.permissions if self._allowed(each.removeprefix("cloudtasks."), resource)]
            return call.response(permissions=own)
        return response

    def _allowed(self, permission: str, resource: str) -> bool:
        return self._queues.allows(self._member, permission, resource.partition("/tasks/")[0])

    def grpc_handlers(self) -> list[grpc.GenericRpcHandler]:
        """The services for a gRPC server; a call that is not in the table answers UNIMPLEMENTED."""
        return [
            grpc.method_handlers_generic_handler(
                service, {call.name: self._grpc_handler(call) for call in CALLS if call.service == service}
            )
            for service in dict.fromkeys(call.service for call in CALLS)
        ]

    def _grpc_handler(self, call: Call) -> "grpc.RpcMethodHandler[Message, Message]":
        async def answer(request: Message, context: "grpc.aio.ServicerContext[Message, Message]") -> Message:
            try:
                fault = self._faults.draw("dead letter") if self._faults else None
                if fault == "refused":
                    raise CallError("UNAVAILABLE", "The service is currently unavailable.")
                response = self.perform(call, request)
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
