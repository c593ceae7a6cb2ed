"""The real engine on the real program: what a change of settings does to what is deployed.

The providers are stood in for: whether Google's accept the inputs only a real `pulumi up` can show.
"""

import functools
import json
import operator
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pulumi
import pytest

from local.program import PROJECT, SERVICE_URL, evaluate, stack_configuration
from local.sinks.effects import PLACEHOLDERS
from tests.engine.conftest import Deploy, run_program
from tests.engine.deployment import Deployment, Run
from tests.engine.providers import Cloud

WEB = "serviceAccount:web@shop-project.iam.gserviceaccount.com"
REGISTRY = "us-central1-docker.pkg.dev/shop-project"
CHANGES: dict[str, tuple[object, dict[str, str]]] = {
    "maxDispatchesPerSecond": (7, {"Queue queue": "update rateLimits"}),
    "memory": ("1Gi", {"Service handler": "update template"}),
    "producersActAsInvoker": (True, {}),
    "producers": (
        [WEB],
        {f"IAMMember invoker-user-{WEB}": "create", f"QueueIamMember queue-enqueuer-{WEB}": "create"},
    ),
}
"""Settings, another value of each, and all that it changes."""
REBUILD = {"Image handler-image": "update build", "Service handler": "update template"}
QUEUES = {
    *("Queue queue", "Queue queue-dead-letters", f"QueueIamMember queue-enqueuer-{WEB}"),
    *(f"QueueIamMember queue-dead-letters-{role}" for role in ("enqueuer", "taskDeleter", "viewer")),
}
"""Resources that are replaced with a queue."""
PLACED = {"Repository handler-image-repository", "Service handler", "ServiceIamMember invoker-run"}
"""Other resources that are replaced with the region."""


def did(run: Run) -> dict[str, str]:
    """The steps of a run that succeeded without a warning."""
    assert (run.error, run.warnings, run.violations) == ("", [], [])
    return run.steps


def lives(deployment: Deployment, stack: str, secrets: Mapping[str, str], cloud: Cloud, policies: Path) -> None:
    """A stack deploys as declared, a second run changes nothing, and a changed setting updates in place."""
    declared = evaluate(
        config={**stack_configuration(stack), "gcp:project": "shop-project"},
        secrets={f"{PROJECT}:{key}": text for key, text in secrets.items()},
    )
    created = {f"{each.type.rpartition(':')[2]} {each.name}": "create" for each in declared.resources.values()}
    assert did(deployment.preview(policies=policies)) == created
    assert cloud.changed == []  # so nothing was built
    first = deployment.up()
    assert did(first) == created
    assert first.exports == {**declared.exports, "image": first.exports["image"]}
    assert did(deployment.up()) == {}

    for key, (value, changed) in CHANGES.items():
        acting = {"producersActAsInvoker": True}
        assert did(deployment.preview({**acting, key: value})) == changed, key
    elsewhere = deployment.preview({"image": f"registry.example/handler@sha256:{'0' * 64}"})
    assert did(elsewhere) == {
        "Image handler-image": "delete",
        "ImageCopy handler-image-copy": "create",
        "Service handler": "update template",
    }
    cloud.context = "sha256:second"
    assert did(deployment.preview()) == REBUILD
    deployment.set({key: value for key, (value, _) in CHANGES.items()})
    second = deployment.up(policies)
    assert did(second) == functools.reduce(operator.or_, (changed for _, changed in CHANGES.values()), REBUILD)
    assert second.exports == {**first.exports, "image": second.exports["image"]} != first.exports

    state = "".join(file.read_text() for file in deployment.state.rglob("*.json"))
    assert SERVICE_URL in state
    assert [text for text in secrets.values() if text in state] == []


def test_a_stack_copies_its_image_into_its_own_repository_in_its_first_update(
    deploy: Deploy, cloud: Cloud, skopeo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [f"{REGISTRY}/cloud-run-tasks/task-handler@sha256:{digit * 64}" for digit in "12"]
    prod = deploy("prod")
    prod.set_secrets(PLACEHOLDERS)
    prod.set({"image": images[0]})
    with monkeypatch.context() as without:
        without.setattr(shutil, "which", lambda name: None)
        assert "skopeo, which copies it" in (refused := prod.preview()).error
    assert (refused.steps, cloud.changed) == ({}, [])

    refusal = skopeo.with_name("calls.refused")
    refusal.write_text("unauthorized")
    failed = prod.up().error
    assert f"{images[0]} was not copied" in failed
    assert "unauthorized" in failed
    assert "handler-image-repository" in cloud.changed
    assert "handler" not in cloud.changed  # a service that runs what is not there yet would fail
    refusal.unlink()

    for image in images:
        skopeo.write_text("")
        prod.set({"image": image})
        own = f"{REGISTRY}/cloud-run-tasks-prod/task-handler-prod"
        assert prod.up().exports["image"] == f"{own}@{image.partition('@')[2]}"
        [call] = skopeo.read_text().splitlines()
        assert call.endswith(f"docker://{image} docker://{own}:latest")
    assert did(prod.preview({"image": f"{own}@{images[1].partition('@')[2]}"})) == {}  # the image that already runs


def replaced(run: Run) -> set[str]:
    return {name for name, step in run.steps.items() if step.startswith("replace")}


def test_dev_warns_of_a_move_tells_all_that_it_replaces_and_is_destroyed_at_the_first_try(
    deploy: Deploy, cloud: Cloud, policies: Path, skopeo: Path
) -> None:
    dev = deploy("dev")
    lives(dev, "dev", {}, cloud, policies)
    for settings, also in ({"queueName": "orders"}, set()), ({"region": "europe-west1"}, PLACED):
        moved = dev.preview(settings)
        assert moved.error == ""
        [warning] = moved.warnings
        assert "locations/us-central1/queues/cloud-run-tasks will be replaced by projects/" in warning
        assert replaced(moved) == QUEUES | also

    destroyed = did(dev.destroy())
    assert set(destroyed.values()) == {"delete"}
    assert destroyed.keys() >= QUEUES


def test_prod_refuses_a_move_and_is_not_destroyed_before_its_protection_is_off(
    deploy: Deploy, cloud: Cloud, policies: Path, skopeo: Path
) -> None:
    prod = deploy("prod")
    prod.set_secrets(PLACEHOLDERS)
    lives(prod, "prod", PLACEHOLDERS, cloud, policies)

    for refused in prod.preview({"queueName": "orders"}), prod.destroy():
        for queue in "queue", "queue-dead-letters":
            assert re.search(rf"Queue::{queue}\W.*protect", refused.error, re.DOTALL)
    prod.set({"deletionProtection": False})
    assert did(prod.up()) == {"Service handler": "update deletionProtection"}
    assert did(prod.destroy())["Service handler"] == "delete"


def test_a_queue_that_had_no_target_gets_one_in_place_with_the_tasks_in_it(deploy: Deploy) -> None:
    without_target = True

    def drop_target(args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult | None:
        if args.type_ == "gcp:cloudtasks/queue:Queue" and args.name == "queue" and without_target:
            props = {key: value for key, value in args.props.items() if key != "httpTarget"}
            return pulumi.ResourceTransformResult(props, args.opts)
        return None

    def program() -> None:
        pulumi.runtime.register_resource_transform(drop_target)
        run_program()

    dev = deploy("dev", program)
    assert did(dev.up())["Queue queue"] == "create"
    without_target = False
    assert did(dev.up()) == {"Queue queue": "update httpTarget"}


def test_a_stack_of_the_earlier_program_loses_nothing_that_serves(deploy: Deploy) -> None:
    # The prod stack with one producer, as the program deployed it before queues had a target and orders an outbox.
    prod = deploy("prod")
    prod.set_secrets({**PLACEHOLDERS, "warehouseUrl": "http://local"})
    prod.set({"producers": [WEB]})
    prod.import_state(json.loads((Path(__file__).parent / "earlier_state.json").read_text()))
    steps = did(prod.preview())
    assert steps["Queue queue"] == "update httpTarget"
    assert steps["Job relay"] == "create"
    lost = {name for name, step in steps.items() if step.startswith(("replace", "delete"))}
    # producersActAsInvoker is false in prod, and secrets are kept in the region
    labels = ("database-url", "smtp-url", "warehouse-url", "warehouse-secret")
    kinds = ("Secret", "SecretIamMember", "SecretVersion")
    assert lost == {f"IAMMember invoker-user-{WEB}", *(f"{kind} handler-{label}" for kind in kinds for label in labels)}


def test_a_setting_that_there_is_not_is_refused_before_anything_is_declared(deploy: Deploy) -> None:
    refused = deploy("dev").preview({"maxAttemts": 3})
    assert "cloud-run-tasks:maxAttemts = '3': no such setting; did you mean maxAttempts?" in refused.error
    assert refused.steps == {}
