"""Values at their extremes: each is an answer with a known code, and none stops a queue or the next start."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from local.cloud_tasks.beta import BETA_CALLS
from local.cloud_tasks.calls import CALLS, Call
from local.cloud_tasks.json_request import parse_request
from local.cloud_tasks.messages import CallError, Message
from tests.local.cloud_tasks.clocked import QUEUE, TASK, Clocked
from tests.local.cloud_tasks.serving import LOCATION

STRANGE = ("projects/\0/locations/\n", "projects/a", "\u00e9", f"{LOCATION}/cmekConfig")
NAMES = ("", LOCATION, QUEUE, f"{QUEUE}-2", TASK, f"{TASK}-2", *STRANGE)
WORDS = ("https://h.example/p?q=1", "http://127.0.0.1:1", "http://[", "a@b", "AND (NOT", "state", "*")
TEXTS = st.one_of(st.sampled_from(NAMES + WORDS), st.text(max_size=30))
INTEGERS = {
    FieldDescriptor.TYPE_INT32: st.sampled_from((0, 1, -1, 2, 15, 2**31 - 1, -(2**31))),
    FieldDescriptor.TYPE_INT64: st.sampled_from((0, 1, -1, 20, 2_000_000_000, 2**63 - 1, -(2**63), 253402300800)),
    FieldDescriptor.TYPE_ENUM: st.sampled_from((0, 1, 2, 3, 7, 99, -1, 2**31 - 1)),
}
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    **INTEGERS,
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.sampled_from((0.0, 1.0, 5e-324, 500.0, -1.0, 1e308, math.inf, -math.inf, math.nan)),
}


@st.composite
def messages(draw: st.DrawFn, kind: Any, depth: int = 0) -> Message:  # noqa: ANN401 - a message's class
    """A message with some of its fields set to extremes."""
    message = kind()
    fields = [field for field in message.DESCRIPTOR.fields if depth < 5 or field.message_type is None]
    for field in (
        draw(st.lists(st.sampled_from(fields), max_size=6, unique_by=lambda field: field.number)) if fields else ()
    ):
        _set(draw, message, field, depth)
    return message


def _set(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    if field.message_type and field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
            getattr(message, field.name).update(draw(st.dictionaries(TEXTS, TEXTS, max_size=3)))
    elif field.message_type and field.message_type.full_name.startswith("google.protobuf.") and field.is_repeated:
        return
    elif field.message_type:
        inner = draw(messages(message_factory.GetMessageClass(field.message_type), depth + 1))
        if field.is_repeated:
            getattr(message, field.name).append(inner)
        else:
            getattr(message, field.name).CopyFrom(inner)
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(SCALARS[field.type], max_size=3)))
    else:
        setattr(message, field.name, draw(SCALARS[field.type]))


REQUESTS = st.sampled_from([*CALLS, *BETA_CALLS]).flatmap(lambda call: st.tuples(st.just(call), messages(call.request)))


def code(service: Clocked, call: Call, request: Message) -> str:
    try:
        service.api.perform(call, request).SerializeToString()
    except CallError as error:
        error.status().SerializeToString()
        return error.code
    return "OK"


@settings(max_examples=40, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=25))
def test_no_request_is_an_internal_error_and_none_stops_a_queue_or_the_next_start(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[Call, Message]]
) -> None:
    service = Clocked(tmp_path_factory.mktemp("state") / "state.sqlite")
    service.create(TASK)
    for call, request in requests:
        parsed = call.request.FromString(request.SerializeToString())
        assert code(service, call, parsed) != "INTERNAL", (call.name, parsed)
    for _ in range(3):
        service.now += 40 * 24 * 3600
        for path in service.queues.paths():
            for attempt in service.tasks.start_attempts(path):
                service.tasks.end_attempt(attempt, 500)
            service.tasks.next_dispatch(path)
        before = service.queues.paths()
        service.reopen()
        assert service.queues.paths() == sorted({QUEUE, *before})
    other = f"{LOCATION}/queues/other"
    service.do("CreateQueue", parent=LOCATION, queue={"name": other})
    service.create(f"{other}/tasks/t")
    assert len(service.tasks.start_attempts(other)) == 1
    service.store.close()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.just("\ud800"), st.just("1e9999s")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=10,
)


@st.composite
def bodies(draw: st.DrawFn, message: Descriptor, depth: int = 0) -> dict[str, Any]:
    """JSON with the names of a message's fields, and anything as their values."""
    found = {}
    for field in draw(st.lists(st.sampled_from(list(message.fields)), max_size=5)) if message.fields else ():
        deeper = field.message_type is not None and depth < 4 and draw(st.booleans())
        found[draw(st.sampled_from((field.name, field.json_name)))] = (
            draw(bodies(field.message_type, depth + 1)) if deeper and field.message_type else draw(JSON)
        )
    return found


@settings(max_examples=150, deadline=None)
@given(data=st.data(), call=st.sampled_from([call for call in CALLS if call.verb]))
def test_no_json_is_anything_but_a_request_or_an_invalid_argument(data: st.DataObject, call: Call) -> None:
    target = call.request.DESCRIPTOR
    if call.body not in ("", "*"):
        target = target.fields_by_name[call.body].message_type
    body = json.dumps(data.draw(bodies(target)))
    parameters = [field.json_name for field in call.request.DESCRIPTOR.fields]
    names = st.sampled_from([*parameters, "a.b", "updateMask.paths", ""])
    query = data.draw(st.dictionaries(names, st.lists(TEXTS, min_size=1, max_size=2), max_size=3))
    code = "OK"
    try:
        parse_request(call, QUEUE, query, body.encode() if call.body else b"").SerializeToString()
    except CallError as error:
        code = error.code
        json.dumps(json_format.MessageToDict(error.status())).encode()
    assert code in ("OK", "INVALID_ARGUMENT")


@pytest.mark.parametrize("field", ["min_backoff", "max_backoff", "max_retry_duration"])
@pytest.mark.parametrize(
    "duration", [{"seconds": 2**63 - 1}, {"seconds": -(2**63)}, {"nanos": 2**31 - 1}, {"nanos": -(2**31)}]
)
def test_a_duration_out_of_its_range_is_an_invalid_argument(
    tmp_path: Path, field: str, duration: dict[str, int]
) -> None:
    service = Clocked(tmp_path / "state.sqlite")
    [create] = [call for call in CALLS if call.name == "CreateQueue"]
    queue = {"name": f"{QUEUE}-d", "retry_config": {field: duration}}
    with pytest.raises(CallError) as caught:
        service.api.perform(create, create.request(parent=LOCATION, queue=queue))
    assert caught.value.code == "INVALID_ARGUMENT"
    service.store.close()
