"""What becomes of orders that fail, in a running local cloud: the contract's rows for deliveries, and dead letters."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks import transports

from local.journal import Journal
from local.sinks.shop import Shop
from tests.local.running import LocalCloud, copy_of_checkout, edit, running, wait_for

SHORT_WAITS = ("--config", "minBackoffSeconds=0.1", "--config", "maxBackoffSeconds=0.2")


class Pipeline:
    """A local cloud, the official client, and what its effects left in the state folder."""

    def __init__(self, cloud: LocalCloud, state: Path) -> None:
        self.cloud = cloud
        self.state = state
        self.shop = Shop(f"sqlite:///{state}/database/orders.sqlite")
        channel = grpc.insecure_channel(cloud.at["tasks_grpc"])
        self.client = tasks_v2.CloudTasksClient(transport=transports.CloudTasksGrpcTransport(channel=channel))

    def deliver(self, name: str, body: bytes | dict[str, str]) -> None:
        """Create a task with this body, as no producer would."""
        at = self.cloud.at
        request = tasks_v2.HttpRequest(
            url=f"{at['service_url']}/process-order",
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
            oidc_token=tasks_v2.OidcToken(service_account_email=at["invoker_email"], audience=at["service_url"]),
        )
        task = tasks_v2.Task(name=f"{at['queue']}/tasks/{name}", http_request=request)
        self.client.create_task(parent=at["queue"], task=task)

    def answers(self, name: str) -> list[dict[str, object]]:
        """What the handler logged of its answers to a task."""
        entries = [json.loads(line) for line in self.cloud.log if line.startswith("{")]
        return [entry for entry in entries if entry.get("task") == name and "status" in entry]

    def answered(self, name: str, times: int = 1) -> dict[str, object]:
        """The last of so many answers, once they are there."""
        wait_for(lambda: len(self.answers(name)) >= times, lambda: "\n".join(self.cloud.log))
        return self.answers(name)[-1]

    def letter_of(self, task: str) -> tasks_v2.Task | None:
        """The dead letter of a task."""
        listing = tasks_v2.ListTasksRequest(
            parent=self.cloud.at["dead_letter_queue"], response_view=tasks_v2.Task.View.FULL
        )
        letters = [t for t in self.client.list_tasks(listing) if t.http_request.headers["X-Dead-Letter-Task"] == task]
        assert len(letters) <= 1
        return letters[0] if letters else None

    def mails(self) -> list[dict[str, str]]:
        return Journal(self.state / "mails.jsonl").entries()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    state = tmp_path_factory.mktemp("state")
    with running("--state", str(state), *SHORT_WAITS) as cloud:
        yield Pipeline(cloud, state)


def confirmation(order: str) -> dict[str, str]:
    return {"orderId": order, "action": "send_confirmation", "customerEmail": f"{order}@example.com"}


def test_a_delivery_that_is_done_has_its_effect_once_and_a_repetition_is_told(pipeline: Pipeline) -> None:
    pipeline.deliver("done", confirmation("ORD-1"))
    assert (pipeline.answered("done")["status"], pipeline.answers("done")[0]["severity"]) == (200, "INFO")
    pipeline.deliver("repeated", confirmation("ORD-1"))
    assert pipeline.answered("repeated")["message"] == "Already processed: send_confirmation for ORD-1"
    assert [mail["to"] for mail in pipeline.mails()] == ["ORD-1@example.com"]


def test_a_direct_repetition_is_told_too(pipeline: Pipeline) -> None:
    body = json.dumps(confirmation("ORD-2")).encode()
    answers = [json.loads(pipeline.cloud.invoke("/process-order", body)[1])["status"] for _ in range(2)]
    assert answers == ["processed", "already-processed"]


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("no-json", b"{nonsense", "Malformed order"),
        ("no-action", b'{"orderId": "ORD-3"}', "Missing orderId or action"),
        ("unknown-action", b'{"orderId": "ORD-3", "action": "dance"}', "Unknown action: dance"),
        ("no-address", b'{"orderId": "ORD-3", "action": "send_confirmation"}', "Missing customerEmail"),
    ],
)
def test_a_permanent_failure_is_kept_with_its_reason_at_the_first_attempt(
    pipeline: Pipeline, name: str, body: bytes, reason: str
) -> None:
    pipeline.deliver(name, body)
    assert pipeline.answered(name)["status"] == 200
    letter = pipeline.letter_of(name)
    assert letter
    assert letter.http_request.body == body
    assert letter.http_request.headers["X-Dead-Letter-Reason"].startswith(reason)
    assert letter.http_request.headers["X-Dead-Letter-Attempts"] == "1"


def test_an_order_that_fails_to_the_last_is_kept_with_its_reason_and_can_be_replayed_at_once(
    pipeline: Pipeline,
) -> None:
    pipeline.deliver("unknown-order", {"orderId": "ORD-4", "action": "update_inventory"})
    answer = pipeline.answered("unknown-order", 5)
    assert [entry["status"] for entry in pipeline.answers("unknown-order")] == [500, 500, 500, 500, 200]
    assert answer["message"] == "Order ORD-4 is not yet known to the database"
    assert sum('"lastAttempt":true' in line and "unknown-order" in line for line in pipeline.cloud.log) == 1
    letter = pipeline.letter_of("unknown-order")
    assert letter
    assert datetime.datetime.fromisoformat(str(letter.schedule_time)) < datetime.datetime.now(datetime.UTC)
    assert letter.http_request.headers["X-Dead-Letter-Reason"] == answer["message"]
    assert letter.http_request.headers["X-Dead-Letter-Kind"] == "TransientError"

    short = letter.name.rpartition("/")[2]
    pipeline.client.run_task(name=letter.name)
    assert pipeline.answered(short)["status"] == 500
    pipeline.shop.commit(["ORD-4"])
    before = sum(pipeline.shop.sold())
    pipeline.client.run_task(name=letter.name)
    assert pipeline.answered(short, 2)["status"] == 200
    wait_for(lambda: pipeline.letter_of("unknown-order") is None, lambda: "the dead letter is still there")
    assert sum(pipeline.shop.sold()) == before + 1


def test_an_order_that_succeeds_at_its_last_attempt_leaves_no_dead_letter(pipeline: Pipeline) -> None:
    pipeline.client.pause_queue(name=pipeline.cloud.at["queue"])
    try:
        pipeline.deliver("late", {"orderId": "ORD-5", "action": "update_inventory"})
        name = f"{pipeline.cloud.at['queue']}/tasks/late"
        for attempt in range(1, 5):
            pipeline.client.run_task(name=name)
            assert pipeline.answered("late", attempt)["status"] == 500
        pipeline.shop.commit(["ORD-5"])
        pipeline.client.run_task(name=name)
        assert pipeline.answered("late", 5)["status"] == 200
        assert pipeline.answers("late")[-1]["attempt"] == "5 of 5"
        assert pipeline.letter_of("late") is None
        with pytest.raises(exceptions.NotFound):
            pipeline.client.get_task(name=name)
    finally:
        pipeline.client.resume_queue(name=pipeline.cloud.at["queue"])


def test_too_little_stock_is_permanent_and_names_the_item(pipeline: Pipeline) -> None:
    pipeline.shop.commit(["ORD-6"])
    with pipeline.shop.connection() as connection:
        connection.exec_driver_sql("INSERT INTO stock VALUES ('SKU-RARE', 1)")
        connection.exec_driver_sql("UPDATE order_lines SET item = 'SKU-RARE', quantity = 2 WHERE order_id = 'ORD-6'")
    pipeline.deliver("rare", {"orderId": "ORD-6", "action": "update_inventory"})
    assert pipeline.answered("rare")["status"] == 200
    letter = pipeline.letter_of("rare")
    assert letter
    assert letter.http_request.headers["X-Dead-Letter-Reason"] == "Too little stock of SKU-RARE for ORD-6"


def test_without_its_grant_the_handler_keeps_an_order_in_the_queue_and_the_log_names_the_grant(tmp_path: Path) -> None:
    root = copy_of_checkout(tmp_path)
    edit(root / "components/task_queue.py", '("enqueuer", "taskDeleter", "viewer")', '("taskDeleter", "viewer")')
    state = tmp_path / "state"
    with running("--state", str(state), *SHORT_WAITS, root=root) as cloud:
        pipeline = Pipeline(cloud, state)
        pipeline.deliver("forbidden", b"{nonsense")
        assert pipeline.answered("forbidden", 3)["status"] == 500
        cloud.logged(
            "has no role with cloudtasks.tasks.create on "
            f"{cloud.at['dead_letter_queue']}; declare a gcp.cloudtasks.QueueIamMember for it"
        )
        assert "cloudtasks.tasks.create" in str(pipeline.answers("forbidden")[0]["deadLetterTrouble"])
