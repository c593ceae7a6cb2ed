"""The handler's published contract: the actions, and what their messages contain.

contract.json is a copy of the handler's. Its JSON Schemas become the types that they were made from, and one library
checks both, so that producer and handler refuse a message in the same words.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, NotRequired, TypedDict, Union
from uuid import UUID

import msgspec

_NAME = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None}
_FORMATS = {"date": date, "date-time": datetime, "time": time, "duration": timedelta, "decimal": Decimal, "uuid": UUID}
_LIMITS = {
    "minLength": "min_length",
    "maxLength": "max_length",
    "pattern": "pattern",
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "minItems": "min_length",
    "maxItems": "max_length",
}


@cache
def contract() -> Mapping[str, Any]:
    """Action -> its message as a JSON Schema (`message`), and what it needs (`needs`)."""
    actions: Mapping[str, Any] = json.loads((files("order_tasks") / "contract.json").read_text())["actions"]
    return actions


def refusal(message: Mapping[str, Any]) -> str:
    """Why the handler would refuse this message: every wrong field with the reason. Empty if it takes it."""
    if wrong := problems([("action", _NAME, True)], message):
        return wrong
    action = message["action"]
    return problems(_fields(action), message) if action in contract() else f"Unknown action: {action}"


def problems(declared: Iterable[tuple[str, Any, bool]], fields: Mapping[str, Any]) -> str:
    """Every wrong field with the reason, in the handler's words; empty if there is none.

    `declared`: name, type, and whether the field is required. No value is quoted: it may be private, or a megabyte.
    """
    wrong = []
    for name, kind, required in declared:
        try:
            if name in fields:
                msgspec.convert(fields[name], kind)
            elif required:
                raise msgspec.ValidationError
        except msgspec.ValidationError as error:
            missing = required and fields.get(name) in (None, "")
            label = "orderId or action" if name in ("orderId", "action") else name
            wrong.append(f"Missing {label}" if missing else f"{name}: {error}")
    return "; ".join(wrong)


@cache
def _fields(action: str) -> list[tuple[str, Any, bool]]:
    schema = contract()[action]["message"]
    return [
        (name, _type(of_field, schema.get("$defs", {})), name in schema.get("required", ()))
        for name, of_field in schema["properties"].items()
    ]


def _type(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """The type of values that match this JSON Schema, as far as msgspec writes it."""
    if "$ref" in schema:
        return _type(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return Union[tuple(_type(each, definitions) for each in schema["anyOf"])]  # noqa: UP007 - made at run time
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    kind: Any = _FORMATS.get(schema.get("format", "")) or _TYPES.get(schema.get("type", ""), Any)
    if schema.get("type") == "array":
        kind = list[_type(schema.get("items", {}), definitions)]  # type: ignore[misc]
    elif "properties" in schema:
        fields = {name: _type(each, definitions) for name, each in schema["properties"].items()}
        optional = fields.keys() - schema.get("required", ())
        fields |= {name: NotRequired[fields[name]] for name in optional}
        kind = TypedDict("Object", fields)  # type: ignore[misc, no-redef] # made at run time
    elif schema.get("type") == "object":
        kind = dict[str, _type(schema.get("additionalProperties", {}), definitions)]  # type: ignore[misc]
    limits = {ours: schema[theirs] for theirs, ours in _LIMITS.items() if theirs in schema}
    return Annotated[kind, msgspec.Meta(**limits)] if limits else kind
