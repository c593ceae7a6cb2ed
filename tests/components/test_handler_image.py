import re

import pytest

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


def test_a_given_image_is_run_and_nothing_is_built_but_the_repository_stays() -> None:
    given = "us-central1-docker.pkg.dev/shop-project/cloud-run-tasks/task-handler@sha256:" + "5" * 64
    declared = declare(image=given)
    assert declared.container["image"] == declared.exports["image"] == given
    assert not declared.of("Image")
    assert declared.of("Repository")
