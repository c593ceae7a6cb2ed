"""Cloud Tasks v2beta3, as far as its messages are those of v2: a call is translated, done as v2, and translated back.

Adds what only v2beta3 has: a queue's statistics, under a read mask. What v2 has no field for is refused.
"""

from collections.abc import Callable
from typing import Any

from google.cloud.tasks_v2 import types as v2_types
from google.cloud.tasks_v2beta3 import types
from google.protobuf import field_mask_pb2, json_format

from local.cloud_tasks.calls import CALLS, SERVICE, Call
from local.cloud_tasks.messages import CallError, Message, invalid
from local.cloud_tasks.schedule import Statistics

BETA_SERVICE = SERVICE.replace("v2", "v2beta3")

_LEFT_OUT = ("BatchCreateTasks", "BatchDeleteTasks", "GetCmekConfig", "UpdateCmekConfig")
_V2 = {call.name: call for call in CALLS if call.service == SERVICE}


def _beta_message(v2: Any) -> Any:  # noqa: ANN401 - a message's class
    """The class of v2beta3 with the name of one of v2; others, such as those of IAM, are the same in both."""
    name = v2.DESCRIPTOR.name
    return getattr(types, name).pb() if hasattr(v2_types, name) else v2


BETA_CALLS = tuple(
    call._replace(service=BETA_SERVICE, request=_beta_message(call.request), response=_beta_message(call.response))
    for call in _V2.values()
    if call.name not in _LEFT_OUT
)


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
    answer = json_format.MessageToDict(v2_perform(v2, v2_request))
    response: Message = json_format.ParseDict(answer, call.response())
    queues = response.queues if call.name == "ListQueues" else [response] if call.response is types.Queue.pb() else []
    mask = request.read_mask if "read_mask" in request.DESCRIPTOR.fields_by_name else field_mask_pb2.FieldMask()
    for queue in queues:
        queue.type_ = types.Queue.Type.PUSH
        if any(path.partition(".")[0] == "stats" for path in mask.paths):
            _fill_in(queue.stats, statistics(queue.name))
        if mask.paths:
            if not mask.IsValidForDescriptor(queue.DESCRIPTOR):
                raise invalid(f"Invalid mask: {', '.join(mask.paths)}")
            masked = call.response() if call.response is types.Queue.pb() else types.Queue.pb()()
            mask.MergeMessage(queue, masked)
            queue.CopyFrom(masked)
    return response


def _fill_in(stats: Message, statistics: Statistics) -> None:
    stats.tasks_count = statistics.tasks
    stats.executed_last_minute_count = statistics.executed_last_minute
    stats.concurrent_dispatches_count = statistics.in_flight
    stats.effective_execution_rate = statistics.rate
    if statistics.next_due is not None:
        stats.oldest_estimated_arrival_time.FromMicroseconds(int(statistics.next_due * 1e6))
