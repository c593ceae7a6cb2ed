"""The local cloud as its users meet it: started as a process, spoken to over the network."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks import transports
from yarl import URL

from local.cloud_tasks.store import Store
from local.program import ROOT
from local.state import StateError, open_state, ports_of, reset
from tests.local.running import (
    PATIENCE,
    LocalCloud,
    copy_of_checkout,
    edit,
    kill,
    request,
    running,
    started,
    total,
    up,
    wait_for,
)

ORDER = {"orderId": "ORD-1", "action": "send_confirmation", "customerEmail": "ada@example.com"}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def cloud(state: Path) -> Iterator[LocalCloud]:
    """Started as by a script in its background, where a process inherits that Ctrl-C is ignored; ended by Ctrl-C."""
    inherited = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with running("--state", str(state), "--host", "127.0.0.2") as cloud:
        signal.signal(signal.SIGINT, inherited)
        yield cloud
    assert cloud.process.returncode == 0


@pytest.fixture(params=["grpc", "rest"])
def client(cloud: LocalCloud, request: pytest.FixtureRequest) -> Iterator[tasks_v2.CloudTasksClient]:
    """The official client, over each of its transports."""
    transport: transports.CloudTasksTransport
    if request.param == "grpc":
        transport = transports.CloudTasksGrpcTransport(channel=grpc.insecure_channel(cloud.at["tasks_grpc"]))
    else:
        address = cloud.at["tasks_rest"].removeprefix("http://")
        transport = transports.CloudTasksRestTransport(
            host=address,
            url_scheme="http",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        )
    with tasks_v2.CloudTasksClient(transport=transport) as client:
        yield client


# The line of addresses


def test_one_line_of_addresses_on_standard_output(cloud: LocalCloud) -> None:
    local = re.compile(r"(http://)?127\.0\.0\.1:\d+")
    assert {key for key, value in cloud.at.items() if local.fullmatch(value)} == {
        *("tasks_grpc", "tasks_rest", "service_url", "issuer", "page", "shop")
    }
    assert cloud.at["queue"] == "projects/local-project/locations/us-central1/queues/cloud-run-tasks"
    assert cloud.at["invoker_email"] == "cloud-tasks-invoker@local-project.iam.gserviceaccount.com"


# The front door


def test_the_door_opens_to_the_invoker_alone(cloud: LocalCloud) -> None:
    def answer(token: str) -> int:
        return request(cloud.at["service_url"], headers={"Authorization": f"Bearer {token}"})[0]

    assert request(cloud.at["service_url"])[0] == 403
    assert answer(cloud.token(email="task-handler-sa@local-project.iam.gserviceaccount.com")) == 403
    cloud.logged("task-handler-sa@local-project.iam.gserviceaccount.com has no binding of roles/run.invoker")
    assert answer(cloud.token(audience="https://other.example")) == 401
    signed, _, signature = cloud.token().rpartition(".")
    broken = base64.urlsafe_b64encode(bytes(len(base64.urlsafe_b64decode(signature + "==")))).decode().rstrip("=")
    assert answer(f"{signed}.{broken}") == 401
    assert cloud.invoke() == (200, "Task handler is running")


def test_no_token_for_an_account_that_the_program_does_not_declare(cloud: LocalCloud) -> None:
    status, text = request(f"{cloud.at['issuer']}/token?email=eve@example.com&audience=x")
    assert (status, "eve@example.com" in text) == (404, True)


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        (json.dumps(ORDER).encode(), 200, '{"status":"processed","orderId":"ORD-1"}'),
        (b'{"orderId": "ORD-1"}', 400, '{"error":"Missing orderId or action"}'),
        (b'{"orderId": "ORD-1", "action": "dance"}', 400, '{"error":"Unknown action: dance"}'),
        (b"{nonsense", 400, '{"error":"Malformed order'),
    ],
)
def test_the_invoker_gets_the_answers_of_the_contract(cloud: LocalCloud, body: bytes, status: int, answer: str) -> None:
    got, text = cloud.invoke("/process-order", body)
    assert (got, text[: len(answer)]) == (status, answer)


def test_tokens_verify_through_discovery_and_carry_the_claims_of_the_service(cloud: LocalCloud) -> None:
    discovery = json.loads(request(f"{cloud.at['issuer']}/.well-known/openid-configuration")[1])
    token = cloud.token()
    key = jwt.PyJWKClient(discovery["jwks_uri"]).get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=["RS256"], audience=cloud.at["service_url"], issuer=cloud.at["issuer"])
    assert sorted(claims) == ["aud", "azp", "email", "email_verified", "exp", "iat", "iss", "sub"]
    assert claims["azp"] == claims["sub"]
    assert re.fullmatch(r"\d{21}", claims["sub"])
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["email"] == cloud.at["invoker_email"]


# Who may call


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "::1]"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_no_web_page_gets_an_answer_from_any_address(cloud: LocalCloud, headers: dict[str, str]) -> None:
    token = {"Authorization": f"Bearer {cloud.token()}"}
    for url in (
        f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}",
        f"{cloud.at['issuer']}/token?email={cloud.at['invoker_email']}&audience={cloud.at['service_url']}",
        cloud.at["service_url"],
    ):
        assert request(url, headers=token)[0] == 200
        assert request(url, headers={**token, **headers})[0] == 403
    own = URL(cloud.at["tasks_rest"]).with_host("localhost")
    assert (
        request(f"{own}/v2/{cloud.at['queue']}", headers={"Origin": str(own), "Sec-Fetch-Site": "same-origin"})[0]
        == 200
    )


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_no_form_changes_a_queue(cloud: LocalCloud, kind: str) -> None:
    status, text = request(f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}:pause", b"{}", {"Content-Type": kind})
    assert (status, "application/json" in text) == (415, True)
    assert json.loads(request(f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}")[1])["state"] == "RUNNING"


# Cloud Tasks, through the official client


def task(cloud: LocalCloud, name: str, body: bytes = json.dumps(ORDER).encode(), **fields: object) -> tasks_v2.Task:
    oidc = tasks_v2.OidcToken(service_account_email=cloud.at["invoker_email"], audience=cloud.at["service_url"])
    url = f"{cloud.at['service_url']}/process-order"
    return tasks_v2.Task(
        name=f"{cloud.at['queue']}/tasks/{name}",
        http_request=tasks_v2.HttpRequest(url=url, body=body, oidc_token=oidc),
        **fields,
    )


def test_a_created_task_reaches_the_handler(
    cloud: LocalCloud, client: tasks_v2.CloudTasksClient, request: pytest.FixtureRequest
) -> None:
    name = f"reaches-{request.node.callspec.id}"
    created = client.create_task(parent=cloud.at["queue"], task=task(cloud, name))
    assert created.name == f"{cloud.at['queue']}/tasks/{name}"
    cloud.logged(f'"task":"{name}"')
    [order] = [order for order in cloud.orders() if order.get("task") == name]
    assert (order["orderId"], order["attempt"], order["queue"]) == ("ORD-1", "1 of 5", "cloud-run-tasks")
    assert re.fullmatch(r"projects/local-project/traces/[0-9a-f]{32}", order["logging.googleapis.com/trace"])
    with pytest.raises(exceptions.Conflict, match="existed too recently"):
        client.create_task(parent=cloud.at["queue"], task=task(cloud, name))


# The main job


def test_a_file_of_orders_becomes_tasks_and_effects_at_the_rate_of_the_stack(tmp_path: Path) -> None:
    orders = tmp_path / "orders.jsonl"
    lines = [json.dumps({"orderId": f"ORD-{number}", "customerEmail": "a@example.com"}) for number in range(30)]
    orders.write_text("\n".join([*lines[:10], '{"orderId": ', '{"orderId": "B"}', *lines[10:]]))
    state = tmp_path / "state"
    state.mkdir(0o755)
    rate = ("--config", "maxDispatchesPerSecond=25")
    run = up("--state", str(state), "--orders", str(orders), "--exit-when-idle", *rate)
    assert total(run.stderr) == [90, 90, 90, 0, 0, 0], run.stderr
    [seconds] = re.findall(r"90 settled in ([\d.]+) s", run.stderr)
    assert float(seconds) >= 3  # 80 of them after a burst of 10; at the default rate it would be 1.6

    # A malformed line is named, and the others are sent.
    assert run.returncode == 1
    assert f"{orders}:11" in run.stderr
    assert f"{orders}:12" in run.stderr

    # The state folder is its owner's alone.
    modes = {file.relative_to(state): file.stat().st_mode & 0o777 for file in (state, *state.rglob("*"))}
    assert len(modes) >= 6
    assert {mode for file, mode in modes.items() if (state / file).is_file()} == {0o600}
    assert {mode for file, mode in modes.items() if (state / file).is_dir()} == {0o700}


def test_without_the_invoker_binding_nothing_is_delivered_and_the_log_names_it(tmp_path: Path) -> None:
    root = copy_of_checkout(tmp_path)
    edit(
        root / "components/task_invoker.py",
        '            role="roles/run.invoker",',
        '            role="roles/run.viewer",',
    )
    edit(root / "Pulumi.dev.yaml", "config:\n", "config:\n  cloud-run-tasks:minBackoffSeconds: 0.1\n")
    (root / "orders.jsonl").write_text('{"orderId": "A", "customerEmail": "a@example.com"}\n')
    run = up("--orders", "orders.jsonl", "--exit-when-idle", root=root)
    assert run.returncode == 1
    assert total(run.stderr) == [3, 0, 0, 12, 0, 3], run.stderr
    attempts = re.findall(r"Attempt (\d) of task cloud-run-tasks/\S+: HTTP (\d+)", run.stderr)
    assert sorted(attempts) == [(str(attempt), "403") for attempt in range(1, 6) for _ in range(3)]
    missing = "cloud-tasks-invoker@local-project.iam.gserviceaccount.com has no binding of roles/run.invoker"
    assert missing in run.stderr


def test_an_action_that_fails_is_answered_500_without_its_reason_and_retried(tmp_path: Path) -> None:
    root = copy_of_checkout(tmp_path)
    action = root / "handler/order_handler/actions/update_inventory.py"
    edit(action, "    await stock.take(message.order_id, message.effect)", '    raise OSError("no stock database")')
    edit(root / "Pulumi.dev.yaml", "config:\n", "config:\n  cloud-run-tasks:minBackoffSeconds: 0.1\n")
    with running(root=root) as cloud:
        body = json.dumps({**ORDER, "action": "update_inventory"}).encode()
        assert cloud.invoke("/process-order", body) == (500, '{"error":"Internal error"}')
        assert cloud.producer("--order-id", "ORD-5", "--email", "a@example.com").returncode == 0
        cloud.logged("no stock database", 6)
        cloud.logged('"deadLetter":')
        answers = [json.loads(line) for line in cloud.log if line.startswith("{") and "no stock database" in line]
        assert [answer["status"] for answer in answers] == [500, *[500] * 4, 200]
        assert [answer.get("attempt") for answer in answers] == [None, *(f"{attempt} of 5" for attempt in range(1, 6))]


# Restarts


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_kill_9_loses_no_task_keeps_the_ports_and_leaves_no_handler_behind(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    order = ("--order-id", "ORD-9", "--email", "ada@example.com", "--action", "send_confirmation")
    with running("--state", state) as cloud:
        assert request(f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}:pause", b"{}")[0] == 200
        assert cloud.producer(*order).returncode == 0
        before, handlers = cloud.at, handlers_of(cloud)
        assert handlers
        os.kill(handlers[0], signal.SIGSTOP)  # a frozen one too
        kill(cloud.process)
        wait_for(lambda: not any(map(runs, handlers)), lambda: f"of {handlers} some still run")
    run = up("--stack", "prod", "--state", state)
    assert run.returncode == 2
    assert "is of stack dev of local-project, not of stack prod of local-project; choose another --state" in run.stderr
    with running("--state", state) as cloud:
        assert {**cloud.at, "page": before["page"]} == before  # no task carries the page's address
        listed = json.loads(request(f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}/tasks")[1])["tasks"]
        assert len(listed) == 1
        assert request(f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}:resume", b"{}")[0] == 200
        cloud.logged('"orderId":"ORD-9"')
        again = cloud.producer(*order, "--json")
        assert json.loads(again.stdout)["already"] == 1
        assert len(cloud.orders()) == 1


# Ends


def handlers_of(cloud: LocalCloud) -> list[int]:
    """The ids of a local cloud's handler processes, once there is one."""
    assert cloud.invoke()[0] == 200
    children = Path(f"/proc/{cloud.process.pid}/task/{cloud.process.pid}/children")
    return list(map(int, children.read_text().split()))


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as closed:
        commands: list[tuple[list[str], dict[str, Any], str]] = [
            (["up", "--json", "--exit-when-idle"], {"stderr": closed}, "tasks_grpc"),
            (["preview"], {"preexec_fn": lambda: os.close(2)}, "Outputs"),
        ]
        for command, options, words in commands:
            run = subprocess.run(
                [sys.executable, "-m", "local", *command],
                stdout=subprocess.PIPE,
                cwd=ROOT,
                timeout=PATIENCE,
                check=False,
                **options,
            )
            assert (run.returncode, words.encode() in run.stdout) == (0, True)


def test_another_terminal_sources_local_env_and_sends_an_order_that_is_done(tmp_path: Path) -> None:
    link, state = tmp_path / "local.env", tmp_path / "state"
    link.symlink_to(tmp_path / "of-a-local-cloud-that-is-gone")
    with started("--state", str(state), cwd=tmp_path, PYTHONPATH=str(ROOT)) as (_, _, log):
        wait_for(lambda: any("gcloud tasks list" in line for line in log), lambda: "\n".join(log))
        assert any(line.startswith(f"  . ./local.env    # or: . {state}/local.env") for line in log)
        send = f". ./local.env && {sys.executable} -m order_tasks send --order-id ORD-1 --email ada@example.com"
        assert subprocess.run(send, shell=True, cwd=tmp_path, timeout=PATIENCE, check=False).returncode == 0
        wait_for(lambda: sum('"status":200' in line for line in log) == 3, lambda: "\n".join(log))
        link.unlink()
        link.symlink_to(tmp_path / "of-a-newer-local-cloud")
    assert link.readlink() == tmp_path / "of-a-newer-local-cloud"
    assert not (state / "local.env").exists()


def test_an_interrupted_run_says_how_much_was_never_sent(tmp_path: Path) -> None:
    orders = tmp_path / "orders.jsonl"
    lines = [json.dumps({"orderId": f"ORD-{number}", "customerEmail": "a@example.com"}) for number in range(2000)]
    orders.write_text("\n".join(lines))
    with started("--port", "0", "--state", str(tmp_path), "--orders", str(orders), cwd=ROOT) as (_, _, log):
        wait_for(lambda: any("Ready in" in line for line in log), lambda: "\n".join(log))
    [unsent] = re.findall(r"Interrupted: (\d+) of 6000 tasks were never created", "\n".join(log))
    assert 0 < int(unsent) <= 6000


# Bad input


def test_a_port_in_use_is_refused_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = up("--port", str(port))
    assert run.returncode == 2
    assert re.search(rf"port {port}, for .+, is in use: end what uses it, or start with another --port", run.stderr)


def test_the_default_ports_have_a_second_choice_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1] - 2  # one of the four is enough
        monkeypatch.setattr("local.state.DEFAULT_PORT", first)
        with closing(Store(tmp_path / "state.sqlite")) as store:
            ports = ports_of(store, None)
            assert (ports.tasks_grpc - first) % 10 == 0 < ports.tasks_grpc - first
            assert f"ports {first} to {first + 3} is in use" in caplog.text
            assert f"listening on {ports.tasks_grpc} to {ports.shop}" in caplog.text
            assert ports_of(store, 0).tasks_grpc == 0


def test_a_state_folder_in_use_is_refused_and_not_reset(cloud: LocalCloud, state: Path) -> None:
    run = up("--state", str(state))
    assert run.returncode == 2
    assert f"the state folder {state} cannot be opened: database is locked" in run.stderr
    with pytest.raises(StateError, match="end it first"):
        reset(state)
    assert (state / "state.sqlite").exists()


def test_reset_deletes_the_state_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="not the state folder of a local cloud"):
        reset(tmp_path)
    (tmp_path / "orders.jsonl").touch()
    with open_state(tmp_path, "dev"):
        (tmp_path / "mails.jsonl").touch()
        (tmp_path / "database").mkdir()
    assert reset(tmp_path) == [tmp_path]
    assert [file.name for file in tmp_path.iterdir()] == ["orders.jsonl"]


def test_wrong_settings_and_secrets_end_the_start_and_are_named_without_the_secret() -> None:
    run = up("--config", "maxAttempts=five", "--config", "maxAttempt=5", "--config", "warehouseSecret=short")
    assert run.returncode == 2
    assert "cloud-run-tasks:maxAttempts = 'five': must be a whole number from 1 to 1000" in run.stderr
    assert "no such setting; did you mean maxAttempts?" in run.stderr
    assert "warehouseSecret = (secret): must be at least 16 " in run.stderr
    assert "Traceback" not in run.stderr


def test_containers_reach_cloud_tasks_at_an_address_that_is_asked_for_and_web_pages_do_not(cloud: LocalCloud) -> None:
    at = cloud.at["tasks_rest"].replace("127.0.0.1", "127.0.0.2")
    assert request(f"{at}/v2/{cloud.at['queue']}")[0] == 200
    assert request(f"{at}/v2/{cloud.at['queue']}", headers={"Host": "page.example"})[0] == 403
    with grpc.insecure_channel(cloud.at["tasks_grpc"].replace("127.0.0.1", "127.0.0.2")) as channel:
        client = tasks_v2.CloudTasksClient(transport=transports.CloudTasksGrpcTransport(channel=channel))
        assert client.get_queue(name=cloud.at["queue"]).name == cloud.at["queue"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--stack", "nowhere"), "no stack 'nowhere'"),
        (("--host", "0.0.0.0"), "not one IPv4 address"),
        (("--host", "203.0.113.1"), "is it an address"),
    ],
)
def test_what_does_not_exist_is_refused(arguments: tuple[str, str], error: str) -> None:
    run = up(*arguments)
    assert run.returncode == 2
    assert error in run.stderr
