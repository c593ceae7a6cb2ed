"""The contract of the design, row by row, on the ASGI application in this process."""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from order_handler import orders
from order_handler.app import MAX_BODY, App
from order_handler.environment import Environment
from order_handler.logs import JsonLines
from order_handler.orders import Order, PermanentError
from starlette.types import Message

DIRECT: dict[str, str] = {}
DELIVERED = {
    "X-CloudTasks-TaskName": "task-1",
    "X-CloudTasks-QueueName": "cloud-run-tasks",
    "X-CloudTasks-TaskRetryCount": "0",
}
TRACE = "105445aa7843bc8bf206b12000100000"

both = pytest.mark.parametrize("headers", [DIRECT, DELIVERED], ids=["direct", "delivered"])
running = asyncio.Event()


@orders.action("refuse")
async def refuse(order: Order) -> str:
    raise PermanentError("No such article")


@orders.action("break")
async def break_(order: Order) -> str:
    raise RuntimeError("secret inner detail")


@orders.action("hang")
async def hang(order: Order) -> str:
    running.set()
    await asyncio.Event().wait()
    return "never"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return json.loads(self.body)


async def send(
    method: str, path: str, headers: Mapping[str, str] = DIRECT, chunks: Sequence[bytes] = (b"",), whole: bool = True
) -> Answer:
    """One request to a handler with 5 attempts in project `shop`; unless `whole`, the caller leaves after them."""
    events: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if whole:
        events[-1]["more_body"] = False
    sent: list[Message] = []

    async def receive() -> Message:
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def collect(message: Message) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw}
    await App(Environment(host="127.0.0.1", port=8080, max_attempts=5, project="shop"))(scope, receive, collect)
    start, content = sent
    return Answer(start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, content["body"])


async def order(headers: Mapping[str, str], order_id: str = "ORD-1", action: str = "send_confirmation") -> Answer:
    message = {"orderId": order_id, "action": action, "customerEmail": "ada@example.com"}
    return await send("POST", "/process-order", headers, [json.dumps(message, ensure_ascii=False).encode()])


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonLines().format(record)) for record in caplog.records]


@pytest.fixture(autouse=True)
def every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_says_that_the_handler_runs_and_logs_nothing(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await send(method, "/")
    assert (answer.status, answer.body) == (200, b"Task handler is running")
    assert answer.headers["content-type"].startswith("text/plain")
    assert lines(caplog) == []


@both
@pytest.mark.parametrize("action", ["send_confirmation", "update_inventory", "notify_warehouse"])
async def test_an_order_that_is_done_is_200(headers: dict[str, str], action: str) -> None:
    answer = await order(headers, action=action)
    assert (answer.status, answer.json) == (200, {"status": "processed", "orderId": "ORD-1"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))


@both
@pytest.mark.parametrize("order_id", ["Bestellung-ü 🧾", "100%s", 'a"b\\c\n', "a/b"])
async def test_an_order_id_comes_back_exactly(
    headers: dict[str, str], order_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await order(headers, order_id)
    assert answer.json == {"status": "processed", "orderId": order_id}
    [line] = lines(caplog)
    assert line["orderId"] == order_id
    assert order_id in line["message"]


@both
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_the_content_type_is_no_matter(headers: dict[str, str], content_type: str | None) -> None:
    answer = await order({**headers, "Content-Type": content_type} if content_type else headers)
    assert answer.status == 200


@both
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{}", "Missing orderId or action"),
        (b'{"orderId": "ORD-1", "action": "fl\xc3\xbcgel"}', "Unknown action: flügel"),
        (b'{"orderId": "ORD-1", "action": "send_confirmation"}', "Missing customerEmail"),
        (b'{"orderId": "ORD-1", "action": "refuse"}', "No such article"),
        (b"order", "Malformed order: JSON is malformed: invalid character (byte 0)"),
        (b"[]", "Malformed order: Expected `object`, got `array`"),
        (b'{"orderId": 1}', "Malformed order: Expected `str`, got `int` - at `$.orderId`"),
    ],
)
async def test_a_permanent_failure_is_400_with_its_reason_and_a_warning_without_a_stack(
    headers: dict[str, str], body: bytes, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await send("POST", "/process-order", headers, [body])
    assert (answer.status, answer.json) == (400, {"error": error})
    [line] = lines(caplog)
    assert (line["severity"], line["message"], line["status"]) == ("WARNING", error, 400)
    assert "stack_trace" not in line


@both
async def test_a_transient_failure_is_500_and_only_the_log_knows_why(
    headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    answer = await order(headers, action="break")
    assert (answer.status, answer.json) == (500, {"error": "Internal error"})
    [line] = lines(caplog)
    assert (line["message"], line["status"], line["action"]) == ("RuntimeError('secret inner detail')", 500, "break")
    assert line["stack_trace"].startswith("Traceback")


@pytest.mark.parametrize(
    ("retry_count", "severity", "attempt"),
    [
        ("0", "WARNING", "1 of 5"),
        ("3", "WARNING", "4 of 5"),
        ("4", "ERROR", "5 of 5"),
        ("7", "ERROR", "8 of 5"),
        ("many", "ERROR", "? of 5"),
    ],
)
async def test_a_transient_failure_is_an_error_when_no_attempt_is_left(
    retry_count: str, severity: str, attempt: str, caplog: pytest.LogCaptureFixture
) -> None:
    await order({**DELIVERED, "X-CloudTasks-TaskRetryCount": retry_count}, action="break")
    [line] = lines(caplog)
    assert (line["severity"], line["attempt"]) == (severity, attempt)


async def test_a_transient_failure_of_a_direct_call_is_an_error_since_nobody_retries_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await order(DIRECT, action="break")
    [line] = lines(caplog)
    assert line["severity"] == "ERROR"
    assert "attempt" not in line


@both
async def test_a_body_of_1_mib_is_read_in_any_chunks(headers: dict[str, str]) -> None:
    body = b'{"orderId": "ORD-1", "action": "update_inventory"}'.ljust(MAX_BODY)
    answer = await send("POST", "/process-order", headers, [body[:7], body[7:1000], b"", body[1000:]])
    assert answer.status == 200


@both
async def test_a_body_over_1_mib_is_400_before_its_rest_arrives(headers: dict[str, str]) -> None:
    body = b'{"orderId": "ORD-1", "action": "update_inventory"}'.ljust(MAX_BODY + 1)
    # The caller leaves after these bytes: reading on would end in 500.
    answer = await send("POST", "/process-order", headers, [body], whole=False)
    assert (answer.status, answer.json) == (400, {"error": "Body is over 1 MiB"})


@both
async def test_an_order_whose_end_is_missing_is_never_run(
    headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"orderId": "ORD-1", "action": "update_inventory"}'
    answer = await send("POST", "/process-order", headers, [body], whole=False)
    assert answer.status == 500
    [line] = lines(caplog)
    assert "orderId" not in line


async def test_an_order_that_outlasts_the_graceful_end_is_500(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(order(DELIVERED, action="hang"))
    await running.wait()
    task.cancel()
    assert (await task).status == 500
    [line] = lines(caplog)
    assert (line["severity"], line["orderId"]) == ("WARNING", "ORD-1")


@both
@pytest.mark.parametrize(
    ("method", "path", "status", "error", "allow"),
    [
        ("GET", "/process-order", 405, "Method not allowed: GET /process-order", "POST"),
        ("PUT", "/process-order", 405, "Method not allowed: PUT /process-order", "POST"),
        ("POST", "/", 405, "Method not allowed: POST /", "GET, HEAD"),
        ("POST", "/process-order/", 404, "Not found: POST /process-order/", None),
        ("GET", "/100%s", 404, "Not found: GET /100%s", None),
    ],
)
async def test_a_wrong_method_or_path_is_refused_in_json_and_in_one_line(
    headers: dict[str, str],
    method: str,
    path: str,
    status: int,
    error: str,
    allow: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await send(method, path, headers)
    assert (answer.status, answer.json, answer.headers.get("allow")) == (status, {"error": error}, allow)
    [line] = lines(caplog)
    assert (line["severity"], line["message"], line["status"]) == ("WARNING", error, status)
    assert line.get("task") == headers.get("X-CloudTasks-TaskName")


async def test_a_done_delivery_logs_one_line_with_everything_but_the_email(caplog: pytest.LogCaptureFixture) -> None:
    await order({**DELIVERED, "X-Cloud-Trace-Context": f"{TRACE}/1;o=1", "Authorization": "Bearer token"})
    [line] = lines(caplog)
    line.pop("time")
    assert line == {
        "severity": "INFO",
        "message": "Confirmation mail for ORD-1 sent (simulated)",
        "status": 200,
        "logging.googleapis.com/trace": f"projects/shop/traces/{TRACE}",
        "task": "task-1",
        "queue": "cloud-run-tasks",
        "attempt": "1 of 5",
        "orderId": "ORD-1",
        "action": "send_confirmation",
    }


async def test_a_done_direct_call_logs_no_delivery(caplog: pytest.LogCaptureFixture) -> None:
    await order(DIRECT)
    [line] = lines(caplog)
    assert line.keys() == {"severity", "message", "time", "status", "orderId", "action"}
