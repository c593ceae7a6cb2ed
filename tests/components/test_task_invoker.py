import pytest

from tests.declared import DEVELOPERS, WEB, declare

EMAIL = "order-invoker@shop-project.iam.gserviceaccount.com"
PATH = f"projects/shop-project/serviceAccounts/{EMAIL}"


def test_the_account_may_invoke_this_one_service() -> None:
    declared = declare(invokerAccount="order-invoker", invokerDisplayName="Order Invoker")
    account = declared["Account invoker"]
    assert (account["accountId"], account["displayName"]) == ("order-invoker", "Order Invoker")
    [binding] = declared.of("ServiceIamMember").values()
    assert (binding["role"], binding["member"]) == ("roles/run.invoker", f"serviceAccount:{EMAIL}")
    assert (binding["name"], binding["location"]) == ("task-handler-prod", "us-central1")


def test_each_producer_may_act_as_the_account_if_that_is_wanted_and_nobody_else() -> None:
    users = declare(invokerAccount="order-invoker", producersActAsInvoker="true").of("IAMMember").values()
    assert sorted((user["role"], user["serviceAccountId"], user["member"]) for user in users) == [
        ("roles/iam.serviceAccountUser", PATH, member) for member in (DEVELOPERS, WEB)
    ]
    assert not declare(producers="[]", producersActAsInvoker="true").of("IAMMember")
    assert not declare(producersActAsInvoker="false").of("IAMMember")
    assert not declare("prod").of("IAMMember")
    assert declare("dev").of("IAMMember")


@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("queue", ["Queue queue", "Queue queue-dead-letters"])
def test_the_queues_wait_until_the_account_may_invoke(preview: bool, queue: str) -> None:
    declared = declare(preview=preview, producersActAsInvoker="true")
    assert {"Service handler", "ServiceIamMember invoker-run", "Account invoker"} <= declared.after(queue)
    assert not [name for name in declared.after(queue) if "invoker-user" in name]  # a new producer changes no queue
