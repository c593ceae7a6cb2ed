import io
import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from order_handler import logs, trace

ID = "105445aa7843bc8bf206b12000100000"


Line = dict[str, Any]
Log = Callable[..., Line]


@pytest.fixture
def write(capsys: pytest.CaptureFixture[str]) -> Log:
    """Makes an order's line."""

    def written(message: str, failure: BaseException | None = None, **fields: object) -> Line:
        logs.write(logging.WARNING, message, fields, failure)
        return parsed(capsys.readouterr().out.removesuffix("\n"))

    return written


def record(message: str, failure: BaseException | None = None) -> Line:
    """A line of `logging`."""
    info = (type(failure), failure, failure.__traceback__) if failure else None
    return parsed(
        logs.JsonLines().format(logging.LogRecord("shop", logging.WARNING, __file__, 1, "%s", (message,), info))
    )


def parsed(text: str) -> Line:
    assert "\n" not in text
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


@pytest.fixture(params=["written", "recorded"])
def log(request: pytest.FixtureRequest, write: Log) -> Log:
    return write if request.param == "written" else record


def boom(text: str) -> Exception:
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return error


def test_a_line_says_severity_message_and_time_in_utc(log: Log) -> None:
    found = log("took\n3 s")
    assert found.keys() == {"severity", "message", "time"}
    assert (found["severity"], found["message"]) == ("WARNING", "took\n3 s")
    assert datetime.fromisoformat(found["time"]).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("550 <ada@example.com>: unknown", "550 <***@***>: unknown"),
        ("for 'ada+x@bücher.example', twice", "for '***@***', twice"),
        ("postgresql://shop:geheim@db.example:5432/shop failed", "***@*** failed"),
        ("3 @ 5", "3 @ 5"),
    ],
)
def test_what_is_private_is_masked_in_message_and_stack(log: Log, text: str, shown: str) -> None:
    found = log(text, boom(text))
    assert found["message"] == shown
    assert found["stack_trace"].endswith(f"RuntimeError: {shown}")


def test_a_line_that_cannot_be_written_fails_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.write(logging.INFO, "half a surrogate pair: \ud800", {})
    assert capsys.readouterr().err.startswith("A log line is lost: ")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdout", closed)
    logs.write(logging.INFO, "done", {})
    assert capsys.readouterr().err.startswith("A log line is lost: ")
    monkeypatch.setattr("sys.stderr", closed)
    logs.write(logging.INFO, "done", {})


PARENT = f"00-{ID}-00f067aa0ba902b7-01"
OTHER = f"00-{'f' * 32}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "outgoing"),
    [
        ({"x-order-traceparent": PARENT, "traceparent": OTHER, "x-cloud-trace-context": OTHER[3:35]}, PARENT),
        ({"traceparent": PARENT, "x-cloud-trace-context": OTHER[3:35]}, PARENT),
        ({"x-order-traceparent": "broken", "traceparent": PARENT}, PARENT),
        ({"x-cloud-trace-context": f"{ID}/1;o=1"}, None),
        ({"x-cloud-trace-context": f"{ID};o=1", "traceparent": "broken"}, None),
        ({"x-cloud-trace-context": ID.upper()}, None),
    ],
)
def test_a_request_continues_the_order_s_trace(headers: dict[str, str], outgoing: str | None) -> None:
    assert trace.begin(headers) == ID
    assert trace.headers() == ({"traceparent": outgoing, trace.OWN_HEADER: outgoing} if outgoing else {})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-cloud-trace-context": ID + "0/1"},
        {"x-cloud-trace-context": ID[1:] + "/1"},
        {"traceparent": ID},
        {"traceparent": f"00-{ID}-01"},
    ],
)
def test_what_is_no_trace_gives_none(headers: dict[str, str]) -> None:
    trace.begin({"traceparent": PARENT})
    assert (trace.begin(headers), trace.headers()) == (None, {})
