"""The producers of docs/producers.md, run as they stand there against a local cloud."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from order_tasks.message import Message

from local.program import ROOT
from tests.local.cloud_tasks.serving import LOCATION, Serving
from tests.local.cloud_tasks.test_clients import BUILD_SECONDS, CLIENTS, PROGRAMS, built

QUEUE = f"{LOCATION}/queues/orders"
PAGE = (ROOT / "docs/producers.md").read_text()
MESSAGE = Message("send_confirmation", {"orderId": "ORD-1001", "customerEmail": "ada@example.com"})
NODE, GO, _ = PROGRAMS


@pytest.fixture
def service() -> Iterator[Serving]:
    with Serving(declared={QUEUE: []}) as service:
        service.now = time.time()
        yield service


def with_curl(folder: Path) -> list[str]:
    if not shutil.which("curl"):
        pytest.skip("no curl on the path: install it to test the producer in curl")
    (folder / "producer.sh").write_text(snippet("sh"))
    return ["sh", "-e", "producer.sh"]


def with_node(folder: Path) -> list[str]:
    built(NODE)
    (folder / "node_modules").symlink_to(CLIENTS / "node/node_modules")
    (folder / "producer.mjs").write_text(snippet("js"))
    return ["node", "producer.mjs"]


def with_go(folder: Path) -> list[str]:
    built(GO)
    for name in ("go.mod", "go.sum"):
        shutil.copy(CLIENTS / "go" / name, folder)
    (folder / "main.go").write_text(snippet("go"))
    subprocess.run(["go", "build", "-o", "producer", "."], cwd=folder, check=True, timeout=BUILD_SECONDS)
    return ["./producer"]


def snippet(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.mark.timeout(2 * BUILD_SECONDS)
@pytest.mark.parametrize("producer", [with_curl, with_node, with_go])
def test_a_producer_without_our_library_creates_the_librarys_task_once(
    producer: Callable[[Path], list[str]], service: Serving, tmp_path: Path
) -> None:
    command = producer(tmp_path)
    environment = {
        **os.environ,
        "ORDER_TASKS_QUEUE": QUEUE,
        "CLOUD_TASKS_EMULATOR_HOST": service.grpc,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS": f"http://{service.rest}/",
    }
    for _ in range(2):
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
    [task] = service.tasks(QUEUE)
    assert task.name == f"{QUEUE}/tasks/{MESSAGE.task_id}"
    assert dict(task.http_request.headers)["Content-Type"] == "application/json"
    assert json.loads(task.http_request.body) == json.loads(MESSAGE.body())
