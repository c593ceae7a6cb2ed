"""Cloud Tasks v2beta3, as far as its messages are those of v2: a call is translated, done as v2, and translated back.

Adds what only v2beta3 has: a queue's statistics, under a read mask. What v2 has no field for is refused.
"""

from collections.abc import Callable
from typing import Any

from google.cloud.tasks_v2 import types as v2_types
from google.cloud.tasks_v2beta3 import types
from google.protobuf import json_format

from local.cloud_tasks.calls import CALLS, SERVICE, Call
from local.cloud_tasks.messages import CallError, Message, invalid
from local.cloud_tasks.schedule import Statistics

BETA_SERVICE = SERVICE.replace("v2", "v2beta3")
_V2 = {call.name: call for call in CALLS if call.service == SERVICE}


def _beta_message(v2: Any) -> Any:  # noqa: ANN401 - a message's class
    """The class of v2beta3 with the name of one of v2; others, such as those of IAM, are the same in both."""
    name = v2.DESCRIPTOR.name
    return getattr(types, name).pb() if hasattr(v2_types, name) else v2


BETA_CALLS = tuple(
    call._replace(service=BETA_SERVICE, request=_beta_message(call.request), response=_beta_message(call.response))
    for call in _V2.values()
    if not call.name.startswith("Batch") and not call.name.endswith("CmekConfig")
)
Queue: Message = types.Queue.pb()


def perform(
    call: Call,
    request: Message,
    v2_perform: Callable[[Call, Message], Message],
    statistics: Callable[[str], Statistics],
) -> Message:
    """Do a call of v2beta3; raises CallError. `statistics`: of a queue, by its path."""
    v2 = _V2[call.name]
    if call.request is v2.request:
        return v2_perform(v2, request)
    try:
        fields = json_format.MessageToDict(request)
    except (ValueError, json_format.SerializeToJsonError):
        raise invalid() from None
    fields.pop("readMask", None)
    queue = fields.get("queue", {})
    queue.pop("stats", None)
    for name, sent_anyway in (("type", ("PUSH",)), ("appEngineHttpQueue", ({}, {"appEngineRoutingOverride": {}}))):
        if queue.get(name) in sent_anyway:  # by gcloud
            del queue[name]
    try:
        v2_request = json_format.ParseDict(fields, v2.request())
    except json_format.ParseError as error:
        raise CallError("UNIMPLEMENTED", f"Not served here: {error}") from None
    response: Message = json_format.ParseDict(json_format.MessageToDict(v2_perform(v2, v2_request)), call.response())
    for queue in getattr(response, "queues", [response] if call.response is Queue else []):
        queue.type_ = types.Queue.Type.PUSH
        if "read_mask" in request.DESCRIPTOR.fields_by_name and request.read_mask.paths:
            _read(queue, request.read_mask, statistics)
    return response


def _read(queue: Message, mask: Message, statistics: Callable[[str], Statistics]) -> None:
    """Reduce a queue to what a read mask names, its statistics included; raises CallError."""
    if not mask.IsValidForDescriptor(queue.DESCRIPTOR):
        raise invalid(f"Invalid mask: {', '.join(mask.paths)}")
    found = statistics(queue.name)
    queue.stats.tasks_count = found.tasks
    queue.stats.executed_last_minute_count = found.executed_last_minute
    queue.stats.concurrent_dispatches_count = found.in_flight
    queue.stats.effective_execution_rate = found.rate
    if found.next_due is not None:
        queue.stats.oldest_estimated_arrival_time.FromMicroseconds(int(found.next_due * 1e6))
    masked = Queue()
    mask.MergeMessage(queue, masked)
    queue.CopyFrom(masked)
