"""gcloud as its users type it: only where it is pointed at is different."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.local.running import PATIENCE, LocalCloud, running

AT = ("--location=us-central1",)
SIX_FLAGS = (
    "--max-dispatches-per-second=50",
    "--max-concurrent-dispatches=20",
    "--max-attempts=5",
    "--min-backoff=10s",
    "--max-backoff=300s",
    "--max-doublings=4",
)

Gcloud = Callable[..., str]
"""What `gcloud tasks` prints with these arguments; where it fails, `error` must be in what it prints."""


@pytest.fixture(scope="module")
def cloud() -> Iterator[LocalCloud]:
    if not shutil.which("gcloud"):
        pytest.skip("no gcloud on the path: install the Google Cloud CLI")
    with running() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def gcloud(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Gcloud:
    folder = tmp_path_factory.mktemp("gcloud")
    (folder / "token").write_text("any text")
    environment = {
        **os.environ,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS": f"{cloud.at['tasks_rest']}/",
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(folder / "token"),
        "CLOUDSDK_CONFIG": str(folder),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        "CLOUDSDK_CORE_PROJECT": "local-project",
    }

    def tasks(*arguments: str, error: str = "") -> str:
        track = [each for each in arguments[:1] if each == "beta"]
        ended = subprocess.run(
            ["gcloud", *track, "tasks", *arguments[len(track) :], *AT],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        printed = ended.stdout + ended.stderr
        assert (ended.returncode == 0) is not bool(error), printed
        assert error in printed
        return printed

    return tasks


def columns(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def create_http_task(cloud: LocalCloud, gcloud: Gcloud, *arguments: str, order: str) -> str:
    body = {"orderId": order, "action": "send_confirmation", "customerEmail": "ada@example.com"}
    return gcloud(
        "create-http-task",
        *arguments,
        f"--url={cloud.at['service_url']}/process-order",
        "--method=POST",
        "--header=Content-Type: application/json",
        f"--body-content={json.dumps(body)}",
        f"--oidc-service-account-email={cloud.at['invoker_email']}",
        f"--oidc-token-audience={cloud.at['service_url']}",
    )


def test_a_queue_is_made_shown_changed_shared_and_deleted(gcloud: Gcloud) -> None:
    assert "Created queue [us-central1/orders]." in gcloud("queues", "create", "orders", *SIX_FLAGS)
    assert gcloud("queues", "describe", "orders") == (
        "name: projects/local-project/locations/us-central1/queues/orders\n"
        "rateLimits:\n"
        "  maxBurstSize: 10\n"
        "  maxConcurrentDispatches: 20\n"
        "  maxDispatchesPerSecond: 50.0\n"
        "retryConfig:\n"
        "  maxAttempts: 5\n"
        "  maxBackoff: 300s\n"
        "  maxDoublings: 4\n"
        "  minBackoff: 10s\n"
        "state: RUNNING\n"
    )
    changed = gcloud("queues", "update", "orders", "--max-dispatches-per-second=0.5", "--clear-max-attempts")
    assert "Updated queue [us-central1/orders]." in changed
    assert columns(gcloud("queues", "list"))[1:] == [
        ["cloud-run-tasks", "RUNNING", "20", "50.0", "5"],
        ["cloud-run-tasks-dead-letters", "PAUSED", "5", "5.0", "unlimited"],
        ["orders", "RUNNING", "20", "0.5", "100"],
    ]

    grant = ("--role=roles/cloudtasks.enqueuer", "--member=user:ada@example.com")
    assert "Updated IAM policy for queue [orders]." in gcloud("queues", "add-iam-policy-binding", "orders", *grant)
    assert gcloud("queues", "get-iam-policy", "orders").startswith(
        "bindings:\n- members:\n  - user:ada@example.com\n  role: roles/cloudtasks.enqueuer\n"
    )

    assert "Deleted queue [us-central1/orders]." in gcloud("queues", "delete", "orders")
    gcloud("queues", "describe", "orders", error="NOT_FOUND: Queue does not exist.")


def test_a_task_waits_on_a_paused_queue_is_run_purged_or_delivered(cloud: LocalCloud, gcloud: Gcloud) -> None:
    queue = "--queue=cloud-run-tasks"
    assert "Paused queue [us-central1/cloud-run-tasks]." in gcloud("queues", "pause", "cloud-run-tasks")
    path = f"{cloud.at['queue']}/tasks"
    assert f"Created task [{path}/first]." in create_http_task(cloud, gcloud, "first", queue, order="GCLOUD-1")
    create_http_task(cloud, gcloud, "second", queue, order="GCLOUD-2")
    [head, task] = columns(gcloud("list", queue, "--limit=1"))
    assert (head[0], task[0], task[4:]) == ("TASK_NAME", "first", ["0", "0", "Unknown"])
    described = gcloud("describe", "first", queue)
    assert f"serviceAccountEmail: {cloud.at['invoker_email']}\n  url: {cloud.at['service_url']}/process" in described

    assert "dispatchCount: 1\n" in gcloud("run", "first", queue)
    cloud.logged("Confirmation mail for GCLOUD-1 sent")
    gcloud("describe", "first", queue, error="NOT_FOUND: The task no longer exists")

    assert "Purged queue [us-central1/cloud-run-tasks]." in gcloud("queues", "purge", "cloud-run-tasks")
    assert gcloud("list", queue) == "Listed 0 items.\n"
    assert "Resumed queue [us-central1/cloud-run-tasks]." in gcloud("queues", "resume", "cloud-run-tasks")
    create_http_task(cloud, gcloud, queue, order="GCLOUD-3")
    cloud.logged("Confirmation mail for GCLOUD-3 sent")
    assert "GCLOUD-2" not in "".join(cloud.log)


def test_the_beta_commands_show_what_the_others_made(gcloud: Gcloud) -> None:
    gcloud("beta", "queues", "create", "of-beta", "--max-attempts=5")
    assert "  maxAttempts: 5\n" in gcloud("queues", "describe", "of-beta")
    assert "type: PUSH\n" in gcloud("beta", "queues", "describe", "of-beta")
    gcloud("beta", "queues", "pause", "of-beta")
    assert ["of-beta", "PAUSED"] in [line[:1] + line[2:3] for line in columns(gcloud("beta", "queues", "list"))]
