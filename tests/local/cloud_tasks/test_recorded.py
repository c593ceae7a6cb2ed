"""The local cloud against answers recorded from the real service: what each case sends, over gRPC and over REST.

`recorded.json` has the recorded answers by case, in the order of the requests; recorded_calls.py says in what form. The
recordings were made by the authors of the Rust crate cloud-tasks-emulator 0.1.1 (MIT). Time is the service's virtual
clock, so a case that waited for hours takes a moment here; the requests of attempts are real.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from google.cloud.tasks_v2 import types

from local.cloud_tasks.calls import CALLS
from tests.local.cloud_tasks.recorded_calls import TOMORROW, Caller, CallFailedError, Receiver, Request, enum, form
from tests.local.cloud_tasks.serving import ACCOUNT, ISSUER, PROJECT, START, Serving

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
RUN, LOCATION_ID = "r0a1b2c3d", "europe-west1"
P = f"projects/{PROJECT}"
L = f"{P}/locations/{LOCATION_ID}"
CONFIGURED: dict[str, Any] = {
    "rate_limits": {"max_dispatches_per_second": 10, "max_concurrent_dispatches": 5},
    "retry_config": {
        "max_attempts": 5,
        "max_retry_duration": {"seconds": 60},
        "min_backoff": {"seconds": 1},
        "max_backoff": {"seconds": 10},
        "max_doublings": 3,
    },
}
AUDIENCE = "https://example.com/audience"
Case = Callable[["Recording"], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> None:
    CASES[function.__name__] = function


def q(name: str) -> str:
    return f"{L}/queues/{RUN}-{name}"


def oidc(email: str = ACCOUNT, audience: str = AUDIENCE) -> dict[str, Any]:
    return {"oidc_token": {"service_account_email": email, "audience": audience}}


def oauth(email: str = ACCOUNT, scope: str = "") -> dict[str, Any]:
    return {"oauth_token": {"service_account_email": email, "scope": scope}}


def far(url: str = "https://example.com/work", **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    """A far task: `http` is put into its request, the rest into the task."""
    http = {"url": url, **fields.pop("http", {})}
    return {"http_request": http, "schedule_time": {"seconds": TOMORROW, "nanos": 123456789}, **fields}


class Recording:
    """One case as it runs here."""

    def __init__(self, service: Serving, receiver: Receiver, channel: grpc.Channel, *, rest: bool) -> None:
        self.service = service
        self.receiver = receiver
        self.do = Caller(service, channel, rest=rest)
        self.answers: list[list[Any]] = []

    def say(self, label: str, answer: Any) -> None:  # noqa: ANN401 - any JSON
        self.answers.append([label, answer])

    def ask(
        self,
        label: str,
        call: str,
        pick: Callable[[Any], Any] = form,
        /,
        **fields: Any,  # noqa: ANN401 - any field
    ) -> None:
        """Make a call, and note what it was answered: a part of the response, or the error."""
        try:
            self.say(label, pick(self.do(call, **fields)))
        except CallFailedError as error:
            self.say(label, error.form)

    def queue(self, name: str, **fields: Any) -> str:  # noqa: ANN401 - any field
        return str(self.do("CreateQueue", parent=L, queue={"name": q(name), **fields}).name)

    def task(self, queue: str, task_id: str = "", **fields: Any) -> Any:  # noqa: ANN401 - any field
        named = {"name": f"{queue}/tasks/{task_id}"} if task_id else {}
        return self.do("CreateTask", parent=queue, task={**far(**fields), **named})

    def due(self, queue: str, task_id: str, steps: str, http: dict[str, Any] | None = None) -> None:
        """A due task to the receiver, or to a whole URL."""
        url = steps if "://" in steps else f"{self.receiver.url}/{steps}"
        task = {"name": f"{queue}/tasks/{task_id}", "http_request": {"url": url, **(http or {})}}
        self.do("CreateTask", parent=queue, task=task)

    def seen(self, key: str) -> list[Request]:
        return self.receiver.requests[key]

    def deliver_all(self, queue: str) -> None:
        """Deliver until the queue has nothing left to send within an hour."""
        while self.service.do(lambda tasks: (tasks.next_dispatch(queue) or 1e12) < self.service.now + 3000):
            self.service.deliver(queue)


def http_of(message: Any) -> Any:  # noqa: ANN401 - any message
    return {"http_request": form(message)["http_request"]}


def part(field: str) -> Callable[[Any], Any]:
    return lambda message: form(message).get(field)


# Batches


@case
def batch_create_tasks_creates_every_task(c: Recording) -> None:
    queue = c.queue("batch-create")
    requests = [
        {"parent": queue, "task": {**far("https://example.com/a"), "name": f"{queue}/tasks/a"}},
        {
            "parent": queue,
            "task": {**far("https://example.com/b"), "name": f"{queue}/tasks/b"},
            "response_view": "FULL",
        },
    ]
    c.ask("batch_create_tasks", "BatchCreateTasks", parent=queue, requests=requests)
    c.ask("get_task", "GetTask", part("name"), name=f"{queue}/tasks/a")


@case
def batch_create_tasks_fails_when_every_request_fails(c: Recording) -> None:
    queue = c.queue("batch-all-fail")
    for label, parent, url in (
        ("unknown queue", q("batch-missing"), "https://example.com/work"),
        ("every request invalid", queue, "ftp://example.com/work"),
    ):
        c.ask(label, "BatchCreateTasks", parent=parent, requests=[{"parent": parent, "task": far(url)}])


@case
def batch_create_tasks_rejects_invalid_requests(c: Recording) -> None:
    queue, other = c.queue("batch-invalid"), q("batch-other")

    def named(name: str) -> dict[str, Any]:
        return {"parent": queue, "task": {**far(), "name": name}}

    for label, parent, requests in (
        ("no requests", queue, []),
        ("101 requests", queue, [{"parent": queue, "task": far()}] * 101),
        ("request for another queue", queue, [{"parent": other, "task": far()}]),
        ("request without parent", queue, [{"parent": "", "task": far()}]),
        ("duplicate task names", queue, [named(f"{queue}/tasks/t")] * 2),
        ("invalid task id", queue, [named(f"{queue}/tasks/not valid")]),
        ("task named in another queue", queue, [named(f"{other}/tasks/t")]),
        ("empty parent", "", [{"parent": "", "task": far()}]),
        ("parent not in a project", "not-a-valid-name", [{"parent": "not-a-valid-name", "task": far()}]),
    ):
        c.ask(label, "BatchCreateTasks", parent=parent, requests=requests)


@case
def batch_create_tasks_reports_failed_requests(c: Recording) -> None:
    queue = c.queue("batch-failures")
    for name in ("existing", "deleted"):
        c.task(queue, name)
    c.do("DeleteTask", name=f"{queue}/tasks/deleted")
    soon = {"seconds": TOMORROW, "nanos": 123456789}
    tasks: list[dict[str, Any] | None] = [
        {**far(), "name": f"{queue}/tasks/new"},
        None,
        {"schedule_time": soon},
        far("ftp://example.com/work"),
        far(http={"http_method": "GET", "body": b"hi"}),
        far(dispatch_deadline={"seconds": 14}),
        far(schedule_time={"seconds": 4102444800}),
        far(http=oauth()),
        {**far(), "name": f"{queue}/tasks/existing"},
        {**far(), "name": f"{queue}/tasks/deleted"},
    ]
    requests = [{"parent": queue, **({"task": task} if task else {})} for task in tasks]
    c.ask("batch_create_tasks", "BatchCreateTasks", parent=queue, requests=requests)


@case
def batch_delete_tasks_fails_when_every_request_fails(c: Recording) -> None:
    for label, parent in (
        ("unknown queue", q("batch-delete-missing")),
        ("every task missing", c.queue("batch-delete-all-fail")),
    ):
        c.ask(label, "BatchDeleteTasks", parent=parent, names=[f"{parent}/tasks/{name}" for name in "ab"])


@case
def batch_delete_tasks_rejects_invalid_requests(c: Recording) -> None:
    queue = c.queue("batch-delete-invalid")
    for label, parent, names in (
        ("no names", queue, []),
        ("1001 names", queue, [f"{queue}/tasks/t"] * 1001),
        ("empty parent", "", ["t"]),
        ("parent not in a project", "not-a-valid-name", ["t"]),
    ):
        c.ask(label, "BatchDeleteTasks", parent=parent, names=names)


@case
def batch_delete_tasks_reports_failed_requests(c: Recording) -> None:
    queue = c.queue("batch-delete-failures")
    for name in ("existing", "repeated", "deleted"):
        c.task(queue, name)
    c.do("DeleteTask", name=f"{queue}/tasks/deleted")
    ids = ["existing", "missing", "deleted"]
    names = [f"{queue}/tasks/{name}" for name in ids]
    names += [f"{q('batch-delete-other')}/tasks/t", f"{queue}/tasks/not valid", "not-a-valid-name", ""]
    names += [f"{queue}/tasks/{name}" for name in ("repeated", "repeated", "repeated-missing", "repeated-missing")]
    c.ask("batch_delete_tasks", "BatchDeleteTasks", parent=queue, names=names)


@case
def batch_delete_tasks_shares_request_ids_with_batch_create(c: Recording) -> None:
    queue, request_id = c.queue("batch-delete-request-id"), f"{RUN}-delete-request"
    for label in ("first", "repeated"):
        deletes = {"parent": queue, "names": [f"{queue}/tasks/missing"], "request_id": request_id}
        c.ask(label, "BatchDeleteTasks", part("name"), **deletes)
    creates = {"parent": queue, "requests": [{"parent": queue, "task": far()}], "request_id": request_id}
    c.ask("batch_create_tasks", "BatchCreateTasks", part("name"), **creates)


# Queues


@case
def create_queue_derives_burst_size(c: Recording) -> None:
    for rate in ("0.5", "54", "77", "333", "500"):
        queue = {"name": q(f"burst-{rate}".replace("0.5", "half"))}
        limits = {"max_dispatches_per_second": float(rate)}
        pick = lambda message: message.rate_limits.max_burst_size  # noqa: E731
        c.ask(f"rate {rate}", "CreateQueue", pick, parent=L, queue={**queue, "rate_limits": limits})


@case
def create_queue_keeps_backoff_precision(c: Recording) -> None:
    backoffs = {
        "min_backoff": {"seconds": 1, "nanos": 234567891},
        "max_backoff": {"seconds": 10, "nanos": 987654321},
    }
    queue = {"name": q("precision"), "retry_config": backoffs}
    c.ask("create_queue", "CreateQueue", part("retry_config"), parent=L, queue=queue)


@case
def create_queue_limits_sampling_ratio(c: Recording) -> None:
    for ratio in ("0", "0.25", "1", "1.5", "-0.5", "NaN"):
        name = f"sampling-{ratio.replace('.', '').replace('-', '')}"
        queue = {"name": q(name), "stackdriver_logging_config": {"sampling_ratio": float(ratio)}}
        c.ask(ratio, "CreateQueue", part("stackdriver_logging_config"), parent=L, queue=queue)


@case
def create_queue_rejects_invalid_config(c: Recording) -> None:
    for label, limits, retries in (
        ("rate 501", {"max_dispatches_per_second": 501}, {}),
        ("rate -1", {"max_dispatches_per_second": -1}, {}),
        ("concurrency 5001", {"max_concurrent_dispatches": 5001}, {}),
        ("concurrency -1", {"max_concurrent_dispatches": -1}, {}),
        ("max attempts -2", {}, {"max_attempts": -2}),
        ("max doublings -1", {}, {"max_doublings": -1}),
        ("min backoff -1s", {}, {"min_backoff": {"seconds": -1}}),
        ("min backoff -5ns", {}, {"min_backoff": {"nanos": -5}}),
        ("max backoff -1s", {}, {"max_backoff": {"seconds": -1}}),
        ("max retry duration -1s", {}, {"max_retry_duration": {"seconds": -1}}),
        ("max retry duration 30.9s", {}, {"max_retry_duration": {"seconds": 30, "nanos": 900000000}}),
        ("min backoff above max backoff", {}, {"min_backoff": {"seconds": 10}, "max_backoff": {"seconds": 5}}),
    ):
        queue = {"name": q(re.sub(r"[ .]", "-", label)), "rate_limits": limits, "retry_config": retries}
        c.ask(label, "CreateQueue", parent=L, queue=queue)


def create_with_target(c: Recording, label: str, prefix: str, target: dict[str, Any]) -> None:
    queue = {"name": q(prefix + re.sub(r"[^A-Za-z0-9]", "-", label)), "http_target": target}
    c.ask(label, "CreateQueue", part("http_target"), parent=L, queue=queue)


@case
def create_queue_rejects_invalid_http_target(c: Recording) -> None:
    for label, uri in (
        ("empty host", {"host": ""}),
        ("host with scheme", {"host": "https://example.net"}),
        ("host with port", {"host": "example.net:8080"}),
        ("host with path", {"host": "example.net/path"}),
        ("port -1", {"port": -1}),
        ("port 65536", {"port": 65536}),
        ("path without slash", {"path_override": {"path": "path"}}),
        ("path with space", {"path_override": {"path": "/a b"}}),
        ("query with question mark", {"query_override": {"query_params": "?a=1"}}),
        ("unknown scheme", {"scheme": 9}),
        ("unknown enforce mode", {"host": "example.net", "uri_override_enforce_mode": 9}),
    ):
        create_with_target(c, label, "invalid-", {"uri_override": uri})
    for label, target in (
        ("unknown http method", {"http_method": 99}),
        ("oidc without email", oidc("")),
        ("oidc with malformed email", oidc("not-an-email")),
        ("oidc with audience without scheme", oidc(audience="audience")),
        ("oauth without email", oauth("")),
        ("oauth with malformed email", oauth("not-an-email")),
        ("oauth with scope without scheme", oauth(scope="scope")),
    ):
        create_with_target(c, label, "invalid-", target)


@case
def create_queue_rejects_invalid_names(c: Recording) -> None:
    c.queue("existing")
    for label, parent, name in (
        ("no queue", L, None),
        ("malformed name", L, "bad"),
        ("invalid queue id", L, f"{L}/queues/not_valid"),
        ("queue id over 100 characters", L, f"{L}/queues/{'a' * 101}"),
        ("name in other location", L, f"{P}/locations/us-central1/queues/{RUN}-elsewhere"),
        ("existing name", L, q("existing")),
        ("parent not in a project", "not-a-valid-parent", "not-a-valid-parent/queues/q"),
        ("parent without location", P, f"{P}/queues/q"),
    ):
        c.ask(label, "CreateQueue", parent=parent, **({"queue": {"name": name}} if name else {}))


@case
def create_queue_returns_config(c: Recording) -> None:
    limits = {**CONFIGURED["rate_limits"], "max_burst_size": 7}
    c.ask("create_queue", "CreateQueue", parent=L, queue={**CONFIGURED, "name": q("config"), "rate_limits": limits})


@case
def create_queue_returns_defaults(c: Recording) -> None:
    c.ask("create_queue", "CreateQueue", parent=L, queue={"name": q("defaults")})


@case
def create_queue_sanitises_header_overrides(c: Recording) -> None:
    value = "value"
    for label, headers in (
        ("override without header", None),
        ("empty key", [("", value)]),
        ("empty value", [("X-Custom", "")]),
        ("key with colon", [("X:Custom", value)]),
        ("value with line break", [("X-Custom", "a\r\nb")]),
        ("duplicate keys", [("X-Custom", "first"), ("x-custom", "second")]),
        ("Host", [("Host", "example.net")]),
        ("lowercase host", [("host", "example.net")]),
        ("User-Agent", [("User-Agent", "agent")]),
        ("Content-Length", [("Content-Length", "5")]),
        ("Content-Type", [("Content-Type", "text/plain")]),
        ("Authorization", [("Authorization", "Bearer token")]),
        ("Connection", [("Connection", "close")]),
        ("Transfer-Encoding", [("Transfer-Encoding", "chunked")]),
        ("X-Forwarded-For", [("X-Forwarded-For", "127.0.0.1")]),
        ("X-Google-Custom", [("X-Google-Custom", value)]),
        ("X-AppEngine-Custom", [("X-AppEngine-Custom", value)]),
        ("X-CloudTasks-TaskName", [("X-CloudTasks-TaskName", "spoofed")]),
        ("X-CloudTasks-Custom", [("X-CloudTasks-Custom", value)]),
        ("two reserved headers", [("User-Agent", "agent"), ("Host", "example.net")]),
    ):
        given = [{}] if headers is None else [{"header": {"key": key, "value": text}} for key, text in headers]
        create_with_target(c, label, "headers-", {"header_overrides": given})


@case
def delete_queue_blocks_name(c: Recording) -> None:
    name = c.queue("deleted-queue")
    c.do("DeleteQueue", name=name)
    c.ask("create_queue", "CreateQueue", parent=L, queue={"name": name})
    c.ask("update_queue", "UpdateQueue", queue={"name": name})
    c.ask("get_queue", "GetQueue", name=name)
    c.ask("delete_queue", "DeleteQueue", name=name)
    c.ask("pause_queue", "PauseQueue", name=name)
    c.ask("create_task", "CreateTask", parent=name, task=far())
    listed = lambda page: any(queue.name == name for queue in page.queues)  # noqa: E731
    c.ask("list_queues includes it", "ListQueues", listed, parent=L)


@case
def delete_queue_removes_queue(c: Recording) -> None:
    name = c.queue("deleted")
    c.ask("delete_queue", "DeleteQueue", name=name)
    c.ask("get_queue", "GetQueue", name=name)


FIVE_QUEUE_NAMES = (
    ("unknown queue", q("missing")),
    ("empty name", ""),
    ("name not in a project", "not-a-valid-name"),
    ("name without queue id", f"{L}/queues"),
    ("invalid queue id", f"{L}/queues/not_valid"),
)


@case
def get_queue_rejects_invalid_names(c: Recording) -> None:
    for label, name in FIVE_QUEUE_NAMES:
        c.ask(label, "GetQueue", name=name)


@case
def resume_queue_rejects_invalid_names(c: Recording) -> None:
    for label, name in FIVE_QUEUE_NAMES:
        c.ask(label, "ResumeQueue", name=name)


def ask_filter(c: Recording, text: str, ids: str) -> None:
    pick = lambda page: sorted(queue.name for queue in page.queues if ids in queue.name)  # noqa: E731
    c.ask(text, "ListQueues", pick, parent=L, filter=text)


@case
def list_queues_filters_by_field(c: Recording) -> None:
    c.queue("field-filter-configured", **CONFIGURED)
    c.do("PurgeQueue", name=c.queue("field-filter-purged"))
    for text, _ in RECORDED["list_queues_filters_by_field"]:
        ask_filter(c, text, "-field-filter-")


@case
def list_queues_filters_by_state(c: Recording) -> None:
    c.queue("state-filter-running")
    c.do("PauseQueue", name=c.queue("state-filter-paused"))
    for text, _ in RECORDED["list_queues_filters_by_state"]:
        ask_filter(c, text, "-state-filter-")


@case
def list_queues_rejects_invalid_filters(c: Recording) -> None:
    for text, _ in RECORDED["list_queues_rejects_invalid_filters"]:
        ask_filter(c, text, "")


@case
def list_queues_rejects_invalid_requests(c: Recording) -> None:
    for label, fields in (
        ("page size -1", {"parent": L, "page_size": -1}),
        ("invalid page token", {"parent": L, "page_token": "bad"}),
        ("empty parent", {"parent": ""}),
        ("parent not in a project", {"parent": "not-a-valid-parent"}),
        ("parent without location", {"parent": P}),
        ("parent with extra segment", {"parent": f"{L}/extra"}),
    ):
        c.ask(label, "ListQueues", **fields)


@case
def list_queues_returns_every_queue(c: Recording) -> None:
    for name in ("list-b", "list-a", "list-invalid", "list-tasks"):
        c.queue(name)
    pick = lambda page: sorted(queue.name for queue in page.queues if "-list-" in queue.name)  # noqa: E731
    c.ask("list_queues", "ListQueues", pick, parent=L)


@case
def pause_and_resume_repeat(c: Recording) -> None:
    name = c.queue("repeat")
    for label, call in (("pause", "PauseQueue"), ("resume", "ResumeQueue")):
        for time in ("first", "second"):
            c.ask(f"{time} {label}", call, part("state"), name=name)


@case
def pause_queue_stops_dispatch(c: Recording) -> None:
    queue = c.queue("paused")
    c.ask("pause_queue", "PauseQueue", name=queue)
    c.due(queue, "t", "paused/200")
    c.service.now += 5
    c.deliver_all(queue)
    c.say("requests while paused", len(c.seen("paused")))
    c.ask("resume_queue", "ResumeQueue", name=queue)
    c.deliver_all(queue)
    c.say("requests after resume", len(c.seen("paused")))


@case
def purge_queue_deletes_existing_tasks(c: Recording) -> None:
    queue = c.queue("purged")
    c.task(queue, "a")
    pick = lambda message: [part("state")(message), message.HasField("purge_time")]  # noqa: E731
    c.ask("purge_queue", "PurgeQueue", pick, name=queue)
    c.task(queue, "b")
    c.ask("tasks after purge", "ListTasks", lambda page: [task.name for task in page.tasks], parent=queue)
    c.ask("get_task purged", "GetTask", name=f"{queue}/tasks/a")
    c.ask("create_task purged", "CreateTask", parent=queue, task={**far(), "name": f"{queue}/tasks/a"})
    c.ask("get_queue purge_time is set", "GetQueue", lambda message: message.HasField("purge_time"), name=queue)


@case
def update_queue_changes_http_target(c: Recording) -> None:
    def header(key: str, value: str) -> list[dict[str, Any]]:
        return [{"header": {"key": key, "value": value}}]

    created = {
        "uri_override": {"host": "example.net", "path_override": {"path": "/path"}},
        "http_method": "PUT",
        "header_overrides": header("X-Custom", "created"),
        **oidc(),
    }
    updated = {
        "uri_override": {"scheme": "HTTPS", "port": 8080, "query_override": {"query_params": "u=1"}},
        "http_method": "GET",
        "header_overrides": header("X-Other", "updated"),
        **oauth(scope="https://www.googleapis.com/auth/userinfo.email"),
    }
    for label, _ in RECORDED["update_queue_changes_http_target"]:
        logged = {"stackdriver_logging_config": {"sampling_ratio": 0.5}}
        name = c.queue("update-" + re.sub(r"[._ ]", "-", label), http_target=created, **logged)
        changes: dict[str, Any] = {"http_target": updated, "stackdriver_logging_config": {"sampling_ratio": 0.25}}
        if label == "http_target removed":
            changes = {}
        pick = lambda message: [part("http_target")(message), part("stackdriver_logging_config")(message)]  # noqa: E731
        mask = {"paths": [label.removesuffix(" removed")]}
        c.ask(label, "UpdateQueue", pick, queue={"name": name, **changes}, update_mask=mask)


@case
def update_queue_changes_masked_fields(c: Recording) -> None:
    name = c.queue("masked", **CONFIGURED)
    changes = {"rate_limits": {"max_dispatches_per_second": 100}, "retry_config": {"max_attempts": 7}}
    mask = {"paths": ["rate_limits.max_dispatches_per_second", "retry_config.max_attempts"]}
    c.ask("update_queue", "UpdateQueue", queue={"name": name, **changes}, update_mask=mask)


@case
def update_queue_creates_missing_queue(c: Recording) -> None:
    c.ask("update_queue without mask", "UpdateQueue", queue={"name": q("upserted"), **CONFIGURED})
    mask = {"paths": ["rate_limits.max_concurrent_dispatches"]}
    c.ask(
        "update_queue with mask",
        "UpdateQueue",
        queue={"name": q("upserted-masked"), **CONFIGURED},
        update_mask=mask,
    )
    c.ask("get_queue", "GetQueue", name=q("upserted"))


@case
def update_queue_keeps_state(c: Recording) -> None:
    name = c.queue("update-paused")
    c.do("PauseQueue", name=name)
    c.ask("update_queue state", "UpdateQueue", part("state"), queue={"name": name, "state": "RUNNING"})


@case
def update_queue_rejects_invalid_requests(c: Recording) -> None:
    name = c.queue("update-invalid", **CONFIGURED)
    c.ask("no queue", "UpdateQueue")
    for label, path in FIVE_QUEUE_NAMES[1:]:
        c.ask(label, "UpdateQueue", queue={"name": path})
    rate = "rate_limits.max_dispatches_per_second"
    email, port, backoff = {"http_target": oauth()}, {"uri_override": {"port": 8080}}, {"min_backoff": {"seconds": 20}}
    for label, path, fields in (
        ("unknown mask path on unknown queue", "bogus", {"name": q("missing")}),
        ("unknown mask path", "bogus", {}),
        ("unknown nested mask path", "rate_limits.bogus", {}),
        ("unknown http_target mask path", "http_target.bogus", {}),
        ("mask path below a scalar", f"{rate}.bogus", {}),
        ("camel case mask path", "rateLimits.maxDispatchesPerSecond", {}),
        ("comma-separated mask paths", f"{rate},retry_config.max_attempts", {}),
        ("mask path with space", " state", {}),
        ("empty mask path", "", {}),
        ("rate 501", rate, {"rate_limits": {"max_dispatches_per_second": 501}}),
        ("invalid http_target outside mask", "rate_limits", {"http_target": {"uri_override": {"host": ""}}}),
        ("uri override emptied by mask", "http_target.uri_override.host", {"http_target": port}),
        ("oidc email emptied by mask", "http_target.oidc_token.service_account_email", email),
        ("min backoff above stored max backoff", "retry_config.min_backoff", {"retry_config": backoff}),
    ):
        c.ask(label, "UpdateQueue", queue={"name": name, **fields}, update_mask={"paths": [path]})


@case
def update_queue_with_empty_mask_changes_nothing(c: Recording) -> None:
    name = c.queue("empty-mask")
    c.ask("update_queue", "UpdateQueue", queue={"name": name, **CONFIGURED}, update_mask={})


@case
def update_queue_without_mask_replaces_every_field(c: Recording) -> None:
    name = c.queue("unmasked", **CONFIGURED)
    c.ask("update_queue", "UpdateQueue", queue={"name": name, "rate_limits": {"max_dispatches_per_second": 100}})


# Tasks


@case
def create_task_drops_reserved_headers(c: Recording) -> None:
    headers = {
        "user-agent": "custom",
        "Host": "example.org",
        "Content-Length": "99",
        "Connection": "close",
        "Keep-Alive": "timeout=5",
        "Proxy-Authorization": "secret",
        "Proxy-Connection": "close",
        "TE": "trailers",
        "Transfer-Encoding": "chunked",
        "Upgrade": "h2c",
        "Via": "proxy",
        "Accept-Encoding": "gzip",
        "X-Forwarded-For": "10.0.0.1",
        "From": "me@example.com",
        "X-Google": "value",
        "X-Google-Custom": "value",
        "x-appengine-custom": "value",
        "Authorization": "Bearer token",
        "Content-Type": "text/plain",
        "Trailer": "Expires",
        "X-Forwarded-Proto": "https",
        "X-Goog-Custom": "value",
        "X-CloudTasks-TaskName": "spoofed",
    }
    ask_task(c, "create_task", "reserved-headers", far(http={"headers": headers}), http_of)


def ask_task(c: Recording, label: str, queue: str, task: dict[str, Any], pick: Callable[[Any], Any] = form) -> None:
    """Create a task in a queue of its own."""
    c.ask(label, "CreateTask", pick, parent=c.queue(queue), task=task)


@case
def create_task_generates_numeric_id(c: Recording) -> None:
    digits = lambda task: task.name.rpartition("/")[2].isdigit()  # noqa: E731
    ask_task(c, "create_task id is digits", "generated", far(), digits)


@case
def create_task_limits_header_length(c: Recording) -> None:
    headers = {"X-Kept": "v" * 8182, "X-Gone": "v" * 8183}
    names = lambda task: sorted(task.http_request.headers)  # noqa: E731
    ask_task(c, "create_task header names", "header-length", far(http={"headers": headers}), names)


@case
def create_task_limits_schedule_time(c: Recording) -> None:
    queue = c.queue("schedule-limit")
    starts = lambda task: task.name.startswith(queue)  # noqa: E731
    for label, seconds, nanos in (
        ("29 days out", int(START) + 29 * 86400, 0),
        ("2100-01-01T00:00:00Z", 4102444800, 0),
        ("2100-07-01T00:00:00Z", 4118083200, 0),
        ("2100-01-01T00:00:00.5Z", 4102444800, 500_000_000),
        ("2100-01-01T00:00:00.000000001Z", 4102444800, 1),
        ("10000-01-01T00:00:00Z", 253402300800, 0),
    ):
        task = far(schedule_time={"seconds": seconds, "nanos": nanos})
        c.ask(label, "CreateTask", starts, parent=queue, task=task)


@case
def create_task_limits_task_size(c: Recording) -> None:
    queue = c.queue("task-size")

    def refusal(body: int) -> Any:  # noqa: ANN401 - an error's form
        name = f"{queue}/tasks/t{len(tried) + 1:02}"
        tried.append(name)
        try:
            http = {"headers": {"X-Header": "h" * 1000}, "body": b"a" * body}
            c.do("CreateTask", parent=queue, task={**far(http=http), "name": name})
        except CallFailedError as error:
            return error.form
        return None

    tried: list[str] = []
    low, high = 0, 2_000_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refusal(middle) else (middle, high)
    c.say("largest body plus name length", low + len(tried[0]) - 2)
    c.say("one byte more", refusal(high))


@case
def create_task_moves_past_schedule_time_to_now(c: Recording) -> None:
    queue = c.queue("schedule-past")
    c.do("PauseQueue", name=queue)
    at_once = lambda task: task.schedule_time.seconds - task.create_time.seconds in (0, 1)  # noqa: E731
    for label, seconds in (
        ("an hour ago", int(START) - 3600),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", -1),
        ("0001-01-01T00:00:00Z", -62135596800),
        ("0000-12-31T23:59:59Z", -62135596801),
    ):
        c.ask(label, "CreateTask", at_once, parent=queue, task=far(schedule_time={"seconds": seconds}))


@case
def create_task_rejects_invalid_names(c: Recording) -> None:
    queue = c.queue("invalid-names")
    c.task(queue, "existing")
    for label, parent, name in (
        ("malformed name", queue, "bad"),
        ("invalid task id", queue, f"{queue}/tasks/not valid"),
        ("task id over 500 characters", queue, f"{queue}/tasks/{'a' * 501}"),
        ("name in other queue", queue, f"{q('other')}/tasks/t"),
        ("existing name", queue, f"{queue}/tasks/existing"),
        ("unknown queue", q("missing"), ""),
        ("parent not in a project", "not-a-valid-parent", ""),
        ("parent without queue id", f"{L}/queues", ""),
        ("parent with invalid queue id", f"{L}/queues/not_valid", ""),
    ):
        c.ask(label, "CreateTask", part("name"), parent=parent, task={**far(), "name": name})


@case
def create_task_rejects_invalid_requests(c: Recording) -> None:
    queue = c.queue("invalid-tasks")
    c.ask("no task", "CreateTask", parent=queue)
    hi = {method: far(http={"http_method": method, "body": b"hi"}) for method in ("GET", "HEAD", "DELETE", "OPTIONS")}
    for label, task in {
        "no target": {"schedule_time": {"seconds": TOMORROW}},
        "empty url": far(""),
        "ftp url": far("ftp://example.com/work"),
        "url without scheme": far("example.com/work"),
        **{f"body on {method}": task for method, task in hi.items()},
        "deadline 14s": far(dispatch_deadline={"seconds": 14}),
        "deadline 1801s": far(dispatch_deadline={"seconds": 1801}),
    }.items():
        c.ask(label, "CreateTask", parent=queue, task=task)


@case
def create_task_rejects_invalid_tokens(c: Recording) -> None:
    queue = c.queue("invalid-tokens")
    work, api = "https://example.com/work", "https://example.googleapis.com/work"
    for label, url, token in (
        ("oidc without email", work, oidc("", "")),
        ("oidc with malformed email", work, oidc("not-an-email", "")),
        ("oidc with audience without scheme", work, oidc(audience="audience")),
        ("oidc with email without domain", work, oidc("tasks@", "")),
        ("oidc with email without name", work, oidc("@example.com", "")),
        ("oidc with email with two @", work, oidc("tasks@a@example.com", "")),
        ("oauth without email", api, oauth("")),
        ("oauth with malformed email", api, oauth("not-an-email")),
        ("oauth with scope without scheme", api, oauth(scope="scope")),
        ("oauth to other host", work, oauth()),
        ("oauth to bare googleapis.com", "https://googleapis.com/work", oauth()),
    ):
        c.ask(label, "CreateTask", http_of, parent=queue, task=far(url, http=token))


@case
def create_task_returns_basic_view(c: Recording) -> None:
    queue = c.queue("basic")
    http = {"headers": {"X-Mixed-Case": "kept", "content-type": "text/plain"}, "body": b"hi"}
    c.ask("create_task", "CreateTask", parent=queue, task={**far(http=http), "name": f"{queue}/tasks/t"})


@case
def create_task_returns_full_view(c: Recording) -> None:
    queue = c.queue("full")
    task = {**far(http={"body": b"hi"}), "name": f"{queue}/tasks/t"}
    c.ask("create_task", "CreateTask", parent=queue, task=task, response_view="FULL")


@case
def create_task_returns_retry_config(c: Recording) -> None:
    queue = c.queue("task-retry")
    durations = {"max_retry_duration": {"seconds": 60}, "min_backoff": {"seconds": 2}, "max_backoff": {"seconds": 4}}
    pick = part("retry_config")
    for label, name, config in (
        ("create_task", "t", {"max_attempts": 3, **durations, "max_doublings": 1}),
        ("create_task partial", "partial", {"max_attempts": 3}),
    ):
        task = {**far(retry_config=config), "name": f"{queue}/tasks/{name}"}
        c.ask(label, "CreateTask", pick, parent=queue, task=task)
    c.ask("get_task", "GetTask", pick, name=f"{queue}/tasks/t")


@case
def create_task_sanitises_headers(c: Recording) -> None:
    value = "value"
    headers = {"Bad Header": value, "X\tTab": value, "X:Colon": value, "": value, "X-Ü": value, "X/Slash": value}
    headers |= {"X-Newline": "a\nb", "X-Crlf": "a\r\nb", "X-Tab": "a\tb", "X-Nul": "a\0b", "X-Control": "a\x01b"}
    headers |= {"X-Delete": "a\x7fb", "X-Unicode": "ü", "X-Empty": "", "X-Space": " "}
    ask_task(c, "create_task", "sanitised-headers", far(http={"headers": headers}), http_of)


@case
def create_task_takes_queue_token(c: Recording) -> None:
    api = "https://example.googleapis.com/work"
    override = {"uri_override": {"host": "example.net", "path_override": {"path": "/path"}}}
    for label, target, task in (
        ("oidc replaces task oauth", oidc(), far(http={"headers": {"Authorization": "Bearer token"}, **oauth()})),
        ("oidc replaces invalid task token", oidc(), far(http=oidc("", ""))),
        ("oidc without audience", oidc(audience=""), far("https://example.com/work?query")),
        ("oidc without audience under uri override", {**oidc(audience=""), **override}, far()),
        ("oauth without scope", oauth(), far(api)),
        ("oauth to other host", oauth(), far()),
        ("no queue token keeps task token", {"http_method": "PUT"}, far(http=oidc())),
        ("get override keeps task method and body", {"http_method": "GET"}, far(http={"body": b"hi"})),
    ):
        queue = c.queue("task-" + label.replace(" ", "-"), http_target=target)
        c.ask(label, "CreateTask", http_of, parent=queue, task=task, response_view="FULL")


@case
def create_task_truncates_deadline(c: Recording) -> None:
    task = far(dispatch_deadline={"seconds": 20, "nanos": 123456789})
    ask_task(c, "create_task", "deadline", task, part("dispatch_deadline"))


@case
def delete_task_blocks_name(c: Recording) -> None:
    queue = c.queue("deleted-task")
    name = str(c.task(queue, "t").name)
    c.do("DeleteTask", name=name)
    c.ask("get_task", "GetTask", name=name)
    c.ask("create_task", "CreateTask", parent=queue, task={**far(), "name": name})
    c.ask("delete_task", "DeleteTask", name=name)
    c.ask("run_task", "RunTask", name=name)


@case
def delete_task_removes_task(c: Recording) -> None:
    c.ask("delete_task", "DeleteTask", name=c.task(c.queue("delete-task"), "t").name)


EIGHT_TASK_NAMES = (
    ("unknown task", "{}/tasks/missing"),
    ("unknown queue", f"{q('missing')}/tasks/t"),
    ("empty name", ""),
    ("name not in a project", "not-a-valid-name"),
    ("name without task id", "{}/tasks"),
    ("invalid task id", "{}/tasks/not valid"),
    ("invalid queue id", f"{L}/queues/not_valid/tasks/t"),
    ("name with extra segment", "{}/tasks/t/extra"),
)


@case
def get_task_rejects_invalid_names(c: Recording) -> None:
    queue = c.queue("get-tasks")
    for label, name in EIGHT_TASK_NAMES:
        c.ask(label, "GetTask", name=name.format(queue))


@case
def run_task_rejects_invalid_names(c: Recording) -> None:
    queue = c.queue("run-invalid")
    for label, name in EIGHT_TASK_NAMES[:6]:
        c.ask(label, "RunTask", name=name.format(queue))


@case
def get_task_returns_basic_and_full_views(c: Recording) -> None:
    name = c.task(c.queue("views"), "t", http={"body": b"hi"}).name
    c.ask("get_task basic", "GetTask", name=name)
    c.ask("get_task full", "GetTask", name=name, response_view="FULL")


@case
def list_tasks_pages_by_page_size(c: Recording) -> None:
    queue = c.queue("page-tasks")
    for name in "abc":
        c.task(queue, name)
    token = ""
    for label in ("first", "second", "third"):
        page = c.do("ListTasks", parent=queue, page_size=2, page_token=token)
        token = page.next_page_token
        c.say(f"{label} page", [len(page.tasks), bool(token)])


@case
def list_tasks_returns_every_task(c: Recording) -> None:
    queue = c.queue("list-tasks")
    for name in "cab":
        c.task(queue, name)
    c.ask("list_tasks", "ListTasks", lambda page: sorted(task.name for task in page.tasks), parent=queue)


@case
def unknown_enums_fall_back_to_defaults(c: Recording) -> None:
    queue = c.queue("unknown-enums")
    view = types.Task.pb().DESCRIPTOR.fields_by_name["view"]
    both = lambda task: [enum(view, task.view), http_of(task)]  # noqa: E731
    c.ask("create_task method 99", "CreateTask", http_of, parent=queue, task=far(http={"http_method": 99}))
    task = {**far(http={"body": b"hi"}), "name": f"{queue}/tasks/t"}
    c.ask("create_task view 99", "CreateTask", both, parent=queue, task=task, response_view=99)
    c.ask("get_task view 99", "GetTask", both, name=f"{queue}/tasks/t", response_view=99)
    views = lambda page: [enum(view, task.view) for task in page.tasks]  # noqa: E731
    c.ask("list_tasks view 99", "ListTasks", views, parent=queue, response_view=99)


# Attempts


def tokens(request: Request, *, headers: bool = False) -> list[Any]:
    """Scheme and claims of each Authorization header, and the token's own header where asked for."""
    found = []
    for scheme, _, token in (value.partition(" ") for name, value in request.headers if name == "authorization"):
        claims = jwt.decode(token, options={"verify_signature": False})
        claims["exp - iat"] = claims.pop("exp") - claims.pop("iat")
        assert claims["azp"] == claims["sub"]
        assert re.fullmatch(r"\d{21}", claims["sub"])
        claims |= {"azp": "{service_account_id}", "sub": "{service_account_id}"}
        head = jwt.get_unverified_header(token)
        head["kid"] = "{kid}"
        found.append([scheme, [head, claims] if headers else claims])
    return found


@case
def dispatch_applies_http_target(c: Recording) -> None:
    address = {"scheme": "HTTP", "host": "127.0.0.1", "port": c.receiver.server_port}
    headers = [{"header": {"key": key, "value": "queue"}} for key in ("X-Custom", "X-Other")]
    over = {"path_override": {"path": "/target-always/overridden/200"}, "query_override": {"query_params": "q=1"}}
    target = {"uri_override": {**address, **over}, "http_method": "PUT", "header_overrides": headers, **oidc()}
    always = c.queue("target-always", http_target=target)
    over = {**over, "path_override": {"path": "/target-if-not-exists/overridden/200"}}
    mode = {"uri_override": {**over, "uri_override_enforce_mode": "IF_NOT_EXISTS"}}
    if_not_exists = c.queue("target-if-not-exists", http_target=mode)
    hour = {"max_attempts": 2, "min_backoff": {"seconds": 3600}, "max_backoff": {"seconds": 3600}}
    get = c.queue("target-get", http_target={"http_method": "GET"}, retry_config=hour)
    plain = {"headers": {"Content-Type": "text/plain"}}
    custom = {"headers": {"X-Custom": "task", "Content-Type": "text/plain"}, "body": b"hi", "http_method": "POST"}
    for queue, key, name, url, http in (
        (always, "target-always", "with-headers", "https://example.com/target-always/kept/200?b=2", custom),
        (always, "target-always", "without-headers", "https://example.com/target-always/kept/200", {}),
        (if_not_exists, "target-if-not-exists", "t", "target-if-not-exists/kept/200", {}),
        (get, "target-get", "with-body", "target-get/200", {"body": b"hi"}),
        (get, "target-get", "without-body", "target-get/200", plain),
    ):
        c.due(queue, name, url, http)
        c.service.deliver(queue)
        for request in [] if name == "with-body" else c.seen(key)[-1:]:
            names = {"content-type", "user-agent", "x-custom", "x-other"}
            seen = {name: value for name, value in request.seen("x-other").items() if name in names}
            seen = dict(sorted(seen.items()))
            c.say(f'{key} "{name}"', [request.method, request.path, request.query, seen, request.body, tokens(request)])
    status = lambda task: form(task)["last_attempt"]["response_status"]  # noqa: E731
    c.ask("target-get with body", "GetTask", status, name=f"{get}/tasks/with-body", response_view="FULL")


@case
def dispatch_follows_redirects(c: Recording) -> None:
    queue = c.queue("dispatch-redirect")
    c.due(queue, "t", "redirect/redirect")
    c.deliver_all(queue)
    c.say("requests", [[request.method, request.path] for request in c.seen("redirect")])


@case
def dispatch_records_response_status(c: Recording) -> None:
    hour = {"max_attempts": 2, "min_backoff": {"seconds": 3600}, "max_backoff": {"seconds": 3600}}
    queue = c.queue("dispatch-statuses", retry_config=hour)
    pick = lambda task: [task.dispatch_count, task.response_count, form(task)["last_attempt"]["response_status"]]  # noqa: E731
    for label, _ in RECORDED["dispatch_records_response_status"]:
        unreachable = label == "unreachable"
        url = "https://unreachable.invalid/work" if unreachable else f"{c.receiver.url}/status-{label}/{label}"
        task = {"name": f"{queue}/tasks/{label}", "http_request": {"url": url}, "dispatch_deadline": {"seconds": 15}}
        c.do("CreateTask", parent=queue, task=task)
        c.service.deliver(queue)
        c.ask(label, "GetTask", pick, name=f"{queue}/tasks/{label}", response_view="FULL")


@case
def dispatch_reports_previous_responses(c: Recording) -> None:
    second = {"max_attempts": 10, "min_backoff": {"seconds": 1}, "max_backoff": {"seconds": 1}}
    queue = c.queue("dispatch-retries", retry_config=second)
    c.due(queue, "t", "retries/503,404,429,500,302,200")
    c.deliver_all(queue)
    for number, request in enumerate(c.seen("retries"), 1):
        seen = request.seen()
        assert seen.pop("x-cloudtasks-tasketa")
        c.say(f"attempt {number}", seen)


@case
def dispatch_sends_oidc_token(c: Recording) -> None:
    queue = c.queue("dispatch-oidc")
    own = {"headers": {"Authorization": "Bearer token"}}
    for label, token in (("oidc-audience", oidc()), ("oidc-url", oidc(audience=""))):
        c.due(queue, label, f"{label}/200?query", {**own, **token})
        c.deliver_all(queue)
        c.say(label, tokens(c.seen(label)[0], headers=True))


@case
def retries_back_off_exponentially_then_linearly(c: Recording) -> None:
    config = {"max_attempts": 6, "min_backoff": {"seconds": 1}, "max_backoff": {"seconds": 7}, "max_doublings": 1}
    queue = c.queue("backoff", retry_config=config)
    c.due(queue, "t", "backoff/500")
    c.deliver_all(queue)
    at = [request.at for request in c.seen("backoff")]
    c.say("seconds between attempts", [round(late - early) for early, late in itertools.pairwise(at)])


def attempts_until_gone(c: Recording, label: str, key: str, attempts: int, duration: int, backoff: int) -> None:
    config = {"max_attempts": attempts, "max_retry_duration": {"seconds": duration}}
    config |= {"min_backoff": {"seconds": backoff}, "max_backoff": {"seconds": backoff}}
    queue = c.queue(key, retry_config=config)
    c.due(queue, "t", f"{key}/500")
    for _ in range(10):
        c.deliver_all(queue)
    c.say(label, len(c.seen(key)))


@case
def retries_stop_at_max_retry_duration(c: Recording) -> None:
    attempts_until_gone(c, "unlimited attempts, 3s, 2s backoff", "stop-duration", -1, 3, 2)


@case
def retries_stop_once_both_limits_pass(c: Recording) -> None:
    attempts_until_gone(c, "2 attempts, 3s, 2s backoff", "stop-time-last", 2, 3, 2)
    attempts_until_gone(c, "4 attempts, 1s, 1s backoff", "stop-attempts-last", 4, 1, 1)


@case
def run_task_dispatches_now(c: Recording) -> None:
    queue = c.queue("run")
    name = f"{queue}/tasks/t"
    c.do("CreateTask", parent=queue, task={**far(f"{c.receiver.url}/run/200"), "name": name})
    c.ask("run_task", "RunTask", name=name)
    c.service.wait_for(lambda tasks: not tasks.queues.busy())
    c.say("request headers", c.seen("run")[0].seen())
    c.ask("get_task after success", "GetTask", name=name)


# Operations, IAM, CMEK


@case
def only_get_operation_is_served(c: Recording) -> None:
    queue = c.queue("other-operation-rpcs")
    operation = c.do("BatchDeleteTasks", parent=queue, names=[f"{queue}/tasks/t"]).name
    c.ask("list_operations has operation", "ListOperations", name=L)
    for label, call in (("wait", "WaitOperation"), ("cancel", "CancelOperation"), ("delete", "DeleteOperation")):
        c.ask(f"{label}_operation", call, name=operation)
    c.ask("get_operation", "GetOperation", part("name"), name=operation)


VIEWER: dict[str, Any] = {"role": "roles/cloudtasks.viewer", "members": [f"serviceAccount:{ACCOUNT}"]}


@case
def get_iam_policy_returns_empty_policy(c: Recording) -> None:
    c.ask("get_iam_policy", "GetIamPolicy", resource=c.queue("empty-policy"))


@case
def set_iam_policy_checks_etag(c: Recording) -> None:
    queue = c.queue("policy-etag")
    current = c.do("SetIamPolicy", resource=queue, policy={"bindings": [VIEWER]}).etag
    pick = lambda policy: form(policy)["etag"]  # noqa: E731
    for label, etag, cut in (
        ("current etag", current, ""),
        ("stale etag", current, " The request's ETag"),
        ("empty policy etag", b"\x00\x20\x01", " did not match"),
        ("no etag", b"", ""),
    ):
        c.ask(label, "SetIamPolicy", pick, resource=queue, policy={"bindings": [VIEWER], "etag": etag})
        if cut:
            error = c.answers[-1][1]
            assert cut in error["error"]
            error["error"] = error["error"].partition(cut)[0]


@case
def set_iam_policy_rejects_invalid_requests(c: Recording) -> None:
    queue = c.queue("invalid-policy")
    expression = 'request.time < timestamp("2030-01-01T00:00:00Z")'
    condition = {"title": "until 2030", "expression": expression}
    for label, policy in (
        ("role without prefix", {"bindings": [{**VIEWER, "role": "viewer"}]}),
        ("member without type", {"bindings": [{**VIEWER, "members": ["nobody"]}]}),
        ("member of unknown type", {"bindings": [{**VIEWER, "members": ["robot:x@example.com"]}]}),
        ("condition", {"version": 3, "bindings": [{**VIEWER, "condition": condition}]}),
        ("version 4", {"version": 4}),
    ):
        c.ask(label, "SetIamPolicy", resource=queue, policy=policy)
    c.ask("no policy", "SetIamPolicy", resource=queue)
    for label, name in (("unknown queue", q("invalid-policy-missing")), *FIVE_QUEUE_NAMES[1:4]):
        c.ask(label, "SetIamPolicy", resource=name, policy={})


@case
def set_iam_policy_stores_policy(c: Recording) -> None:
    queue = c.queue("set-policy")
    twice = {**VIEWER, "members": VIEWER["members"] * 2}
    bindings = [twice, VIEWER, {"role": "roles/cloudtasks.enqueuer", "members": []}]
    c.ask("set_iam_policy", "SetIamPolicy", resource=queue, policy={"bindings": bindings})
    c.ask("get_iam_policy", "GetIamPolicy", resource=queue, options={"requested_policy_version": 3})


@case
def test_iam_permissions_rejects_invalid_requests(c: Recording) -> None:
    queue, get = c.queue("invalid-permissions"), "cloudtasks.queues.get"
    for label, permissions in (
        ("no permissions", []),
        ("one part", ["foo"]),
        ("empty part", ["cloudtasks.queues."]),
        ("wildcard", ["cloudtasks.*"]),
        ("another service", ["storage.objects.get"]),
        ("location permission", ["cloudtasks.queues.create"]),
        ("first invalid of several", [get, "storage.objects.get", "foo"]),
    ):
        c.ask(label, "TestIamPermissions", resource=queue, permissions=permissions)
    c.ask("unknown queue", "TestIamPermissions", resource=q("invalid-permissions-missing"))
    for label, name in FIVE_QUEUE_NAMES[1:4]:
        c.ask(label, "TestIamPermissions", resource=name, permissions=[get])


@case
def test_iam_permissions_returns_requested_permissions(c: Recording) -> None:
    asked = [f"cloudtasks.{each}" for each in ("tasks.run", "queues.get", "tasks.run", "queues.setIamPolicy")]
    queue = c.queue("test-permissions")
    c.ask("test_iam_permissions", "TestIamPermissions", part("permissions"), resource=queue, permissions=asked)


@case
def get_cmek_config_returns_config(c: Recording) -> None:
    c.ask("get_cmek_config", "GetCmekConfig", name=f"{L}/cmekConfig")


@case
def update_cmek_config_refuses_queues_with_header_overrides(c: Recording) -> None:
    override = [{"header": {"key": "X-Custom", "value": "value"}}]
    c.queue("cmek-header-overrides", http_target={"header_overrides": override})
    c.ask("update_cmek_config", "UpdateCmekConfig", cmek_config={"name": f"{L}/cmekConfig", "kms_key": "not-a-key"})


@case
def update_cmek_config_rejects_invalid_requests(c: Recording) -> None:
    location = f"{P}/locations/us-central1"
    name, ring = f"{location}/cmekConfig", f"{location}/keyRings/missing"
    for label, config in (
        ("malformed key", {"name": name, "kms_key": "not-a-key"}),
        ("key ring", {"name": name, "kms_key": ring}),
        ("key version", {"name": name, "kms_key": f"{ring}/cryptoKeys/missing/cryptoKeyVersions/1"}),
        ("key in another location", {"name": name, "kms_key": f"{L}/keyRings/missing/cryptoKeys/missing"}),
        ("no config", None),
        ("empty name", {"name": "", "kms_key": "not-a-key"}),
        ("name not in a project", {"name": "not-a-valid-name", "kms_key": "not-a-key"}),
        ("location name", {"name": location, "kms_key": "not-a-key"}),
    ):
        c.ask(label, "UpdateCmekConfig", **({} if config is None else {"cmek_config": config}))


# REST


def ask_rest(c: Recording, label: str, verb: str, path: str, body: str | None = None) -> None:
    status, text = c.do.http(verb, path, None if body is None else body.encode())
    found: Any = json.loads(text)
    if label == "malformed json":
        text = re.sub(r'(received\. ).*(",)', r"\1{account}\2", text)
        found = text.rstrip("\n")
    elif label == "compact":
        assert text == json.dumps(found, separators=(",", ":"))
    else:
        assert text == json.dumps(found, indent=2) + "\n"
    c.say(label, {"status": status, "newline": text.endswith("\n"), "body": _with_placeholders(found)})


def _with_placeholders(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """JSON of REST with the recordings' placeholders for times and tokens."""
    names = {"createTime": "{create_time}", "startTime": "{start_time}", "endTime": "{end_time}"}
    names["nextPageToken"] = "{page_token}"
    if isinstance(value, dict):
        return {key: names.get(key) or _with_placeholders(each) for key, each in value.items()}
    return [_with_placeholders(each) for each in value] if isinstance(value, list) else value


TOMORROW_TEXT = "2027-01-16T08:00:00"


@case
def rest_follows_system_parameters(c: Recording) -> None:
    queue = c.queue("rest-parameters")
    ask_rest(c, "enum numbers", "GET", f"/v2/{queue}?$alt=json;enum-encoding=int")
    ask_rest(c, "compact", "GET", f"/v2/{queue}?alt=json&prettyPrint=false")


@case
def rest_manages_tasks(c: Recording) -> None:
    queue = c.queue("rest-tasks")
    http = {"url": "https://example.com/work", "httpMethod": "PUT", "body": "aGk="}
    schedule = {"scheduleTime": f"{TOMORROW_TEXT}.123456789Z", "dispatchDeadline": "30s"}
    task = {"name": f"{queue}/tasks/t", **schedule, "httpRequest": http}
    ask_rest(c, "create", "POST", f"/v2/{queue}/tasks", json.dumps({"task": task, "responseView": "FULL"}))
    ask_rest(c, "get", "GET", f"/v2/{queue}/tasks/t?responseView=FULL")
    ask_rest(c, "list", "GET", f"/v2/{queue}/tasks")
    ask_rest(c, "delete", "DELETE", f"/v2/{queue}/tasks/t")


@case
def rest_rejects_invalid_requests(c: Recording) -> None:
    tasks = f"/v2/{q('rest-invalid')}/tasks"
    ask_rest(c, "unknown field", "POST", tasks, '{"bogus": 1}')
    ask_rest(c, "unknown nested fields", "POST", tasks, '{"task": {"httpRequest": {"bogus": 1, "other": 2}}}')
    ask_rest(c, "unknown query parameter", "GET", f"{tasks}?bogus=1")
    ask_rest(c, "wrong type", "POST", tasks, '{"task": {"name": 5}}')
    ask_rest(c, "wrong query parameter type", "GET", f"{tasks}?pageSize=abc")
    ask_rest(c, "unknown enum", "GET", f"{tasks}?responseView=NOPE")
    ask_rest(c, "array body", "POST", tasks, "[]")
    ask_rest(c, "malformed json", "POST", tasks, '{"task": ')


@case
def rest_runs_batches(c: Recording) -> None:
    queue = c.queue("rest-batch")
    http = {"url": "https://example.com/work"}
    task = {"name": f"{queue}/tasks/t", "scheduleTime": f"{TOMORROW_TEXT}.123456789Z", "httpRequest": http}
    creates = {"requests": [{"parent": queue, "task": task}], "requestId": f"{RUN}-rest-create"}
    deletes = {"names": [f"{queue}/tasks/t"], "requestId": f"{RUN}-rest-delete"}
    ask_rest(c, "batch create", "POST", f"/v2/{queue}/tasks:batchCreate", json.dumps(creates))
    ask_rest(c, "batch delete", "POST", f"/v2/{queue}/tasks:batchDelete", json.dumps(deletes))
    ask_rest(c, "get operation", "GET", f"/v2/{L}/operations/{RUN}-rest-create")


@pytest.fixture
def service() -> Iterator[Serving]:
    with Serving(sends_runs=True) as service:
        yield service


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize("name", RECORDED)
def test_a_case_is_answered_as_recorded(service: Serving, name: str, transport: str) -> None:
    with Receiver(lambda: service.now) as receiver, grpc.insecure_channel(service.grpc) as channel:
        recording = Recording(service, receiver, channel, rest=transport == "rest")
        CASES[name](recording)
        said = json.dumps(recording.answers)
        for here, there in (
            (receiver.url, "{receiver}"),
            (ISSUER, "{issuer}"),
            (ACCOUNT, "{service_account}"),
            (f"projects/{PROJECT}", "projects/{project}"),
            (f"locations/{LOCATION_ID}", "locations/{location}"),
            (RUN, "{run}"),
            (str(TOMORROW), "{tomorrow}"),
            (TOMORROW_TEXT, "{tomorrow}"),
        ):
            said = said.replace(here, there)
    expected = json.loads(re.sub(r"\{(start|end)_nanos\}", "0", json.dumps(RECORDED[name])))
    assert json.loads(said) == expected


def test_every_recorded_case_is_tried() -> None:
    assert CASES.keys() == RECORDED.keys()
    assert len(RECORDED) == 82


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", f"/v2/{L}/operations"),
        ("POST", f"/v2/{L}/operations/{RUN}-missing:wait"),
        ("POST", f"/v2/{L}/operations/{RUN}-missing:cancel"),
        ("DELETE", f"/v2/{L}/operations/{RUN}-missing"),
        ("GET", "/v2/bogus"),
        ("DELETE", f"/v2/{q('rest-routes')}:pause"),
    ],
)
def test_rest_serves_only_mapped_routes(service: Serving, verb: str, path: str) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        status, page = Caller(service, channel, rest=True).http(verb, path, b"{}" if verb == "POST" else None)
    assert (status, f"<code>{path}</code>" in page) == (404, True)


def test_every_call_is_in_the_official_protos() -> None:
    assert len({(call.service, call.name) for call in CALLS}) == len(CALLS)
