"""Each policy as the function it is; tests/engine has the engine run them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.program import PROJECT, evaluate, stack_configuration
from local.sinks.effects import PLACEHOLDERS
from policy.__main__ import (
    POLICIES,
    QUEUE,
    SERVICE,
    UNKNOWN,
    Resource,
    dead_letters_paused,
    dispatches_fit_the_service,
    image_by_digest,
    invoker_check_on,
    no_default_account,
    no_plain_secret,
    no_public_access,
    no_wide_role,
    queue_limits_written,
)

MEMBER = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
PROJECT_MEMBER = "gcp:projects/iAMMember:IAMMember"
DEFAULT = "123-compute@developer.gserviceaccount.com"
PATH = "projects/p/locations/l/queues/q"
JOB = "gcp:cloudrunv2/job:Job"
LIMITED: dict[str, Any] = {
    "project": "p",
    "location": "l",
    "name": "q",
    "rateLimits": {"maxDispatchesPerSecond": 50.0, "maxConcurrentDispatches": 20.0},
    "retryConfig": {
        "maxAttempts": -1.0,
        "maxRetryDuration": "0s",
        "minBackoff": "10s",
        "maxBackoff": "300s",
        "maxDoublings": 4.0,
    },
}


def running(**container: object) -> dict[str, Any]:
    return {"template": {"serviceAccount": "a@p.iam.gserviceaccount.com", "containers": [container]}}


def variable(name: str, value: object) -> dict[str, Any]:
    return running(envs=[{"name": "FIRST", "value": "1"}, {"name": name, "value": value}])


def without(path: str) -> dict[str, Any]:
    section, _, figure = path.partition(".")
    return {**LIMITED, section: {key: value for key, value in LIMITED[section].items() if key != figure}}


OF_RESOURCE: list[tuple[Callable[[Resource], Iterator[str]], str, dict[str, Any], list[str]]] = [
    (no_public_access, MEMBER, {"member": "allUsers"}, ["member lets everybody in"]),
    (no_public_access, MEMBER, {"members": ["user:a@b.c", "allAuthenticatedUsers"]}, ["members[1] lets everybody in"]),
    (no_public_access, "gcp:storage/x:X", {"roleEntities": ["READER:allUsers"]}, ["roleEntities[0] lets everybody in"]),
    (no_public_access, "gcp:x/y:Y", {"policyData": '{"members":["allUsers"]}'}, ["policyData lets everybody in"]),
    (no_public_access, MEMBER, {"member": "user:allUsers@b.c", "description": "not for allUsers"}, []),
    (no_public_access, MEMBER, {"member": UNKNOWN}, []),
    (
        invoker_check_on,
        SERVICE,
        {"invokerIamDisabled": True},
        ["invokerIamDisabled switches the check of the caller off"],
    ),
    (invoker_check_on, SERVICE, {"invokerIamDisabled": False}, []),
    (invoker_check_on, SERVICE, {"invokerIamDisabled": UNKNOWN}, []),
    (invoker_check_on, SERVICE, {}, []),
    (
        image_by_digest,
        SERVICE,
        running(image="host/image:latest"),
        ["template.containers[0].image = 'host/image:latest' is an image by tag"],
    ),
    (
        image_by_digest,
        JOB,
        {"template": running(image="image")},
        ["template.template.containers[0].image = 'image' is an image by tag"],
    ),
    (image_by_digest, SERVICE, running(image="host/image:latest@sha256:0123"), []),
    (image_by_digest, SERVICE, running(image=UNKNOWN), []),
    (
        no_default_account,
        SERVICE,
        {"template": {"containers": []}},
        ["template names no service account, so its containers run as the default compute account"],
    ),
    (
        no_default_account,
        SERVICE,
        {"template": {"containers": [], "serviceAccount": DEFAULT}},
        ["template.serviceAccount is the default compute account"],
    ),
    (no_default_account, MEMBER, {"member": f"serviceAccount:{DEFAULT}"}, ["member is the default compute account"]),
    (no_default_account, SERVICE, {"template": {"containers": [], "serviceAccount": UNKNOWN}}, []),
    (no_default_account, SERVICE, {"template": {"spec": {"containers": [], "serviceAccountName": "a@b"}}}, []),
    (no_default_account, SERVICE, running(), []),
    *(
        (no_wide_role, type_, {"role": role}, [f"role grants {role} on everything at once"])
        for type_ in (PROJECT_MEMBER, "gcp:projects/iAMBinding:IAMBinding", "gcp:folder/iAMMember:IAMMember")
        for role in ("roles/run.invoker", "roles/iam.serviceAccountUser")
    ),
    (
        no_wide_role,
        "gcp:projects/iAMPolicy:IAMPolicy",
        {"policyData": '{"role":"roles/run.invoker"}'},
        ["policyData grants roles/run.invoker on everything at once"],
    ),
    (no_wide_role, PROJECT_MEMBER, {"role": "roles/run.viewer"}, []),
    (no_wide_role, MEMBER, {"role": "roles/run.invoker"}, []),
    (no_wide_role, "gcp:serviceaccount/iAMMember:IAMMember", {"role": "roles/iam.serviceAccountUser"}, []),
    *(
        (no_plain_secret, SERVICE, variable(*each), [f"template.containers[0].envs[1] has {each[0]} in plain text"])
        for each in (
            ("DB_PASSWORD", "x"),
            ("client_secret", "x"),
            ("API_KEY", "x"),
            ("DATABASE_URL", "postgresql://shop:hunter2@db/orders"),
        )
    ),
    (no_plain_secret, SERVICE, variable("DATABASE_URL", "postgresql://db/orders?user=a@b"), []),
    (no_plain_secret, SERVICE, variable("DB_PASSWORD", ""), []),
    (no_plain_secret, SERVICE, variable("DB_PASSWORD", UNKNOWN), []),
    (no_plain_secret, SERVICE, running(envs=[{"name": "DB_PASSWORD", "valueSource": {"secretKeyRef": {}}}]), []),
    *(
        (queue_limits_written, QUEUE, without(path), [f"q leaves out {path}"])
        for path in (
            *("rateLimits.maxDispatchesPerSecond", "rateLimits.maxConcurrentDispatches", "retryConfig.maxAttempts"),
            *("retryConfig.minBackoff", "retryConfig.maxBackoff", "retryConfig.maxDoublings"),
            "retryConfig.maxRetryDuration",
        )
    ),
    (
        queue_limits_written,
        QUEUE,
        {"name": "q", "retryConfig": LIMITED["retryConfig"]},
        ["q leaves out rateLimits.maxDispatchesPerSecond, rateLimits.maxConcurrentDispatches"],
    ),
    (queue_limits_written, QUEUE, {**LIMITED, "rateLimits": UNKNOWN}, []),
    (queue_limits_written, QUEUE, LIMITED, []),
    (queue_limits_written, SERVICE, {}, []),
]


@pytest.mark.parametrize(("policy", "token", "properties", "found"), OF_RESOURCE)
def test_a_policy_finds_this_in_a_resource(
    policy: Callable[[Resource], Iterator[str]], token: str, properties: dict[str, Any], found: list[str]
) -> None:
    assert list(policy(Resource(token, properties))) == found


def service(instances: object, requests: object, dead_letters: str = "") -> Resource:
    template = {"scaling": {"maxInstanceCount": instances}, "maxInstanceRequestConcurrency": requests}
    envs = [{"name": "TASK_QUEUE", "value": PATH}, {"name": "DEAD_LETTER_QUEUE", "value": dead_letters}]
    return Resource(SERVICE, {"template": {**template, "containers": [{"envs": envs}]}})


def queue(concurrent: object = 20.0, **properties: object) -> Resource:
    return Resource(QUEUE, {**LIMITED, "rateLimits": {"maxConcurrentDispatches": concurrent}, **properties})


@pytest.mark.parametrize(
    ("resources", "found"),
    [
        ([queue(20.0), queue(5.0), service(5.0, 5.0)], []),
        (
            [queue(21.0), queue(5.0), service(5.0, 5.0)],
            ["the queues send 26 at once and the services take 25"],
        ),
        ([queue(26.0), service(5.0, 5.0), service(1.0, 1.0)], []),
        ([queue(26.0), service(UNKNOWN, 5.0)], []),
        ([queue(UNKNOWN), service(5.0, 5.0)], []),
        ([queue(5000.0)], []),
    ],
)
def test_dispatches_of_all_queues_fit_into_all_services(resources: list[Resource], found: list[str]) -> None:
    assert list(dispatches_fit_the_service(resources)) == found


@pytest.mark.parametrize(
    ("resources", "found"),
    [
        ([queue(), service(1.0, 1.0, PATH)], [f"{PATH} is a service's own and is not paused"]),
        ([service(1.0, 1.0, PATH), queue(desiredState="RUNNING")], [f"{PATH} is a service's own and is not paused"]),
        ([queue(desiredState="PAUSED"), service(1.0, 1.0, PATH)], []),
        ([queue(desiredState=UNKNOWN), service(1.0, 1.0, PATH)], []),
        ([queue(), service(1.0, 1.0, f"{PATH}-dead-letters")], []),
        ([queue()], []),
    ],
)
def test_a_queue_that_a_service_stores_in_is_paused(resources: list[Resource], found: list[str]) -> None:
    assert list(dead_letters_paused(resources)) == found


def test_every_policy_has_a_name_and_says_what_it_is_for() -> None:
    names = [policy.name for policy in POLICIES]
    assert len(set(names)) == 9
    assert all(policy.description for policy in POLICIES)


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_program_has_nothing_that_a_policy_refuses(stack: str) -> None:
    evaluation = evaluate(
        config={
            f"{PROJECT}:producers": '["user:ada@example.com"]',
            **stack_configuration(stack),
            "gcp:project": "shop-project",
        },
        secrets={f"{PROJECT}:{key}": text for key, text in PLACEHOLDERS.items()},
    )
    resources = [Resource(each.type, each.inputs) for each in evaluation.resources.values()]
    for policy in {policy for policy, *_ in OF_RESOURCE}:
        assert [found for resource in resources for found in policy(resource)] == []
    assert list(dispatches_fit_the_service(resources)) == []
    assert list(dead_letters_paused(resources)) == []
