from collections.abc import Mapping

import pulumi
import pytest
from google.protobuf import json_format
from pulumi.runtime import rpc
from pulumi_gcp import projects

from components.handler_service import HandlerService
from local.program import SERVICE_URL
from tests.components.conftest import Computed, Declare, place

IMAGE = "europe-west1-docker.pkg.dev/shop-project/order-images/order-handler@sha256:" + "5" * 64
MEMBER = "serviceAccount:order-handler-sa@shop-project.iam.gserviceaccount.com"
DEAD_LETTERS = "projects/shop-project/locations/europe-west1/queues/orders-dead-letters"
SECRETS = {"DATABASE_URL": "postgresql://shop:hunter2@db/orders", "API_KEY": "hunter2-hunter2"}
LABELS = {"DATABASE_URL": "database-url", "API_KEY": "api-key"}
"""What a secret is called after its service."""


def service(
    image: pulumi.Input[str] = IMAGE,
    deletion_protection: bool = True,
    simulate_effects: bool = False,
    secrets: Mapping[str, str] = SECRETS,
) -> HandlerService:
    return HandlerService(
        "handler",
        {
            **place("run", "iam", "secretmanager"),
            "service_name": "order-handler",
            "handler_account": "order-handler-sa",
            "image": image,
            "memory": "640Mi",
            "handler_timeout_seconds": 270,
            "max_instances": 7,
            "container_concurrency": 13,
            "max_attempts": 9,
            "dead_letter_queue": DEAD_LETTERS,
            "simulate_effects": simulate_effects,
            "secrets": secrets,
            "deletion_protection": deletion_protection,
        },
    )


@pytest.mark.parametrize(
    ("secrets", "declared_secrets"),
    [({}, 0), ({"DATABASE_URL": "", "API_KEY": ""}, 0), (SECRETS | {"DATABASE_URL": ""}, 1), (SECRETS, 2)],
)
def test_it_declares_one_account_one_service_and_what_each_secret_that_is_set_needs(
    declare: Declare, secrets: Mapping[str, str], declared_secrets: int
) -> None:
    declared = declare(lambda: service(secrets=secrets))
    component = declared["HandlerService handler"]
    assert component.type == "cloud-run-tasks:index:HandlerService"
    assert sorted(child.type for child in declared.values() if child.parent == component.urn) == [
        "gcp:cloudrunv2/service:Service",
        *["gcp:secretmanager/secret:Secret"] * declared_secrets,
        *["gcp:secretmanager/secretIamMember:SecretIamMember"] * declared_secrets,
        *["gcp:secretmanager/secretVersion:SecretVersion"] * declared_secrets,
        "gcp:serviceaccount/account:Account",
    ]
    assert len(declared) == 7 + 3 * declared_secrets


def test_the_account_waits_for_its_api(declare: Declare) -> None:
    declared = declare(service)
    account = declared["Account handler-account"]
    assert account.depends_on == {declared["Service apis-iam"].urn}
    assert account.inputs == {
        "project": "shop-project",
        "accountId": "order-handler-sa",
        "displayName": "Task Handler",
    }


@pytest.mark.parametrize("deletion_protection", [True, False])
@pytest.mark.parametrize("simulate_effects", [True, False])
def test_the_service_is_private_billed_per_request_and_ready_within_a_second(
    declare: Declare, computed: Computed, deletion_protection: bool, simulate_effects: bool
) -> None:
    declared = declare(lambda: service(deletion_protection=deletion_protection, simulate_effects=simulate_effects))
    assert declared["Service handler"].inputs == {
        "project": "shop-project",
        "location": "europe-west1",
        "name": "order-handler",
        "deletionProtection": deletion_protection,
        "ingress": "INGRESS_TRAFFIC_ALL",
        "invokerIamDisabled": False,
        "template": {
            "serviceAccount": computed("order-handler-sa@shop-project.iam.gserviceaccount.com"),
            "timeout": "270s",
            "maxInstanceRequestConcurrency": 13.0,
            "scaling": {"maxInstanceCount": 7.0},
            "containers": [
                {
                    "image": IMAGE,
                    "ports": {"containerPort": 8080.0},
                    "resources": {
                        "limits": {"cpu": "1", "memory": "640Mi"},
                        "cpuIdle": True,
                        "startupCpuBoost": True,
                    },
                    "startupProbe": {
                        "httpGet": {"path": "/", "port": 8080.0},
                        "initialDelaySeconds": 0.0,
                        "periodSeconds": 1.0,
                        "timeoutSeconds": 1.0,
                        "failureThreshold": 60.0,
                    },
                    "envs": [
                        {"name": "MAX_ATTEMPTS", "value": "9"},
                        {"name": "HANDLER_TIMEOUT_SECONDS", "value": "270"},
                        {"name": "DEAD_LETTER_QUEUE", "value": DEAD_LETTERS},
                        {"name": "SIMULATE_EFFECTS", "value": "true" if simulate_effects else "false"},
                        {"name": "GOOGLE_CLOUD_PROJECT", "value": "shop-project"},
                        *(
                            {
                                "name": variable,
                                "valueSource": {
                                    "secretKeyRef": {
                                        "secret": f"order-handler-{LABELS[variable]}",
                                        "version": computed("1"),
                                    }
                                },
                            }
                            for variable in SECRETS
                        ),
                    ],
                }
            ],
        },
    }


def test_the_service_waits_for_its_api_its_account_its_image_and_the_right_to_read_its_secrets(
    declare: Declare,
) -> None:
    def program() -> None:
        service(image=projects.Service("image", service="x").id)

    declared = declare(program)
    assert declared["Service handler"].depends_on == {
        declared["Service apis-run"].urn,
        declared["Account handler-account"].urn,
        declared["Service image"].urn,
        *(
            declared[f"{kind} handler-{label}"].urn
            for kind in ("Secret", "SecretVersion", "SecretIamMember")
            for label in LABELS.values()
        ),
    }


@pytest.mark.parametrize(("variable", "label"), LABELS.items())
def test_a_secret_waits_for_its_api_and_is_named_after_its_service(declare: Declare, variable: str, label: str) -> None:
    declared = declare(lambda: service(secrets={variable: SECRETS[variable]}))
    secret = declared[f"Secret handler-{label}"]
    assert secret.depends_on == {declared["Service apis-secretmanager"].urn}
    assert secret.inputs == {
        "project": "shop-project",
        "secretId": f"order-handler-{label}",
        "replication": {"auto": {}},
    }


@pytest.mark.parametrize(("variable", "label"), LABELS.items())
def test_a_secret_s_text_is_declared_as_a_secret(
    declare: Declare, computed: Computed, variable: str, label: str
) -> None:
    declared = declare(service)
    version = declared[f"SecretVersion handler-{label}"]
    assert version.depends_on == {declared[f"Secret handler-{label}"].urn}
    assert version.inputs == {
        "secret": computed(f"projects/shop-project/secrets/order-handler-{label}"),
        "secretData": SECRETS[variable],
        "deletionPolicy": "ABANDON",
    }
    assert rpc.is_rpc_secret(json_format.MessageToDict(version.options.object)["secretData"])


@pytest.mark.parametrize("label", LABELS.values())
def test_a_secret_is_readable_by_the_handler_s_account_and_by_nobody_else(
    declare: Declare, computed: Computed, label: str
) -> None:
    declared = declare(service)
    grant = declared[f"SecretIamMember handler-{label}"]
    assert grant.depends_on == {declared[f"Secret handler-{label}"].urn, declared["Account handler-account"].urn}
    assert grant.inputs == {
        "project": "shop-project",
        "secretId": f"order-handler-{label}",
        "role": "roles/secretmanager.secretAccessor",
        "member": computed(MEMBER),
    }


def test_a_secret_s_text_is_nowhere_but_in_its_version(declare: Declare) -> None:
    for key, resource in declare(service).items():
        rest = {name: value for name, value in resource.inputs.items() if name != "secretData"}
        assert "hunter2" not in str(rest), key
        assert ("secretData" in resource.inputs) is key.startswith("SecretVersion "), key


@pytest.mark.parametrize(
    ("output", "value", "source"),
    [("url", SERVICE_URL, "Service handler"), ("account_member", MEMBER, "Account handler-account")],
)
def test_what_servers_compute_is_unknown_until_they_have(
    declare: Declare, computed: Computed, output: str, value: str, source: str
) -> None:
    declared = declare(lambda: projects.Service("reader", service=getattr(service(), output)))
    assert declared["Service reader"].inputs["service"] == computed(value)
    assert declared["Service reader"].depends_on == {declared[source].urn}


def test_who_uses_the_name_of_the_service_waits_for_the_service(declare: Declare) -> None:
    declared = declare(lambda: projects.Service("reader", service=service().service_name))
    assert declared["Service reader"].inputs["service"] == "order-handler"
    assert declared["Service reader"].depends_on == {declared["Service handler"].urn}
