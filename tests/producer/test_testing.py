"""Cloud Tasks in memory: the same interface and the same outcomes as the service."""

import asyncio
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import order_tasks
import pytest
from google.api_core import exceptions
from order_tasks import AsyncOrderTasks, Config, ConfigError, Order, OrderTasks, outbox
from order_tasks.testing import QUEUE, InMemoryCloudTasks

from local.program import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CREATE = ("ORD-1", "send_confirmation", "ada@example.com")


def test_every_client_is_recorded_with_name_action_fields_and_time(cloud_tasks: InMemoryCloudTasks) -> None:
    before = datetime.now(UTC)
    due = before + timedelta(days=1)
    config = Config.from_environment()

    async def create() -> None:
        await order_tasks.create_order_task_async("2", *CREATE[1:])
        async with AsyncOrderTasks(config) as tasks:
            await tasks.create_order_task("3", *CREATE[1:])
            assert [
                outcome.failures async for outcome in tasks.send_orders([Order("4", "e", ("update_inventory",))])
            ] == [{}]
            await tasks.publish(outbox.rows("5", "e", ["update_inventory"], due=due))

    order_tasks.create_order_task("0", *CREATE[1:])
    with OrderTasks(config) as tasks:
        created = tasks.create_order_task("1", *CREATE[1:])
        tasks.publish(outbox.rows("6", "e", ["update_inventory"], headers={"X-Trace": "7"}))
    asyncio.run(create())
    assert [task.fields["orderId"] for task in cloud_tasks.created] == ["0", "1", "6", "2", "3", "4", "5"]
    first, second, sixth, *_, last = cloud_tasks.created
    assert created is not None
    assert created.name == second.name
    assert second.name.startswith(f"{QUEUE}/tasks/")
    assert (first.action, first.due) == ("send_confirmation", None)
    assert first.fields == {"orderId": "0", "action": "send_confirmation", "customerEmail": "ada@example.com"}
    assert before <= first.time <= last.time <= datetime.now(UTC)
    assert last.due == due
    assert sixth.headers["X-Trace"] == "7"


def test_a_refusal_is_raised_for_its_action_and_as_often_as_it_says(cloud_tasks: InMemoryCloudTasks) -> None:
    cloud_tasks.refuse(exceptions.NotFound("no queue"), action="update_inventory", times=1)  # type: ignore[no-untyped-call]
    assert order_tasks.create_order_task(*CREATE) is not None
    with pytest.raises(exceptions.NotFound, match="no queue"):
        order_tasks.create_order_task("ORD-1", "update_inventory", "e")
    assert order_tasks.create_order_task("ORD-1", "update_inventory", "e") is not None


@pytest.mark.parametrize("stored", [True, False])
def test_transient_errors_are_retried_and_end_in_a_retry_error(cloud_tasks: InMemoryCloudTasks, stored: bool) -> None:
    away = exceptions.ServiceUnavailable("away")  # type: ignore[no-untyped-call]
    cloud_tasks.refuse(away, times=2, stored=stored)
    assert (order_tasks.create_order_task(*CREATE) is None) == stored
    cloud_tasks.refuse(away)
    with pytest.raises(exceptions.RetryError, match="503 away"):
        order_tasks.create_order_task("ORD-2", *CREATE[1:])
    assert len(cloud_tasks.created) == 1


def test_afterwards_the_environment_counts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORDER_TASKS_QUEUE", raising=False)
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:1")
    with InMemoryCloudTasks():
        order_tasks.create_order_task(*CREATE)
        assert "CLOUD_TASKS_EMULATOR_HOST" not in os.environ
    with pytest.raises(ConfigError, match="ORDER_TASKS_QUEUE is missing"):
        order_tasks.create_order_task(*CREATE)


def test_the_examples_of_the_documentation_pass(tmp_path: Path) -> None:
    page = (ROOT / "docs/testing.md").read_text()
    files = dict(re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    for name, code in files.items():
        (tmp_path / name).write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "4 passed" in ran.stdout
