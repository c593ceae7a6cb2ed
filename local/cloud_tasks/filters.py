"""The filters of ListQueues: comparisons of fields, joined by AND, OR, NOT and parentheses (AIP-160)."""

import functools
import operator
import re
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from local.cloud_tasks.messages import CallError, Message, invalid

Predicate = Callable[[Message], bool]

_TOKEN = re.compile(r'\s*("(?:\\.|[^"\\])*"|<=|>=|!=|[:<>=()]|-(?=[A-Za-z(])|[^\s()<>=!:"]+)')
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ":": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPARABLE = ("google.protobuf.Duration", "google.protobuf.Timestamp")
_DEPTH = 100
"""Parentheses and negations; more are refused."""


def parse(text: str, message: Descriptor) -> Predicate:
    """Whether a message matches the filter; raises CallError for one that is not valid for these messages."""
    if not text.strip():
        return lambda _: True
    tokens = _TOKEN.findall(text)[::-1]
    if _TOKEN.sub("", text).strip() or sum(tokens.count(token) for token in ("(", "NOT", "-")) > _DEPTH:
        raise invalid("Invalid filter.")
    try:
        predicate = _all(tokens, message)
    except IndexError:
        tokens = [text]
    if tokens:
        raise invalid("Invalid filter.")
    return predicate


def _all(tokens: list[str], message: Descriptor) -> Predicate:
    """Terms that must all hold: side by side or joined by AND. The next token is the last of the list."""
    terms = [_any(tokens, message)]
    while tokens and tokens[-1] != ")":
        if tokens[-1] == "AND":
            tokens.pop()
        terms.append(_any(tokens, message))
    return lambda found: all(term(found) for term in terms)


def _any(tokens: list[str], message: Descriptor) -> Predicate:
    """Terms of which one must hold: joined by OR, which binds closer than AND."""
    terms = [_term(tokens, message)]
    while tokens and tokens[-1] == "OR":
        tokens.pop()
        terms.append(_term(tokens, message))
    return lambda found: any(term(found) for term in terms)


def _term(tokens: list[str], message: Descriptor) -> Predicate:
    token = tokens.pop()
    if token in ("NOT", "-"):
        term = _term(tokens, message)
        return lambda found: not term(found)
    if token == "(":
        term = _all(tokens, message)
        tokens.pop()
        return term
    comparison, value = tokens.pop(), tokens.pop()
    if comparison not in _COMPARE or value in ("(", ")", *_COMPARE):
        raise invalid("Invalid filter.")
    path, field = _field(token, message)
    if (comparison, value) == (":", "*"):
        return functools.partial(_is_set, path)
    wanted = _wanted(token, field, re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value)
    get = operator.attrgetter(path)  # a field that is not set counts as its default
    if comparison == ":" and isinstance(wanted, str):
        return lambda found: wanted in _key(get(found))
    return lambda found: _COMPARE[comparison](_key(get(found)), wanted)


def _field(path: str, message: Descriptor | None) -> tuple[str, FieldDescriptor]:
    """The field that a path in snake or camel case and any capitals names, with its path; raises CallError."""
    names = []
    for name in path.lower().split("."):
        found = [field for field in message.fields if name in (field.name, field.json_name.lower())] if message else []
        if not found:
            raise invalid(f"Field not found: '{path}'.")
        if found[0].is_repeated:
            raise CallError("UNIMPLEMENTED", f"Filters on {path} are not served here")
        names.append(found[0].name)
        message = found[0].message_type
    return ".".join(names), found[0]


def _wanted(path: str, field: FieldDescriptor, text: str) -> Any:  # noqa: ANN401 - any value of a field
    """The value that a text stands for, as `_key` gives it; raises CallError."""
    if field.message_type is not None and field.message_type.full_name not in _COMPARABLE:
        raise invalid(f"Cannot match a nested type '{path}'. A member field of scalar or enum type must be provided.")
    value: Any = text.upper() if field.enum_type else text
    try:
        if field.enum_type and value not in field.enum_type.values_by_name:
            raise ValueError
        assert field.containing_type
        parsed: Any = message_factory.GetMessageClass(field.containing_type)()
        json_format.ParseDict({field.name: value}, parsed)
    except (json_format.ParseError, ValueError):
        raise invalid(f"The value '{text.lower()}' is of incorrect type.") from None
    return _key(getattr(parsed, field.name))


def _key(value: Any) -> Any:  # noqa: ANN401 - any value of a field
    """What a value is compared by."""
    if isinstance(value, str):
        return value.lower()
    return (value.seconds, value.nanos) if hasattr(value, "seconds") else value


def _is_set(path: str, message: Message) -> bool:
    parent, _, name = path.rpartition(".")
    message = operator.attrgetter(parent)(message) if parent else message
    return bool(
        message.HasField(name) if message.DESCRIPTOR.fields_by_name[name].has_presence else getattr(message, name)
    )
