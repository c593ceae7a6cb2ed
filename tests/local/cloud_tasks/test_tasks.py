"""What becomes of tasks and their queues, under a virtual clock: attempts, pauses, changes, deletions, restarts."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud.tasks_v2 import types

from local.cloud_tasks.listener import Event
from local.cloud_tasks.messages import CallError
from local.cloud_tasks.queues import NAME_BLOCKED_SECONDS, QUEUE_BLOCKED_SECONDS
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks
from tests.local.cloud_tasks.clocked import HANDLER, QUEUE, TASK, Clocked
from tests.local.cloud_tasks.serving import LOCATION, START

SECOND = f"{QUEUE}/tasks/order-2"
LATER = "2027-02-01T00:00:00Z"
LATER_SECONDS = 1_801_440_000
MADE = f"{LOCATION}/queues/made"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Clocked]:
    service = Clocked(tmp_path / "state.sqlite")
    yield service
    service.store.close()


# Attempts


def test_an_always_failing_task_is_tried_on_schedule_then_gone_and_its_name_blocked(service: Clocked) -> None:
    service.create()
    moments = []
    while service.next_dispatch() is not None:
        service.end(500)
        moments.append(round(service.now - START, 3))
    assert moments == [0, 10, 30, 70, 150]
    assert service.events == [Event.CREATED, *[Event.RETRIED] * 4, Event.GONE]
    with pytest.raises(CallError, match="a task with this name existed too recently"):
        service.create()
    service.now += NAME_BLOCKED_SECONDS
    assert service.create().name == TASK


def test_run_task_goes_past_a_pause_and_uses_up_the_schedule(service: Clocked) -> None:
    service.create()
    service.do("PauseQueue", name=QUEUE)
    assert service.next_dispatch() is None
    assert service.do("RunTask", name=TASK).dispatch_count == 1
    service.do("ResumeQueue", name=QUEUE)
    assert service.next_dispatch() is None
    service.now += 4
    service.end(500, service.forced[0])
    assert service.next_dispatch() == START + 10  # counted from when it was asked for


def test_of_two_attempts_under_way_the_later_decides_on_a_retry_and_either_on_success(service: Clocked) -> None:
    service.create()
    first = service.dispatch()
    service.do("RunTask", name=TASK)
    service.end(500, first)
    assert service.next_dispatch() is None
    service.end(500, service.forced[0])
    assert service.next_dispatch() == START + 20
    third = service.dispatch()
    service.do("RunTask", name=TASK)
    service.end(200, third)
    service.end(500, service.forced[1])
    assert service.events.count(Event.PROCESSED) == 1
    assert service.next_dispatch() is None


@pytest.mark.parametrize("end", [("DeleteTask", TASK), ("PurgeQueue", QUEUE)])
def test_a_task_ended_during_its_dispatch_stays_ended_and_its_name_blocked(
    service: Clocked, end: tuple[str, str]
) -> None:
    service.create()
    attempt = service.dispatch()
    service.do(end[0], name=end[1])
    service.end(500, attempt)
    assert service.next_dispatch() is None
    with pytest.raises(CallError, match="The task no longer exists, though a task with this name existed"):
        service.do("GetTask", name=TASK)
    with pytest.raises(CallError, match="existed too recently"):
        service.create()


def test_a_place_is_free_again_when_the_request_of_a_deleted_task_ends(service: Clocked) -> None:
    service.reopen(rateLimits={"maxDispatchesPerSecond": 50, "maxConcurrentDispatches": 1})
    service.create()
    first = service.dispatch()
    service.create(SECOND)
    service.do("DeleteTask", name=TASK)
    assert service.next_dispatch() is None
    service.changed_queues.clear()
    service.end(500, first)
    assert service.changed_queues == [QUEUE]
    assert service.dispatch().task == "order-2"


def test_what_cannot_be_counted_is_not_sent_and_not_forgotten(
    service: Clocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.create()

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "update_task", full)
        with pytest.raises(sqlite3.OperationalError):
            service.tasks.start_attempts(QUEUE)
        with pytest.raises(CallError, match="Internal error"):
            service.do("RunTask", name=TASK)
    assert service.dispatch().number == 1


def test_a_tasks_own_retry_config_goes_before_its_queues(service: Clocked) -> None:
    service.create(retryConfig={"maxAttempts": 2, "minBackoff": "3s", "maxBackoff": "3s"})
    service.end(500)
    service.end(500)
    assert service.now == START + 3
    assert service.store.open_tasks() == 0


# Restarts


def test_an_attempt_under_way_at_a_restart_is_a_failed_one_under_the_new_figures(service: Clocked) -> None:
    service.reopen(retryConfig={"maxAttempts": 1})
    service.create()
    service.dispatch()
    service.now += 3
    service.reopen(retryConfig={"maxAttempts": 2, "minBackoff": "10s"})
    assert service.next_dispatch() == pytest.approx(START + 13, abs=0.1)
    assert service.dispatch().headers["X-CloudTasks-TaskRetryCount"] == "1"


def test_a_restart_keeps_tasks_pause_and_blocked_names_until_they_are_free(service: Clocked) -> None:
    service.create()
    service.end(200)
    service.create(SECOND, scheduleTime=LATER)
    service.do("PauseQueue", name=QUEUE)
    service.reopen()
    assert service.do("GetQueue", name=QUEUE).state == types.Queue.State.PAUSED
    with pytest.raises(CallError, match="existed too recently"):
        service.create()
    service.do("ResumeQueue", name=QUEUE)
    assert service.dispatch().task == "order-2"
    assert service.now == LATER_SECONDS
    service.reopen()
    assert not service.store.name_blocked(TASK, 0)


@pytest.mark.parametrize(("before", "after"), [(0.05, 50.0), (500.0, 1.0)])
def test_after_a_restart_the_bucket_fills_at_the_new_rate(service: Clocked, before: float, after: float) -> None:
    service.reopen(rateLimits={"maxDispatchesPerSecond": before})
    service.create()
    service.reopen(rateLimits={"maxDispatchesPerSecond": after})
    assert service.next_dispatch() == pytest.approx(START + 1 / after, abs=1e-5)


def test_a_queue_that_is_no_longer_declared_is_missing_and_keeps_its_tasks(service: Clocked) -> None:
    service.create()
    tasks = CloudTasks(service.store, lambda: START, lambda *_: True)
    assert tasks.queues.undeclared() == [QUEUE]
    assert QUEUE not in tasks.queues
    assert service.store.open_tasks() == 1


def test_a_made_queue_outlives_a_restart_with_its_figures_its_state_its_policy_and_its_tasks(service: Clocked) -> None:
    limits = {"maxDispatchesPerSecond": 5}
    service.do("CreateQueue", parent=LOCATION, queue={"name": MADE, "rateLimits": limits})
    policy = {"bindings": [{"role": "roles/cloudtasks.viewer", "members": [HANDLER]}]}
    service.do("SetIamPolicy", resource=MADE, policy=policy)
    service.create(f"{MADE}/tasks/t")
    service.do("PauseQueue", name=MADE)
    service.reopen()
    queue = service.queues[MADE]
    assert queue.message.rate_limits.max_dispatches_per_second == 5
    assert queue.message.state == types.Queue.State.PAUSED
    assert service.queues.allows(HANDLER, "tasks.get", MADE)
    service.do("ResumeQueue", name=MADE)
    service.now += 1
    assert [attempt.task for attempt in service.tasks.start_attempts(MADE)] == ["t"]


def test_the_grants_of_the_program_count_and_a_new_policy_replaces_them_until_the_next_start(service: Clocked) -> None:
    assert service.queues.allows(HANDLER, "tasks.create", QUEUE)
    assert not service.queues.allows(HANDLER, "tasks.delete", QUEUE)
    assert not service.queues.allows("user:a@b.c", "tasks.create", QUEUE)
    service.do("SetIamPolicy", resource=QUEUE, policy={})
    assert not service.queues.allows(HANDLER, "tasks.create", QUEUE)
    service.reopen()
    assert service.queues.allows(HANDLER, "tasks.create", QUEUE)


@pytest.mark.parametrize(
    "config",
    [
        {"minBackoff": "315576000000s", "maxBackoff": "315576000000s"},
        {"minBackoff": "9000000000s", "maxBackoff": "315576000000s", "maxDoublings": 2147483647},
        {"maxRetryDuration": "315576000000s", "maxAttempts": -1},
    ],
)
def test_dates_past_the_year_9999_stop_neither_a_queue_nor_the_next_start(
    service: Clocked, config: dict[str, Any]
) -> None:
    service.reopen(retryConfig=config, rateLimits={"maxDispatchesPerSecond": 5e-324})
    service.create()
    service.create(SECOND)
    service.do("RunTask", name=TASK)
    service.end(500, service.forced[0])
    service.reopen(retryConfig=config, rateLimits={"maxDispatchesPerSecond": 5e-324})
    assert service.store.open_tasks() == 2
    assert service.next_dispatch() is not None
    service.tasks.start_attempts(QUEUE)


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "state.sqlite").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.sqlite")) as old:
        old.execute("PRAGMA user_version = 1")
    with pytest.raises(sqlite3.DatabaseError, match="another version of the local cloud"):
        Store(tmp_path / "state.sqlite")


# Changes of the queue


def test_a_deleted_queue_takes_its_tasks_along_and_blocks_its_name_for_days(service: Clocked) -> None:
    def make() -> None:
        service.do("CreateQueue", parent=LOCATION, queue={"name": QUEUE})

    service.create()
    attempt = service.dispatch()
    service.create(SECOND)
    service.do("DeleteQueue", name=QUEUE)
    service.end(500, attempt)
    assert service.tasks.start_attempts(QUEUE) == []
    assert service.next_dispatch() is None
    assert service.store.open_tasks() == 0
    service.now += QUEUE_BLOCKED_SECONDS - 1
    with pytest.raises(CallError, match="existed too recently"):
        make()
    service.now += 1
    make()
    assert service.create(SECOND).name == SECOND


def test_a_pause_in_the_middle_of_a_dispatch_holds_the_retry_back(service: Clocked) -> None:
    service.create()
    attempt = service.dispatch()
    service.do("PauseQueue", name=QUEUE)
    service.end(503, attempt)
    assert service.next_dispatch() is None
    service.do("ResumeQueue", name=QUEUE)
    assert service.dispatch().number == 2
    assert service.now == START + 10


def test_a_new_rate_holds_at_once_and_the_bucket_keeps_its_tokens(service: Clocked) -> None:
    def limit(rate: int) -> None:
        mask = "rateLimits.maxDispatchesPerSecond"
        limits = {"maxDispatchesPerSecond": rate}
        service.do("UpdateQueue", queue={"name": QUEUE, "rateLimits": limits}, updateMask=mask)

    limit(1)
    for number in range(14):
        service.create(f"{QUEUE}/tasks/t{number}")
    assert len(service.tasks.start_attempts(QUEUE)) == 10
    limit(4)
    assert service.next_dispatch() == pytest.approx(START + 0.25)
    service.now = START + 0.75
    assert len(service.tasks.start_attempts(QUEUE)) == 3


@pytest.mark.parametrize(
    ("override", "url"),
    [
        ({"host": "q.example"}, "http://q.example/own?a=1"),
        ({"scheme": "HTTPS", "port": "8443"}, "https://task.example:8443/own?a=1"),
        ({"pathOverride": {"path": "/q"}, "queryOverride": {"queryParams": "b=2"}}, "http://task.example/q?b=2"),
        ({"pathOverride": {}, "queryOverride": {}}, "http://task.example"),
        ({"pathOverride": {"path": "q"}, "queryOverride": {"queryParams": "?b=2"}}, "http://task.example/q?b=2"),
    ],
)
def test_the_queues_parts_of_the_url_replace_the_tasks(service: Clocked, override: dict[str, Any], url: str) -> None:
    service.reopen(httpTarget={"uriOverride": override})
    service.create()
    assert service.dispatch().url == url


@pytest.mark.parametrize(
    ("override", "task", "url"),
    [
        ({"host": "q.example"}, "http://task.example/own?a=1", "http://task.example/own?a=1"),
        ({"port": "81"}, "http://task.example/own?a=1", "http://task.example:81/own?a=1"),
        ({"pathOverride": {"path": "/q"}}, "http://task.example/own?a=1", "http://task.example/own?a=1"),
        (
            {"pathOverride": {"path": "/q"}, "queryOverride": {"queryParams": "b=2"}},
            "http://task.example",
            "http://task.example/q?b=2",
        ),
    ],
)
def test_if_not_exists_fills_in_what_the_tasks_url_leaves_out(
    service: Clocked, override: dict[str, Any], task: str, url: str
) -> None:
    service.reopen(httpTarget={"uriOverride": {**override, "uriOverrideEnforceMode": "IF_NOT_EXISTS"}})
    service.create(httpRequest={"url": task})
    assert service.dispatch().url == url


def test_a_queues_method_and_headers_reach_waiting_tasks_and_its_token_later_ones(service: Clocked) -> None:
    def token(name: str) -> dict[str, str]:
        return {"serviceAccountEmail": f"{name}@shop.iam.gserviceaccount.com", "audience": name}

    own = {"url": "https://task.example", "headers": {"x-own": "task", "X-Kept": "1"}, "body": ""}
    own["oidcToken"] = token("task")
    service.create(TASK, httpRequest=own)
    header = {"header": {"key": "X-Own", "value": "queue"}}
    target = {"httpMethod": "GET", "headerOverrides": [header], "oidcToken": token("queue")}
    service.do("UpdateQueue", queue={"name": QUEUE, "httpTarget": target}, updateMask="httpTarget")
    service.create(SECOND, httpRequest=own)
    for task, name in ((TASK, "task"), (SECOND, "queue")):
        service.do("RunTask", name=task)
        attempt = service.forced[-1]
        assert (attempt.method, attempt.unsendable) == ("GET", "")
        assert (attempt.account, attempt.audience) == (f"{name}@shop.iam.gserviceaccount.com", name)
        own_headers = {key: value for key, value in attempt.headers.items() if "CloudTasks" not in key}
        assert own_headers == {"X-Own": "queue", "X-Kept": "1", "User-Agent": "Google-Cloud-Tasks"}
