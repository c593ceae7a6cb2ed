"""A request of the REST front end: JSON body and query, checked with Google's texts, then made a message.

Takes what official clients send: snake and camel case, numbers in strings, update masks in either case.
"""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.rpc import error_details_pb2

from local.cloud_tasks.calls import Call
from local.cloud_tasks.messages import CallError, Message, invalid

_SYSTEM_PARAMETERS = frozenset(
    (
        *("access_token", "alt", "callback", "fields", "key", "oauth_token"),
        *("prettyPrint", "quotaUser", "uploadType", "upload_protocol", "xgafv"),
    )
)
_TYPES = {number: name for name, number in vars(FieldDescriptor).items() if name.startswith("TYPE_")}
_WELL_KNOWN = {
    "google.protobuf.Timestamp": (
        re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
        "Illegal timestamp format; timestamps must end with 'Z' or have a valid timezone offset.",
    ),
    "google.protobuf.Duration": (
        re.compile(r"-?\d{1,12}(\.\d{1,9})?s"),
        "Illegal duration format; duration must end with 's'",
    ),
}
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: 31,
    FieldDescriptor.TYPE_INT64: 63,
}
_DEPTH = 100
"""Objects within each other; more are refused."""

Violations = list[tuple[str, str]]
"""Path and description of each fault."""


def parse_request(call: Call, resource: str, query: Sequence[tuple[str, str]], body: bytes) -> Message:
    """The request of a call to a resource; raises CallError with a violation for each fault."""
    violations: Violations = []
    request = call.request.DESCRIPTOR
    fields: dict[str, Any] = {}
    if body.strip():
        payload = _loads(body)
        target = request if call.body == "*" else request.fields_by_name[call.body].message_type
        prefix = "" if call.body == "*" else call.body
        if not isinstance(payload, dict):
            violations.append(("", 'Invalid JSON payload received. Unknown name "": Root element must be a message.'))
        else:
            cleaned = _message(payload, target, prefix, violations)
            fields = cleaned if call.body == "*" else {call.body: cleaned}
    for key, value in query:
        if key.removeprefix("$").removeprefix(".") not in _SYSTEM_PARAMETERS:
            _set_parameter(fields, key, value, request, violations)
    _set(fields, call.field.split("."), resource)
    if violations:
        faults = [
            error_details_pb2.BadRequest.FieldViolation(field=path, description=text) for path, text in violations
        ]
        text = "\n".join(description for _, description in violations)
        raise invalid(text, error_details_pb2.BadRequest(field_violations=faults))
    try:
        return json_format.ParseDict(fields, call.request(), max_recursion_depth=2 * _DEPTH)
    except (ValueError, TypeError, AttributeError, json_format.ParseError) as error:
        raise invalid(f"Invalid JSON payload received. {error}") from None


def _loads(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallError("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None


def _set_parameter(fields: dict[str, Any], key: str, value: str, request: Descriptor, violations: Violations) -> None:
    """Set the field that a query parameter names, such as `updateMask` or `responseView`."""
    path: list[str] = []
    message: Descriptor | None = request
    field: FieldDescriptor | None = None
    for name in key.split("."):
        field = _field(message, name) if message else None
        if field is None:
            text = f"Cannot bind query parameter. Field '{name}' could not be found in request message."
            violations.append(("", f'Invalid JSON payload received. Unknown name "{key}": {text}'))
            return
        path.append(field.name)
        message = field.message_type
    assert field is not None
    if path[-2:] == ["update_mask", "paths"]:
        path, previous = path[:-1], fields.get("update_mask", "")
        value = f"{previous},{_mask(value)}" if previous else _mask(value)
    elif field.message_type and field.message_type.full_name == "google.protobuf.FieldMask":
        value = _mask(value)
    else:
        value = _scalar(value, field, ".".join(path), violations, query=True)
    _set(fields, path, value)


def _set(fields: dict[str, Any], path: list[str], value: Any) -> None:  # noqa: ANN401 - any JSON
    *parents, leaf = path
    for parent in parents:
        fields = fields.setdefault(parent, {})
        if not isinstance(fields, dict):
            return  # it is among the violations
    fields[leaf] = value


def _field(message: Descriptor, name: str) -> FieldDescriptor | None:
    return message.fields_by_name.get(name) or message.fields_by_camelcase_name.get(name)


def _at(path: str) -> str:
    return f" at '{path}'" if path else ""


def _message(
    payload: dict[str, Any], message: Descriptor, path: str, violations: Violations, depth: int = 0
) -> dict[str, Any]:
    """The fields of an object, by their proto names."""
    found: dict[str, Any] = {}
    if depth > _DEPTH:
        violations.append((path, "Invalid JSON payload received. Message too deep. Max recursion depth reached."))
        return found
    for name, value in payload.items():
        field = _field(message, name)
        if field is None:
            text = f"Invalid JSON payload received. Unknown name {_shown(name)}{_at(path)}: Cannot find field."
            violations.append((path, text))
        elif value is not None:
            below = f"{path}.{field.name}" if path else field.name
            found[field.name] = _value(value, field, below, violations, depth)
    return found


def _value(value: Any, field: FieldDescriptor, path: str, violations: Violations, depth: int) -> Any:  # noqa: ANN401
    if field.is_repeated:
        if field.message_type and field.message_type.GetOptions().map_entry:
            return _map(value, field, path, violations)
        if not isinstance(value, list):
            value = [value]
        return [_single(each, field, f"{path}[{place}]", violations, depth) for place, each in enumerate(value)]
    if isinstance(value, list):
        parent, _, name = path.rpartition(".")
        text = "Proto field is not repeating, cannot start list."
        violations.append((parent, f'Invalid JSON payload received. Unknown name "{name}"{_at(parent)}: {text}'))
        return value
    return _single(value, field, path, violations, depth)


def _single(value: Any, field: FieldDescriptor, path: str, violations: Violations, depth: int) -> Any:  # noqa: ANN401
    if field.message_type is None:
        return _scalar(value, field, path, violations)
    name = field.message_type.full_name
    if name == "google.protobuf.FieldMask" and isinstance(value, str):
        return _mask(value)
    if name in _WELL_KNOWN:
        pattern, text = _WELL_KNOWN[name]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            url = f"type.googleapis.com/{name}"
            text = f"Field '{field.json_name}', {text}" if isinstance(value, str) else _shown(value)
            violations.append((path, f"Invalid value at '{path}' ({url}), {text}"))
        return value
    if not isinstance(value, dict):
        violations.append((path, f"Invalid value at '{path}' (type.googleapis.com/{name}), {_shown(value)}"))
        return value
    return _message(value, field.message_type, path, violations, depth + 1)


def _map(value: Any, field: FieldDescriptor, path: str, violations: Violations) -> Any:  # noqa: ANN401 - any JSON
    assert field.message_type is not None
    entry = field.message_type.fields_by_name["value"]
    if not isinstance(value, dict):
        url = f"type.googleapis.com/{field.message_type.full_name}"
        violations.append((path, f"Invalid value at '{path}' ({url}), {_shown(value)}"))
        return value
    for key, each in value.items():
        _text(key, f"{path}[].key", violations)
        if entry.message_type is None:
            _scalar(each, entry, f"{path}[].value", violations)
    return value


def _text(value: str, path: str, violations: Violations) -> None:
    """A text must be Unicode: half of a surrogate pair is not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        violations.append((path, f"Invalid value at '{path}' (TYPE_STRING), {_shown(value)}"))


def _scalar(
    value: Any,  # noqa: ANN401 - any JSON
    field: FieldDescriptor,
    path: str,
    violations: Violations,
    *,
    query: bool = False,
) -> Any:  # noqa: ANN401 - any JSON
    """The value, with numbers in strings made numbers."""
    kind, valid = field.type, False
    name = _TYPES[kind]
    if kind == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        name = f"type.googleapis.com/{field.enum_type.full_name}"
        valid = isinstance(value, str) and value in field.enum_type.values_by_name
        if not valid:
            value, valid = _integer(value, 31)
    elif kind in _INTEGERS:
        value, valid = _integer(value, _INTEGERS[kind])
    elif kind == FieldDescriptor.TYPE_DOUBLE:
        value, valid = _double(value)
    elif kind == FieldDescriptor.TYPE_BOOL:
        valid = isinstance(value, bool) or (query and value in ("true", "false"))
        value = value == "true" if isinstance(value, str) else value
    elif kind == FieldDescriptor.TYPE_BYTES and isinstance(value, str):
        if not _base64(value):
            text = f"Base64 decoding failed for {_shown(value)}"
            violations.append((path, f"Invalid value at '{path}' ({name}), {text}"))
        return value
    elif kind == FieldDescriptor.TYPE_STRING and isinstance(value, str):
        _text(value, path, violations)
        return value
    if not valid:
        violations.append((path, f"Invalid value at '{path}' ({name}), {_shown(value)}"))
    return value


def _integer(value: Any, bits: int) -> tuple[Any, bool]:  # noqa: ANN401 - any JSON
    number: Any = value
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,20}", value):
        number = int(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not -(2**bits) <= number < 2**bits:
        return value, False
    return number, True


def _double(value: Any) -> tuple[Any, bool]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        return value, re.fullmatch(r"-?(\d+(\.\d*)?([eE][+-]?\d+)?|Infinity)|NaN", value) is not None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value, False
    try:
        return float(value), True
    except OverflowError:
        return value, False


def _base64(value: str) -> bool:
    text = value.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return False
    return True


def _mask(value: str) -> str:
    """An update mask in the camel case that the JSON parser takes; clients send snake case too."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), value)


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON
    """A value as errors quote it: in JSON, without what would break the text."""
    return json.dumps(value, ensure_ascii=False)[:1000].encode(errors="replace").decode()
