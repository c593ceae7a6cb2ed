import re

import pulumi
from pulumi_gcp import projects

from components.handler_image import HandlerImage
from local.program import evaluate
from tests.components.conftest import Declare, place

GIVEN = "europe-west1-docker.pkg.dev/shop-project/other-images/order-handler@sha256:" + "5" * 64


def program(given: str = "") -> None:
    image = HandlerImage(
        "handler-image",
        {
            **place("artifactregistry"),
            "repository_name": "order-images",
            "image_name": "order-handler",
            "context": "handler",
            "image": given,
        },
    )
    pulumi.export("digest", image.digest)
    projects.Service("deployed", service=image.digest)


def test_it_declares_one_repository_and_one_image(declare: Declare) -> None:
    declared = declare(program)
    component = declared["HandlerImage handler-image"]
    assert component.type == "cloud-run-tasks:index:HandlerImage"
    assert {child.type for child in declared.values() if child.parent == component.urn} == {
        "gcp:artifactregistry/repository:Repository",
        "docker:index/image:Image",
    }
    assert len(declared) == 6


def test_the_repository_waits_for_its_api(declare: Declare) -> None:
    declared = declare(program)
    repository = declared["Repository handler-image-repository"]
    assert repository.depends_on == {declared["Service apis-artifactregistry"].urn}
    assert repository.inputs == {
        "project": "shop-project",
        "location": "europe-west1",
        "repositoryId": "order-images",
        "format": "DOCKER",
        "description": "Images of the order handler",
    }


def test_the_image_is_built_for_cloud_run_and_pushed_into_the_repository_with_the_logins_of_the_host(
    declare: Declare,
) -> None:
    declared = declare(program)
    image = declared["Image handler-image"]
    assert image.depends_on == {declared["Repository handler-image-repository"].urn}
    assert image.inputs == {
        "imageName": "europe-west1-docker.pkg.dev/shop-project/order-images/order-handler:latest",
        "build": {
            "context": "handler",
            "dockerfile": "handler/Dockerfile",
            "platform": "linux/amd64",
            "builderVersion": "BuilderBuildKit",
        },
        "buildOnPreview": False,
        "skipPush": False,
    }


def test_the_digest_names_the_pushed_image_and_no_tag() -> None:
    evaluation = evaluate(program, config={})
    [image] = evaluation.of_type("docker:index/image:Image")
    digest = evaluation.exports["digest"]
    assert re.fullmatch(
        r"europe-west1-docker\.pkg\.dev/shop-project/order-images/order-handler@sha256:[0-9a-f]{64}", digest
    )
    assert digest == image.outputs["repoDigest"]


def test_the_digest_is_unknown_until_the_image_is_pushed(declare: Declare) -> None:
    assert evaluate(program, config={}, preview=True).exports == {"digest": None}
    declared = declare(program)
    assert declared["Service deployed"].depends_on == {declared["Image handler-image"].urn}


def test_an_image_that_is_given_is_not_built_and_leaves_the_repository_for_the_next_that_is(declare: Declare) -> None:
    declared = declare(lambda: program(GIVEN))
    assert {key for key in declared if "Image" in key or "Repository" in key} == {
        "HandlerImage handler-image",
        "Repository handler-image-repository",
    }
    assert declared["Service deployed"].inputs["service"] == GIVEN
