"""The runbook has a section for every alert, and its commands do what they say on a local cloud."""

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from components.monitoring import ALERTS, RELAY_ALERTS, RUNBOOK
from local.program import ROOT
from local.sinks.shop import STOCK, Shop
from tests.local.running import PATIENCE, LocalCloud, request, running, wait_for

TEXT = (ROOT / RUNBOOK).read_text()
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
LOCAL = ("gcloud tasks ", ".venv/bin/python -m order_tasks ")
OF_DEAD_LETTERS = re.compile(r"NAME| status| --all| resume \$ORDER_TASKS_DEAD_LETTER_QUEUE")
CLOUD_ONLY = ("gcloud scheduler", "gcloud logging ", "gcloud run ", "pulumi ", "export ")


def test_every_alert_has_a_section_of_its_own_and_every_section_an_alert() -> None:
    _, _, alerts = TEXT.partition("\n## Alerts\n")
    assert re.findall(r"^### (.*)", alerts, re.MULTILINE) == [alert.name for alert in (*ALERTS, *RELAY_ALERTS)]


def test_every_command_is_run_here_or_needs_the_cloud() -> None:
    assert sum(command.startswith(LOCAL) for command in COMMANDS) > 10
    assert [command for command in COMMANDS if not command.startswith(LOCAL + CLOUD_ONLY)] == []


class Queues:
    """The queues of a local cloud, as its REST API shows them."""

    def __init__(self, cloud: LocalCloud, shop: Shop) -> None:
        self._cloud = cloud
        self._shop = shop
        self._orders = map("ORD-{}".format, itertools.count())

    def dead_letters(self) -> list[str]:
        """The ids of all dead letters."""
        listed = json.loads(self._get("dead_letter_queue", "/tasks")).get("tasks", [])
        return [task["name"].rpartition("/")[2] for task in listed]

    def state(self, queue: str) -> str:
        return str(json.loads(self._get(queue))["state"])

    def rate(self) -> float:
        return float(json.loads(self._get("queue"))["rateLimits"]["maxDispatchesPerSecond"])

    def new_dead_letter(self) -> str:
        """Creates a dead letter whose replay will succeed: its item was sold out and is in stock again."""
        order, before = next(self._orders), set(self.dead_letters())
        self._shop.commit([order])
        self._stock(0)
        self.send(order)
        wait_for(lambda: set(self.dead_letters()) - before, lambda: "\n".join(self._cloud.log))
        self._stock(STOCK)
        [letter] = set(self.dead_letters()) - before
        return letter

    def send(self, order: str) -> None:
        at = self._cloud.at
        body = json.dumps({"orderId": order, "action": "update_inventory"}).encode()
        task = {
            "url": f"{at['service_url']}/process-order",
            "body": base64.b64encode(body).decode(),
            "oidcToken": {"serviceAccountEmail": at["invoker_email"], "audience": at["service_url"]},
        }
        created, text = request(
            f"{at['tasks_rest']}/v2/{at['queue']}/tasks", json.dumps({"task": {"httpRequest": task}}).encode()
        )
        assert created == 200, text

    def _stock(self, pieces: int) -> None:
        with self._shop.connection() as connection:
            connection.exec_driver_sql(f"UPDATE stock SET quantity = {pieces}")

    def _get(self, queue: str, more: str = "") -> str:
        return request(f"{self._cloud.at['tasks_rest']}/v2/{self._cloud.at[queue]}{more}")[1]


def test_the_commands_do_what_they_say(tmp_path: Path) -> None:
    if not shutil.which("gcloud"):
        pytest.skip("no gcloud on the path: install the Google Cloud CLI")
    (tmp_path / "token").write_text("any")
    with running("--state", str(tmp_path / "state")) as cloud:
        queues = Queues(cloud, Shop(f"sqlite:///{tmp_path}/state/database/orders.sqlite"))
        environment = {
            **os.environ,
            "CLOUD_TASKS_EMULATOR_HOST": cloud.at["tasks_grpc"],
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS": f"{cloud.at['tasks_rest']}/",
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(tmp_path / "token"),
            "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
            "CLOUDSDK_CORE_PROJECT": "local-project",
            "ORDER_TASKS_QUEUE": cloud.at["queue"],
            "ORDER_TASKS_DEAD_LETTER_QUEUE": cloud.at["dead_letter_queue"],
        }
        exported = {command.split("=")[0].removeprefix("export ") for command in COMMANDS if command[:7] == "export "}
        assert exported <= environment.keys()

        def run(command: str) -> None:
            letter = queues.new_dead_letter() if OF_DEAD_LETTERS.search(command) else ""
            ended = subprocess.run(
                ["bash", "-c", command.replace("drop NAME", "drop --yes NAME").replace("NAME", letter)],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
            if " status" in command or " describe NAME" in command:
                assert letter[:12] in ended.stdout
            elif letter:
                wait_for(lambda: letter not in queues.dead_letters(), lambda: f"{command}: {letter} is still there")
            if change := re.search(r" (pause|resume) \$ORDER_TASKS_(\w+)", command):
                assert queues.state(change[2].lower()) == {"pause": "PAUSED", "resume": "RUNNING"}[change[1]]
            if change := re.search(r" --max-dispatches-per-second=(\d+)", command):
                assert queues.rate() == float(change[1])

        queues.send("ORD")
        cloud.logged("Order ORD is not yet known")  # the handler has created its tables
        for command in COMMANDS:
            if command.startswith(LOCAL):
                run(command)
