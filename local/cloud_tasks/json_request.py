"""A request of the REST front end: JSON body and query, made a message or refused with Google's texts.

json_format decides what is valid. Here is where a fault is, how Google words it, and what official clients may send.
"""

import json
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import error_details_pb2

from local.cloud_tasks.calls import Call
from local.cloud_tasks.messages import Message, invalid

_SYSTEM_PARAMETERS = (
    *("access_token", "alt", "callback", "fields", "key", "oauth_token"),
    *("prettyPrint", "quotaUser", "uploadType", "upload_protocol", "xgafv"),
)
_RECEIVED = "Invalid JSON payload received."
_TYPES = {number: name for name, number in vars(FieldDescriptor).items() if name.startswith("TYPE_")}
_WELL_KNOWN = "type.googleapis.com/google.protobuf."
_MALFORMED = {
    "TYPE_BYTES": "Base64 decoding failed for {value}",
    f"{_WELL_KNOWN}Timestamp": "Field '{name}', Illegal timestamp format; timestamps must end with 'Z' "
    "or have a valid timezone offset.",
    f"{_WELL_KNOWN}Duration": "Field '{name}', Illegal duration format; duration must end with 's'",
}
"""How the text of a malformed value ends; for any other type with the value."""
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")

Faults = list[tuple[str, str]]
"""Path and description of each."""


def parse_request(call: Call, resource: str, query: Mapping[str, Sequence[str]], body: bytes) -> Message:
    """The request of a call to a resource; raises CallError with a violation for each fault."""
    request: Message = call.request()
    faults: Faults = []
    if body.strip():
        try:
            payload = json.loads(body)
            json.dumps(payload, ensure_ascii=False).encode()  # refuses half a surrogate pair
        except (ValueError, RecursionError) as error:
            raise invalid(f"{_RECEIVED} {error}") from None
        path = call.body.strip("*")
        target = getattr(request, path) if path else request
        if isinstance(payload, dict):
            _merge(payload, target, path, faults, "Cannot find field.")
        else:
            faults.append(("", f'{_RECEIVED} Unknown name "": Root element must be a message.'))
    for key, values in query.items():
        if key.lstrip("$.") in _SYSTEM_PARAMETERS:
            continue
        if key.endswith(".paths"):  # a mask that is sent path by path
            key, values = key.removesuffix(".paths"), [",".join(values)]
        value: Any = values if len(values) > 1 else values[0]
        for name in reversed(key.split(".")):
            value = {name: value}
        unknown = "Cannot bind query parameter. Field '{}' could not be found in request message."
        _merge(value, request, "", faults, unknown)
    if faults:
        violations = [error_details_pb2.BadRequest.FieldViolation(field=at, description=text) for at, text in faults]
        raise invalid("\n".join(text for _, text in faults), error_details_pb2.BadRequest(field_violations=violations))
    owner, _, leaf = call.field.rpartition(".")
    setattr(operator.attrgetter(owner)(request) if owner else request, leaf, resource)
    return request


def camel_case(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _merge(found: Mapping[str, Any], message: Message, path: str, faults: Faults, unknown: str) -> None:
    """Set the fields of an object, in snake or camel case. `unknown`: what is wrong with a field that is not there."""
    message.SetInParent()
    at = f" at '{path}'" if path else ""
    for name, value in found.items():
        field = message.DESCRIPTOR.fields_by_name.get(name) or message.DESCRIPTOR.fields_by_camelcase_name.get(name)
        below = f"{path}.{field.name}".lstrip(".") if field else ""
        if field is None:
            faults.append((path, f"{_RECEIVED} Unknown name {_shown(name)}{at}: {unknown.format(name)}"))
        elif isinstance(value, list) and not field.is_repeated:
            text = f'Unknown name "{field.name}"{at}: Proto field is not repeating, cannot start list.'
            faults.append((path, f"{_RECEIVED} {text}"))
        elif field.is_repeated and not _is_map(field):
            for place, each in enumerate(value if isinstance(value, list) else [value]):
                if field.message_type and isinstance(each, dict):
                    _merge(each, getattr(message, field.name).add(), f"{below}[{place}]", faults, unknown)
                else:
                    _set(each, field, message, f"{below}[{place}]", faults)
        elif isinstance(value, dict) and field.message_type and not _is_map(field) and _kind(field) not in _MALFORMED:
            _merge(value, getattr(message, field.name), below, faults, unknown)
        elif value is not None:
            _set(value, field, message, below, faults)


def _set(value: Any, field: FieldDescriptor, message: Message, path: str, faults: Faults) -> None:  # noqa: ANN401
    """Set a field to one value of JSON, or add it to a repeated field."""
    kind, parsed = _kind(field), type(message)()
    many = field.is_repeated and not _is_map(field)
    try:
        if isinstance(value, bool) or (kind == "TYPE_BYTES" and not _BASE64.fullmatch(value)):
            raise ValueError
        if kind == f"{_WELL_KNOWN}FieldMask":  # in snake case too, as some clients send it
            value = camel_case(value)
        json_format.ParseDict({field.name: [value] if many else value}, parsed)
    except (json_format.ParseError, ValueError, TypeError, OverflowError):
        text = _MALFORMED.get(kind, "{value}") if isinstance(value, str) else "{value}"
        text = text.format(name=field.json_name, value=_shown(value))
        faults.append((path, f"Invalid value at '{path}' ({kind}), {text}"))
    message.MergeFrom(parsed)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _kind(field: FieldDescriptor) -> str:
    """A field's type as errors name it."""
    named = field.message_type or field.enum_type
    return f"type.googleapis.com/{named.full_name}" if named else _TYPES[field.type]


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON
    """A value as errors quote it: in JSON, without what would break the text."""
    return json.dumps(value, ensure_ascii=False)[:1000].encode(errors="replace").decode()
