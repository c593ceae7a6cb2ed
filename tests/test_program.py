import json

import pytest

from configuration import SettingsError
from local.program import ROOT, SERVICE_URL, evaluate
from tests.accepted import SECRETS
from tests.declared import SECRET_TEXTS, STACKS, Declared, configuration, declare, unknown


def test_there_is_a_stack_to_develop_on_and_one_for_production() -> None:
    assert STACKS == ["dev", "prod"]


def test_the_program_fits_on_a_page() -> None:
    assert len((ROOT / "__main__.py").read_text().splitlines()) <= 60


def test_production_guards_its_tasks_and_its_data_and_development_needs_no_secret() -> None:
    production = declare("prod")
    assert production["Queue queue"]["retryConfig"]["maxAttempts"] == -1
    assert production.environment["SIMULATE_EFFECTS"] == "false"
    assert "Service handler" in production.protected
    for key in SECRETS:
        with pytest.raises(SettingsError, match=f"{key} = '': must be set"):
            evaluate(config=configuration("prod"), secrets={k: t for k, t in SECRET_TEXTS.items() if key not in k})
    assert evaluate(config=configuration("dev")).exports["queue"]


@pytest.mark.parametrize("stack", STACKS)
def test_it_exports_what_a_producer_and_an_operator_need(stack: str) -> None:
    declared = declare(stack, region="europe-west1", queueName="orders", invokerAccount="order-invoker")
    queue = "projects/shop-project/locations/europe-west1/queues/orders"
    assert declared.exports == {
        "service_url": SERVICE_URL,
        "invoker_email": "order-invoker@shop-project.iam.gserviceaccount.com",
        "queue": queue,
        "dead_letter_queue": f"{queue}-dead-letters",
        "image": declared.container["image"],
        "dashboard_url": (
            "https://console.cloud.google.com/monitoring/dashboards/builder/monitoring_id?project=shop-project"
        ),
    }
    assert {declared.resources[f"Queue {name}"].id for name in ("queue", "queue-dead-letters")} == {
        *(queue, f"{queue}-dead-letters")
    }


def test_a_first_preview_does_not_know_what_servers_compute() -> None:
    declared = declare(preview=True)
    assert set(declared.exports.values()) == {None}
    assert unknown(dict(declared["Service handler"])) == {
        "annotations.template-sha256",
        "template.serviceAccount",
        "template.containers.0.image",
        *(f"template.containers.0.envs.{place}.valueSource.secretKeyRef.version" for place in secret_places(declared)),
    }
    for queue in declared.of("Queue").values():
        assert unknown(dict(queue)) == {"httpTarget.uriOverride", "httpTarget.oidcToken.serviceAccountEmail"}


def secret_places(declared: Declared) -> list[int]:
    """Where the container's variables are secrets."""
    return [place for place, variable in enumerate(declared.container["envs"]) if "valueSource" in variable]


def test_everything_that_takes_labels_has_the_stack_and_the_labels_of_the_settings() -> None:
    declared = declare(labels='{"team": "shop"}', alertEmails='["on-call@shop.example"]')
    labels = {"stack": "prod", "team": "shop"}
    taking = [
        declared["Service handler"],
        declared["Service handler"]["template"],
        *declared.of("Repository").values(),
        *declared.of("Secret").values(),
    ]
    assert [each["labels"] for each in taking] == [labels] * 7
    taking = [*declared.of("AlertPolicy").values(), *declared.of("NotificationChannel").values()]
    assert [each["userLabels"] for each in taking] == [labels] * len(taking)
    assert json.loads(declared["Dashboard monitoring"]["dashboardJson"])["labels"] == labels


def test_every_location_is_the_region() -> None:
    declared = declare(region="europe-west1")
    assert {each.inputs.get("location", "europe-west1") for each in declared.resources.values()} == {"europe-west1"}


NAMES = ("accountId", "imageName", "member", "name", "repositoryId", "secret", "secretId", "serviceAccountId")
"""The inputs that name something in a project."""


def names(declared: Declared) -> set[tuple[str, ...]]:
    """Type and names of all that a stack declares except APIs; titles if there is no other name."""
    found = set()
    for resource in declared.resources.values():
        inputs = resource.inputs
        if resource.type == "gcp:monitoring/dashboard:Dashboard":
            inputs = json.loads(inputs["dashboardJson"])
        if not resource.type.startswith(("cloud-run-tasks:", "gcp:projects/service:")):
            named = [inputs[key] for key in NAMES if key in inputs] or [inputs["displayName"]]
            found.add((resource.type, *named))
    return found


def test_the_stacks_share_a_project_without_a_name_in_common() -> None:
    stacks = [names(declare(stack, alertEmails='["on-call@shop.example"]')) for stack in STACKS]
    assert min(map(len, stacks)) > 20
    assert len(set.union(*stacks)) == sum(map(len, stacks))


@pytest.mark.parametrize("stack", STACKS)
def test_every_resource_is_a_child_of_a_component(stack: str) -> None:
    declared = declare(stack)
    components = {urn for urn, each in declared.by_urn.items() if each.type.startswith("cloud-run-tasks:")}
    assert components
    assert [
        urn for urn, each in declared.by_urn.items() if urn not in components and each.parent not in components
    ] == []
