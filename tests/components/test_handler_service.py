import pulumi
import pytest
from pulumi_gcp import projects

from components.handler_service import HandlerService
from local.program import SERVICE_URL
from tests.components.conftest import Computed, Declare

IMAGE = "europe-west1-docker.pkg.dev/shop-project/order-images/order-handler@sha256:" + "5" * 64


def service(image: pulumi.Input[str] = IMAGE, deletion_protection: bool = True) -> HandlerService:
    return HandlerService(
        "handler",
        {
            "run_api": projects.Service("run-api", service="run.googleapis.com"),
            "iam_api": projects.Service("iam-api", service="iam.googleapis.com"),
            "project": "shop-project",
            "location": "europe-west1",
            "service_name": "order-handler",
            "handler_account": "order-handler-sa",
            "image": image,
            "memory": "640Mi",
            "handler_timeout_seconds": 270,
            "max_instances": 7,
            "container_concurrency": 13,
            "max_attempts": 9,
            "deletion_protection": deletion_protection,
        },
    )


def test_it_declares_one_account_and_one_service_and_grants_nothing(declare: Declare) -> None:
    declared = declare(service)
    component = declared["HandlerService handler"]
    assert component.type == "cloud-run-tasks:index:HandlerService"
    assert {child.type for child in declared.values() if child.parent == component.urn} == {
        "gcp:serviceaccount/account:Account",
        "gcp:cloudrunv2/service:Service",
    }
    assert len(declared) == 5


def test_the_account_waits_for_its_api(declare: Declare) -> None:
    declared = declare(service)
    account = declared["Account handler-account"]
    assert account.depends_on == {declared["Service iam-api"].urn}
    assert account.inputs == {
        "project": "shop-project",
        "accountId": "order-handler-sa",
        "displayName": "Task Handler",
    }


@pytest.mark.parametrize("deletion_protection", [True, False])
def test_the_service_is_private_billed_per_request_and_ready_within_a_second(
    declare: Declare, computed: Computed, deletion_protection: bool
) -> None:
    declared = declare(lambda: service(deletion_protection=deletion_protection))
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
                        {"name": "GOOGLE_CLOUD_PROJECT", "value": "shop-project"},
                    ],
                }
            ],
        },
    }


def test_the_service_waits_for_its_api_its_account_and_its_image(declare: Declare) -> None:
    def program() -> None:
        service(image=projects.Service("image", service="x").id)

    declared = declare(program)
    assert declared["Service handler"].depends_on == {
        declared["Service run-api"].urn,
        declared["Account handler-account"].urn,
        declared["Service image"].urn,
    }


@pytest.mark.parametrize(
    ("output", "value", "source"),
    [
        ("url", SERVICE_URL, "Service handler"),
        ("account_email", "order-handler-sa@shop-project.iam.gserviceaccount.com", "Account handler-account"),
    ],
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
