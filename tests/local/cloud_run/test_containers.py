"""`--container`: the handler's image behind the same front door, and nothing left behind."""

import json
import subprocess
from pathlib import Path

import pytest

from local.cloud_run.containers import LABEL, ContainerError, Containers
from local.cloud_run.instances import Instances
from local.program import ROOT
from tests.local.running import kill, running, total, up, wait_for

BUILD = {"context": "handler", "dockerfile": "handler/Dockerfile", "platform": "linux/amd64"}
ENVIRONMENT = {
    "MAX_ATTEMPTS": "5",
    "HANDLER_TIMEOUT_SECONDS": "300",
    "DEAD_LETTER_QUEUE": "projects/shop/locations/us-central1/queues/dead-letters",
    "SIMULATE_EFFECTS": "true",
}


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def of(folder: Path) -> list[str]:
    """The containers of a state folder."""
    return docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={folder}").split()


def none_is_left(folder: Path) -> None:
    wait_for(lambda: not of(folder), lambda: f"{of(folder)} are left behind")


@pytest.mark.usefixtures("image")
def test_orders_become_effects_in_containers_and_none_is_left(tmp_path: Path) -> None:
    state = tmp_path / "state"
    orders = tmp_path / "orders.jsonl"
    orders.write_text("".join(f'{{"orderId": "{i}", "customerEmail": "ada@example.com"}}\n' for i in "ABCD"))
    run = up("--container", "--state", str(state), "--orders", str(orders), "--exit-when-idle")
    assert run.returncode == 0, run.stderr
    assert total(run.stderr) == [12, 12, 12, 0, 0, 0], run.stderr
    assert "Built task-handler:local: " in run.stderr
    none_is_left(state)


@pytest.mark.usefixtures("image")
def test_a_local_cloud_that_is_killed_leaves_no_container(tmp_path: Path) -> None:
    with running("--container", "--state", str(tmp_path)) as cloud:
        assert cloud.invoke() == (200, "Task handler is running")
        wait_for(lambda: len(of(tmp_path)) == 1, lambda: f"not one instance: {of(tmp_path)}")
        kill(cloud.process)
        none_is_left(tmp_path)


@pytest.mark.usefixtures("image")
async def test_an_instance_has_no_privileges_and_sees_the_database_alone_and_kill_9_reaches_it(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    runtime = Containers.of(BUILD, ROOT, "task-handler", tmp_path, tmp_path / "database/orders.sqlite")
    instances = Instances(runtime, ENVIRONMENT, max_instances=1, concurrency=1)
    async with instances.slot():
        [inspected] = json.loads(docker("inspect", *of(tmp_path)))
        instances.kill_one()
        none_is_left(tmp_path)
    await instances.stop()
    host = inspected["HostConfig"]
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert [mount["Source"] for mount in inspected["Mounts"]] == [str(tmp_path / "database")]
    assert inspected["Config"]["User"].split(":")[0] not in ("", "0")


def test_what_an_earlier_run_left_behind_goes(image: str, tmp_path: Path) -> None:
    waiting = ("python", "-c", "import time; time.sleep(1000)")
    docker("run", "--detach", "--rm", "--label", f"{LABEL}={tmp_path}", image, *waiting)
    (tmp_path / "database").mkdir()
    Containers.of(BUILD, ROOT, "task-handler", tmp_path, tmp_path / "database/orders.sqlite")
    none_is_left(tmp_path)


@pytest.mark.usefixtures("image")
def test_an_image_that_cannot_be_built_with_the_declared_arguments_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ContainerError, match="cannot be built; the lines above say why"):
        Containers.of(
            {**BUILD, "args": {"BUILDKIT_SYNTAX": "no image"}},
            ROOT,
            "task-handler",
            tmp_path,
            tmp_path / "database/orders.sqlite",
        )
    assert "no image" in capfd.readouterr().err


@pytest.mark.usefixtures("image")
def test_a_daemon_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(ContainerError, match=r"docker ps failed: .*docker\.sock.*; fix that, or leave out --container"):
        Containers.of(BUILD, ROOT, "task-handler", tmp_path, tmp_path / "database/orders.sqlite")


def test_without_docker_the_start_ends_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    run = up("--container")
    assert run.returncode == 2
    assert "--container needs Docker, and there is no `docker` on the path; install it" in run.stderr
