import asyncio
import contextlib
import hashlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.handler_image import copy_image
from local.program import ROOT
from tests.declared import STACKS, declare


def test_the_image_is_built_for_cloud_run_and_pushed_into_its_repository() -> None:
    declared = declare(repositoryName="order-images", serviceName="order-handler", region="europe-west1")
    image, repository = declared["Image handler-image"], declared["Repository handler-image-repository"]
    assert image["imageName"] == "europe-west1-docker.pkg.dev/shop-project/order-images/order-handler:latest"
    assert image["build"]["platform"] == "linux/amd64"
    assert (ROOT / image["build"]["dockerfile"]).is_file()
    assert image["skipPush"] is False
    assert image["buildOnPreview"] is False
    assert "registry" not in image  # so no credential enters the state
    assert (repository["repositoryId"], repository["location"], repository["format"]) == (
        *("order-images", "europe-west1"),
        "DOCKER",
    )
    assert declared.after("Image handler-image") == {"Repository handler-image-repository"}


@pytest.mark.parametrize("stack", STACKS)
def test_the_service_runs_the_exported_image_by_digest(stack: str) -> None:
    declared = declare(stack)
    name = declared["Image handler-image"]["imageName"].removesuffix(":latest")
    assert re.fullmatch(re.escape(name) + "@sha256:[0-9a-f]{64}", declared.container["image"])
    assert declared.exports["image"] == declared.container["image"]
    assert "Image handler-image" in declared.after("Service handler")


def test_a_given_image_runs_from_the_stack_s_own_repository_and_nothing_is_built() -> None:
    given = "us-central1-docker.pkg.dev/shop-project/cloud-run-tasks/task-handler@sha256:" + "5" * 64
    declared = declare(image=given)
    own = "us-central1-docker.pkg.dev/shop-project/cloud-run-tasks-prod/task-handler-prod"
    assert declared.container["image"] == declared.exports["image"] == f"{own}@sha256:{'5' * 64}"
    assert declared["ImageCopy handler-image-copy"] == {"image": f"{own}@sha256:{'5' * 64}"}  # whatever its source
    assert declared.after("ImageCopy handler-image-copy") == {"Repository handler-image-repository"}
    assert not declared.of("Image")


def test_the_newest_images_and_the_deployed_one_are_kept() -> None:
    policies = declare()["Repository handler-image-repository"]["cleanupPolicies"]
    kept = [policy for policy in policies if policy["action"] == "KEEP"]
    assert [policy.get("mostRecentVersions") for policy in kept] == [{"keepCount": 10}, None]
    assert kept[1]["condition"]["tagPrefixes"] == ["latest"]  # the tag that a build and a copy move


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a registry of this machine, which skopeo calls without TLS."""
    missing = [tool for tool in ("skopeo", "docker-registry") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on the path: install them with apt")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    known = tmp_path / ".config/containers/registries.conf"
    known.parent.mkdir(parents=True)
    known.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    served = {"version": "0.1", "storage": {"inmemory": {}}, "http": {"addr": address}}
    (tmp_path / "config.yml").write_text(json.dumps(served))
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(["docker-registry", "serve", tmp_path / "config.yml"], stdout=log, stderr=log) as process,
    ):
        yield address
        process.kill()


def skopeo(*arguments: str) -> bytes:
    return subprocess.run(["skopeo", *arguments], capture_output=True, check=True).stdout


def blob(layout: Path, content: object) -> dict[str, object]:
    """Stores a blob of an image, and returns its descriptor."""
    text = json.dumps(content).encode()
    digest = hashlib.sha256(text).hexdigest()
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs/sha256" / digest).write_bytes(text)
    return {"digest": f"sha256:{digest}", "size": len(text)}


async def test_a_copy_has_the_digest_of_its_source_and_a_failed_one_says_why(registry: str, tmp_path: Path) -> None:
    layout, kind = tmp_path / "layout", "application/vnd.oci.image"
    rootfs = {"type": "layers", "diff_ids": list[str]()}
    config = blob(layout, {"architecture": "amd64", "os": "linux", "rootfs": rootfs})
    manifest = blob(
        layout, {"schemaVersion": 2, "config": {"mediaType": f"{kind}.config.v1+json", **config}, "layers": []}
    )
    manifests = [{"mediaType": f"{kind}.manifest.v1+json", **manifest}]
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    for _ in range(100):
        with contextlib.suppress(subprocess.CalledProcessError):
            skopeo("copy", "--preserve-digests", f"oci:{layout}", f"docker://{registry}/dev/handler:latest")
            break
        await asyncio.sleep(0.1)  # until the registry listens

    async def copy(repository: str) -> None:
        await copy_image(f"{registry}/{repository}/handler@{manifest['digest']}", f"{registry}/prod/handler:latest")

    await copy("dev")
    copied = skopeo("inspect", "--raw", f"docker://{registry}/prod/handler@{manifest['digest']}")
    assert hashlib.sha256(copied).hexdigest() in str(manifest["digest"])
    await copy("prod")  # an earlier image of the stack itself
    with pytest.raises(
        RuntimeError, match=r"nowhere/handler@.* was not copied to .*manifest unknown.*configure-docker"
    ):
        await copy("nowhere")
