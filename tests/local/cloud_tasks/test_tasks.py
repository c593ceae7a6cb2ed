import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud.tasks_v2 import types
from google.protobuf import json_format

from local.cloud_tasks.attempt import Attempt
from local.cloud_tasks.listener import Event, Listener
from local.cloud_tasks.messages import CallError, Message, QueueMessage
from local.cloud_tasks.queues import NAME_BLOCKED_SECONDS
from local.cloud_tasks.store import Store
from local.cloud_tasks.tasks import CloudTasks

QUEUE = "projects/shop/locations/us-central1/queues/cloud-run-tasks"
TASK = f"{QUEUE}/tasks/order-1"
INVOKER = "cloud-tasks-invoker@shop.iam.gserviceaccount.com"
OIDC = {"service_account_email": INVOKER}
START = 1_800_000_000.0


def account_exists(project: str, email: str) -> bool:
    return (project, email) == ("shop", INVOKER)


class Clock:
    now = START

    def __call__(self) -> float:
        return self.now


class Service(Listener):
    """Cloud Tasks under a virtual clock, on a real store."""

    def __init__(self, file: Path, clock: Clock) -> None:
        self.clock = clock
        self._file = file
        self.open()

    def queue_changed(self, queue: str) -> None:
        self.changed_queues.append(queue)

    def run_requested(self, attempt: Attempt) -> None:
        self.forced.append(attempt)

    def task_changed(self, event: Event, _: Message) -> None:
        self.events.append(event)

    def open(self, **figures: Any) -> None:  # noqa: ANN401 - any field of a queue
        """`figures`: of the declared queue, over the design's."""
        self.store = Store(self._file)
        self.events: list[Event] = []
        self.changed_queues: list[str] = []
        self.forced: list[Attempt] = []
        self.tasks = CloudTasks(self.store, self.clock, account_exists, [self])
        self.tasks.queues.declare(
            json_format.ParseDict(
                {
                    "name": QUEUE,
                    "rateLimits": {"maxDispatchesPerSecond": 50, "maxConcurrentDispatches": 20},
                    "retryConfig": {"maxAttempts": 5, "minBackoff": "10s", "maxBackoff": "300s", "maxDoublings": 4},
                    **figures,
                },
                QueueMessage(),
            ),
            (),
        )

    def reopen(self, **figures: Any) -> None:  # noqa: ANN401 - any field of a queue
        """As after the process died: nothing is closed in an orderly way but the file."""
        self.store.close()
        self.open(**figures)

    def create(self, **task: Any) -> Message:  # noqa: ANN401 - any field of a task
        http = {"url": "https://task-handler.example/process-order", "body": b"{}", **task.pop("http_request", {})}
        request = types.CreateTaskRequest(parent=QUEUE, task={"name": TASK, "http_request": http, **task})
        return self.tasks.create_task(types.CreateTaskRequest.pb(request))

    def get(self, view: int = types.Task.View.BASIC) -> Message:
        return self.tasks.get_task(types.GetTaskRequest.pb()(name=TASK, response_view=view))

    def dispatch(self) -> Attempt:
        """Advance to the next dispatch and begin it."""
        at = self.tasks.next_dispatch(QUEUE)
        assert at is not None
        self.clock.now = max(self.clock.now, at)
        [attempt] = self.tasks.start_attempts(QUEUE)
        return attempt


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "state.sqlite", Clock())
    yield service
    service.store.close()


def error_of(call: Callable[[], object]) -> CallError:
    with pytest.raises(CallError) as caught:
        call()
    return caught.value


def test_an_always_failing_task_is_tried_on_schedule_then_gone_and_its_name_blocked(service: Service) -> None:
    service.create()
    moments = []
    while service.tasks.next_dispatch(QUEUE) is not None:
        attempt = service.dispatch()
        moments.append(round(service.clock.now - START, 3))
        service.tasks.end_attempt(attempt, 500)
    assert moments == [0, 10, 30, 70, 150]
    assert service.events == [Event.CREATED, *[Event.RETRIED] * 4, Event.GONE]
    assert error_of(service.get).code == "NOT_FOUND"
    blocked = error_of(service.create)
    assert (blocked.code, blocked.message[:71]) == (
        "ALREADY_EXISTS",
        "The task cannot be created because a task with this name existed too re",
    )
    service.clock.now += NAME_BLOCKED_SECONDS
    assert service.create().name == TASK


def test_backoff_counts_from_the_end_of_the_failed_attempt(service: Service) -> None:
    service.create()
    attempt = service.dispatch()
    service.clock.now += 45
    service.tasks.end_attempt(attempt, 504)
    assert service.tasks.next_dispatch(QUEUE) == pytest.approx(START + 55)


def test_a_scheduled_task_waits_for_its_time_and_a_past_time_is_now(service: Service) -> None:
    service.create(schedule_time="2027-02-01T00:00:00Z")
    assert service.tasks.next_dispatch(QUEUE) == 1_801_440_000
    service.tasks.delete_task(types.DeleteTaskRequest.pb()(name=TASK))
    created = service.create(name=f"{QUEUE}/tasks/order-2", schedule_time="2020-01-01T00:00:00Z")
    assert created.schedule_time.ToSeconds() == START


def test_run_task_goes_past_a_pause_and_uses_up_the_schedule(service: Service) -> None:
    service.create()
    service.tasks.queues.pause_queue(types.PauseQueueRequest.pb()(name=QUEUE))
    assert service.tasks.next_dispatch(QUEUE) is None
    shown = service.tasks.run_task(types.RunTaskRequest.pb()(name=TASK))
    assert shown.dispatch_count == 1
    service.tasks.queues.resume_queue(types.ResumeQueueRequest.pb()(name=QUEUE))
    assert service.tasks.next_dispatch(QUEUE) is None
    [attempt] = service.forced
    service.tasks.end_attempt(attempt, 500)
    assert service.tasks.next_dispatch(QUEUE) == START + 10


def test_of_two_attempts_under_way_the_later_decides_on_a_retry_and_either_on_success(service: Service) -> None:
    service.create()
    first = service.dispatch()
    service.tasks.run_task(types.RunTaskRequest.pb()(name=TASK))
    service.tasks.end_attempt(first, 500)
    assert service.tasks.next_dispatch(QUEUE) is None
    service.tasks.end_attempt(service.forced[0], 500)
    assert service.tasks.next_dispatch(QUEUE) == START + 20
    third = service.dispatch()
    service.tasks.run_task(types.RunTaskRequest.pb()(name=TASK))
    service.tasks.end_attempt(third, 200)
    service.tasks.end_attempt(service.forced[1], 500)
    assert service.events.count(Event.PROCESSED) == 1
    assert service.tasks.next_dispatch(QUEUE) is None


@pytest.mark.parametrize("end", ["delete", "purge"])
def test_a_task_ended_during_its_dispatch_stays_ended_and_its_name_blocked(service: Service, end: str) -> None:
    service.create()
    attempt = service.dispatch()
    if end == "delete":
        service.tasks.delete_task(types.DeleteTaskRequest.pb()(name=TASK))
    else:
        service.tasks.queues.purge_queue(types.PurgeQueueRequest.pb()(name=QUEUE))
    service.tasks.end_attempt(attempt, 500)
    assert service.tasks.next_dispatch(QUEUE) is None
    assert error_of(service.get).message.startswith("The task no longer exists, though a task with this name existed")
    assert error_of(service.create).code == "ALREADY_EXISTS"


def test_an_attempt_under_way_at_a_restart_is_a_failed_one(service: Service) -> None:
    service.create()
    service.dispatch()
    service.clock.now += 3
    service.reopen()
    assert service.tasks.next_dispatch(QUEUE) == pytest.approx(START + 13)
    assert service.dispatch().headers["X-CloudTasks-TaskRetryCount"] == "1"


def test_a_restart_keeps_tasks_pause_and_blocked_names(service: Service) -> None:
    service.create()
    service.tasks.end_attempt(service.dispatch(), 200)
    service.create(name=f"{QUEUE}/tasks/order-2", schedule_time="2027-02-01T00:00:00Z")
    service.tasks.queues.pause_queue(types.PauseQueueRequest.pb()(name=QUEUE))
    service.reopen()
    assert service.tasks.queues.get_queue(types.GetQueueRequest.pb()(name=QUEUE)).state == types.Queue.State.PAUSED
    assert error_of(service.create).code == "ALREADY_EXISTS"
    service.tasks.queues.resume_queue(types.ResumeQueueRequest.pb()(name=QUEUE))
    assert service.dispatch().task == "order-2"
    assert service.clock.now == 1_801_440_000


@pytest.mark.parametrize(
    ("task", "code", "text"),
    [
        ({"name": f"{QUEUE}/tasks/a.b"}, "INVALID_ARGUMENT", 'Task ID "a.b" can contain only letters'),
        ({"name": f"{QUEUE}x/tasks/a"}, "INVALID_ARGUMENT", "must be the same as the queue name"),
        ({"http_request": {"url": "ftp://h"}}, "INVALID_ARGUMENT", "must start with 'http://' or 'https://'"),
        ({"http_request": {"url": "http://h:99999/"}}, "INVALID_ARGUMENT", "not a valid URL"),
        ({"http_request": {"url": f"http://{'h' * 70}/"}}, "INVALID_ARGUMENT", "not a valid URL"),
        ({"http_request": {"http_method": "GET"}}, "INVALID_ARGUMENT", "Body can only be set if"),
        ({"http_request": {"body": b"x" * 1024 * 1024}}, "INVALID_ARGUMENT", "size too large"),
        ({"dispatch_deadline": "14s"}, "INVALID_ARGUMENT", "dispatchDeadline must be between [15s, 30m]"),
        ({"dispatch_deadline": "1801s"}, "INVALID_ARGUMENT", "dispatchDeadline must be between [15s, 30m]"),
        ({"schedule_time": "2027-02-14T08:00:01Z"}, "INVALID_ARGUMENT", "must be no more than 720h in the future"),
        ({"http_request": {"oidc_token": {"service_account_email": "a@b.c"}}}, "PERMISSION_DENIED", '"a@b.c"'),
        (
            {"http_request": {"url": "http://h", "oidc_token": OIDC}},
            "INVALID_ARGUMENT",
            "start with 'https://' for",
        ),
        ({"dispatch_deadline": {"seconds": 2**62}}, "INVALID_ARGUMENT", "an invalid argument"),
        ({"dispatch_deadline": {"seconds": 20, "nanos": -1}}, "INVALID_ARGUMENT", "an invalid argument"),
        ({"schedule_time": {"seconds": 2**62}}, "INVALID_ARGUMENT", "an invalid argument"),
        ({"schedule_time": {"seconds": 1, "nanos": -(2**31)}}, "INVALID_ARGUMENT", "an invalid argument"),
        ({"retry_config": {"min_backoff": {"seconds": 2**62}}}, "INVALID_ARGUMENT", "an invalid argument"),
    ],
)
def test_a_task_that_the_service_refuses_is_not_created(
    service: Service, task: dict[str, Any], code: str, text: str
) -> None:
    error = error_of(lambda: service.create(**task))
    assert (error.code, text in error.message) == (code, True), error.message
    assert list(service.store.schedule(QUEUE)) == []


def test_changed_figures_apply_to_a_kept_queue(service: Service) -> None:
    service.create()
    service.reopen(retryConfig={"maxAttempts": 1})
    service.tasks.end_attempt(service.dispatch(), 500)
    assert service.events[-1] is Event.GONE


def test_an_attempt_that_a_restart_interrupted_is_judged_by_the_new_figures(service: Service) -> None:
    service.reopen(retryConfig={"maxAttempts": 1})
    service.create()
    service.dispatch()
    service.reopen(retryConfig={"maxAttempts": 2, "minBackoff": "10s"})
    assert service.dispatch().number == 2


@pytest.mark.parametrize(("before", "after"), [(0.05, 50.0), (500.0, 1.0)])
def test_after_a_restart_the_bucket_fills_at_the_new_rate(service: Service, before: float, after: float) -> None:
    service.reopen(rateLimits={"maxDispatchesPerSecond": before})
    service.create()
    service.reopen(rateLimits={"maxDispatchesPerSecond": after})
    assert service.tasks.next_dispatch(QUEUE) == pytest.approx(START + 1 / after, abs=1e-5)


def test_a_queue_that_is_no_longer_declared_is_missing_and_keeps_its_tasks(service: Service) -> None:
    service.create()
    tasks = CloudTasks(service.store, service.clock, lambda *_: True)
    assert tasks.queues.undeclared() == [QUEUE]
    assert error_of(lambda: tasks.queues.get_queue(types.GetQueueRequest.pb()(name=QUEUE))).code == "NOT_FOUND"
    assert service.store.open_tasks() == 1


def test_a_place_is_free_again_when_the_request_of_a_deleted_task_ends(service: Service) -> None:
    service.reopen(rateLimits={"maxDispatchesPerSecond": 50, "maxConcurrentDispatches": 1})
    service.create()
    first = service.dispatch()
    service.create(name=f"{QUEUE}/tasks/order-2")
    service.tasks.delete_task(types.DeleteTaskRequest.pb()(name=TASK))
    assert service.tasks.next_dispatch(QUEUE) is None
    service.changed_queues.clear()
    service.tasks.end_attempt(first, 500)
    assert service.changed_queues == [QUEUE]
    assert service.dispatch().task == "order-2"


def test_what_cannot_be_counted_is_not_sent_and_not_forgotten(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.create()

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "update_task", full)
        with pytest.raises(sqlite3.OperationalError):
            service.tasks.start_attempts(QUEUE)
        with pytest.raises(sqlite3.OperationalError):
            service.tasks.run_task(types.RunTaskRequest.pb()(name=TASK))
    assert service.dispatch().number == 1


def test_names_that_are_free_again_are_forgotten_at_the_next_start(service: Service) -> None:
    service.create()
    service.tasks.delete_task(types.DeleteTaskRequest.pb()(name=TASK))
    service.clock.now += NAME_BLOCKED_SECONDS
    service.reopen()
    assert not service.store.name_blocked(TASK, 0)
