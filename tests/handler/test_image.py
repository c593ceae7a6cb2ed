"""The image of the handler: what goes in, what comes out, and how it runs where it may write nowhere."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from components.handler_image import settle_modes
from local.program import ROOT
from tests.handler.calls import DIRECT, LAST

CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
ENVIRONMENT = {
    "HOST": "127.0.0.1",
    "MAX_ATTEMPTS": "5",
    "HANDLER_TIMEOUT_SECONDS": "300",
    "DEAD_LETTER_QUEUE": "projects/shop/locations/us-central1/queues/dead-letters",
}
NOWHERE = {
    "DATABASE_URL": "postgresql://127.0.0.1:1/shop",
    "SMTP_URL": "smtp://127.0.0.1:1?from=shop@example.com",
    "WAREHOUSE_URL": "http://127.0.0.1:1",
    "WAREHOUSE_SECRET": "the-local-warehouse",
    "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:1",
}
"""Every effect and the dead-letter queue are real, and away."""


def docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


class Container:
    def __init__(self, image: str, environment: Mapping[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        variables = {**ENVIRONMENT, **environment, "PORT": str(self._port)}
        environs = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
        self.id = docker("run", "--detach", "--network", "host", *CONFINED, *environs, image)

    def request(self, method: str, path: str, body: str = "", headers: Mapping[str, str] = DIRECT) -> tuple[int, str]:
        """Once it answers."""
        deadline = time.monotonic() + 30
        while True:
            connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
            try:
                connection.request(method, path, body, dict(headers))
                response = connection.getresponse()
                return response.status, response.read().decode()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, docker("logs", self.id)
                time.sleep(0.05)
            finally:
                connection.close()

    def process(self, order: dict[str, str], headers: Mapping[str, str] = DIRECT) -> tuple[int, str]:
        return self.request("POST", "/process-order", json.dumps(order), headers)


@contextmanager
def running(image: str, environment: Mapping[str, str]) -> Iterator[Container]:
    container = Container(image, environment)
    try:
        yield container
    finally:
        docker("rm", "--force", container.id)


def test_a_container_that_may_write_nowhere_serves_without_root_and_ends_when_told(image: str) -> None:
    with running(image, {"SIMULATE_EFFECTS": "true"}) as container:
        assert container.request("GET", "/") == (200, "Task handler is running")
        assert container.process({"orderId": "A", "action": "update_inventory"})[0] == 200
        assert docker("exec", container.id, "id", "-u") == "65532"
        docker("stop", "--time", "10", container.id)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container.id) == "0"


def test_a_cold_start_and_a_last_attempt_compile_nothing(image: str) -> None:
    with running(image, {**NOWHERE, "PYTHONVERBOSE": "1"}) as container:
        for action in ("send_confirmation", "update_inventory", "notify_warehouse"):
            order = {"orderId": "A", "action": action, "customerEmail": "ada@example.com"}
            assert container.process(order, LAST)[0] == 500
        log = docker("logs", container.id)
    assert re.search(r"code object from '/srv/order_handler/.*\.pyc'", log)
    assert re.findall(r"code object from (/.*\.py)\b", log) == []


def checkout(folder: Path, umask: int = 0o022) -> Path:
    """The handler as git writes it under this umask."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT / "handler", capture_output=True, check=True).stdout
    for name in tracked.decode().rstrip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "handler" / name, folder / name)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    return folder


def docker_packs(context: Path, folder: Path) -> set[str]:
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    docker("build", "--file", f"{folder}/Dockerfile", "--output", f"{folder}/reached", str(context))
    return {str(path.relative_to(folder / "reached")) for path in (folder / "reached").rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def packer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs as Pulumi's provider does, which builds the image of a deployment."""
    if not shutil.which("go"):
        pytest.skip("no go on the path: install Go to pack an image's context as Pulumi's provider does")
    built = tmp_path_factory.mktemp("packer") / "packer"
    subprocess.run(["go", "build", "-o", built, "."], cwd=Path(__file__).parent / "packer", check=True)
    return built


def provider_packs(packer: Path, context: Path) -> dict[str, Any]:
    packed: dict[str, Any] = json.loads(subprocess.check_output([packer, context]))
    return packed


def context_with_much_beside_its_sources(folder: Path) -> tuple[Path, set[str]]:
    context = checkout(folder / "handler")
    sources = {"pyproject.toml", "uv.lock", "order_handler/actions/refunds/rules/rule.py"}
    sources |= {str(path.relative_to(context)) for path in (context / "order_handler").rglob("*") if path.is_file()}
    for name in (
        *(".venv/pyvenv.cfg", ".env", ".pytest_cache/README.md", "order_handler.egg-info/PKG-INFO", "dist/a.whl"),
        *("order_handler/__pycache__/app.cpython-313.pyc", "order_handler/.app.py.swp", "order_handler/app.py~"),
        *("order_handler/.ruff_cache/0.1", "order_handler/.DS_Store"),
        *("order_handler/actions/refunds/rules/rule.py", "order_handler/actions/refunds/__pycache__/rule.pyc"),
    ):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text("of this machine only")
    return context, sources


@pytest.mark.usefixtures("image")
def test_docker_gets_every_source_and_the_lock_or_an_unchanged_image_would_show_as_changed(tmp_path: Path) -> None:
    context, sources = context_with_much_beside_its_sources(tmp_path)
    assert docker_packs(context, tmp_path) == sources
    # pulumi-docker's digest of the context would name the absolute path that a link points to
    assert not any(path.is_symlink() for path in (tmp_path / "reached").rglob("*"))


def test_the_base_is_pinned_by_digest_in_the_line_that_dependabot_reads() -> None:
    outside = re.findall(r"^FROM (?!base\b|\$)(.*)", (ROOT / "handler/Dockerfile").read_text(), re.MULTILINE)
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.\d+-slim@sha256:[0-9a-f]{64} AS pinned", outside[0])


@pytest.mark.timeout(300)
def test_pulumi_s_provider_packs_the_same_files(packer: Path, tmp_path: Path) -> None:
    context, sources = context_with_much_beside_its_sources(tmp_path)
    packed = provider_packs(packer, context)
    assert set(packed["packed"]) == set(packed["hashed"]) == sources


@pytest.mark.timeout(300)
def test_the_digest_of_a_build_is_the_same_under_every_umask(packer: Path, tmp_path: Path) -> None:
    contexts = [checkout(tmp_path / f"{umask:o}", umask) for umask in (0o022, 0o002, 0o077)]
    assert len({provider_packs(packer, context)["digest"] for context in contexts}) == 3
    for context in contexts:
        settle_modes(context)
    assert len({provider_packs(packer, context)["digest"] for context in contexts}) == 1


@pytest.fixture
def build() -> Iterator[Callable[[Path], str]]:
    """Builds the image of a checkout; its id."""
    built: list[str] = []

    def build(context: Path) -> str:
        built.append(docker("build", "--quiet", str(context)))
        return built[-1]

    yield build
    for image in built:
        docker("image", "rm", image)


def layers(image: str) -> list[str]:
    found: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return found


def test_a_change_of_the_code_renews_the_last_layer_only(
    image: str, build: Callable[[Path], str], tmp_path: Path
) -> None:
    context = checkout(tmp_path)
    with (context / "order_handler/app.py").open("a") as source:
        source.write("# changed\n")
    before, after = layers(image), layers(build(context))
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


@pytest.mark.usefixtures("image")
def test_a_checkout_that_only_its_owner_may_read_becomes_an_image_that_runs(
    build: Callable[[Path], str], tmp_path: Path
) -> None:
    context = checkout(tmp_path / "handler", 0o077)
    docker("run", "--rm", *CONFINED, build(context), "python", "-c", "import order_handler.app")
