"""The web app beside the local cloud: what it commits is done, also if it is killed before it creates the tasks."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from local.journal import Journal
from tests.local.running import PATIENCE, LocalCloud, request, running, wait_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def cloud(folder: Path) -> Iterator[LocalCloud]:
    with running("--state", str(folder)) as cloud:
        yield cloud


def order(cloud: LocalCloud, order_id: str) -> str:
    found: str = json.loads(request(f"{cloud.at['shop']}/orders/{order_id}")[1])["status"]
    return found


def place(cloud: LocalCloud, order_id: str, **headers: str) -> int:
    body = json.dumps({"orderId": order_id, "customerEmail": "ada@example.com"}).encode()
    return request(f"{cloud.at['shop']}/orders", body, headers)[0]


def shop_process(cloud: LocalCloud) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(cloud.process.pid), "-f", "app:create"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return list(map(int, found.stdout.split()))


def test_an_order_that_is_placed_over_http_is_done(cloud: LocalCloud) -> None:
    assert place(cloud, "ORD-1") == 201
    wait_for(lambda: order(cloud, "ORD-1") == "done", lambda: "\n".join(cloud.log))
    assert place(cloud, "ORD-1") == 200


def test_one_trace_leads_from_the_web_app_s_request_to_the_effects(cloud: LocalCloud, folder: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = f"00-{trace}-00f067aa0ba902b7-01"
    assert place(cloud, "ORD-3", traceparent=parent) == 201

    def lines() -> list[dict[str, Any]]:
        return [entry for entry in cloud.orders() if entry.get("orderId") == "ORD-3"]

    wait_for(lambda: len(lines()) == 3, lambda: "\n".join(cloud.log))
    assert [line["logging.googleapis.com/trace"].rpartition("/")[2] for line in lines()] == [trace] * 3
    [call] = [call for call in Journal(folder / "calls.jsonl").entries() if call["order"] == "ORD-3"]
    assert call["traceparent"] == parent


def test_send_places_new_orders_with_the_shop_and_single_tasks_with_cloud_tasks(
    cloud: LocalCloud, folder: Path
) -> None:
    at = cloud.at
    environment = {
        **os.environ,
        "CLOUD_TASKS_EMULATOR_HOST": at["tasks_grpc"],
        "ORDER_TASKS_QUEUE": at["queue"],
        "ORDER_TASKS_SERVICE_URL": at["service_url"],
        "ORDER_TASKS_INVOKER_EMAIL": at["invoker_email"],
        "ORDER_TASKS_SHOP_URL": at["shop"],
    }
    lines = [
        {"orderId": "ORD-10", "customerEmail": "ada@example.com"},
        {"orderId": "ORD-10", "customerEmail": "ada@example.com", "action": "send_confirmation"},
        {"orderId": "ORD-11", "customerEmail": "no address"},
    ]
    run = subprocess.run(
        [sys.executable, "-m", "order_tasks", "send", "-", "--json"],
        input="\n".join(map(json.dumps, lines)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert json.loads(run.stdout) == {"orders": 3, "created": 4, "already": 0, "failed": 1, "malformed": 0}, run.stderr
    assert "the shop answered 422" in run.stderr
    assert run.returncode == 1
    wait_for(lambda: order(cloud, "ORD-10") == "done", lambda: "\n".join(cloud.log))


def test_an_order_whose_shop_is_killed_after_the_commit_is_sent_by_the_relay(cloud: LocalCloud, folder: Path) -> None:
    assert order(cloud, "ORD-1") == "done"
    [first] = shop_process(cloud)
    os.kill(first, signal.SIGKILL)
    cloud.logged("The shop ended with exit code -9")
    # A new shop has no connection to Cloud Tasks yet, and while that is frozen it gets none.
    assert order(cloud, "ORD-1") == "done"
    [second] = shop_process(cloud)
    cloud.process.send_signal(signal.SIGSTOP)
    try:
        assert place(cloud, "ORD-2") == 201
        os.kill(second, signal.SIGKILL)
    finally:
        cloud.process.send_signal(signal.SIGCONT)
    assert order(cloud, "ORD-2") == "accepted"

    engine = create_engine(f"sqlite:///{folder}/database/orders.sqlite")
    with engine.begin() as connection:  # as if it had waited for the next minute
        connection.execute(text("UPDATE outbox SET added_at = added_at - 20"))
    engine.dispose()
    assert request(f"{cloud.at['service_url']}/relay", b"{}")[0] == 403
    status, counts = cloud.invoke("/relay", b"{}")
    assert (status, json.loads(counts)["waiting"]) == (200, 0)
    wait_for(lambda: order(cloud, "ORD-2") == "done", lambda: "\n".join(cloud.log))
    cloud.logged("The shop ended with exit code -9", 2)
