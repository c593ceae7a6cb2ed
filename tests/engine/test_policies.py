"""Pulumi's real engine runs the policy pack on a program that breaks each policy once."""

from pathlib import Path

from pulumi_gcp import cloudrunv2, cloudtasks, projects, serviceaccount

from tests.engine.conftest import Deploy
from tests.engine.providers import Cloud

PROJECT, REGION = "shop-project", "us-central1"
DEAD_LETTERS = f"projects/{PROJECT}/locations/{REGION}/queues/dead-letters"
REMEDIES = {
    "no-public-access": "grant it to the one account that needs it",
    "invoker-check-on": "leave it off",
    "image-by-digest": "name it by digest",
    "no-default-account": "give it a service account of its own",
    "grants-by-list": "grant a listed role",
    "one-invoker": "grant roles/run.invoker to one account that the same stack declares",
    "no-account-key": "let what needs the account run as it",
    "no-plain-secret": "keep it in Secret Manager",
    "queue-limits-written": "write every rate and retry figure",
    "dispatches-fit-the-service": "lower rateLimits.maxConcurrentDispatches",
    "dead-letters-paused": "set its desiredState to PAUSED",
}


def breaks_each_policy_once() -> None:
    cloudrunv2.Service(
        "handler",
        project=PROJECT,
        location=REGION,
        name="handler",
        invoker_iam_disabled=True,
        template={
            "max_instance_request_concurrency": 1,
            "scaling": {"max_instance_count": 9},
            "containers": [
                {
                    "image": "host/image:latest",
                    "envs": [
                        {"name": "DEAD_LETTER_QUEUE", "value": DEAD_LETTERS},
                        {"name": "SMTP_PASSWORD", "value": "hunter2"},
                    ],
                }
            ],
        },
    )
    role = "roles/run.invoker"
    cloudrunv2.ServiceIamMember("open", project=PROJECT, location=REGION, name="handler", role=role, member="allUsers")
    projects.IAMMember("wide", project=PROJECT, role=role, member="user:ada@example.com")
    serviceaccount.Key("key", service_account_id="handler")
    cloudtasks.Queue(
        "orders", project=PROJECT, location=REGION, name="orders", rate_limits={"max_concurrent_dispatches": 9}
    )
    cloudtasks.Queue(
        "dead-letters",
        project=PROJECT,
        location=REGION,
        name="dead-letters",
        rate_limits={"max_concurrent_dispatches": 1, "max_dispatches_per_second": 1},
        retry_config={
            "max_attempts": -1,
            "max_retry_duration": "0s",
            "min_backoff": "1s",
            "max_backoff": "1s",
            "max_doublings": 1,
        },
    )


def test_each_policy_is_refused_by_name_with_its_remedy_and_nothing_is_created(
    deploy: Deploy, cloud: Cloud, policies: Path
) -> None:
    run = deploy("dev", breaks_each_policy_once).preview(policies=policies)
    assert run.error
    assert {name for name, _ in run.violations} == REMEDIES.keys()
    for name, message in run.violations:
        assert REMEDIES[name] in message
        assert f"[mandatory]  {name}" in run.error
    assert cloud.requests == []
