"""The filters of ListQueues: comparisons of fields, joined by AND, OR, NOT and parentheses (AIP-160)."""

import re
from collections.abc import Callable
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from local.cloud_tasks.messages import Message, invalid

Predicate = Callable[[Message], bool]

_TOKEN = re.compile(r'\s*("(?:\\.|[^"\\])*"|<=|>=|!=|[:<>=()]|-(?=[A-Za-z(])|[^\s()<>=!:"]+)')
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ":": lambda left, right: left == right,
    "=": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}
_DEPTH = 100
"""Parentheses and negations within each other; more are refused."""


def parse(text: str, message: Descriptor) -> Predicate:
    """Whether a message matches the filter; raises CallError for one that is not valid for these messages."""
    if not text.strip():
        return lambda _: True
    return _Parser(text, message).parse()


class _Parser:
    """One filter, read from left to right."""

    def __init__(self, text: str, message: Descriptor) -> None:
        self._message = message
        self._tokens = [match[1] for match in _TOKEN.finditer(text)]
        self._at = 0
        self._depth = 0
        if _TOKEN.sub("", text).strip():
            raise invalid("Invalid filter.")

    def parse(self) -> Predicate:
        predicate = self._all()
        if self._at < len(self._tokens):
            raise invalid("Invalid filter.")
        return predicate

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _all(self) -> Predicate:
        """Terms that must all hold: side by side or joined by AND."""
        terms = [self._any()]
        while self._peek() not in ("", ")"):
            if self._peek() == "AND":
                self._next()
            terms.append(self._any())
        return lambda message: all(term(message) for term in terms)

    def _any(self) -> Predicate:
        """Terms of which one must hold: joined by OR, which binds closer than AND."""
        terms = [self._term()]
        while self._peek() == "OR":
            self._next()
            terms.append(self._term())
        return lambda message: any(term(message) for term in terms)

    def _term(self) -> Predicate:
        self._depth += 1
        if self._depth > _DEPTH:
            raise invalid("Invalid filter.")
        token = self._next()
        if token in ("NOT", "-"):
            term = self._term()
            predicate: Predicate = lambda message: not term(message)  # noqa: E731
        elif token == "(":
            predicate = self._all()
            if self._next() != ")":
                raise invalid("Invalid filter.")
        else:
            predicate = self._comparison(token)
        self._depth -= 1
        return predicate

    def _comparison(self, path: str) -> Predicate:
        operator, value = self._next(), self._next()
        if operator not in _COMPARE or value in ("", "(", ")", *_COMPARE):
            raise invalid("Invalid filter.")
        fields = _fields(path, self._message)
        if value == "*" and operator == ":":
            return lambda message: _is_set(message, fields)
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        read, wanted = _reader(path, fields[-1], value)
        if fields[-1].type == FieldDescriptor.TYPE_STRING and operator == ":":
            return lambda message: any(wanted in read(found) for found in _values(message, fields))
        compare = _COMPARE[operator]
        return lambda message: any(compare(read(found), wanted) for found in _values(message, fields))


def _fields(path: str, message: Descriptor | None) -> list[FieldDescriptor]:
    """The fields along a path, in snake or camel case and any capitals; raises CallError."""
    found = []
    for name in path.split("."):
        wanted = name.lower()
        fields = [] if message is None else message.fields
        match = [field for field in fields if wanted in (field.name, field.json_name.lower())]
        if not match:
            raise invalid(f"Field not found: '{path}'.")
        found += match
        message = match[0].message_type
    return found


def _reader(path: str, field: FieldDescriptor, text: str) -> tuple[Callable[[Any], Any], Any]:
    """How a value of the field is read for a comparison, and the value that the text stands for."""
    wrong = invalid(f"The value '{text.lower()}' is of incorrect type.")
    try:
        if field.enum_type is not None:
            return int, field.enum_type.values_by_name[text.upper()].number
        if field.type == FieldDescriptor.TYPE_STRING:
            return str.lower, text.lower()
        if field.message_type is None:
            return float, float(text)
        if field.message_type.full_name == "google.protobuf.Duration":
            duration = duration_pb2.Duration()
            duration.FromJsonString(text)
            return lambda found: found.seconds * 10**9 + found.nanos, duration.ToNanoseconds()
        if field.message_type.full_name == "google.protobuf.Timestamp":
            at = timestamp_pb2.Timestamp()
            at.FromJsonString(text)
            return lambda found: found.seconds * 10**9 + found.nanos, at.ToNanoseconds()
    except (KeyError, ValueError):
        raise wrong from None
    raise invalid(f"Cannot match a nested type '{path}'. A member field of scalar or enum type must be provided.")


def _values(message: Message, fields: list[FieldDescriptor]) -> list[Any]:
    """The values at a path; a field that is not set counts as its default."""
    values = [message]
    for field in fields:
        found = [getattr(value, field.name) for value in values]
        values = [each for value in found for each in value] if field.is_repeated else found
    return values


def _is_set(message: Message, fields: list[FieldDescriptor]) -> bool:
    *parents, last = fields
    for value in _values(message, parents):
        if value.HasField(last.name) if last.has_presence else getattr(value, last.name):
            return True
    return False
