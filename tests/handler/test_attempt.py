"""The last-attempt rule, interleaving by interleaving: the official client, a Cloud Tasks that fails on command."""

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.tasks_v2 import Task
from order_handler import cloud_tasks
from order_handler.actions import ACTIONS
from order_handler.app import App
from order_handler.cloud_tasks import CloudTasks
from order_handler.database import Database
from order_handler.dead_letters import DeadLetters
from order_handler.effects import Effects
from order_handler.environment import Environment
from order_handler.errors import AlreadyProcessedError, CancelledEffectError, PermanentError, TransientError
from order_handler.ledger import Ledger

from tests.handler.calls import DELIVERED, DIRECT, LAST, REPLAYED, Answer, Handler, message
from tests.handler.conftest import DEAD_LETTER_QUEUE, DeadLetterQueue, Lines
from tests.local.cloud_tasks.serving import Fault, Received, faults

ACTION = "update_inventory"
BODY = message(action=ACTION)
UNAVAILABLE = Fault(grpc.StatusCode.UNAVAILABLE)
FORBIDDEN = Fault(grpc.StatusCode.PERMISSION_DENIED)
MISSING = Fault(grpc.StatusCode.NOT_FOUND)
LOST_AFTER = Fault(grpc.StatusCode.DEADLINE_EXCEEDED, after=True)
PROCESSED = {"status": "processed", "orderId": "ORD-1"}
ALREADY_PROCESSED = {"status": "already-processed", "orderId": "ORD-1"}
DEAD_LETTERED = {"status": "dead-lettered", "orderId": "ORD-1"}
INTERNAL = {"error": "Internal error"}


class Deed:
    """A stock whose next runs end as told, and well when nothing is told."""

    def __init__(self) -> None:
        self.runs = 0
        self.ends: list[BaseException] = []
        self.during: Callable[[], object] = lambda: None

    async def take(self, order_id: str, action: str) -> None:
        self.runs += 1
        self.during()
        if self.ends:
            raise self.ends.pop(0)


class Stalling:
    """A stock under a real ledger, whose first run waits to be let go."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.running = asyncio.Event()
        self.go_on = asyncio.Event()
        self.done = 0

    async def take(self, order_id: str, action: str) -> None:
        async with self._ledger.once(order_id, action):
            self.running.set()
            await self.go_on.wait()
            self.done += 1


@pytest.fixture
def deed() -> Deed:
    return Deed()


@pytest.fixture
def handler(handler_with: Callable[[Effects], Handler], deed: Deed) -> Handler:
    return handler_with(Effects({"update_inventory": deed}))


@pytest.fixture
def stalling(url: str) -> Iterator[Stalling]:
    database = Database(url)
    yield Stalling(Ledger(database))
    database.close()


async def order(handler: Handler, headers: dict[str, str]) -> Answer:
    return await handler.order(headers, action=ACTION)


def name(queue: str = "cloud-run-tasks", task: str = "task-1", body: bytes = BODY) -> str:
    """A reservation's. The entry of a failure has another one."""
    parts = queue.encode() + b"\0" + task.encode() + b"\0" + body
    return f"{DEAD_LETTER_QUEUE}/tasks/{hashlib.sha256(parts).hexdigest()}"


def again(times: int) -> str:
    """The reservation after so many that were deleted."""
    return name(body=BODY + f"\0{times}".encode())


def failed(queue: str = "cloud-run-tasks", task: str = "task-1", body: bytes = BODY) -> str:
    return name(queue, task, body + b"\0failed")


# Before the last attempt


@pytest.mark.parametrize("headers", [DIRECT, DELIVERED], ids=["direct", "delivered"])
async def test_an_effect_that_happened_earlier_or_was_cancelled_is_200_and_says_so(
    handler: Handler, deed: Deed, headers: dict[str, str]
) -> None:
    deed.ends = [AlreadyProcessedError("done before"), CancelledEffectError("not wanted")]
    answer = await order(handler, headers)
    assert (answer.status, answer.json) == (200, ALREADY_PROCESSED)
    answer = await order(handler, headers)
    assert (answer.status, answer.json) == (200, {**ALREADY_PROCESSED, "status": "cancelled"})


async def test_an_action_s_own_budget_ends_its_attempts_earlier(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ACTIONS, ACTION, dataclasses.replace(ACTIONS[ACTION], max_attempts=2))
    deed.ends = [TransientError("not yet"), TransientError("not yet")]
    assert (await order(handler, DELIVERED)).status == 500
    answer = await order(handler, {**DELIVERED, "X-CloudTasks-TaskRetryCount": "1"})
    assert (answer.status, answer.json, len(cloud.entries)) == (200, DEAD_LETTERED, 1)
    assert [line["attempt"] for line in lines()] == ["1 of 2", "2 of 2", "2 of 2"]


async def test_a_transient_failure_is_left_to_the_queue_and_logs_its_reason_without_a_stack(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, lines: Lines
) -> None:
    deed.ends = [TransientError("not yet")]
    answer = await order(handler, DELIVERED)
    assert (answer.status, answer.json, cloud.names) == (500, INTERNAL, [])
    [line] = lines()
    assert (line["severity"], line["message"], "stack_trace" in line) == ("WARNING", "not yet", False)


async def test_a_permanent_failure_is_an_entry_that_can_be_replayed_at_once(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed
) -> None:
    deed.ends = [PermanentError("Too little stock of Käse\n\U0001f9c0 " + "x" * 300)]
    answer = await order(handler, {**DELIVERED, "X-CloudTasks-TaskRetryCount": "2"})
    assert (answer.status, answer.json) == (200, DEAD_LETTERED)
    entry = cloud.entry
    assert entry.name == failed()
    assert entry.http_request.url == "https://handler.invalid/process-order"
    assert entry.http_request.http_method.name == "POST"
    assert entry.http_request.body == BODY
    assert "oidc_token" not in entry.http_request
    assert entry.schedule_time == entry.create_time
    assert entry.dispatch_deadline == timedelta(seconds=300)
    headers = dict(entry.http_request.headers)
    reason = headers.pop("X-Dead-Letter-Reason")
    own = {"Content-Type": "application/json", "X-Dead-Letter-Task": "task-1", "X-Dead-Letter-Attempts": "3"}
    assert headers.items() >= {**own, "X-Dead-Letter-Kind": "PermanentError"}.items()
    assert reason.startswith("Too little stock of K\\xe4se \\U0001f9c0 xxx")
    assert len(reason) == 200
    assert cloud.received[0].seconds == pytest.approx(cloud_tasks.CALL_SECONDS, abs=0.5)


async def test_a_permanent_failure_whose_entry_is_live_is_safe(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed
) -> None:
    deed.ends = [PermanentError("never"), PermanentError("never")]
    cloud.fault = faults({"CreateTask": [LOST_AFTER]})
    first = await order(handler, DELIVERED)
    assert (first.status, first.json) == (500, {"error": "never"})
    assert (await order(handler, DELIVERED)).json == DEAD_LETTERED
    assert cloud.names == ["CreateTask", "CreateTask", "GetTask"]


@pytest.mark.parametrize("fault", [UNAVAILABLE, FORBIDDEN, MISSING, LOST_AFTER])
async def test_a_permanent_failure_that_is_not_known_to_be_stored_is_500_and_says_why(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, fault: Fault, lines: Lines
) -> None:
    deed.ends = [PermanentError("never")]
    cloud.fault = faults({"CreateTask": [fault]})
    answer = await order(handler, DELIVERED)
    assert (answer.status, answer.json) == (500, {"error": "never"})
    assert cloud.names == ["CreateTask"]
    [line] = lines()
    assert (line["severity"], line["message"], line["status"]) == ("ERROR", "never", 500)
    assert line["deadLetterTrouble"].startswith("Not stored: ")
    assert "on command" in line["deadLetterTrouble"]


async def test_a_permanent_failure_whose_entry_was_deleted_within_a_day_is_stored_again(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed
) -> None:
    deed.ends = [PermanentError("never")]
    cloud.block(failed())
    assert (await order(handler, DELIVERED)).json == DEAD_LETTERED
    assert cloud.entry.name == name(body=BODY + b"\0failed\x001")


# The last attempt


async def test_a_last_attempt_warns_then_reserves_then_runs_then_releases(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, lines: Lines
) -> None:
    warned: list[bool] = []
    reserved: list[Task] = []
    cloud.fault = lambda _: warned.append(lines()[0]["lastAttempt"])
    deed.during = lambda: reserved.append(cloud.entry)
    before = datetime.now(UTC)
    answer = await order(handler, LAST)
    assert (answer.status, answer.json) == (200, PROCESSED)
    assert warned == [True] * 3
    [entry] = reserved
    due = timedelta(seconds=300 + 60)
    scheduled = entry.schedule_time
    assert isinstance(scheduled, datetime)
    assert before + due <= scheduled <= datetime.now(UTC) + due
    assert entry.http_request.headers["X-Dead-Letter-Attempts"] == "5"
    assert cloud.names == ["CreateTask", "DeleteTask", "DeleteTask"]
    assert cloud.entries == {}
    warning, line = lines()
    assert (warning["severity"], warning["message"], warning["orderId"]) == ("WARNING", "Last attempt", "ORD-1")
    assert warning["attempt"] == "5 of 5"
    assert (line["severity"], "lastAttempt" in line) == ("INFO", False)


@pytest.mark.parametrize("retry_count", ["", "many", "7"])
async def test_an_attempt_whose_number_is_unknown_or_beyond_the_budget_is_a_last_one(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, retry_count: str
) -> None:
    deed.ends = [RuntimeError()]
    headers = {**DELIVERED, "X-CloudTasks-TaskRetryCount": retry_count}
    assert (await order(handler, headers)).json == DEAD_LETTERED
    attempts = {"7": "8"}.get(retry_count, "unknown")
    assert cloud.entry.http_request.headers["X-Dead-Letter-Attempts"] == attempts


@pytest.mark.parametrize(
    ("failure", "severity", "reason"),
    [
        (RuntimeError("no route to ada@example.com"), "ERROR", "RuntimeError('no route to ***@***')"),
        (TransientError("not yet"), "ERROR", "not yet"),
        (PermanentError("never"), "WARNING", "never"),
        (asyncio.CancelledError(), "ERROR", "The instance stopped while the order ran"),
    ],
)
async def test_a_last_attempt_that_fails_replaces_its_reservation_by_the_reason_and_is_200(
    handler: Handler,
    cloud: DeadLetterQueue,
    deed: Deed,
    failure: BaseException,
    severity: str,
    reason: str,
    lines: Lines,
) -> None:
    deed.ends = [failure]
    answer = await order(handler, LAST)
    assert (answer.status, answer.json) == (200, DEAD_LETTERED)
    assert cloud.names == ["CreateTask", "CreateTask", "DeleteTask"]
    entry = cloud.entry
    assert (entry.name, entry.schedule_time) == (failed(), entry.create_time)
    headers = entry.http_request.headers
    assert (headers["X-Dead-Letter-Reason"], headers["X-Dead-Letter-Kind"]) == (reason, type(failure).__name__)
    line = lines()[-1]
    assert (line["severity"], line["deadLetter"]) == (severity, failed().rpartition("/")[2])


async def test_a_failure_whose_reason_cannot_be_stored_leaves_the_reservation_and_is_200(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, lines: Lines
) -> None:
    cloud.fault = faults({"CreateTask": [None, UNAVAILABLE]})
    deed.ends = [RuntimeError()]
    assert (await order(handler, LAST)).json == DEAD_LETTERED
    assert (cloud.entry.name, cloud.entry.http_request.headers["X-Dead-Letter-Kind"]) == (name(), "Unfinished")
    # No alert: the order is safe.
    assert (lines()[-1]["severity"], lines()[-1]["deadLetterTrouble"][:25]) == ("WARNING", "The reason is not stored:")


async def test_a_success_deletes_the_entry_of_an_earlier_failure_too(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed
) -> None:
    cloud.fault = faults({"CreateTask": [LOST_AFTER]})
    deed.ends = [PermanentError("never")]
    assert (await order(handler, DELIVERED)).status == 500
    assert cloud.entry.name == failed()
    assert (await order(handler, LAST)).json == PROCESSED
    assert cloud.entries == {}


async def test_a_last_attempt_at_what_is_no_order_is_stored_to_be_replayed_at_once(
    handler: Handler, cloud: DeadLetterQueue, lines: Lines
) -> None:
    answer = await handler.post(LAST, b"{}")
    assert answer.json == {"status": "dead-lettered", "orderId": None}
    assert cloud.entry.schedule_time == cloud.entry.create_time
    assert [line.get("lastAttempt") for line in lines()] == [True, None]


@pytest.mark.parametrize("fault", [UNAVAILABLE, FORBIDDEN, MISSING])
async def test_store_refused_the_order_runs_all_the_same_and_a_failure_is_500(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, fault: Fault, lines: Lines
) -> None:
    cloud.fault = faults({"CreateTask": [fault] * 3})
    deed.ends = [RuntimeError()]
    assert (await order(handler, LAST)).status == 500
    assert (deed.runs, cloud.names) == (1, ["CreateTask", "CreateTask"])
    assert (lines()[-1]["severity"], lines()[-1]["deadLetterTrouble"][:10]) == ("ERROR", "Not stored")
    assert (await order(handler, LAST)).json == PROCESSED
    line = lines()[-1]
    assert (line["severity"], line["status"], line["deadLetterTrouble"][:10]) == ("WARNING", 200, "Not stored")


@pytest.mark.parametrize("hangs", [False, True])
async def test_store_outcome_unknown_success_deletes_what_may_be_there(
    handler: Handler, cloud: DeadLetterQueue, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_tasks, "CALL_SECONDS", 0.2 if hangs else 5.0)
    cloud.fault = faults({"CreateTask": [Fault(grpc.StatusCode.DEADLINE_EXCEEDED, after=not hangs, hangs=hangs)]})
    assert (await order(handler, LAST)).json == PROCESSED
    assert cloud.names == ["CreateTask", "DeleteTask", "DeleteTask"]
    assert cloud.entries == {}


@pytest.mark.parametrize(("emulator_host", "reason"), [("127.0.0.1:1", "503"), (None, "no credentials")])
async def test_without_service_or_credentials_nothing_is_stored(
    environment: Environment,
    deed: Deed,
    emulator_host: str | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    lines: Lines,
) -> None:
    def refuse() -> None:
        raise DefaultCredentialsError("no credentials")  # type: ignore[no-untyped-call]

    monkeypatch.setattr("google.auth.default", refuse)
    deed.ends = [PermanentError("never")]
    dead_letters = DeadLetters("projects/p/locations/l/queues/q", 300, lambda: CloudTasks.open(emulator_host))
    handler = Handler(App(environment, Effects({"update_inventory": deed}), dead_letters))
    assert (await order(handler, DELIVERED)).status == 500
    assert reason in lines()[-1]["deadLetterTrouble"]
    assert (await order(handler, LAST)).json == PROCESSED
    assert reason in lines()[-1]["deadLetterTrouble"]
    await dead_letters.close()


async def test_entry_live_the_order_is_safe_and_does_not_run(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, lines: Lines
) -> None:
    deed.ends = [RuntimeError()]
    await order(handler, LAST)
    answer = await order(handler, LAST)
    assert (answer.status, answer.json) == (200, DEAD_LETTERED)
    assert deed.runs == 1
    # The reservation was deleted, and the entry of the failure is there.
    assert cloud.names[3:] == ["CreateTask", "GetTask", "GetTask"]
    assert lines()[-1]["message"].startswith("Not run again")


async def test_an_attempt_that_dies_while_it_runs_is_safe_and_its_successor_does_not_run(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed
) -> None:
    class KilledError(BaseException):
        pass

    deed.ends = [KilledError()]
    with pytest.raises(KilledError):
        await order(handler, LAST)
    assert len(cloud.entries) == 1
    assert (await order(handler, LAST)).json == DEAD_LETTERED
    assert deed.runs == 1


@pytest.mark.parametrize("fault", [UNAVAILABLE, FORBIDDEN])
async def test_release_refused_is_a_warning_and_200_and_a_replay_does_nothing(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, fault: Fault, lines: Lines
) -> None:
    cloud.fault = faults({"DeleteTask": [fault]})
    answer = await order(handler, LAST)
    assert (answer.status, answer.json) == (200, PROCESSED)
    line = lines()[-1]
    assert (line["severity"], line["status"]) == ("WARNING", 200)
    assert line["deadLetterTrouble"].startswith("The entry may still be there: ")
    deed.ends = [AlreadyProcessedError("done before")]
    assert (await order(handler, REPLAYED)).json == ALREADY_PROCESSED


async def test_release_of_what_is_gone_is_fine(handler: Handler, cloud: DeadLetterQueue, lines: Lines) -> None:
    cloud.fault = faults({"DeleteTask": [MISSING]})
    assert (await order(handler, LAST)).json == PROCESSED
    assert lines()[-1]["severity"] == "INFO"


async def test_cancelled_while_it_reserves_the_order_does_not_run(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, lines: Lines
) -> None:
    reserving = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_: Received) -> Fault:
        loop.call_soon_threadsafe(reserving.set)
        return Fault(hangs=True)

    cloud.fault = hang
    request = asyncio.create_task(order(handler, LAST))
    await reserving.wait()
    await handler.app.close()
    assert (await request).status == 500
    assert deed.runs == 0
    assert lines()[-1]["severity"] == "ERROR"


# Replays


@pytest.mark.parametrize("failure", [RuntimeError(), TransientError("not yet"), PermanentError("never")])
async def test_a_replay_that_fails_is_500_stays_and_is_no_entry_of_its_own(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, failure: Exception, lines: Lines
) -> None:
    deed.ends = [failure]
    assert (await order(handler, REPLAYED)).status == 500
    assert cloud.names == []
    [line] = lines()
    assert (line["severity"], line["queue"], line["attempt"]) == ("WARNING", "dead-letters", "10")


async def test_a_replay_of_what_is_no_order_is_500_and_stays(handler: Handler, cloud: DeadLetterQueue) -> None:
    assert (await handler.post(REPLAYED, b"{}")).status == 500
    assert cloud.names == []


async def test_a_replay_that_succeeds_is_200_so_that_the_queue_deletes_its_entry(
    handler: Handler, cloud: DeadLetterQueue, lines: Lines
) -> None:
    assert (await order(handler, REPLAYED)).json == PROCESSED
    assert cloud.names == []
    assert [line.get("lastAttempt") for line in lines()] == [None]


async def test_replay_while_reserved_the_run_that_goes_on_holds_it_off(
    handler_with: Callable[[Effects], Handler], cloud: DeadLetterQueue, stalling: Stalling
) -> None:
    handler = handler_with(Effects({"update_inventory": stalling}))
    last = asyncio.create_task(order(handler, LAST))
    await stalling.running.wait()
    assert len(cloud.entries) == 1
    assert (await order(handler, REPLAYED)).status == 500
    stalling.go_on.set()
    assert (await last).json == PROCESSED
    assert (stalling.done, cloud.entries) == (1, {})
    assert (await order(handler, REPLAYED)).json == ALREADY_PROCESSED


async def test_a_late_first_run_beside_its_retry_the_effect_happens_once_and_a_replay_does_nothing(
    handler_with: Callable[[Effects], Handler], cloud: DeadLetterQueue, stalling: Stalling
) -> None:
    handler = handler_with(Effects({"update_inventory": stalling}))
    first = asyncio.create_task(order(handler, {**DELIVERED, "X-CloudTasks-TaskRetryCount": "3"}))
    await stalling.running.wait()
    # Cloud Tasks gave the first run up; it is not over.
    assert (await order(handler, LAST)).json == DEAD_LETTERED
    stalling.go_on.set()
    assert (await first).json == PROCESSED
    assert (stalling.done, len(cloud.entries)) == (1, 1)
    assert (await order(handler, REPLAYED)).json == ALREADY_PROCESSED


async def test_a_late_last_run_beside_its_retry_the_retry_leaves_the_order_to_it(
    handler_with: Callable[[Effects], Handler], cloud: DeadLetterQueue, stalling: Stalling
) -> None:
    handler = handler_with(Effects({"update_inventory": stalling}))
    late = asyncio.create_task(order(handler, LAST))
    await stalling.running.wait()
    assert (await order(handler, LAST)).json == DEAD_LETTERED
    stalling.go_on.set()
    assert (await late).json == PROCESSED
    assert (stalling.done, cloud.entries) == (1, {})


# Names


async def test_an_order_that_is_created_again_with_another_body_is_another_entry(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed
) -> None:
    deed.ends = [RuntimeError(), RuntimeError()]
    await order(handler, LAST)
    answer = await handler.order(LAST, action=ACTION, email="grace@example.com")
    assert answer.json == DEAD_LETTERED
    assert set(cloud.entries) == {failed(), failed(body=message(action=ACTION, email="grace@example.com"))}


async def test_an_entry_belongs_to_its_queue_and_its_task(handler: Handler, cloud: DeadLetterQueue, deed: Deed) -> None:
    deed.ends = [RuntimeError()] * 3
    await order(handler, LAST)
    await order(handler, {**LAST, "X-CloudTasks-TaskName": "task-2"})
    await order(handler, {**LAST, "X-CloudTasks-QueueName": "other"})
    assert set(cloud.entries) == {failed(), failed(task="task-2"), failed(queue="other")}


async def test_one_client_serves_orders_that_fail_at_once(handler: Handler, cloud: DeadLetterQueue, deed: Deed) -> None:
    deed.ends = [RuntimeError()] * 20
    answers = await asyncio.gather(
        *(order(handler, {**LAST, "X-CloudTasks-TaskName": f"task-{number}"}) for number in range(20))
    )
    assert [answer.json for answer in answers] == [DEAD_LETTERED] * 20
    assert len(cloud.entries) == 20


def padded(size: int) -> bytes:
    start = BODY[:-1] + b', "padding": "'
    return start + b"x" * (size - len(start) - 2) + b'"}'


async def test_a_task_just_below_1_mib_is_stored_without_headers_or_by_a_shorter_name(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed
) -> None:
    stored = []
    for room in range(650, 130, -20):
        body = padded(2**20 - room)
        deed.ends = [PermanentError("never")]
        answer = await handler.post({**DELIVERED, "X-CloudTasks-TaskName": f"task-{room}"}, body)
        found = [
            (len(entry.name.rpartition("/")[2]), "X-Dead-Letter-Reason" in entry.http_request.headers)
            for entry in cloud.entries.values()
            if entry.http_request.body == body
        ]
        assert answer.status == (200 if found else 500)
        stored += found
    assert stored == sorted(stored, reverse=True)
    assert set(stored) == {(64, True), (64, False), (32, False)}


async def test_a_task_that_does_not_fit_stays_in_its_queue_with_an_error(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed, lines: Lines
) -> None:
    deed.ends = [PermanentError("never")]
    assert (await handler.post(DELIVERED, padded(2**20 - 10))).status == 500
    line = lines()[-1]
    assert (line["severity"], line["deadLetterTrouble"][:10]) == ("ERROR", "Not stored")


async def test_a_large_task_that_is_done_on_its_last_attempt_leaves_no_entry(
    handler: Handler, cloud: DeadLetterQueue, deed: Deed
) -> None:
    deed.during = lambda: held.append(len(cloud.entries))
    held: list[int] = []
    for room in (1000, 300, 250, 220):
        assert (await handler.post(LAST, padded(2**20 - room))).json == PROCESSED
    assert held == [1] * 4
    assert cloud.entries == {}
