"""The commands for one order and for the queue: find, cancel, run, pause, resume, rate."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.cloud import tasks_v2
from order_handler import tables
from order_tasks import Config, outbox
from order_tasks.cli.main import main
from order_tasks.operations import Operations
from sqlalchemy import Engine, create_engine, text

from tests.producer.service import DEAD_LETTER_QUEUE, EMAIL, QUEUE, Service

pytestmark = pytest.mark.usefixtures("environment")

ACTIONS = ("notify_warehouse", "send_confirmation", "update_inventory")


@pytest.fixture
def engine(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The handler's database, which ORDER_TASKS_DATABASE_URL names."""
    engine = create_engine(url)
    with engine.begin() as connection:
        tables.create_missing(connection)
    monkeypatch.setenv("ORDER_TASKS_DATABASE_URL", url)
    yield engine
    engine.dispose()


def effect(engine: Engine, action: str, *, done: bool = False, claimed_for: float = 0, order: str = "ORD-1") -> None:
    """Note an effect in the ledger."""
    until = time.time() + claimed_for
    row = tables.effects.insert().values((order, action, "run", until, until if done else None))
    with engine.begin() as connection:
        connection.execute(row)


def ledger(engine: Engine) -> dict[str, str]:
    """Each effect of ORD-1 that is done -> its token."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT action, token FROM effects WHERE order_id = 'ORD-1' AND done_at > 0"))
        return {row.action: row.token for row in found}


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM outbox")).scalar_one())


STORY = """\
ORD-1: 1 failing, 1 in the queue, 1 dead, 1 refused in the outbox, 2 in the
outbox, 1 running, 1 done, 1 unknown

queue
  notify_warehouse  1 attempt   failed, due in 10 s  INTERNAL(13): HTTP status …
  notify_warehouse  0 attempts  due in 10 min

dead letters
  dead  ORD-1  notify_warehouse  due now
  dead: no such item

outbox
  send_confirmation  added 0 s ago  refused: too large
  update_inventory   added 0 s ago  due in 2 h
  notify_warehouse   added 0 s ago  due in 2 h

ledger
  notify_warehouse#2  running  in 2 h
  send_confirmation   done     2 h ago
  update_inventory    unknown  2 h ago

log
  08:00:00  1 of 5  notify_warehouse  It is shut
  08:00:00                            created It is shut
"""


def test_find_tells_the_whole_story_of_an_order(
    service: Service,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service.now = float(int(time.time()))  # the database has no virtual clock
    for order in ("ORD-1", "ORD-10"):
        service.enqueue(f"0123456789abcdef-notify_warehouse-{order}-x", order=order)
        service.enqueue(f"of-another-program-{order}", order=order, due=600)
        service.store("dead" if order == "ORD-1" else "other", order=order)
        due = service.time.fromtimestamp(service.now + 7200, service.time.tzinfo)
        with engine.begin() as connection:
            outbox.add(connection, order, EMAIL, due=due)
            connection.execute(
                text("UPDATE outbox SET due = NULL, refused = 'too large' WHERE body LIKE '%send_conf%'")
            )
            connection.execute(text("UPDATE outbox SET added_at = :now"), {"now": service.now})
        effect(engine, "send_confirmation", done=True, claimed_for=-7210, order=order)
        effect(engine, "update_inventory", claimed_for=-7210, order=order)
        effect(engine, "notify_warehouse#2", claimed_for=7210, order=order)
    task = "0123456789abcdef-notify_warehouse-ORD-1-x"
    service.statuses[task] = [500]
    service.start(f"{QUEUE}/tasks/{task}")
    service.tick(0)
    line = {"severity": "WARNING", "time": "2026-01-31T08:00:00Z", "message": "It is shut", "orderId": "ORD-1"}
    lines = [line | {"attempt": "1 of 5", "action": "notify_warehouse"}, line | {"event": "created"}]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setenv("ORDER_TASKS_LOG", str(log))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert service.command("find", "ORD-1") == 0
    out = capsys.readouterr().out
    assert out.split("\n\n") == STORY.split("\n\n")
    assert service.command("find", "ORD-1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["effect"] for entry in told["tasks"]] == ["notify_warehouse"] * 2
    assert EMAIL not in out + str(told)


def test_an_order_that_nobody_knows_is_said_to_be_unknown(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert service.command("find", "ORD-1") == 1
    out, _ = capsys.readouterr()
    assert out.startswith("ORD-1: Nothing of this order is in the queues\nNeither outbox nor ledger was read: ")
    assert service.command("cancel", "ORD-1", "--yes") == 1
    assert "DeleteTask" not in service.called


def test_cancel_ends_what_is_open_and_leaves_what_is_done(
    service: Service, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    service.enqueue("0123456789abcdef-notify_warehouse-ORD-1")
    service.enqueue("0123456789abcdef-notify_warehouse-ORD-2", order="ORD-2")
    service.store("dead")
    with engine.begin() as connection:
        outbox.add(connection, "ORD-1", EMAIL)
        outbox.add(connection, "ORD-2", EMAIL)
    effect(engine, "send_confirmation", done=True)
    assert service.command("cancel", "ORD-1", "--yes") == 1  # not the whole order
    assert ledger(engine) == {
        "notify_warehouse": "cancelled",
        "send_confirmation": "run",
        "update_inventory": "cancelled",
    }
    assert rows(engine) == 3
    assert (service.letters, len(service.tasks(QUEUE))) == ([], 1)
    assert capsys.readouterr().out.endswith("Now: 2 cancelled, 1 done\n")


def test_cancel_takes_nothing_from_a_run_and_what_a_dead_run_left(
    service: Service, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    service.enqueue("0123456789abcdef-notify_warehouse-ORD-1")
    effect(engine, "notify_warehouse", claimed_for=30)
    effect(engine, "update_inventory", claimed_for=-1)
    assert service.command("cancel", "ORD-1", "--yes") == 1
    assert ledger(engine) == {"send_confirmation": "cancelled", "update_inventory": "cancelled"}
    assert capsys.readouterr().out.endswith("Now: 1 running, 2 cancelled\n")


def test_a_row_and_its_note_are_cancelled_together_or_not_at_all(
    service: Service, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with engine.begin() as connection:
        outbox.add(connection, "ORD-1", EMAIL)
        connection.execute(text("CREATE UNIQUE INDEX one ON effects (token)"))  # only one note can be written
    assert service.command("cancel", "ORD-1", "--yes") == 2
    assert "the order database: " in capsys.readouterr().err
    assert rows(engine) == 3


def test_without_a_database_cancel_deletes_tasks_and_says_what_it_cannot_prevent(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.enqueue("0123456789abcdef-notify_warehouse-ORD-1")
    service.store("dead")
    assert service.command("cancel", "ORD-1", "--yes") == 0
    assert (
        "No database was given: a task that runs already, or is created later, is not prevented\n"
        in capsys.readouterr().out
    )
    assert (service.letters, service.tasks(QUEUE)) == ([], [])


def test_an_orders_tasks_are_found_whatever_its_id_is(config: Config) -> None:
    orders = ["a/b", "x" * 400, "n\N{LATIN SMALL LETTER E WITH ACUTE}", "50%_of [*]", '"quoted"']
    for order in orders:
        assert main(["send", "--order-id", order, "--email", EMAIL]) == 0
    for order in orders:
        with Operations(config) as operations:
            story = operations.story(order)
        assert sorted(task.action or "" for task in story.tasks) == list(ACTIONS)


@pytest.mark.parametrize("name", ["0123456789abcdef-notify_warehouse-ORD-1", "ORD-1"])
def test_a_task_or_the_tasks_of_an_order_run_now(
    service: Service, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    service.enqueue("0123456789abcdef-notify_warehouse-ORD-1", due=3600)
    assert service.command("run", name) == 0
    service.tick(0)
    assert (service.tasks(QUEUE), capsys.readouterr().out) == ([], "1 started\n")
    assert service.command("run", name) == 1


def test_the_queue_is_paused_slowed_and_resumed(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    def queue() -> tasks_v2.Queue:
        return service.do(lambda tasks: tasks_v2.Queue(tasks.queues[QUEUE].message))

    assert service.command("pause") == 0
    assert (queue().state.name, service.state) == ("PAUSED", "PAUSED")
    assert service.command("rate", "7.5") == 0
    limits = queue().rate_limits
    assert (limits.max_dispatches_per_second, limits.max_concurrent_dispatches) == (7.5, 20)
    assert service.command("rate", "8", "--in-flight", "3") == 0
    assert queue().rate_limits.max_concurrent_dispatches == 3
    assert queue().retry_config.max_attempts == -1  # nothing else is changed
    assert service.command("resume") == 0
    assert queue().state.name == "RUNNING"
    assert "8 per second and 3 at once" in capsys.readouterr().out
    assert service.command("rate", "501") == 1


def test_a_dead_letter_queue_that_runs_can_be_paused(service: Service) -> None:
    resume = tasks_v2.ResumeQueueRequest.pb()(name=DEAD_LETTER_QUEUE)
    service.do(lambda tasks: tasks.queues.resume_queue(resume))
    assert service.command("pause", "--dead-letters") == 0
    assert service.state == "PAUSED"
