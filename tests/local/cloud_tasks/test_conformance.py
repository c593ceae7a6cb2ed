"""What the official client is answered over gRPC, asyncio and REST, where no recording tells: a row a call.

The recorded answers are in test_recorded.py; here is the client's own way of asking, and what the reference says.
"""
# ruff: noqa: E501 - a table has a line a row

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2beta3
from google.cloud.tasks_v2beta3.services.cloud_tasks.transports import CloudTasksGrpcTransport as BetaTransport

from tests.local.cloud_tasks.serving import ACCOUNT, LOCATION, Client, Serving, client
from tests.local.running import request as http

REFERENCE = "the comments of the official protos"
GUIDE = "the service's guides: quotas, queue configuration, IAM"
OURS = "a documented rule; no answer is on record, so the words are ours"

QUEUE = f"{LOCATION}/queues/q"
TASK = f"{QUEUE}/tasks/live"
ABSENT = f"{QUEUE}/tasks/absent"
UPDATED = f"{LOCATION}/queues/updated"
ELSEWHERE = "projects/other/locations/europe-west1"
LISTED = "projects/listed/locations/us-central1"
URL = "https://handler.example/process-order"

NO_ENTITY = "Requested entity was not found."
DENIED = 'The principal lacks IAM permission "iam.serviceAccounts.actAs" for the resource "{}"'


class Row(NamedTuple):
    """`expected`: an error's text, or its beginning before `...`; or what the response has at least."""

    call: str
    request: dict[str, Any]
    code: str
    expected: Any
    source: str


def queue(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    return {"parent": LOCATION, "queue": {"name": f"{LOCATION}/queues/refused", **fields}}


def task(task_id: str = "", parent: str = QUEUE, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    http = {"url": URL, "body": b"{}", **fields.pop("http_request", {})}
    named = {"name": f"{parent}/tasks/{task_id}"} if task_id else {}
    return {"parent": parent, "task": {"http_request": http, **named, **fields}}


def update(mask: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    return {"queue": {"name": UPDATED, **fields}, "update_mask": {"paths": mask.split()}}


INVALID = "INVALID_ARGUMENT"
DEFAULTS: dict[str, Any] = {
    "rateLimits": {"maxDispatchesPerSecond": 500.0, "maxBurstSize": 100, "maxConcurrentDispatches": 1000},
    "retryConfig": {"maxAttempts": 100, "minBackoff": "0.100s", "maxBackoff": "3600s", "maxDoublings": 16},
}

ROWS = [
    Row("get_queue", {"name": QUEUE}, "OK", {"name": QUEUE, "state": "RUNNING", **DEFAULTS}, REFERENCE),
    Row("create_queue", {"parent": ELSEWHERE, "queue": {"name": f"{ELSEWHERE}/queues/new"}}, "OK", DEFAULTS, REFERENCE),
    Row("create_queue", queue(app_engine_routing_override={"service": "s"}), "UNIMPLEMENTED", "App Engine routing is not served here...", OURS),
    Row("update_queue", update("rate_limits.max_dispatches_per_second", rate_limits={"max_dispatches_per_second": 5}), "OK", {"rateLimits": {"maxDispatchesPerSecond": 5.0, "maxBurstSize": 10, "maxConcurrentDispatches": 7}}, REFERENCE),
    Row("update_queue", update("retry_config.max_doublings http_target.http_method", http_target={"http_method": "PUT"}), "OK", {"httpTarget": {"httpMethod": "PUT", "uriOverride": {"host": "h.example"}}}, REFERENCE),
    Row("list_queues", {"parent": LISTED, "page_size": 2}, "OK", {"queues": [{"name": f"{LISTED}/queues/a"}, {"name": f"{LISTED}/queues/b"}]}, REFERENCE),
    Row("list_queues", {"parent": LISTED, "filter": "name: queues/c"}, "OK", {"queues": [{"name": f"{LISTED}/queues/c"}]}, REFERENCE),
    Row("list_queues", {"parent": LISTED, "filter": "name:" + "(" * 500}, INVALID, "Invalid filter.", OURS),
    Row("list_queues", {"parent": LISTED, "filter": "(" * 500}, INVALID, "Invalid filter.", OURS),
    Row("set_iam_policy", {"resource": QUEUE, "policy": {"bindings": [{"role": "roles/cloudtasks.viewer", "members": ["user:a@b.c"]}]}}, "OK", {"bindings": [{"role": "roles/cloudtasks.viewer", "members": ["user:a@b.c"]}]}, GUIDE),
    Row("set_iam_policy", {"resource": QUEUE, "policy": {"bindings": [{"role": "roles/run.invoker", "members": ["user:a@b.c"]}]}}, INVALID, "Role roles/run.invoker is not supported for this resource.", GUIDE),
    Row("create_task", task("new"), "OK", {"name": f"{QUEUE}/tasks/new", "view": "BASIC"}, REFERENCE),
    Row("create_task", task(http_request={"url": f"https://handler.example/{'u' * 2083}"}), INVALID, "HttpRequest.url must be at most 2083 characters long.", OURS),
    Row("create_task", task(http_request={"url": "http://h:99999/"}), INVALID, "HttpRequest.url 'http://h:99999/' is not a valid URL.", OURS),
    Row("create_task", task(http_request={"url": f"http://{'h' * 70}/"}), INVALID, f"HttpRequest.url 'http://{'h' * 70}/' is not a valid URL.", OURS),
    Row("create_task", task(http_request={"headers": {"X-Large": "x" * 81920}}), INVALID, "HttpRequest.headers must be smaller than 80 KB.", OURS),
    Row("create_task", task(http_request={"oidc_token": {"service_account_email": "ghost@shop.example"}}), "PERMISSION_DENIED", DENIED.format("ghost@shop.example") + "...", GUIDE),
    Row("create_task", {"parent": QUEUE, "task": {"app_engine_http_request": {}}}, "UNIMPLEMENTED", "App Engine tasks are not served here; create an HTTP task", OURS),
    Row("get_operation", {"name": f"{LOCATION}/operations/none"}, "NOT_FOUND", NO_ENTITY, OURS),
]  # fmt: skip


UPDATED_BEFORE = {
    "name": UPDATED,
    "rate_limits": {"max_dispatches_per_second": 77, "max_concurrent_dispatches": 7},
    "retry_config": {"max_attempts": 9, "max_backoff": "60s"},
    "http_target": {"uri_override": {"host": "h.example"}},
}


@pytest.fixture(scope="module", params=["grpc", "asyncio", "rest"])
def call(request: pytest.FixtureRequest) -> Iterator[Client]:
    """The official client of a service with the queues and tasks that the rows name."""
    with Serving() as service, client(request.param, service.grpc, service.rest) as call:
        for name in (QUEUE, *(f"{LISTED}/queues/{letter}" for letter in "abc")):
            assert call("create_queue", {"parent": name.partition("/queues/")[0], "queue": {"name": name}})[0] == "OK"
        assert call("create_task", task("live"))[0] == "OK"
        yield call


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.call}-{row.code}")
def test_a_call_answers_as_the_service_does(call: Client, row: Row) -> None:
    if row.call == "update_queue":
        assert call("update_queue", {"queue": UPDATED_BEFORE})[0] == "OK"
    code, answer = call(row.call, row.request)
    assert code == row.code, answer
    if isinstance(row.expected, str):
        begins = row.expected.removesuffix("...")
        assert answer.startswith(begins) if begins != row.expected else answer == row.expected, answer
    else:
        assert_has(answer, row.expected)


def assert_has(answer: Any, expected: Any) -> None:  # noqa: ANN401 - any JSON
    """Dicts have the expected entries at least, lists and values are equal."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in answer, (key, answer)
            assert_has(answer[key], value)
    elif isinstance(expected, list):
        assert len(answer) == len(expected), answer
        for each, value in zip(answer, expected, strict=True):
            assert_has(each, value)
    else:
        assert answer == expected


@pytest.fixture(scope="module")
def service() -> Iterator[Serving]:
    with Serving() as service:
        http(f"http://{service.rest}/v2/{LOCATION}/queues", json.dumps({"name": QUEUE}).encode())
        yield service


INVALID_VALUE = "Invalid value at 'task.{}' ({}), {}"
STRING, BYTES, WELL_KNOWN = "TYPE_STRING", "TYPE_BYTES", "type.googleapis.com/google.protobuf"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\xff\xfe", "Invalid JSON payload received."),
        (b"[" * 100_000, "Invalid JSON payload received."),
        (b'{"task":' * 100_000, "Invalid JSON payload received."),
        (b'{"task": {"httpRequest": {"url": 1}}}', INVALID_VALUE.format("http_request.url", STRING, "1")),
        (b'{"task": {"httpRequest": {"url": "\\ud800"}}}', "Invalid JSON payload received."),
        (b'{"task": {"httpRequest": {"headers": {"a": 1}}}}', "Invalid value at 'task.http_request.headers'"),
        (b'{"task": {"httpRequest": []}}', "Proto field is not repeating, cannot start list."),
        (b'{"task": {"httpRequest": {"headers": []}}}', "Invalid value at 'task.http_request.headers'"),
        (b'{"task": {"httpRequest": {"body": "*"}}}', "Base64 decoding failed for"),
        (b'{"task": {"httpRequest": {"httpMethod": 9999999999}}}', "google.cloud.tasks.v2.HttpMethod), 9999999999"),
        (
            b'{"task": {"scheduleTime": "tomorrow"}}',
            f"({WELL_KNOWN}.Timestamp), Field 'scheduleTime', Illegal timestamp",
        ),
        (b'{"task": {"scheduleTime": "9999-99-99T99:99:99Z"}}', "schedule_time"),
        (
            b'{"task": {"dispatchDeadline": 15}}',
            INVALID_VALUE.format("dispatch_deadline", f"{WELL_KNOWN}.Duration", "15"),
        ),
        (b'{"task": {"dispatchDeadline": "15"}}', "Illegal duration format; duration must end with 's'"),
        (b'{"task": {"scheduleTime": "9999-12-31T23:59:59Z", "httpRequest": {"url": "http://h"}}}', "too far"),
        (b'{"task": 1}', "Invalid value at 'task' (type.googleapis.com/google.cloud.tasks.v2.Task), 1"),
        (b'{"responseView": true}', "Task.View), true"),
    ],
)
def test_json_that_is_no_request_is_named_with_what_is_wrong(service: Serving, body: bytes, text: str) -> None:
    status, answer = http(f"http://{service.rest}/v2/{QUEUE}/tasks", body)
    error = json.loads(answer)["error"]
    assert (status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert text in error["message"]


@pytest.mark.parametrize(
    ("query", "rates"),
    [
        ("updateMask=rateLimits.maxDispatchesPerSecond", (3, 1000)),
        ("updateMask=rate_limits.max_dispatches_per_second", (3, 1000)),
        ("update_mask=rate_limits.max_dispatches_per_second,rateLimits.maxConcurrentDispatches", (3, 7)),
        ("updateMask.paths=rate_limits.max_dispatches_per_second&updateMask.paths=rate_limits", (3, 7)),
        ("", (3, 7)),
    ],
)
@pytest.mark.parametrize("override", [False, True])
def test_an_update_mask_is_taken_in_each_form_that_a_client_sends(
    service: Serving, query: str, rates: tuple[int, int], override: bool
) -> None:
    body = b'{"rateLimits": {"maxDispatchesPerSecond": "3", "max_concurrent_dispatches": 7.0}}'
    url = f"http://{service.rest}/v2/{LOCATION}/queues/mask"
    for data, parameters in ((b"{}", ""), (body, f"?$alt=json;enum-encoding%3Dint&{query}")):
        method, headers = ("POST", {"X-HTTP-Method-Override": "PATCH"}) if override else ("PATCH", {})
        asked = urllib.request.Request(
            url + parameters, data, {"Content-Type": "application/json", **headers}, method=method
        )
        with urllib.request.urlopen(asked, timeout=30) as response:
            answer = json.load(response)
    limits = answer["rateLimits"]
    assert (limits["maxDispatchesPerSecond"], limits["maxConcurrentDispatches"]) == rates
    assert answer["state"] == 1


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ("name", {"name": QUEUE}),
        ("state,rate_limits/maxBurstSize", {"rateLimits": {"maxBurstSize": 100}, "state": "RUNNING"}),
        (
            "rateLimits(maxBurstSize),retryConfig(*)",
            {"rateLimits": {"maxBurstSize": 100}, "retryConfig": DEFAULTS["retryConfig"]},
        ),
    ],
)
def test_fields_select_a_part_of_the_answer(service: Serving, fields: str, answer: dict[str, Any]) -> None:
    _, text = http(f"http://{service.rest}/v2/{QUEUE}?fields={fields}")
    assert json.loads(text) == answer
    assert http(f"http://{service.rest}/v2/{QUEUE}?fields=name(")[0] == 400


@pytest.mark.parametrize(
    ("name", "body", "metadata", "timeout", "text"),
    [
        ("GetQueue", b"\xff\xff", [("x-goog-request-params", f"name={QUEUE}")], 5, "Request contains an invalid argument."),
        ("GetQueue", b"\x0a\x01\xff", [("x-goog-request-params", f"name={QUEUE}")], 5, "Request contains an invalid argument."),
        ("GetQueue", b"", [], 5, '"x-goog-request-params" header is either missing or misformatted. "x-goog-request-params" must contain "name=".'),
        ("GetQueue", b"", [("x-goog-request-params", "parent=")], 5, '"x-goog-request-params" header is either missing or misformatted. "x-goog-request-params" must contain "name=".'),
        ("GetQueue", b"", [("x-goog-request-params", "name=")], 60, "The request deadline is 20.*-0[78]:00. The deadline cannot be more than 30s in the future."),
    ],
)  # fmt: skip
def test_a_grpc_call_that_does_not_parse_or_lacks_its_header_is_an_invalid_argument(
    service: Serving, name: str, body: bytes, metadata: list[tuple[str, str]], timeout: float, text: str
) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        call: Any = channel.unary_unary(f"/google.cloud.tasks.v2.CloudTasks/{name}")
        with pytest.raises(grpc.RpcError) as caught:
            call(body, metadata=metadata, timeout=timeout)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert re.fullmatch(text, error.details())


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_where_grants_count_a_caller_may_do_what_its_roles_say_and_no_more(tmp_path: Path, kind: str) -> None:
    member = f"serviceAccount:{ACCOUNT}"
    grants = [("roles/cloudtasks.taskDeleter", member), ("roles/cloudtasks.viewer", member)]
    denied = (
        'The principal (user or service account) lacks IAM permission "cloudtasks.{}" for the resource "{}" '
        "(or the resource may not exist)."
    )
    full = {"name": ABSENT, "response_view": "FULL"}
    asked = {"resource": QUEUE, "permissions": ["cloudtasks.tasks.get", "cloudtasks.tasks.create"]}
    with (
        Serving(tmp_path, member, {QUEUE: grants}) as service,
        client(kind, service.grpc, service.rest) as call,
    ):
        assert call("create_task", task("t")) == ("PERMISSION_DENIED", denied.format("tasks.create", QUEUE))
        assert call("delete_task", {"name": ABSENT}) == ("NOT_FOUND", NO_ENTITY)
        assert call("get_task", {"name": ABSENT}) == ("NOT_FOUND", NO_ENTITY)
        assert call("get_task", full) == ("PERMISSION_DENIED", denied.format("tasks.fullView", ABSENT))
        assert call("test_iam_permissions", asked) == ("OK", {"permissions": ["cloudtasks.tasks.get"]})


def test_v2beta3_answers_as_v2_with_a_queues_statistics(service: Serving) -> None:
    name = f"{LOCATION}/queues/beta"
    transport = BetaTransport(channel=grpc.insecure_channel(service.grpc))
    with tasks_v2beta3.CloudTasksClient(transport=transport) as beta:
        limits = {"max_dispatches_per_second": 7}
        beta.create_queue({"parent": LOCATION, "queue": {"name": name, "rate_limits": limits}})
        http_request = {"url": URL, "body": b"{}"}
        for task_id in ("a", "b"):
            task = {"name": f"{name}/tasks/{task_id}", "http_request": http_request}
            beta.create_task({"parent": name, "task": task})
        service.answer(service.do(lambda tasks: tasks.start_attempts(name))[0], 200)
        queue = beta.get_queue({"name": name})
        assert (queue.type_, queue.rate_limits.max_burst_size, "stats" in queue) == (2, 10, False)
        stats = beta.get_queue({"name": name, "read_mask": {"paths": ["name", "stats"]}}).stats
        assert (stats.tasks_count, stats.executed_last_minute_count) == (1, 1)
        assert (stats.concurrent_dispatches_count, stats.effective_execution_rate) == (1, 7)
        found = beta.get_task({"name": f"{name}/tasks/b", "response_view": "FULL"})
        assert (found.http_request.body, found.dispatch_count) == (b"{}", 1)
        assert [each.name for each in beta.list_tasks(parent=name)] == [found.name]
        with pytest.raises(exceptions.MethodNotImplemented, match="pullMessage"):
            beta.create_task({"parent": name, "task": {"pull_message": {"payload": b"x"}}})
        with pytest.raises(exceptions.NotFound, match="Queue does not exist"):
            beta.pause_queue(name=f"{name}-missing")
    status, text = http(f"http://{service.rest}/v2beta3/{name}?readMask=stats")
    assert (status, json.loads(text)["stats"]["tasksCount"]) == (200, "1")


@pytest.mark.parametrize("version", ["v2", "v2beta3"])
def test_a_buffered_task_is_made_of_the_raw_body_and_the_queues_target(service: Serving, version: str) -> None:
    name = f"{LOCATION}/queues/buffer-{version}"
    target = {"uriOverride": {"host": "h.example", "pathOverride": {"path": "/p"}}, "httpMethod": "PUT"}
    http(f"http://{service.rest}/v2/{LOCATION}/queues", json.dumps({"name": name, "httpTarget": target}).encode())
    for path, task_id in (("tasks/own:buffer", "own"), ("tasks:buffer", r"\d+")):
        status, text = http(f"http://{service.rest}/{version}/{name}/{path}", b"raw \xff")
        assert status == 200
        assert re.fullmatch(f"{name}/tasks/{task_id}", json.loads(text)["task"]["name"])
    attempts = service.do(lambda tasks: tasks.start_attempts(name))
    assert {(each.method, each.url, each.body) for each in attempts} == {("PUT", "https://h.example/p", b"raw \xff")}
    assert http(f"http://{service.rest}/{version}/{QUEUE}/tasks:buffer", b"x")[0] == 400
