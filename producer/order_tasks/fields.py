"""Why the fields of a message do not match its JSON Schema.

The handler and the producer each hold this same file, so that both refuse a message in the same words. No value is
quoted: it may be private, or a megabyte.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "text"),
    "integer": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
    "array": ((list, tuple), "a list"),
    "object": ((dict,), "an object"),
    "null": ((type(None),), "null"),
}


def problems(schema: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """Every wrong field with the reason; empty if there is none. Fields that the schema does not name are ignored."""
    return "; ".join(dict.fromkeys(_problems(schema, schema, fields, "")))


def _problems(root: Mapping[str, Any], schema: Mapping[str, Any], value: Any, name: str) -> Iterator[str]:  # noqa: ANN401
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        found = [list(_problems(root, each, value, name)) for each in schema["anyOf"]]
        if all(found):
            yield from found[0]
        return
    types, noun = _TYPES.get(schema.get("type", ""), ((object,), ""))
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types and object not in types):
        yield f"{name} must be {noun}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{name} must be one of {', '.join(map(str, schema['enum']))}"
    elif isinstance(value, str):
        yield from _text_problems(schema, value, name)
    elif isinstance(value, dict):
        for field, of_field in schema.get("properties", {}).items():
            inner = f"{name}.{field}" if name else field
            if field in value:
                yield from _problems(root, of_field, value[field], inner)
            elif field in schema.get("required", ()):
                yield _missing(inner)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _problems(root, schema.get("items", {}), item, f"{name}[{number}]")
    elif isinstance(value, int | float):
        if value < schema.get("minimum", value):
            yield f"{name} must be at least {schema['minimum']}"
        if value > schema.get("maximum", value):
            yield f"{name} must be at most {schema['maximum']}"


def _text_problems(schema: Mapping[str, Any], value: str, name: str) -> Iterator[str]:
    if not value and schema.get("minLength", 0) > 0:
        yield _missing(name)
    elif len(value) < schema.get("minLength", 0):
        yield f"{name} must have at least {schema['minLength']} characters"
    elif len(value) > schema.get("maxLength", len(value)):
        yield f"{name} must have at most {schema['maxLength']} characters"
    elif "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{name} must be {schema.get('description', 'text that matches ' + schema['pattern'])}"


def _missing(name: str) -> str:
    return "Missing orderId or action" if name in ("orderId", "action") else f"Missing {name}"
