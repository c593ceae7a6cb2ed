"""What each call answers, over gRPC, asyncio and REST alike: one row a call, with the source of the expectation."""
# ruff: noqa: E501 - a table has a line a row

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.local.cloud_tasks.serving import ACCOUNT, LOCATION, Client, Serving, client
from tests.local.running import request as http

RECORDED = "an answer recorded from the service"
REFERENCE = "the comments of the official protos"
GUIDE = "the service's guides: quotas, queue configuration, IAM"
OURS = "a documented rule; no answer is on record, so the words are ours"

QUEUE = f"{LOCATION}/queues/q"
PAUSED = f"{LOCATION}/queues/paused"
DELETED = f"{LOCATION}/queues/deleted"
MISSING = f"{LOCATION}/queues/missing"
TASK = f"{QUEUE}/tasks/live"
ENDED = f"{QUEUE}/tasks/ended"
ABSENT = f"{QUEUE}/tasks/absent"
UPDATED = f"{LOCATION}/queues/updated"
ELSEWHERE = "projects/other/locations/europe-west1"
LISTED = "projects/listed/locations/us-central1"
URL = "https://handler.example/process-order"
BODY = base64.b64encode(b"{}").decode()

NO_QUEUE = "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
NO_ENTITY = "Requested entity was not found."
TOO_RECENT = "The queue cannot be created because a queue with this name existed too recently."
TASK_GONE = (
    "The task no longer exists, though a task with this name existed recently. "
    "The task either successfully completed or was deleted."
)
QUEUE_FORMAT = 'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'
TASK_ID = (
    'Task ID "{}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or underscores (_). '
    "Task ID must between 1 and 500 characters."
)
DEADLINE = "Task.dispatchDeadline must be between [15s, 30m]."
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
    # queues: names
    Row("get_queue", {"name": QUEUE}, "OK", {"name": QUEUE, "state": "RUNNING", **DEFAULTS}, REFERENCE),
    Row("get_queue", {"name": MISSING}, "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("get_queue", {"name": DELETED}, "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("get_queue", {"name": f"{LOCATION}/queues/a_b"}, INVALID, QUEUE_FORMAT, RECORDED),
    Row("get_queue", {"name": f"{LOCATION}/queues/{'q' * 101}"}, INVALID, QUEUE_FORMAT, REFERENCE),
    Row("create_queue", {"parent": LOCATION, "queue": {"name": QUEUE}}, "ALREADY_EXISTS", "Queue already exists", RECORDED),
    Row("create_queue", {"parent": LOCATION, "queue": {"name": DELETED}}, "FAILED_PRECONDITION", TOO_RECENT, RECORDED),
    Row("create_queue", {"parent": LOCATION, "queue": {"name": "not a name"}}, INVALID, QUEUE_FORMAT, RECORDED),
    Row("create_queue", {"parent": ELSEWHERE, "queue": {"name": QUEUE}}, INVALID, f"The queue {QUEUE!r} must be in...", OURS),
    Row("create_queue", {"parent": ELSEWHERE, "queue": {"name": f"{ELSEWHERE}/queues/new"}}, "OK", DEFAULTS, REFERENCE),
    Row("update_queue", {"queue": {"name": DELETED}}, "FAILED_PRECONDITION", TOO_RECENT, RECORDED),
    Row("update_queue", {"queue": {"name": f"{LOCATION}/queues/upserted"}}, "OK", DEFAULTS, REFERENCE),
    Row("delete_queue", {"name": MISSING}, "NOT_FOUND", NO_ENTITY, RECORDED),
    Row("delete_queue", {"name": DELETED}, "NOT_FOUND", NO_ENTITY, RECORDED),
    Row("pause_queue", {"name": MISSING}, "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("resume_queue", {"name": MISSING}, "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("purge_queue", {"name": MISSING}, "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("pause_queue", {"name": PAUSED}, "OK", {"state": "PAUSED"}, REFERENCE),
    # queues: figures
    Row("create_queue", queue(rate_limits={"max_dispatches_per_second": -1}), INVALID, "RateLimits.maxDispatchesPerSecond cannot be negative.", RECORDED),
    Row("create_queue", queue(rate_limits={"max_dispatches_per_second": 501}), INVALID, "RateLimits.maxDispatchesPerSecond must be less than or equal to 500.", RECORDED),
    Row("create_queue", queue(rate_limits={"max_concurrent_dispatches": -1}), INVALID, "RateLimits.maxConcurrentDispatches cannot be negative.", RECORDED),
    Row("create_queue", queue(rate_limits={"max_concurrent_dispatches": 5001}), INVALID, "RateLimits.maxConcurrentDispatches must be less than or equal to 5000.", RECORDED),
    Row("create_queue", queue(retry_config={"max_attempts": -2}), INVALID, "RetryConfig.maxAttempts must be greater or equal to -1.", RECORDED),
    Row("create_queue", queue(retry_config={"max_doublings": -1}), INVALID, "RetryConfig.maxDoublings cannot be negative.", RECORDED),
    Row("create_queue", queue(retry_config={"min_backoff": "-1s"}), INVALID, "RetryConfig.minBackoff cannot be negative.", RECORDED),
    Row("create_queue", queue(retry_config={"max_retry_duration": "-1s"}), INVALID, "RetryConfig.maxRetryDuration cannot be negative.", OURS),
    Row("create_queue", queue(retry_config={"min_backoff": "9s", "max_backoff": "8s"}), INVALID, "RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.", RECORDED),
    Row("create_queue", queue(stackdriver_logging_config={"sampling_ratio": 1.5}), INVALID, "StackdriverLoggingConfig.samplingRatio must be between 0.0 and 1.0.", OURS),
    Row("create_queue", queue(http_target={"oidc_token": {"service_account_email": ACCOUNT}}), INVALID, "HttpTarget.oidcToken.audience is required...", OURS),
    Row("create_queue", queue(http_target={"uri_override": {"host": ""}}), INVALID, "UriOverride.host cannot be empty.", OURS),
    Row("create_queue", queue(app_engine_routing_override={"service": "s"}), "UNIMPLEMENTED", "App Engine routing is not served here...", OURS),
    Row("create_queue", queue(name=f"{LOCATION}/queues/burst", rate_limits={"max_burst_size": -1, "max_dispatches_per_second": 333}), "OK", {"rateLimits": {"maxDispatchesPerSecond": 333.0, "maxBurstSize": 66, "maxConcurrentDispatches": 1000}}, RECORDED),
    Row("create_queue", queue(name=f"{LOCATION}/queues/slow", rate_limits={"max_dispatches_per_second": 0.5}), "OK", {"rateLimits": {"maxDispatchesPerSecond": 0.5, "maxBurstSize": 10, "maxConcurrentDispatches": 1000}}, RECORDED),
    Row("create_queue", queue(name=f"{LOCATION}/queues/state", state="PAUSED", retry_config={"max_retry_duration": "9.9s"}), "OK", {"state": "RUNNING", "retryConfig": {**DEFAULTS["retryConfig"], "maxRetryDuration": "9s"}}, REFERENCE),
    # queues: masks
    Row("update_queue", update("rate_limits.max_dispatches_per_second", rate_limits={"max_dispatches_per_second": 5}), "OK", {"rateLimits": {"maxDispatchesPerSecond": 5.0, "maxBurstSize": 10, "maxConcurrentDispatches": 7}}, REFERENCE),
    Row("update_queue", update("rate_limits.max_concurrent_dispatches retry_config.max_attempts", rate_limits={"max_concurrent_dispatches": 9}, retry_config={"max_attempts": 3}), "OK", {"rateLimits": {"maxDispatchesPerSecond": 77.0, "maxBurstSize": 15, "maxConcurrentDispatches": 9}}, REFERENCE),
    Row("update_queue", update("retry_config.max_attempts"), "OK", {"retryConfig": {**DEFAULTS["retryConfig"], "maxBackoff": "60s"}}, REFERENCE),
    Row("update_queue", update("http_target.http_method", http_target={"http_method": "PUT"}), "OK", {"httpTarget": {"httpMethod": "PUT", "uriOverride": {"host": "h.example", "uriOverrideEnforceMode": "ALWAYS"}}}, REFERENCE),
    Row("update_queue", update("state", state="PAUSED"), "OK", {"state": "RUNNING"}, REFERENCE),
    Row("update_queue", update("", rate_limits={"max_dispatches_per_second": 2}), "OK", {"rateLimits": {"maxDispatchesPerSecond": 2.0, "maxBurstSize": 10, "maxConcurrentDispatches": 1000}, "retryConfig": DEFAULTS["retryConfig"]}, REFERENCE),
    Row("update_queue", update("no_such_field"), INVALID, "Invalid...", OURS),
    Row("update_queue", update("retry_config.max_attempts", retry_config={"max_attempts": -2}), INVALID, "RetryConfig.maxAttempts must be greater or equal to -1.", RECORDED),
    # queues: lists and policies
    Row("list_queues", {"parent": LISTED, "page_size": 2}, "OK", {"queues": [{"name": f"{LISTED}/queues/a"}, {"name": f"{LISTED}/queues/b"}], "nextPageToken": f"{LISTED}/queues/b"}, REFERENCE),
    Row("list_queues", {"parent": LISTED, "page_size": 2, "page_token": f"{LISTED}/queues/b"}, "OK", {"queues": [{"name": f"{LISTED}/queues/c"}]}, REFERENCE),
    Row("list_queues", {"parent": LOCATION, "page_size": -1}, INVALID, "The page size must not be negative.", OURS),
    Row("list_queues", {"parent": LOCATION, "filter": "state: PAUSED"}, "UNIMPLEMENTED", "Filters are not served here; list all queues", OURS),
    Row("list_queues", {"parent": "projects/empty/locations/us-central1"}, "OK", {}, REFERENCE),
    Row("get_iam_policy", {"resource": QUEUE}, "OK", {"version": 1}, GUIDE),
    Row("get_iam_policy", {"resource": MISSING}, "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("set_iam_policy", {"resource": QUEUE, "policy": {"bindings": [{"role": "roles/cloudtasks.viewer", "members": ["user:a@b.c"]}]}}, "OK", {"bindings": [{"role": "roles/cloudtasks.viewer", "members": ["user:a@b.c"]}]}, GUIDE),
    Row("set_iam_policy", {"resource": QUEUE, "policy": {"etag": b"stale"}}, "ABORTED", "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff.", GUIDE),
    Row("set_iam_policy", {"resource": QUEUE, "policy": {"bindings": [{"role": "roles/run.invoker", "members": ["user:a@b.c"]}]}}, INVALID, "Role roles/run.invoker is not supported for this resource.", GUIDE),
    Row("set_iam_policy", {"resource": QUEUE, "policy": {"bindings": [{"role": "roles/cloudtasks.viewer", "members": ["a@b.c"]}]}}, INVALID, "Invalid member a@b.c...", OURS),
    Row("test_iam_permissions", {"resource": QUEUE, "permissions": ["cloudtasks.tasks.create", "cloudtasks.no.such"]}, "OK", {"permissions": ["cloudtasks.tasks.create"]}, GUIDE),
    Row("test_iam_permissions", {"resource": MISSING, "permissions": ["cloudtasks.tasks.create"]}, "OK", {}, REFERENCE),
    # tasks: names
    Row("create_task", task("new"), "OK", {"name": f"{QUEUE}/tasks/new", "view": "BASIC"}, REFERENCE),
    Row("create_task", task(), "OK", {"httpRequest": {"url": URL, "httpMethod": "POST", "headers": {"User-Agent": "Google-Cloud-Tasks"}}}, RECORDED),
    Row("create_task", task("live"), "ALREADY_EXISTS", "Requested entity already exists", RECORDED),
    Row("create_task", task("ended"), "ALREADY_EXISTS", "The task cannot be created because a task with this name existed too recently....", RECORDED),
    Row("create_task", task("not a valid id"), INVALID, TASK_ID.format("not a valid id"), RECORDED),
    Row("create_task", task("t" * 501), INVALID, TASK_ID.format("t" * 501), REFERENCE),
    Row("create_task", task("x", name=f"{QUEUE}-other/tasks/x"), INVALID, f"The queue name from request ('{QUEUE}') must be the same as the queue name in the named task ('{QUEUE}-other').", RECORDED),
    Row("create_task", task("x", MISSING), "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("create_task", task("x", DELETED), "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("get_task", {"name": TASK}, "OK", {"name": TASK, "view": "BASIC", "dispatchDeadline": "600s", "createTime": "2027-01-15T08:00:00Z", "scheduleTime": "2027-01-15T08:00:00Z"}, REFERENCE),
    Row("get_task", {"name": TASK, "response_view": "FULL"}, "OK", {"view": "FULL", "httpRequest": {"url": URL, "httpMethod": "POST", "headers": {"User-Agent": "Google-Cloud-Tasks"}, "body": BODY}}, RECORDED),
    Row("get_task", {"name": ABSENT}, "NOT_FOUND", NO_ENTITY, RECORDED),
    Row("get_task", {"name": ENDED}, "NOT_FOUND", TASK_GONE, RECORDED),
    Row("delete_task", {"name": ABSENT}, "NOT_FOUND", NO_ENTITY, RECORDED),
    Row("run_task", {"name": ABSENT}, "NOT_FOUND", NO_ENTITY, RECORDED),
    Row("run_task", {"name": f"{PAUSED}/tasks/waiting"}, "OK", {"dispatchCount": 1}, RECORDED),
    # tasks: contents
    Row("create_task", task(http_request={"url": ""}), INVALID, "HttpRequest.url is required.", RECORDED),
    Row("create_task", task(http_request={"url": "handler.example"}), INVALID, "HttpTarget.url must start with 'http://' or 'https://'.", RECORDED),
    Row("create_task", task(http_request={"url": "ftp://handler.example"}), INVALID, "HttpTarget.url must start with 'http://' or 'https://'.", RECORDED),
    Row("create_task", task("escape", http_request={"url": "https://handler.example/%zz"}), "OK", {"httpRequest": {"url": "https://handler.example/%zz", "httpMethod": "POST", "headers": {"User-Agent": "Google-Cloud-Tasks"}}}, RECORDED),
    Row("create_task", task(http_request={"url": f"https://handler.example/{'u' * 2083}"}), INVALID, "HttpRequest.url must be at most 2083 characters long.", OURS),
    Row("create_task", task(http_request={"headers": {"X-Large": "x" * 81920}}), INVALID, "HttpRequest.headers must be smaller than 80 KB.", OURS),
    Row("create_task", task(http_request={"body": b"x" * 2**20}), INVALID, "Task size too large", GUIDE),
    Row("create_task", task(http_request={"http_method": "GET"}), INVALID, "HTTP Body is only allowed with methods POST, PUT, PATCH.", OURS),
    Row("create_task", task("headers", http_request={"headers": {"X-Mixed-Case": "kept", "Host": "h", "X-Google-A": "b", "X-CloudTasks-TaskName": "forged"}}), "OK", {"httpRequest": {"url": URL, "httpMethod": "POST", "headers": {"X-Mixed-Case": "kept", "User-Agent": "Google-Cloud-Tasks"}}}, RECORDED),
    Row("create_task", task(dispatch_deadline="14s"), INVALID, DEADLINE, RECORDED),
    Row("create_task", task(dispatch_deadline="1801s"), INVALID, DEADLINE, RECORDED),
    Row("create_task", task("truncated", dispatch_deadline="15.0009s", schedule_time="2027-01-16T08:00:00.123456789Z"), "OK", {"dispatchDeadline": "15s", "scheduleTime": "2027-01-16T08:00:00.123456Z"}, REFERENCE),
    Row("create_task", task("past", schedule_time="2020-01-01T00:00:00Z"), "OK", {"scheduleTime": "2027-01-15T08:00:00Z"}, RECORDED),
    Row("create_task", task(schedule_time="2099-12-31T16:00:00Z"), INVALID, "The Task.scheduleTime, 2099-12-31T16:00:00Z, is too far in the future. Schedule time must be no more than 720h in the future.", RECORDED),
    Row("create_task", task("retries", retry_config={"max_attempts": 2}), "OK", {"retryConfig": {**DEFAULTS["retryConfig"], "maxAttempts": 2}}, REFERENCE),
    Row("create_task", task(retry_config={"max_attempts": -2}), INVALID, "RetryConfig.maxAttempts must be greater or equal to -1.", RECORDED),
    Row("create_task", task("signed", http_request={"oidc_token": {"service_account_email": ACCOUNT, "audience": URL}}), "OK", {"httpRequest": {"url": URL, "httpMethod": "POST", "headers": {"User-Agent": "Google-Cloud-Tasks"}, "oidcToken": {"serviceAccountEmail": ACCOUNT, "audience": URL}}}, RECORDED),
    Row("create_task", task(http_request={"oidc_token": {"service_account_email": "ghost@shop.example"}}), "PERMISSION_DENIED", DENIED.format("ghost@shop.example") + "...", GUIDE),
    Row("create_task", task(http_request={"oauth_token": {"service_account_email": ACCOUNT}}), "UNIMPLEMENTED", "OAuth tokens are for Google's own APIs; use an OIDC token", OURS),
    Row("create_task", {"parent": QUEUE, "task": {"app_engine_http_request": {}}}, "UNIMPLEMENTED", "App Engine tasks are not served here; create an HTTP task", OURS),
    # tasks: lists and batches
    Row("list_tasks", {"parent": PAUSED}, "OK", {"tasks": [{"name": f"{PAUSED}/tasks/waiting"}]}, REFERENCE),
    Row("list_tasks", {"parent": MISSING}, "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("batch_create_tasks", {"parent": QUEUE, "requests": [task("live"), task("batched")], "request_id": "b1"}, "OK", {"name": f"{LOCATION}/operations/b1", "done": True, "response": {"tasks": [{"name": f"{QUEUE}/tasks/batched"}]}, "metadata": {"state": "PARTIALLY_SUCCEEDED", "failedRequests": {"0": {"code": 6, "message": "Requested entity already exists"}}}}, REFERENCE),
    Row("batch_create_tasks", {"parent": QUEUE, "requests": [task("live")]}, "OK", {"done": True, "error": {"code": 10}}, REFERENCE),
    Row("batch_create_tasks", {"parent": QUEUE, "requests": [task()] * 101}, INVALID, "A batch takes 1 to 100 requests; this one has 101.", OURS),
    Row("batch_create_tasks", {"parent": QUEUE, "requests": [task("x", PAUSED)]}, INVALID, "Each request's parent must be the batch's own...", OURS),
    Row("batch_create_tasks", {"parent": MISSING, "requests": [task("x", MISSING)]}, "NOT_FOUND", NO_QUEUE, RECORDED),
    Row("batch_delete_tasks", {"parent": QUEUE, "names": [ABSENT, f"{QUEUE}/tasks/doomed"], "request_id": "d1"}, "OK", {"done": True, "metadata": {"state": "PARTIALLY_SUCCEEDED", "failedRequests": {"0": {"code": 5, "message": NO_ENTITY}}}}, REFERENCE),
    Row("batch_delete_tasks", {"parent": QUEUE, "names": [ABSENT]}, "OK", {"error": {"code": 10, "message": "None of the requests succeeded, refer to BatchDeleteTasksMetadata.failed_requests for individual error details"}}, REFERENCE),
    Row("batch_delete_tasks", {"parent": QUEUE, "names": [ABSENT] * 1001}, INVALID, "A batch takes 1 to 1000 names; this one has 1001.", OURS),
    Row("get_operation", {"name": f"{LOCATION}/operations/none"}, "NOT_FOUND", NO_ENTITY, OURS),
    # locations, and what is not served
    Row("list_locations", {"name": "projects/listed"}, "OK", {"locations": [{"locationId": "us-central1", "name": LISTED}]}, REFERENCE),
    Row("get_location", {"name": f"{ELSEWHERE}-none"}, "NOT_FOUND", f"Location {ELSEWHERE}-none has no queue here", OURS),
    Row("get_cmek_config", {"name": f"{LOCATION}/cmekConfig"}, "UNIMPLEMENTED", "...", OURS),
]  # fmt: skip


UPDATED_BEFORE = {
    "name": UPDATED,
    "rate_limits": {"max_dispatches_per_second": 77, "max_concurrent_dispatches": 7},
    "retry_config": {"max_attempts": 9, "max_backoff": "60s"},
    "http_target": {"uri_override": {"host": "h.example"}},
}


@pytest.fixture(scope="module", params=["grpc", "asyncio", "rest"])
def call(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The official client of a service with the queues and tasks that the rows name."""
    with (
        Serving(tmp_path_factory.mktemp("state")) as service,
        client(request.param, service.grpc, service.rest) as call,
    ):
        for name in (QUEUE, PAUSED, DELETED, *(f"{LISTED}/queues/{letter}" for letter in "abc")):
            assert call("create_queue", {"parent": name.partition("/queues/")[0], "queue": {"name": name}})[0] == "OK"
        for name, parent in (("live", QUEUE), ("ended", QUEUE), ("doomed", QUEUE), ("waiting", PAUSED)):
            assert call("create_task", task(name, parent))[0] == "OK"
        call("pause_queue", {"name": PAUSED})
        call("delete_task", {"name": ENDED})
        call("delete_queue", {"name": DELETED})
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


def test_most_expectations_are_the_services_own() -> None:
    assert len(ROWS) >= 100
    assert sum(row.source in (RECORDED, REFERENCE, GUIDE) for row in ROWS) > 3 * sum(row.source == OURS for row in ROWS)


def test_a_batch_with_the_same_request_id_is_done_once_and_its_operation_kept(call: Client) -> None:
    batch = {"parent": QUEUE, "requests": [task(), task()], "request_id": "once"}
    first = call("batch_create_tasks", batch)
    assert call("batch_create_tasks", batch) == first
    assert call("get_operation", {"name": f"{LOCATION}/operations/once"}) == first


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"[]", "Root element must be a message."),
        (b"\xff\xfe", "Invalid JSON payload received."),
        (b"[" * 100_000, "Invalid JSON payload received."),
        (b"{nonsense", "Invalid JSON payload received."),
        (b'{"task": {"nonsense": 1}}', "nonsense"),
        (b'{"task": {"httpRequest": {"url": 1}}}', "url"),
        (b'{"task": {"httpRequest": {"body": "*"}}}', "body"),
        (b'{"task": {"httpRequest": {"url": "http://h", "httpMethod": 99}}}', "httpMethod 99"),
        (b'{"task": {"scheduleTime": "9999-12-31T23:59:59Z", "httpRequest": {"url": "http://h"}}}', "too far"),
        (b'{"task": 1}', "task"),
    ],
)
def test_json_that_is_no_request_is_named_with_what_is_wrong(tmp_path: Path, body: bytes, text: str) -> None:
    with Serving(tmp_path) as service:
        http(f"http://{service.rest}/v2/{LOCATION}/queues", json.dumps({"name": QUEUE}).encode())
        status, answer = http(f"http://{service.rest}/v2/{QUEUE}/tasks", body)
    error = json.loads(answer)["error"]
    assert (status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert text in error["message"]


@pytest.mark.parametrize("path", [f"v2/{QUEUE}/tasks/t:buffer", f"v2beta3/{QUEUE}:pause"])
def test_what_is_not_served_says_so_over_rest(tmp_path: Path, path: str) -> None:
    with Serving(tmp_path) as service:
        status, answer = http(f"http://{service.rest}/{path}", b"{}")
    assert (status, json.loads(answer)["error"]["status"]) == (501, "UNIMPLEMENTED")


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_where_grants_count_a_caller_may_do_what_its_roles_say_and_no_more(tmp_path: Path, kind: str) -> None:
    member = f"serviceAccount:{ACCOUNT}"
    grants = [("roles/cloudtasks.taskDeleter", member), ("roles/cloudtasks.viewer", member)]
    denied = 'The principal lacks IAM permission "cloudtasks.{}" for the resource "{}" (or the resource may not exist).'
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
