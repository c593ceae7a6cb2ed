import pytest
from pulumi_gcp import projects

from components.task_invoker import TaskInvoker
from tests.components.conftest import Computed, Declare, place

PRODUCERS = ("serviceAccount:web@shop-project.iam.gserviceaccount.com", "group:shop-developers@example.com")
EMAIL = "order-invoker@shop-project.iam.gserviceaccount.com"


def invoker(producers: tuple[str, ...] = PRODUCERS) -> TaskInvoker:
    # stands for the Cloud Run service: all that counts is that the name comes out of a resource
    handler = projects.Service("handler", service="order-handler")
    return TaskInvoker(
        "invoker",
        {
            **place("iam"),
            "invoker_account": "order-invoker",
            "invoker_display_name": "Order Invoker",
            "service_name": handler.service,
            "producers": producers,
        },
    )


@pytest.mark.parametrize("producers", [(), PRODUCERS])
def test_it_declares_one_account_its_one_binding_and_a_membership_a_producer(
    declare: Declare, producers: tuple[str, ...]
) -> None:
    declared = declare(lambda: invoker(producers))
    component = declared["TaskInvoker invoker"]
    assert component.type == "cloud-run-tasks:index:TaskInvoker"
    assert sorted(child.type for child in declared.values() if child.parent == component.urn) == [
        "gcp:cloudrunv2/serviceIamMember:ServiceIamMember",
        "gcp:serviceaccount/account:Account",
        *["gcp:serviceaccount/iAMMember:IAMMember"] * len(producers),
    ]
    assert len(declared) == 6 + len(producers)


def test_the_account_waits_for_its_api(declare: Declare) -> None:
    declared = declare(invoker)
    account = declared["Account invoker"]
    assert account.depends_on == {declared["Service apis-iam"].urn}
    assert account.inputs == {
        "project": "shop-project",
        "accountId": "order-invoker",
        "displayName": "Order Invoker",
    }


def test_the_account_may_invoke_this_one_service_and_nothing_else(declare: Declare, computed: Computed) -> None:
    declared = declare(invoker)
    binding = declared["ServiceIamMember invoker-run"]
    assert binding.depends_on == {declared["Service handler"].urn, declared["Account invoker"].urn}
    assert binding.inputs == {
        "project": "shop-project",
        "location": "europe-west1",
        "name": "order-handler",
        "role": "roles/run.invoker",
        "member": computed(f"serviceAccount:{EMAIL}"),
    }


@pytest.mark.parametrize("producer", PRODUCERS)
def test_each_producer_may_act_as_the_account(declare: Declare, computed: Computed, producer: str) -> None:
    declared = declare(invoker)
    grant = declared[f"IAMMember invoker-user-{producer}"]
    assert grant.depends_on == {declared["Account invoker"].urn}
    assert grant.inputs == {
        "serviceAccountId": computed(f"projects/shop-project/serviceAccounts/{EMAIL}"),
        "role": "roles/iam.serviceAccountUser",
        "member": producer,
    }


@pytest.mark.parametrize("producers", [(), PRODUCERS])
def test_the_email_is_usable_once_the_account_may_invoke_and_by_producers_once_they_may_act_as_it(
    declare: Declare, computed: Computed, producers: tuple[str, ...]
) -> None:
    def program() -> None:
        declared = invoker(producers)
        projects.Service("queue", service=declared.email)
        projects.Service("producer", service=declared.producers_email)

    declared = declare(program)
    may_invoke = {declared["Account invoker"].urn, declared["ServiceIamMember invoker-run"].urn}
    may_act_as_it = {declared[f"IAMMember invoker-user-{producer}"].urn for producer in producers}
    for reader, depends_on in (("queue", may_invoke), ("producer", may_invoke | may_act_as_it)):
        assert declared[f"Service {reader}"].inputs["service"] == computed(EMAIL)
        assert declared[f"Service {reader}"].depends_on == depends_on
