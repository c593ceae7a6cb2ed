"""The invoker's token stays with the queue: no task takes it to another address or names another audience."""

import base64
import dataclasses
import json
import socket
from collections.abc import Iterator

import pytest

from tests.local.running import LocalCloud, request, running


@pytest.fixture(scope="module")
def cloud() -> Iterator[LocalCloud]:
    with running("--stack", "prod") as cloud:
        yield cloud


def test_a_task_with_its_own_address_and_token_reaches_the_handler_alone(cloud: LocalCloud) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        order = {"orderId": "ORD-1", "action": "send_confirmation", "customerEmail": "ada@example.com"}
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mine?a=b"
        token = {"serviceAccountEmail": cloud.at["invoker_email"], "audience": url}
        body = base64.b64encode(json.dumps(order).encode()).decode()
        task = {"task": {"httpRequest": {"url": url, "body": body, "oidcToken": token}}}
        status, created = request(f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}/tasks", json.dumps(task).encode())
        assert status == 200
        stamped = json.loads(created)["httpRequest"]["oidcToken"]
        assert stamped == {**token, "audience": "https://handler.invalid/local-project/prod"}
        cloud.logged('"orderId":"ORD-1"')
        listener.setblocking(False)
        try:
            listener.accept()
        except BlockingIOError:
            return
        raise AssertionError("the token reached another address")


def test_a_producer_that_knows_nothing_but_the_queue_creates_tasks_that_are_done(cloud: LocalCloud) -> None:
    knows_less = dataclasses.replace(cloud, at={"tasks_grpc": cloud.at["tasks_grpc"], "queue": cloud.at["queue"]})
    order = ("--order-id", "ORD-2", "--email", "ada@example.com", "--action", "send_confirmation")
    ended = knows_less.producer(*order)
    assert ended.returncode == 0, ended.stderr
    cloud.logged('"orderId":"ORD-2"')
    assert "ORD-2" in [done["orderId"] for done in cloud.orders()]
