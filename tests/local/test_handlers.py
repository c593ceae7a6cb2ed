"""Any handler behind the local cloud: a command, a URL, an image; its code's changes; and what cannot run."""

import dataclasses
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import rich
from pulumi_gcp import cloudrunv2

from docs.pages.stack import EXAMPLE
from local.preview import preview
from local.program import PROJECT, ROOT, ProgramError, evaluate, local_stack, run_file, stack_configuration
from local.program.declared import declared
from tests.local.cloud_tasks.test_clients import PROGRAMS, built
from tests.local.running import LocalCloud, copy_of_checkout, edit, running, total, up, wait_for

HANDLER = """
import http.server, json, os, signal, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        retried = self.headers["X-CloudTasks-TaskRetryCount"] != "0"
        secret = os.environ["SMTP_URL"]
        line = json.dumps({"severity": "INFO", "message": "VERSION 1", "secret": secret, **self.headers})
        sys.stdout.write(line + chr(10))
        sys.stdout.flush()
        self.send_response(200 if retried else 500)
        self.end_headers()

    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
ORDER = ("--order-id", "ORD-1", "--email", "ada@example.com")
QUICK = ("--config", "minBackoffSeconds=0.1", "--config", "maxBackoffSeconds=0.1")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "handler"
    folder.mkdir()
    (folder / "handler.py").write_text(HANDLER)
    return folder / "handler.py"


def deliveries(cloud: LocalCloud, count: int) -> list[dict[str, str]]:
    """What the handler printed of its requests, once there are so many."""

    def printed() -> list[dict[str, str]]:
        return [json.loads(line) for line in cloud.log if line.startswith('{"severity": "INFO"')]

    wait_for(lambda: len(printed()) >= count, lambda: "\n".join(cloud.log))
    return printed()


def test_a_command_gets_an_order_with_token_and_headers_its_retries_and_its_edits(script: Path) -> None:
    smtp_url = "smtp://mail.example:2525?from=shop@example.com"
    with running("--handler", f"{sys.executable} {script}", "--config", f"smtpUrl={smtp_url}", *QUICK) as cloud:
        assert cloud.producer(*ORDER).returncode == 0
        requests = deliveries(cloud, 6)
        edits_restart_it(cloud, script)
    assert {sent["X-CloudTasks-QueueName"] for sent in requests} == {"cloud-run-tasks"}
    assert sorted(sent["X-CloudTasks-TaskRetryCount"] for sent in requests) == ["0"] * 3 + ["1"] * 3
    assert {sent["X-CloudTasks-TaskPreviousResponse"] for sent in requests[-1:]} == {"500"}
    assert all(sent["Authorization"].startswith("Bearer ") for sent in requests)
    assert {sent["secret"] for sent in requests} == {smtp_url}


def edits_restart_it(cloud: LocalCloud, script: Path) -> None:
    """An edit restarts the handler on its port, and one that cannot start is reported at once."""
    [first, *_] = deliveries(cloud, 6)
    edit(script, "VERSION 1", "VERSION 2")
    cloud.logged("The handler's code changed")
    assert cloud.producer("--order-id", "ORD-2", "--email", "ada@example.com").returncode == 0
    last = deliveries(cloud, 12)[-1]
    assert (last["message"], last["Host"]) == ("VERSION 2", first["Host"])
    script.write_text("raise SystemExit('no such luck')")
    cloud.logged("The handler does not start: the handler ended with exit code 1")
    cloud.logged("no such luck")
    script.write_text(HANDLER)
    assert cloud.producer("--order-id", "ORD-3", "--email", "ada@example.com").returncode == 0
    assert deliveries(cloud, 18)[-1]["message"] == "VERSION 1"


def test_an_edit_of_our_handler_restarts_it(tmp_path: Path) -> None:
    root = copy_of_checkout(tmp_path)
    with running(root=root) as cloud:
        edit(root / "handler/order_handler/app.py", "Task handler is running", "Task handler was edited")
        cloud.logged("The handler's code changed")
        wait_for(lambda: cloud.invoke() == (200, "Task handler was edited"), lambda: "\n".join(cloud.log))


@pytest.fixture
def url() -> Iterator[str]:
    """A handler that somebody else started."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200 if self.headers["Authorization"] else 401)
            self.end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_handler_that_runs_already_gets_the_tasks(url: str, tmp_path: Path) -> None:
    orders = tmp_path / "orders.jsonl"
    orders.write_text('{"orderId": "ORD-1", "customerEmail": "ada@example.com"}\n')
    run = up("--handler", url, "--orders", str(orders), "--exit-when-idle")
    assert (run.returncode, total(run.stderr)) == (0, [3, 3, 0, 0, 0, 0]), run.stderr


def test_a_handler_that_does_not_run_ends_the_start() -> None:
    run = up("--handler", "http://127.0.0.1:1")
    assert run.returncode == 2
    assert "error: the handler does not start: nothing answers at http://127.0.0.1:1" in run.stderr
    assert "Traceback" not in run.stderr


def test_our_handler_that_dies_at_its_start_ends_the_start_and_is_quoted(tmp_path: Path) -> None:
    root = copy_of_checkout(tmp_path)
    edit(root / "components/handler_service.py", 'str(int(args["max_attempts"]))', '"none"')
    run = up(root=root)
    assert run.returncode == 2
    assert "MAX_ATTEMPTS is 'none'" in run.stderr
    assert "error: the handler does not start: the handler ended with exit code 1" in run.stderr


@pytest.mark.parametrize(
    ("context", "code", "error"),
    [
        ("handler", 0, ""),
        ("examples/shop", 2, "use --handler or --container for a handler that is not this Python project"),
    ],
)
def test_a_stack_with_an_image_says_which_and_how_to_run_or_build_it(context: str, code: int, error: str) -> None:
    digest = f"task-handler@sha256:{'a' * 64}"
    run = up(
        "--config", f"image=us-docker.pkg.dev/p/r/{digest}", "--config", f"handlerContext={context}", "--exit-when-idle"
    )
    assert run.returncode == code, run.stderr
    image = f"us-central1-docker.pkg.dev/local-project/cloud-run-tasks/{digest}"  # the stack's own copy
    assert f"The stack runs the image {image}. Here the code in {context}/ runs instead." in run.stderr
    assert "--container --config image=" in run.stderr
    assert error in run.stderr


def test_several_services_are_refused_by_name() -> None:
    def program() -> None:
        run_file(ROOT / "__main__.py")
        cloudrunv2.Service("second", name="reports", location="us-central1", template={"containers": [{"image": "i"}]})

    words = r"declares 2 Cloud Run services \(reports, task-handler\): the local cloud has one front door"
    with pytest.raises(ProgramError, match=words):
        declared(evaluate(program, config={"gcp:project": "project-id", **stack_configuration("dev")}))


def test_a_second_queue_works(tmp_path: Path) -> None:
    root = copy_of_checkout(tmp_path)
    program = (root / "__main__.py").read_text()
    start = program.index("queue = TaskQueue(")
    declaration = program[start : program.index("\n)\n", start) + 3]
    for old, new in (('"queue",', '"second",'), ("**s.queue,", '**s.queue, "queue_name": "mails",')):
        declaration = declaration.replace(old, new)
    declaration = declaration.replace(
        "s.dead_letter_queue,", 's.dead_letter_queue.replace("cloud-run-tasks", "mails"),'
    )
    (root / "__main__.py").write_text(f"{program}\n{declaration}")
    with running(root=root) as cloud:
        cloud.at["queue"] = cloud.at["queue"].replace("cloud-run-tasks", "mails")
        assert cloud.producer(*ORDER).returncode == 0
        cloud.logged('"queue":"mails"', 3)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose configuration, settings and contract a test may change."""
    (tmp_path / "handler").mkdir()
    for name in ("Pulumi.dev.yaml", "Pulumi.prod.yaml", "settings.py", "handler/contract.json"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(local_stack, "ROOT", tmp_path)
    monkeypatch.setattr(local_stack, "stack_configuration", lambda stack: stack_configuration(stack, tmp_path))
    return tmp_path


def local_environment(stack: str, **overrides: str) -> Mapping[str, str]:
    config, secrets = local_stack.local_configuration(stack, {f"{PROJECT}:{k}": t for k, t in overrides.items()})
    return declared(evaluate(stack=stack, config=config, secrets=secrets)).service.environment


def test_each_secret_of_a_stack_has_a_local_value_and_reaches_the_handler_by_name(checkout: Path) -> None:
    with (checkout / "Pulumi.dev.yaml").open("a") as stack:
        stack.write("  cloud-run-tasks:secrets: {REFUND_KEY: {secure: AAAA}, OTHER: {secure: AAAA}}\n")
        stack.write("  cloud-run-tasks:environment: {BUCKET: images}\n")
    environment = local_environment("dev", **{"secrets.OTHER": "given"})
    assert (environment["OTHER"], environment["BUCKET"]) == ("given", "images")
    assert re.fullmatch("local-[0-9a-f]{32}", environment["REFUND_KEY"])


def need(variable: str, pattern: str, *, secret: bool = False) -> dict[str, object]:
    return {"variable": variable, "meaning": "", "accepts": f"/{pattern}/", "pattern": pattern, "secret": secret}


def test_whatever_an_action_needs_has_a_local_value_and_no_deployed_service_is_called(checkout: Path) -> None:
    contract = json.loads((checkout / "handler/contract.json").read_text())
    needs = [need("REFUND_URL", "https?://.+"), need("REFUND_KEY", ".{16,}", secret=True), need("LIMIT", "[0-9]+")]
    contract["actions"]["issue_refund"] = {"message": {}, "needs": needs, "maxAttempts": None}
    (checkout / "handler/contract.json").write_text(json.dumps(contract))
    with (checkout / "Pulumi.prod.yaml").open("a") as stack:
        stack.write("  cloud-run-tasks:environment: {REFUND_URL: https://refunds.example, LIMIT: '5'}\n")
    environment = local_environment("prod")
    assert (environment["REFUND_URL"], environment["LIMIT"]) == ("http://local/REFUND_URL", "5")
    assert re.fullmatch("local-[0-9a-f]{32}", environment["REFUND_KEY"])
    given = local_environment("prod", environment='{"LIMIT": "8"}', **{"environment.REFUND_URL": "http://127.0.0.1:1/"})
    assert (given["REFUND_URL"], given["LIMIT"]) == ("http://127.0.0.1:1/", "8")
    with pytest.raises(ProgramError, match=r"LIMIT needs /\[0-9\]\+/.*; add --config environment.LIMIT=VALUE"):
        local_environment("dev")


def test_the_preview_shows_every_resource_and_output(capsys: pytest.CaptureFixture[str]) -> None:
    config = {**stack_configuration("dev"), **EXAMPLE}
    rich.print(*preview("dev", evaluate(stack="dev", config=config, preview=True)))
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    page = (ROOT / "docs/stacks/dev.md").read_text()
    titles = [line.removeprefix("### ").replace("`", "") for line in page.splitlines() if line.startswith("### ")]
    assert len(titles) > 20
    assert [title for title in titles if title not in shown] == []
    assert "service_url: known after the deployment of handler " in shown


def test_without_the_three_files_of_the_shop_the_pipeline_works_and_has_no_action(tmp_path: Path) -> None:
    root = copy_of_checkout(tmp_path)
    for action in (root / "handler/order_handler/actions").glob("[a-z]*.py"):
        action.unlink()
    publish = [str(root / "handler/.venv/bin/python"), "-m", "order_handler.contract"]
    published = subprocess.run(publish, cwd=root / "handler", capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(published.stdout)["actions"] == {}
    (root / "handler/contract.json").write_text(published.stdout)
    with running(root=root) as cloud:
        assert cloud.producer(*ORDER).returncode == 0
        cloud.logged('"message":"Unknown action: ', 3)
        assert all(json.loads(line)["deadLetter"] for line in cloud.log if "Unknown action" in line)


def test_the_tutorials_service_gets_the_tasks_of_an_order(tmp_path: Path) -> None:
    built(dataclasses.replace(PROGRAMS[0], folder=str(ROOT / "bench/express")))
    orders = tmp_path / "orders.jsonl"
    orders.write_text('{"orderId": "ORD-1", "customerEmail": "ada@example.com"}\n')
    run = up("--handler", "node bench/express/index.js", "--orders", str(orders), "--exit-when-idle")
    assert (run.returncode, total(run.stderr)) == (0, [3, 3, 0, 0, 0, 0]), run.stderr
