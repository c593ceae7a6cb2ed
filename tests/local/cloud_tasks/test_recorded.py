"""The local cloud against answers recorded from the real service, over gRPC and over REST.

`recorded.json` has each case as rows: `[call, request]` prepares, `[label, call, request, answer, pick]` is compared.
`pick` names the recorded part of the answer, the whole if it is left out. recorded_calls.py says in what form answers
are. What needs more than calls has a function here, and rows `[label, answer]` there. Over REST a call is made as
REST makes it, and `VERB PATH` is sent as it is. Time is the service's virtual clock; the requests of attempts are real.

The recordings were made by the authors of the Rust crate cloud-tasks-emulator 0.1.1 (MIT).
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

from tests.local.cloud_tasks.recorded_calls import TOMORROW, Caller, CallFailedError, Receiver, Request, form
from tests.local.cloud_tasks.serving import ACCOUNT, ISSUER, PROJECT, Serving

L = f"projects/{PROJECT}/locations/europe-west1"
RUN = "r0a1b2c3d"
NAMES = {"{L}": L, "{Q}": f"{L}/queues/{RUN}", "{run}": RUN, "{project}": PROJECT, "{SA}": ACCOUNT, "{issuer}": ISSUER}
NAMES |= {"{start_nanos}": "0", "{end_nanos}": "0"}
RECORDED: dict[str, list[Any]] = json.loads(
    re.sub(
        r"\{\w+\}",
        lambda match: NAMES.get(match[0], match[0]),
        (Path(__file__).parent / "recorded.json").read_text(),
    )
)
TOMORROW_TEXT = "2027-01-16T08:00:00"
HTTP = {"url": "https://example.com/work"}
FAR = {"schedule_time": {"seconds": TOMORROW, "nanos": 123456789}, "http_request": HTTP}
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
PICKS: dict[str, Callable[[Any], Any]] = {
    "at once": lambda task: task.schedule_time.seconds - task.create_time.seconds in (0, 1),
    "digits": lambda task: task.name.rpartition("/")[2].isdigit(),
    "has queues": lambda page: bool(page.queues),
    "header names": lambda task: sorted(task.http_request.headers),
    "http": lambda task: {"http_request": form(task)["http_request"]},
    "of the queue": lambda task: task.name.startswith(f"{L}/queues/{RUN}-schedule-limit"),
    "purge_time is set": lambda queue: queue.HasField("purge_time"),
    "queues": lambda page: [queue.name for queue in page.queues],
    "size and token": lambda page: [len(page.tasks), bool(page.next_page_token)],
    "state and purge_time": lambda queue: [form(queue)["state"], queue.HasField("purge_time")],
    "tasks": lambda page: [task.name for task in page.tasks],
    "view and http": lambda task: [form(task).get("view", "Unspecified"), PICKS["http"](task)],
    "views": lambda page: [form(task)["view"] for task in page.tasks],
}


class Recording:
    """One case as it runs here."""

    def __init__(self, service: Serving, receiver: Receiver, channel: grpc.Channel, *, rest: bool) -> None:
        self.service = service
        self.receiver = receiver
        self.do = Caller(service, channel, rest=rest)
        self._responses: list[Any] = []
        self.answers: list[Any] = []
        """Label and answer of each row that is compared."""

    def play(self, row: list[Any]) -> None:
        """Make the call of a row, and note what it was answered."""
        if len(row) == 2:
            self._responses.append(self.do(row[0], **self._fields(row[1])))
            return
        label, call, request, recorded, *pick = row
        if "/" in call:
            verb, path = call.split(" ", 1)
            self.answers.append([label, self._http(label, verb, path, request)])
            return
        try:
            response = self.do(call, **self._fields(request))
            self._responses.append(response)
            self.answers.append([label, picked(response, *pick)])
        except CallFailedError as error:
            if isinstance(recorded, dict) and "error" in recorded and pick == ["etag"]:  # recorded without its end
                error.form["error"] = error.form["error"][: len(recorded["error"])]
            self.answers.append([label, error.form])

    def _fields(self, value: Any, name: str = "") -> Any:  # noqa: ANN401 - any JSON
        """The fields of a request, with the vocabulary of the recordings' page spelled out."""
        if isinstance(value, list):
            return [self._fields(each) for each in value]
        if isinstance(value, str) and name in ("body", "etag"):
            return value.encode()
        if not isinstance(value, dict):
            return value
        match value:
            case {"times": [int(count), each]}:
                each = self._fields(each)
                return each * count if isinstance(each, str) and len(each) == 1 else [each] * count
            case {"row": int(row), "field": str(field)}:
                return getattr(self._responses[row], field)
            case {"far": fields}:
                return self._fields({**FAR, **fields, "http_request": {**HTTP, **fields.get("http_request", {})}})
            case {"configured": fields}:
                return self._fields({**CONFIGURED, **fields})
        return {key: self._fields(each, key) for key, each in value.items()}

    def _http(self, label: str, verb: str, path: str, body: str | None) -> Any:  # noqa: ANN401 - any JSON
        status, text = self.do.http(verb, path, None if body is None else body.encode())
        found = json.loads(text)
        if label == "malformed json":
            return {
                "status": status,
                "newline": True,
                "body": re.sub(r'(received\. ).*(",)', r"\1{account}\2", text)[:-1],
            }
        compact = label == "compact"
        assert text == (json.dumps(found, separators=(",", ":")) if compact else json.dumps(found, indent=2) + "\n")
        return {"status": status, "newline": not compact, "body": _with_placeholders(found)}

    def queue(self, name: str, **fields: Any) -> str:  # noqa: ANN401 - any field
        path = f"{L}/queues/{RUN}-{name}"
        return str(self.do("CreateQueue", parent=L, queue={"name": path, **fields}).name)

    def due(self, queue: str, task_id: str, steps: str, **http: Any) -> None:  # noqa: ANN401 - any field
        """A due task to the receiver, or to a whole URL."""
        url = steps if "://" in steps else f"{self.receiver.url}/{steps}"
        task = {"name": f"{queue}/tasks/{task_id}", "http_request": {"url": url, **http}}
        self.do("CreateTask", parent=queue, task=task)

    def deliver_all(self, queue: str) -> None:
        """Deliver until the queue has nothing left to send within an hour."""
        while self.service.do(lambda tasks: (tasks.next_dispatch(queue) or 1e12) < self.service.now + 3000):
            self.service.deliver(queue)


def picked(message: Any, pick: str = "") -> Any:  # noqa: ANN401 - any message
    """The part of an answer that was recorded."""
    if pick in PICKS:
        return PICKS[pick](message)
    found = [form(message)]
    for path in filter(None, pick.split(", ")):
        value = found[0]
        for name in path.split("."):
            value = value.get(name)
        found.append(value)
    return found[-1] if len(found) < 3 else found[1:]


def _with_placeholders(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """JSON of REST with the recordings' placeholders for times and tokens."""
    names = {"createTime": "{create_time}", "startTime": "{start_time}", "endTime": "{end_time}"}
    names["nextPageToken"] = "{page_token}"
    if isinstance(value, dict):
        return {key: names.get(key) or _with_placeholders(each) for key, each in value.items()}
    return [_with_placeholders(each) for each in value] if isinstance(value, list) else value


Answers = Iterator[tuple[str, Any]]


def create_task_limits_task_size(c: Recording) -> Answers:
    queue = c.queue("task-size")

    def refusal(body: int) -> Any:  # noqa: ANN401 - an error's form
        tried.append(f"{queue}/tasks/t{len(tried) + 1:02}")
        http = {**HTTP, "headers": {"X-Header": "h" * 1000}, "body": b"a" * body}
        try:
            c.do("CreateTask", parent=queue, task={**FAR, "name": tried[-1], "http_request": http})
        except CallFailedError as error:
            return error.form
        return None

    tried: list[str] = []
    low, high = 0, 2_000_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refusal(middle) else (middle, high)
    yield "largest body plus name length", low + len(tried[0]) - 2
    yield "one byte more", refusal(high)


def pause_queue_stops_dispatch(c: Recording) -> Answers:
    queue = c.queue("paused")
    yield "pause_queue", form(c.do("PauseQueue", name=queue))
    c.due(queue, "t", "paused/200")
    c.service.now += 5
    c.deliver_all(queue)
    yield "requests while paused", len(c.receiver.requests["paused"])
    yield "resume_queue", form(c.do("ResumeQueue", name=queue))
    c.deliver_all(queue)
    yield "requests after resume", len(c.receiver.requests["paused"])


def tokens(request: Request, *, headers: bool = False) -> list[Any]:
    """Scheme and claims of each Authorization header, and the token's own header where asked for."""
    found = []
    for scheme, _, token in (value.partition(" ") for name, value in request.headers if name == "authorization"):
        claims = jwt.decode(token, options={"verify_signature": False})
        claims["exp - iat"] = claims.pop("exp") - claims.pop("iat")
        assert claims["azp"] == claims["sub"]
        assert re.fullmatch(r"\d{21}", claims["sub"])
        claims |= {"azp": "{service_account_id}", "sub": "{service_account_id}"}
        head = {**jwt.get_unverified_header(token), "kid": "{kid}"}
        found.append([scheme, [head, claims] if headers else claims])
    return found


def oidc(audience: str = "https://example.com/audience") -> dict[str, Any]:
    return {"oidc_token": {"service_account_email": ACCOUNT, "audience": audience}}


HOURLY = {"max_attempts": 2, "min_backoff": {"seconds": 3600}, "max_backoff": {"seconds": 3600}}


def dispatch_applies_http_target(c: Recording) -> Answers:
    def overridden(key: str) -> dict[str, Any]:
        return {"path_override": {"path": f"/{key}/overridden/200"}, "query_override": {"query_params": "q=1"}}

    address = {"scheme": "HTTP", "host": "127.0.0.1", "port": c.receiver.server_port}
    headers = [{"header": {"key": key, "value": "queue"}} for key in ("X-Custom", "X-Other")]
    target = {"uri_override": {**address, **overridden("target-always")}, "http_method": "PUT", **oidc()}
    always = c.queue("target-always", http_target={**target, "header_overrides": headers})
    mode = {**overridden("target-if-not-exists"), "uri_override_enforce_mode": "IF_NOT_EXISTS"}
    if_not_exists = c.queue("target-if-not-exists", http_target={"uri_override": mode})
    get = c.queue("target-get", http_target={"http_method": "GET"}, retry_config=HOURLY)
    plain = {"headers": {"Content-Type": "text/plain"}}
    custom = {"headers": {"X-Custom": "task", "Content-Type": "text/plain"}, "body": b"hi", "http_method": "POST"}
    for queue, key, name, url, http in (
        (always, "target-always", "with-headers", "https://example.com/target-always/kept/200?b=2", custom),
        (always, "target-always", "without-headers", "https://example.com/target-always/kept/200", {}),
        (if_not_exists, "target-if-not-exists", "t", "target-if-not-exists/kept/200", {}),
        (get, "target-get", "with-body", "target-get/200", {"body": b"hi"}),
        (get, "target-get", "without-body", "target-get/200", plain),
    ):
        c.due(queue, name, url, **http)
        c.service.deliver(queue)
        for request in [] if name == "with-body" else c.receiver.requests[key][-1:]:
            names = {"content-type", "user-agent", "x-custom", "x-other"}
            seen = {name: value for name, value in request.seen("x-other").items() if name in names}
            parts = [request.method, request.path, request.query, seen, request.body, tokens(request)]
            yield f'{key} "{name}"', parts
    task = c.do("GetTask", name=f"{get}/tasks/with-body", response_view="FULL")
    yield "target-get with body", picked(task, "last_attempt.response_status")


def dispatch_follows_redirects(c: Recording) -> Answers:
    queue = c.queue("dispatch-redirect")
    c.due(queue, "t", "redirect/redirect")
    c.deliver_all(queue)
    yield "requests", [[request.method, request.path] for request in c.receiver.requests["redirect"]]


def dispatch_records_response_status(c: Recording) -> Answers:
    queue = c.queue("dispatch-statuses", retry_config=HOURLY)
    for label, _ in RECORDED["dispatch_records_response_status"]:
        url = f"{c.receiver.url}/status-{label}/{label}"
        url = "https://unreachable.invalid/work" if label == "unreachable" else url
        task = {"name": f"{queue}/tasks/{label}", "http_request": {"url": url}, "dispatch_deadline": {"seconds": 15}}
        c.do("CreateTask", parent=queue, task=task)
        c.service.deliver(queue)
        task = c.do("GetTask", name=f"{queue}/tasks/{label}", response_view="FULL")
        yield label, [task.dispatch_count, task.response_count, picked(task, "last_attempt.response_status")]


def dispatch_reports_previous_responses(c: Recording) -> Answers:
    second = {"max_attempts": 10, "min_backoff": {"seconds": 1}, "max_backoff": {"seconds": 1}}
    queue = c.queue("dispatch-retries", retry_config=second)
    c.due(queue, "t", "retries/503,404,429,500,302,200")
    c.deliver_all(queue)
    for number, request in enumerate(c.receiver.requests["retries"], 1):
        seen = request.seen()
        assert seen.pop("x-cloudtasks-tasketa")
        yield f"attempt {number}", seen


def dispatch_sends_oidc_token(c: Recording) -> Answers:
    queue = c.queue("dispatch-oidc")
    for label, token in (("oidc-audience", oidc()), ("oidc-url", oidc(audience=""))):
        c.due(queue, label, f"{label}/200?query", headers={"Authorization": "Bearer token"}, **token)
        c.deliver_all(queue)
        yield label, tokens(c.receiver.requests[label][0], headers=True)


def retries_back_off_exponentially_then_linearly(c: Recording) -> Answers:
    config = {"max_attempts": 6, "min_backoff": {"seconds": 1}, "max_backoff": {"seconds": 7}, "max_doublings": 1}
    queue = c.queue("backoff", retry_config=config)
    c.due(queue, "t", "backoff/500")
    c.deliver_all(queue)
    at = [request.at for request in c.receiver.requests["backoff"]]
    yield "seconds between attempts", [round(late - early) for early, late in itertools.pairwise(at)]


def attempts_until_gone(c: Recording, key: str, attempts: int, duration: int, backoff: int) -> int:
    config = {"max_attempts": attempts, "max_retry_duration": {"seconds": duration}}
    config |= {"min_backoff": {"seconds": backoff}, "max_backoff": {"seconds": backoff}}
    queue = c.queue(key, retry_config=config)
    c.due(queue, "t", f"{key}/500")
    for _ in range(10):
        c.deliver_all(queue)
    return len(c.receiver.requests[key])


def retries_stop_at_max_retry_duration(c: Recording) -> Answers:
    yield "unlimited attempts, 3s, 2s backoff", attempts_until_gone(c, "stop-duration", -1, 3, 2)


def retries_stop_once_both_limits_pass(c: Recording) -> Answers:
    yield "2 attempts, 3s, 2s backoff", attempts_until_gone(c, "stop-time-last", 2, 3, 2)
    yield "4 attempts, 1s, 1s backoff", attempts_until_gone(c, "stop-attempts-last", 4, 1, 1)


def run_task_dispatches_now(c: Recording) -> Answers:
    queue = c.queue("run")
    name = f"{queue}/tasks/t"
    task = {**FAR, "name": name, "http_request": {"url": f"{c.receiver.url}/run/200"}}
    c.do("CreateTask", parent=queue, task=task)
    yield "run_task", form(c.do("RunTask", name=name))
    c.service.wait_for(lambda tasks: not tasks.queues.busy())
    yield "request headers", c.receiver.requests["run"][0].seen()
    with pytest.raises(CallFailedError) as caught:
        c.do("GetTask", name=name)
    yield "get_task after success", caught.value.form


@pytest.fixture
def service() -> Iterator[Serving]:
    with Serving(sends_runs=True) as service:
        yield service


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize("name", RECORDED)
def test_a_case_is_answered_as_recorded(service: Serving, name: str, transport: str) -> None:
    rows = RECORDED[name]
    with Receiver(lambda: service.now) as receiver, grpc.insecure_channel(service.grpc) as channel:
        recording = Recording(service, receiver, channel, rest=transport == "rest")
        if name in globals():
            recording.answers += [[label, answer] for label, answer in globals()[name](recording)]
            recorded = rows
        else:
            for row in rows:
                recording.play(row)
            recorded = [[row[0], row[3]] for row in rows if len(row) > 2]
        said = json.dumps(recording.answers).replace(receiver.url, "{receiver}")
        for tomorrow in (TOMORROW_TEXT, str(TOMORROW)):
            said = said.replace(tomorrow, "{tomorrow}")
    assert json.loads(said) == recorded


def test_every_recorded_case_is_tried() -> None:
    assert len(RECORDED) == 82


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", f"/v2/{L}/operations"),
        ("POST", f"/v2/{L}/operations/{RUN}-missing:wait"),
        ("POST", f"/v2/{L}/operations/{RUN}-missing:cancel"),
        ("DELETE", f"/v2/{L}/operations/{RUN}-missing"),
        ("GET", "/v2/bogus"),
        ("DELETE", f"/v2/{L}/queues/{RUN}-rest-routes:pause"),
    ],
)
def test_rest_serves_only_mapped_routes(service: Serving, verb: str, path: str) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        status, page = Caller(service, channel, rest=True).http(verb, path, b"{}" if verb == "POST" else None)
    assert (status, f"<code>{path}</code>" in page) == (404, True)
