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
ROLLOUT = "update annotations template"
CHANGES: dict[str, tuple[object, dict[str, str]]] = {
    "maxDispatchesPerSecond": (7, {"Queue queue": "update rateLimits"}),
    "memory": ("1Gi", {"Service handler": ROLLOUT}),
    "producersActAsInvoker": (True, {}),
    "producers": (
        [WEB],
        {f"IAMMember invoker-user-{WEB}": "create", f"QueueIamMember queue-enqueuer-{WEB}": "create"},
    ),
}
"""Settings, another value of each, and all that it changes."""
REBUILD = {"Image handler-image": "update build", "Service handler": ROLLOUT}
RENAMES = {
    "serviceName": ("another-handler", "Service handler"),
    "handlerAccount": ("another-handler-sa", "Account handler-account"),
    "invokerAccount": ("another-invoker", "Account invoker"),
    "queueName": ("orders", "Queue queue"),
    "repositoryName": ("orders", "Repository handler-image-repository"),
    "region": ("europe-west1", "Service handler"),
}
"""Settings that name something in the cloud, another name, and what is replaced."""
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
    """A stack deploys as declared, a second run changes nothing, and changed settings update in place."""
    declared = evaluate(
        config={**stack_configuration(stack), "gcp:project": "shop-project"},
        secrets={f"{PROJECT}:{key}": text for key, text in secrets.items()},
    )
    created = {f"{each.type.rpartition(':')[2]} {each.name}": "create" for each in declared.resources.values()}
    assert did(deployment.preview(policies=policies)) == created
    assert cloud.requests == []  # so nothing was built
    first = deployment.up()
    assert did(first) == created
    assert first.exports == {**declared.exports, "image": first.exports["image"]}
    assert did(deployment.up()) == {}

    cloud.context = "sha256:second"
    deployment.set({key: value for key, (value, _) in CHANGES.items()})
    second = deployment.up()
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
    assert (refused.steps, cloud.requests) == ({}, [])

    refusal = skopeo.with_name("calls.refused")
    refusal.write_text("unauthorized")
    failed = prod.up().error
    assert f"{images[0]} was not copied" in failed
    assert "unauthorized" in failed
    assert "create Repository handler-image-repository" in cloud.requests
    assert "create Service handler" not in cloud.requests  # a service that runs what is not there yet would fail
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


@pytest.mark.timeout(300)
def test_prod_refuses_a_rename_and_is_not_destroyed_before_its_protection_is_off(
    deploy: Deploy, cloud: Cloud, policies: Path, skopeo: Path
) -> None:
    prod = deploy("prod")
    prod.set_secrets(PLACEHOLDERS)
    lives(prod, "prod", PLACEHOLDERS, cloud, policies)

    cloud.requests.clear()
    refused = prod.preview({key: name for key, (name, _) in RENAMES.items()}).error
    for _, kept in RENAMES.values():
        assert re.search(rf"{kept.replace(' ', '::')}.\s+as it is currently marked for protection", refused), kept
    assert re.search(r"Queue::queue\W.*protect", prod.destroy().error, re.DOTALL)
    assert cloud.requests == []
    prod.set({"region": "europe-west1"})
    assert "unable to replace" in prod.up().error  # without a preview, as in CI
    assert not any(request.startswith("delete") for request in cloud.requests)

    prod.set({"region": "us-central1", "deletionProtection": False})
    assert prod.up().error == ""
    assert did(prod.destroy())["Service handler"] == "delete"


def assert_deletions_last(cloud: Cloud) -> None:
    deletions = [request.startswith("delete") for request in cloud.requests]
    assert deletions == sorted(deletions), cloud.requests


@pytest.mark.timeout(300)
def test_a_rename_creates_every_successor_before_it_deletes_what_serves(deploy: Deploy, cloud: Cloud) -> None:
    prod = deploy("prod")
    prod.set_secrets(PLACEHOLDERS)
    prod.set({"deletionProtection": False, "producers": [WEB]})
    did(prod.up())
    for key, (name, replaced) in RENAMES.items():
        cloud.requests.clear()
        prod.set({key: name})
        run = prod.up()
        assert run.error == "", key
        assert_deletions_last(cloud)
        created, deleted = (
            {request.partition(" ")[2] for request in cloud.requests if request.startswith(verb)}
            for verb in ("create", "delete")
        )
        assert replaced in deleted == created, key
    assert did(prod.up()) == {}


TROUBLE = "Revision 'task-handler-00001-abc' is not ready: the container exited with status 1"


@pytest.mark.timeout(300)
def test_a_rollout_that_failed_stays_red_until_the_service_runs_what_is_declared(deploy: Deploy, cloud: Cloud) -> None:
    dev = deploy("dev")
    cloud.unready = TROUBLE
    assert TROUBLE in dev.up().error
    cloud.requests.clear()
    for again in dev.up(refresh=False), dev.up(), dev.up(refresh=False):
        for text in TROUBLE, "gcloud run services logs read task-handler", "pulumi up --refresh":
            assert text in again.error
    assert (cloud.requests, dev.preview().error) == ([], "")

    cloud.unready, cloud.context = "", "sha256:second"
    assert did(dev.up())["Queue queue"] == "create"

    cloud.refusal = "memory above 4Gi needs more CPU"
    dev.set({"memory": "4Gi"})
    assert cloud.refusal in dev.up().error
    cloud.refusal = ""
    assert "refused its last update" in dev.up(refresh=False).error
    assert did(dev.up()) == {"Service handler": ROLLOUT}

    cloud.unready = TROUBLE
    dev.set({"serviceName": "another-handler"})
    cloud.requests.clear()
    for _ in range(2):
        assert TROUBLE in dev.up().error
    assert not [request for request in cloud.requests if request.startswith("delete") or "Queue" in request]


def test_a_dead_letter_queue_that_could_not_be_paused_is_refused_until_it_is(deploy: Deploy, cloud: Cloud) -> None:
    dev = deploy("dev")
    dev.set({"attemptLogRatio": 0})  # which the provider never sends, so a declared 0 would be a change for ever
    cloud.pause_fails = True
    assert "Error pausing queue" in dev.up().error
    cloud.pause_fails = False
    for again in dev.up(refresh=False), dev.up():
        for text in "it retries dead letters", "gcloud tasks queues pause cloud-run-tasks-dead-letters --location=us":
            assert text in again.error
    cloud.queue_states["projects/shop-project/locations/us-central1/queues/cloud-run-tasks-dead-letters"] = "PAUSED"
    assert did(dev.up())["QueueIamMember queue-dead-letters-enqueuer"] == "create"
    assert did(dev.up()) == {}


def test_the_first_run_names_the_apis_that_it_needs_and_waits_for_each_grant(deploy: Deploy, cloud: Cloud) -> None:
    prod = deploy("prod")
    prod.set_secrets(PLACEHOLDERS)
    cloud.refusal = "Cloud Resource Manager API has not been used in project 1 before or it is disabled"
    refused = prod.up()
    assert "gcloud services enable cloudresourcemanager.googleapis.com serviceusage.googleapis.com" in refused.error
    cloud.refusal = ""
    cloud.requests.clear()
    did(prod.up())
    before = cloud.requests[: cloud.requests.index("create Service handler")]
    waited = sum(request.startswith("wait") for request in before)
    assert waited == sum("Service apis-" in request or "SecretIamMember" in request for request in before)
    assert "wait" in cloud.requests[cloud.requests.index("create ServiceIamMember invoker-run") + 1]


def test_each_change_alone_updates_what_it_concerns_and_a_rollback_builds_nothing(
    deploy: Deploy, cloud: Cloud, skopeo: Path
) -> None:
    dev = deploy("dev")
    dev.set({"producersActAsInvoker": True})
    first = dev.up().exports["image"]
    for key, (value, changed) in CHANGES.items():
        assert did(dev.preview({key: value})) == changed, key
    cloud.context = "sha256:second"
    rebuilt = dev.up()
    assert did(rebuilt) == REBUILD
    assert rebuilt.exports["image"] != first
    dev.set({"image": first})
    back = dev.up()
    assert did(back) == {
        "Image handler-image": "delete",  # of the state alone
        "ImageCopy handler-image-copy": "create",
        "Service handler": ROLLOUT,
    }
    assert back.exports["image"] == first


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


def test_a_stack_of_the_earlier_program_loses_nothing_that_serves(deploy: Deploy, cloud: Cloud) -> None:
    # The prod stack with one producer, as the program deployed it before secrets were kept in the region.
    prod = deploy("prod")
    prod.set_secrets({**PLACEHOLDERS, "warehouseUrl": "http://local"})
    prod.set({"producers": [WEB]})
    prod.import_state(json.loads((Path(__file__).parent / "earlier_state.json").read_text()))
    steps = did(prod.up(refresh=False))
    lost = {name for name, step in steps.items() if step.startswith(("replace", "delete"))}
    labels = ("database-url", "smtp-url", "warehouse-url", "warehouse-secret")
    assert lost == {
        f"{kind} handler-{label}" for kind in ("Secret", "SecretIamMember", "SecretVersion") for label in labels
    }
    assert_deletions_last(cloud)


def test_a_setting_that_there_is_not_is_refused_before_anything_is_declared(deploy: Deploy) -> None:
    refused = deploy("dev").preview({"maxAttemts": 3})
    assert "cloud-run-tasks:maxAttemts = '3': no such setting; did you mean maxAttempts?" in refused.error
    assert refused.steps == {}
