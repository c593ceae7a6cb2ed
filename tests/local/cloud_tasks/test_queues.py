"""Queues made, changed and deleted while the service runs, under a virtual clock."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud.tasks_v2 import types
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import field_mask_pb2, json_format

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.listener import Listener
from local.cloud_tasks.messages import CallError, Message, QueueMessage
from local.cloud_tasks.queues import QUEUE_BLOCKED_SECONDS
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks

PARENT = "projects/other/locations/europe-west1"
QUEUE = f"{PARENT}/queues/made"
DECLARED = "projects/shop/locations/us-central1/queues/declared"
HANDLER = "serviceAccount:handler@shop.iam.gserviceaccount.com"
START = 1_800_000_000.0


class Service(Listener):
    """Cloud Tasks with one declared queue, on a real store."""

    def __init__(self, file: Path) -> None:
        self.now = START
        self._file = file
        self.open()

    def run_requested(self, attempt: Attempt) -> None:
        self.forced.append(attempt)

    def open(self) -> None:
        self.store = Store(self._file)
        self.tasks = CloudTasks(self.store, lambda: self.now, lambda *_: True, [self])
        self.queues = self.tasks.queues
        self.forced: list[Attempt] = []
        self.queues.declare(QueueMessage(name=DECLARED), [("roles/cloudtasks.enqueuer", HANDLER)])

    def reopen(self) -> None:
        self.store.close()
        self.open()

    def make(self, **fields: Any) -> Message:  # noqa: ANN401 - any field of a queue
        queue = json_format.ParseDict({"name": QUEUE, **fields}, QueueMessage())
        return self.queues.create_queue(types.CreateQueueRequest.pb()(parent=PARENT, queue=queue))

    def update(self, mask: str, **fields: Any) -> Message:  # noqa: ANN401 - any field of a queue
        queue = json_format.ParseDict({"name": QUEUE, **fields}, QueueMessage())
        paths = field_mask_pb2.FieldMask(paths=mask.split())
        return self.queues.update_queue(types.UpdateQueueRequest.pb()(queue=queue, update_mask=paths))

    def delete(self) -> None:
        self.queues.delete_queue(types.DeleteQueueRequest.pb()(name=QUEUE))

    def create(self, task: str = "t", **fields: Any) -> Message:  # noqa: ANN401 - any field of a task
        http = {"url": "http://task.example/own?a=1", "body": b"{}", **fields.pop("http_request", {})}
        given = types.Task(name=f"{QUEUE}/tasks/{task}", http_request=http, **fields)
        return self.tasks.create_task(types.CreateTaskRequest.pb(types.CreateTaskRequest(parent=QUEUE, task=given)))

    def dispatch(self) -> Attempt:
        at = self.tasks.next_dispatch(QUEUE)
        assert at is not None
        self.now = max(self.now, at)
        [attempt] = self.tasks.start_attempts(QUEUE)
        return attempt


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "state.sqlite")
    yield service
    service.store.close()


def test_a_made_queue_outlives_a_restart_with_its_figures_its_state_its_policy_and_its_tasks(service: Service) -> None:
    service.make(rateLimits={"maxDispatchesPerSecond": 5})
    policy = policy_pb2.Policy(bindings=[policy_pb2.Binding(role="roles/cloudtasks.viewer", members=[HANDLER])])
    service.queues.set_iam_policy(iam_policy_pb2.SetIamPolicyRequest(resource=QUEUE, policy=policy))
    service.create()
    service.queues.pause_queue(types.PauseQueueRequest.pb()(name=QUEUE))
    service.reopen()
    queue = service.queues[QUEUE]
    assert queue.message.rate_limits.max_dispatches_per_second == 5
    assert queue.message.state == types.Queue.State.PAUSED
    assert service.queues.allows(HANDLER, "tasks.get", QUEUE)
    service.queues.resume_queue(types.ResumeQueueRequest.pb()(name=QUEUE))
    assert service.dispatch().task == "t"


def test_the_grants_of_the_program_count_and_a_new_policy_replaces_them_until_the_next_start(service: Service) -> None:
    assert service.queues.allows(HANDLER, "tasks.create", DECLARED)
    assert not service.queues.allows(HANDLER, "tasks.delete", DECLARED)
    assert not service.queues.allows("user:a@b.c", "tasks.create", DECLARED)
    service.queues.set_iam_policy(iam_policy_pb2.SetIamPolicyRequest(resource=DECLARED, policy=policy_pb2.Policy()))
    assert not service.queues.allows(HANDLER, "tasks.create", DECLARED)
    service.reopen()
    assert service.queues.allows(HANDLER, "tasks.create", DECLARED)


def test_a_deleted_queue_takes_its_tasks_along_and_blocks_its_name_for_days(service: Service) -> None:
    service.make()
    service.create()
    attempt = service.dispatch()
    service.create("waiting")
    service.delete()
    service.tasks.end_attempt(attempt, 500)
    assert service.tasks.start_attempts(QUEUE) == []
    assert service.tasks.next_dispatch(QUEUE) is None
    assert service.store.open_tasks() == 0
    with pytest.raises(CallError, match="existed too recently"):
        service.make()
    service.reopen()
    service.now += QUEUE_BLOCKED_SECONDS - 1
    with pytest.raises(CallError, match="existed too recently"):
        service.make()
    service.now += 1
    service.make()
    assert service.create("waiting").name


def test_a_pause_in_the_middle_of_a_dispatch_holds_the_retry_back(service: Service) -> None:
    service.make(retryConfig={"minBackoff": "1s"})
    service.create()
    attempt = service.dispatch()
    service.queues.pause_queue(types.PauseQueueRequest.pb()(name=QUEUE))
    service.tasks.end_attempt(attempt, 503)
    assert service.tasks.next_dispatch(QUEUE) is None
    service.queues.resume_queue(types.ResumeQueueRequest.pb()(name=QUEUE))
    assert service.dispatch().number == 2
    assert service.now == START + 1


def test_a_new_rate_holds_at_once_and_the_bucket_keeps_its_tokens(service: Service) -> None:
    service.make(rateLimits={"maxDispatchesPerSecond": 1})
    for number in range(14):
        service.create(f"t{number}")
    assert len(service.tasks.start_attempts(QUEUE)) == 10
    service.update("rate_limits.max_dispatches_per_second", rateLimits={"maxDispatchesPerSecond": 4})
    assert service.tasks.next_dispatch(QUEUE) == pytest.approx(START + 0.25)
    service.now = START + 0.75
    assert len(service.tasks.start_attempts(QUEUE)) == 3


def test_a_tasks_own_retry_config_goes_before_its_queues(service: Service) -> None:
    service.make(retryConfig={"maxAttempts": 9, "minBackoff": "100s"})
    service.create(retry_config={"max_attempts": 2, "min_backoff": "3s", "max_backoff": "3s"})
    service.tasks.end_attempt(service.dispatch(), 500)
    attempt = service.dispatch()
    assert service.now == START + 3
    service.tasks.end_attempt(attempt, 500)
    assert service.store.open_tasks() == 0


def test_a_forced_run_is_retried_a_backoff_after_it_was_asked_for(service: Service) -> None:
    service.make(retryConfig={"minBackoff": "10s"})
    service.create(schedule_time="2027-02-01T00:00:00Z")
    service.tasks.run_task(types.RunTaskRequest.pb()(name=f"{QUEUE}/tasks/t"))
    service.now += 4
    service.tasks.end_attempt(service.forced[0], 500)
    assert service.dispatch().number == 2
    assert service.now == START + 10


@pytest.mark.parametrize(
    ("override", "url"),
    [
        ({"host": "q.example"}, "http://q.example/own?a=1"),
        ({"scheme": "HTTPS", "port": "8443"}, "https://task.example:8443/own?a=1"),
        ({"pathOverride": {"path": "/q"}, "queryOverride": {"queryParams": "b=2"}}, "http://task.example/q?b=2"),
        ({"pathOverride": {}, "queryOverride": {}}, "http://task.example"),
        ({"pathOverride": {"path": "q"}, "queryOverride": {"queryParams": "?b=2"}}, "http://task.example/q?b=2"),
        ({"host": "q.example", "uriOverrideEnforceMode": "IF_NOT_EXISTS"}, "http://task.example/own?a=1"),
        ({"port": "81", "uriOverrideEnforceMode": "IF_NOT_EXISTS"}, "http://task.example:81/own?a=1"),
        ({"pathOverride": {"path": "/q"}, "uriOverrideEnforceMode": "IF_NOT_EXISTS"}, "http://task.example/own?a=1"),
    ],
)
def test_the_queues_parts_of_the_url_replace_the_tasks_as_the_mode_says(
    service: Service, override: dict[str, Any], url: str
) -> None:
    service.make(httpTarget={"uriOverride": override})
    service.create()
    assert service.dispatch().url == url


def test_if_not_exists_fills_in_what_the_tasks_url_leaves_out(service: Service) -> None:
    override = {"pathOverride": {"path": "/q"}, "queryOverride": {"queryParams": "b=2"}}
    service.make(httpTarget={"uriOverride": {**override, "uriOverrideEnforceMode": "IF_NOT_EXISTS"}})
    service.create(http_request={"url": "http://task.example"})
    assert service.dispatch().url == "http://task.example/q?b=2"


def test_a_queues_method_and_headers_reach_waiting_tasks_and_its_token_later_ones(
    service: Service,
) -> None:
    service.make()
    token = {"service_account_email": "task@other.iam.gserviceaccount.com", "audience": "task"}
    own = {"url": "https://task.example", "headers": {"x-own": "task", "X-Kept": "1"}, "oidc_token": token, "body": b""}
    service.create("before", http_request=own)
    service.update(
        "http_target",
        httpTarget={
            "httpMethod": "GET",
            "headerOverrides": [{"header": {"key": "X-Own", "value": "queue"}}],
            "oidcToken": {"serviceAccountEmail": "queue@other.iam.gserviceaccount.com", "audience": "queue"},
        },
    )
    service.create("later", http_request=own)
    for task, email in (("before", "task"), ("later", "queue")):
        service.tasks.run_task(types.RunTaskRequest.pb()(name=f"{QUEUE}/tasks/{task}"))
        attempt = service.forced[-1]
        assert (attempt.method, attempt.unsendable) == ("GET", "")
        assert (attempt.account, attempt.audience) == (f"{email}@other.iam.gserviceaccount.com", email)
        own_headers = {key: value for key, value in attempt.headers.items() if "CloudTasks" not in key}
        assert own_headers == {"X-Own": "queue", "X-Kept": "1", "User-Agent": "Google-Cloud-Tasks"}


@pytest.mark.parametrize(
    "config",
    [
        {"minBackoff": "315576000000s", "maxBackoff": "315576000000s"},
        {"minBackoff": "9000000000s", "maxBackoff": "315576000000s", "maxDoublings": 2147483647},
        {"maxRetryDuration": "315576000000s", "maxAttempts": -1},
    ],
)
def test_dates_past_the_year_9999_stop_neither_a_queue_nor_the_next_start(
    service: Service, config: dict[str, Any]
) -> None:
    service.make(retryConfig=config, rateLimits={"maxDispatchesPerSecond": 5e-324})
    service.create("a")
    service.create("b")
    service.tasks.end_attempt(service.tasks.start_attempts(QUEUE)[0], 500)
    service.reopen()
    assert service.store.open_tasks() == 2
    assert service.tasks.next_dispatch(QUEUE) is not None
    service.tasks.start_attempts(QUEUE)


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "state.sqlite").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.sqlite")) as old:
        old.execute("PRAGMA user_version = 1")
    with pytest.raises(sqlite3.DatabaseError, match="another version of the local cloud"):
        Store(tmp_path / "state.sqlite")
