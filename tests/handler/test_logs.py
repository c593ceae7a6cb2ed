import json
import logging
import sys
from datetime import datetime, timedelta
from typing import Any

import pytest
from order_handler import logs

ID = "105445aa7843bc8bf206b12000100000"


def line(message: str, *arguments: object, **fields: object) -> dict[str, Any]:
    record = logging.LogRecord("shop", logging.WARNING, __file__, 1, message, arguments, None)
    record.fields = fields
    text = logs.JsonLines().format(record)
    assert "\n" not in text
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_a_line_says_severity_message_and_time_in_utc() -> None:
    found = line("took\n%d s", 3)
    assert found.keys() == {"severity", "message", "time"}
    assert (found["severity"], found["message"]) == ("WARNING", "took\n3 s")
    assert datetime.fromisoformat(found["time"]).utcoffset() == timedelta(0)


def test_fields_stand_beside_the_message_and_none_is_left_out() -> None:
    found = line("done", orderId="Bestellung-ü", status=200, task=None)
    assert (found["orderId"], found["status"]) == ("Bestellung-ü", 200)
    assert "task" not in found


def test_a_failure_brings_its_stack() -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        record = logging.LogRecord("shop", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    stack = json.loads(logs.JsonLines().format(record))["stack_trace"]
    assert stack.startswith("Traceback")
    assert stack.endswith("RuntimeError: boom")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("550 <ada@example.com>: unknown", "550 <***@***>: unknown"),
        ("for 'ada+x@bücher.example', twice", "for '***@***', twice"),
        ("postgresql://shop:geheim@db.example:5432/shop failed", "***@*** failed"),
        ("3 @ 5", "3 @ 5"),
    ],
)
def test_what_is_private_is_blotted_out_of_message_and_stack(text: str, shown: str) -> None:
    assert line("%s", text)["message"] == shown
    try:
        raise RuntimeError(text)
    except RuntimeError:
        record = logging.LogRecord("shop", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    assert json.loads(logs.JsonLines().format(record))["stack_trace"].endswith(f"RuntimeError: {shown}")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-cloud-trace-context": f"{ID}/1;o=1"},
        {"x-cloud-trace-context": f"{ID};o=1"},
        {"x-cloud-trace-context": ID},
        {"x-cloud-trace-context": ID.upper()},
        {"traceparent": f"00-{ID}-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{ID}-00f067aa0ba902b7-01", "x-cloud-trace-context": "broken"},
        {"x-cloud-trace-context": f"{ID}/1", "traceparent": f"00-{'f' * 32}-00f067aa0ba902b7-01"},
    ],
)
def test_either_header_gives_the_trace(headers: dict[str, str]) -> None:
    assert logs.trace(headers, "shop") == f"projects/shop/traces/{ID}"
    assert logs.trace(headers, None) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-cloud-trace-context": ID + "0/1"},
        {"x-cloud-trace-context": ID[1:] + "/1"},
        {"traceparent": ID},
        {"traceparent": f"00-{ID}"},
    ],
)
def test_what_is_no_trace_gives_none(headers: dict[str, str]) -> None:
    assert logs.trace(headers, "shop") is None
