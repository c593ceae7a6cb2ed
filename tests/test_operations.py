"""The runbook has a section for every alert, and each of its commands runs and does what the page says."""

import base64
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import text

from components.monitoring import ALERTS, RELAY_ALERTS, RUNBOOK
from local.program import ROOT
from local.sinks.shop import STOCK, Shop
from tests.declared import declare
from tests.local.running import PATIENCE, LocalCloud, request, running, wait_for

TEXT = (ROOT / RUNBOOK).read_text()
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
IMAGE = f"us-central1-docker.pkg.dev/shop/images/handler@sha256:{'0' * 64}"
SETUP = list(itertools.takewhile(lambda command: "order_tasks status" not in command, COMMANDS))
PULUMI = """\
import json, os, sys
stack = json.load(open(os.environ["STACK"]))
match sys.argv[1:]:
    case ["stack", "select", "prod"] | ["up"] | ["up", "--refresh"]:
        pass
    case ["stack", "output", name]:
        print(stack[name])
    case ["config", "get", "gcp:project"]:
        print("local-project")
    case ["config", "set", key, value]:
        open(os.environ["SET"], "a").write(f"{key}={value}\\n")
    case ["up", "--config", setting]:
        open(os.environ["SET"], "a").write(f"{setting}\\n")
    case other:
        sys.exit(f"unexpected: {other}")
"""
"""Stands for the Pulumi CLI, which needs a deployed stack."""


def test_every_alert_has_a_section_of_its_own_and_every_section_an_alert() -> None:
    _, _, alerts = TEXT.partition("\n## Alerts\n")
    assert re.findall(r"^### (.*)", alerts, re.MULTILINE) == [alert.name for alert in (*ALERTS, *RELAY_ALERTS)]


class Queues:
    """The queues of a local cloud, as its REST API shows them."""

    def __init__(self, cloud: LocalCloud, shop: Shop) -> None:
        self._cloud = cloud
        self._shop = shop
        self._orders = map("ORD-{}".format, itertools.count())

    def tasks(self, queue: str) -> list[str]:
        """The ids of all tasks."""
        listed = json.loads(self._call(self._cloud.at[queue], "/tasks")).get("tasks", [])
        return [task["name"].rpartition("/")[2] for task in listed]

    def state(self, queue: str) -> str:
        return str(json.loads(self._call(self._cloud.at[queue]))["state"])

    def limits(self) -> tuple[float, int]:
        limits = json.loads(self._call(self._cloud.at["queue"]))["rateLimits"]
        return limits["maxDispatchesPerSecond"], limits["maxConcurrentDispatches"]

    def resume_dead_letters(self) -> None:
        self._call(self._cloud.at["dead_letter_queue"], ":resume", {})

    def new_dead_letter(self) -> tuple[str, str]:
        """Creates a dead letter whose replay will succeed: its item was sold out and is in stock again."""
        order, before = next(self._orders), set(self.tasks("dead_letter_queue"))
        self._shop.commit([order])
        self._stock(0)
        self.send(order)
        wait_for(lambda: set(self.tasks("dead_letter_queue")) - before, lambda: "\n".join(self._cloud.log))
        self._stock(STOCK)
        [letter] = set(self.tasks("dead_letter_queue")) - before
        return letter, order

    def new_task(self) -> str:
        """Creates a task that waits for an hour, and returns its order."""
        order = next(self._orders)
        self._shop.commit([order])
        due = datetime.now(UTC) + timedelta(hours=1)
        self.send(order, name=f"{self._cloud.at['queue']}/tasks/{order}", scheduleTime=due.isoformat())
        return order

    def purge(self) -> None:
        self._call(self._cloud.at["queue"], ":purge", {})

    def send(self, order: str, **task: str) -> None:
        at = self._cloud.at
        body = json.dumps({"orderId": order, "action": "update_inventory"}).encode()
        http = {"url": f"{at['service_url']}/process-order", "body": base64.b64encode(body).decode()}
        self._call(at["queue"], "/tasks", {"task": {"httpRequest": http, **task}})

    def cancelled(self, order: str) -> bool:
        statement = text("SELECT 1 FROM effects WHERE order_id = :order AND token = 'cancelled'")
        with self._shop.connection() as connection:
            return connection.execute(statement, {"order": order}).first() is not None

    def _stock(self, pieces: int) -> None:
        with self._shop.connection() as connection:
            connection.exec_driver_sql(f"UPDATE stock SET quantity = {pieces}")

    def _call(self, queue: str, more: str = "", body: object = None) -> str:
        sent = None if body is None else json.dumps(body).encode()
        status, answer = request(f"{self._cloud.at['tasks_rest']}/v2/{queue}{more}", sent)
        assert status == 200, answer
        return answer


class OtherGoogle(BaseHTTPRequestHandler):
    """Cloud Logging without any line, and other services without anything."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._answer(404, {"error": {"code": 404, "status": "NOT_FOUND", "message": "nothing is deployed"}})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, {})

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""

    def _answer(self, status: int, answer: object) -> None:
        self.asked.append(self.path)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


@contextmanager
def other_google() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), OtherGoogle) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class Shell:
    """A shell after the page's first commands, for one local cloud."""

    def __init__(self, cloud: LocalCloud, folder: Path, google: str) -> None:
        database = f"sqlite:///{folder}/state/database/orders.sqlite"
        self.queues = Queues(cloud, Shop(database))
        self._folder = folder
        exports = declare("prod").exports
        (folder / "stack.json").write_text(json.dumps({name: cloud.at.get(name, exports[name]) for name in exports}))
        (folder / "token").write_text("any")
        (folder / "pulumi").write_text(f"#!{sys.executable}\n{PULUMI}")
        (folder / "pulumi").chmod(stat.S_IRWXU)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ORDER_TASKS_")},
            **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api}": google for api in ("CLOUDSCHEDULER", "LOGGING")},
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN": "http://run.invalid/",  # gcloud puts the region before the host
            "http_proxy": google,
            "no_proxy": "127.0.0.1",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS": f"{cloud.at['tasks_rest']}/",
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(folder / "token"),
            "CLOUDSDK_CONFIG": str(folder / "gcloud"),
            "CLOUD_TASKS_EMULATOR_HOST": cloud.at["tasks_grpc"],
            "ORDER_TASKS_DATABASE_URL": database,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SET": str(folder / "set"),
            "STACK": str(folder / "stack.json"),
        }
        printed = self.run("\n".join([*SETUP, "env -0"]))
        self._environment = dict(each.split("=", 1) for each in printed.rstrip("\0").split("\0"))

    def run(self, command: str, *, may_find_nothing: bool = False) -> str:
        """What a command prints."""
        ended = subprocess.run(
            ["bash", "-ec", command],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        found_nothing = may_find_nothing and re.search("nothing is deployed|could not be found", ended.stderr)
        assert ended.returncode == 0 or found_nothing, f"{command}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def settings(self) -> dict[str, str]:
        """What `pulumi config set` was told."""
        return dict(line.split("=", 1) for line in (self._folder / "set").read_text().splitlines())


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    if not shutil.which("gcloud"):
        pytest.skip("no gcloud on the path: install the Google Cloud CLI")
    folder = tmp_path_factory.mktemp("operations")
    with running("--state", str(folder / "state")) as cloud, other_google() as google:
        shell = Shell(cloud, folder, google)
        shell.queues.send("ORD")
        cloud.logged("Order ORD is not yet known")  # the handler has created its tables
        shell.queues.purge()
        yield shell


@pytest.mark.parametrize("command", COMMANDS[len(SETUP) :])
def test_each_command_does_what_the_page_says(shell: Shell, command: str) -> None:
    queues = shell.queues
    letter = order = ""
    if "--dead-letters" in command:
        queues.resume_dead_letters()
    elif "order_tasks run ORDER" in command:
        order = queues.new_task()
    elif re.search(r"\b(NAME|ID|ORDER|REASON|status)\b|--all|--action|resume \$ORDER_TASKS_DEAD", command):
        letter, order = queues.new_dead_letter()
    typed = re.sub("order_tasks (drop|cancel)", r"order_tasks \1 --yes", command)
    placeholders = {
        "NAME": letter[:12],
        " ID ": f" {letter} ",
        " ORDER": f" {order}",
        "REASON": "stock",
        "IMAGE_BY_DIGEST": IMAGE,
    }
    for placeholder, value in placeholders.items():
        typed = typed.replace(placeholder, value)
    is_cloud_only = re.match("gcloud (logging|run|scheduler) ", command)
    OtherGoogle.asked.clear()
    printed = shell.run(typed, may_find_nothing=bool(is_cloud_only))
    assert bool(OtherGoogle.asked) == bool(is_cloud_only)
    if re.search(r" (status|find|describe ID)", command):
        assert letter[:12] in printed
    elif letter:
        wait_for(lambda: letter not in queues.tasks("dead_letter_queue"), lambda: f"{letter} is still there")
    elif order:
        wait_for(lambda: order not in queues.tasks("queue"), lambda: f"{order} is still there")
    if " cancel " in command:
        assert queues.cancelled(order)
    if change := re.search(r" (pause|resume)\b", command):
        queue = "dead_letter_queue" if re.search("DEAD_LETTER|--dead-letters", command) else "queue"
        assert queues.state(queue) == {"pause": "PAUSED", "resume": "RUNNING"}[change[1]]
    if re.search(r" rate | queues update ", command):
        assert queues.limits() == (10, 5)
    if "pulumi config set" in command or "pulumi up --config" in command:
        assert declare("prod", **shell.settings())
