import pytest
from order_handler.outbox import PASS_SECONDS

from components.relay import PASS_DEADLINE_SECONDS
from local.program import evaluate
from tests.declared import Declared, configuration, declare

RELAY = {"QueueIamMember relay-enqueuer", "Metric relay-passes", "Job relay"}
ALERTS = {"the-relay-does-not-run", "rows-of-the-outbox-wait", "a-row-of-the-outbox-was-refused"}


def test_each_minute_the_invoker_calls_the_relay_of_the_handler() -> None:
    declared = declare()
    job = declared["Job relay"]
    assert (job["schedule"], job["timeZone"], job["retryConfig"]) == ("* * * * *", "Etc/UTC", {"retryCount": 0})
    target, root = job["httpTarget"], declared.exports["service_url"]
    assert (target["uri"], target["httpMethod"]) == (f"{root}/relay", "POST")
    assert target["oidcToken"] == {
        "serviceAccountEmail": declared.exports["invoker_email"],
        "audience": declared["Queue queue"]["httpTarget"]["oidcToken"]["audience"],
    }
    assert job["attemptDeadline"] == f"{PASS_DEADLINE_SECONDS}s"
    assert PASS_SECONDS + 15 <= PASS_DEADLINE_SECONDS <= int(declared["Service handler"]["template"]["timeout"][:-1])


def test_the_handler_may_add_to_the_main_queue_which_it_knows_by_its_path() -> None:
    declared = declare()
    grant = declared["QueueIamMember relay-enqueuer"]
    assert grant["member"] == f"serviceAccount:{declared['Service handler']['template']['serviceAccount']}"
    assert grant["role"] == "roles/cloudtasks.enqueuer"
    assert declared.exports["queue"].rpartition("/")[2] == grant["name"]
    assert declared.environment["TASK_QUEUE"] == declared.exports["queue"]


@pytest.mark.parametrize("preview", [False, True])
def test_the_first_run_finds_queue_service_grants_and_metric(preview: bool) -> None:
    after = declare(preview=preview).long_after("Job relay")
    assert {"Queue queue", "Service handler", "ServiceIamMember invoker-run", "Service apis-cloudscheduler"} <= after
    assert RELAY - {"Job relay"} <= after


def test_the_metric_counts_the_passes_that_succeeded() -> None:
    declared = declare()
    metric = declared["Metric relay-passes"]
    assert metric["filter"].endswith(
        f'resource.labels.service_name="{declared["Service handler"]["name"]}" jsonPayload.relayed=true'
    )
    assert metric["metricDescriptor"]["metricKind"] == "DELTA"
    [condition] = declared["AlertPolicy monitoring-the-relay-does-not-run"]["conditions"]
    query = condition["conditionPrometheusQueryLanguage"]["query"]
    assert f"logging_googleapis_com:user_{metric['name'].replace('-', '_')}{{" in query


def test_without_a_database_there_is_nothing_of_a_relay() -> None:
    evaluation = evaluate(stack="dev", config=configuration("dev"))
    with_outbox, without = declare(), Declared(evaluation.resources, evaluation.exports)
    gone = RELAY | {f"AlertPolicy monitoring-{alert}" for alert in ALERTS} | {"Service apis-cloudscheduler"}
    assert gone <= with_outbox.resources.keys()
    assert gone.isdisjoint(without.resources.keys())
    assert "TASK_QUEUE" not in without.environment
