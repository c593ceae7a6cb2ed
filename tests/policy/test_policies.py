"""Each policy as the function it is; tests/engine has the engine run them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.program import PROJECT, evaluate, stack_configuration
from local.sinks.effects import PLACEHOLDERS
from policy.__main__ import (
    LIMITS,
    POLICIES,
    QUEUE,
    SERVICE,
    UNKNOWN,
    Resource,
    dead_letters_paused,
    dispatches_fit_the_service,
    grants_by_list,
    image_by_digest,
    invoker_check_on,
    no_account_key,
    no_default_account,
    no_plain_secret,
    no_public_access,
    one_invoker,
    queue_limits_written,
)

MEMBER = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
PROJECT_MEMBER = "gcp:projects/iAMMember:IAMMember"
QUEUE_MEMBER = "gcp:cloudtasks/queueIamMember:QueueIamMember"
ACCOUNT_MEMBER = "gcp:serviceaccount/iAMMember:IAMMember"
POOL = "principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p"
A = "serviceAccount:a@p.iam.gserviceaccount.com"
SECRET_MEMBER = "gcp:secretmanager/secretIamMember:SecretIamMember"
ANNOTATION = "run.googleapis.com/invoker-iam-disabled"
CONTAINER = "template.containers[0]"
ENV = f"{CONTAINER}.envs[1]"
ONE_INSTANCE = 'resource.name == "projects/p/instances/i"'
DEFAULT = "123-compute@developer.gserviceaccount.com"
PATH = "projects/p/locations/l/queues/q"
JOB = "gcp:cloudrunv2/job:Job"
SCHEDULED = "gcp:cloudscheduler/job:Job"
V1_SERVICE = "gcp:cloudrun/service:Service"
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


def sql_client(condition: object) -> dict[str, Any]:
    return {"role": "roles/cloudsql.client", "member": A, "condition": condition}


def without(path: str) -> dict[str, Any]:
    section, _, figure = path.partition(".")
    return {**LIMITED, section: {key: value for key, value in LIMITED[section].items() if key != figure}}


UNLISTED_KINDS = (
    *("gcp:projects/iAMBinding:IAMBinding", "gcp:projects/iAMPolicy:IAMPolicy", "gcp:cloudrun/iamMember:IamMember"),
    *("gcp:organizations/iAMMember:IAMMember", "gcp:cloudrunv2/serviceIamPolicy:ServiceIamPolicy"),
)
REFUSED: list[tuple[Callable[[Resource], Iterator[str]], str, dict[str, Any], str]] = [
    (no_public_access, MEMBER, {"member": "allUsers"}, "member grants access to everybody"),
    (no_public_access, MEMBER, {"members": ["user:a@b.c", "allAuthenticatedUsers"]}, "members[1] grants access"),
    (no_public_access, "gcp:storage/x:X", {"roleEntities": ["READER:allUsers"]}, "roleEntities[0] grants access"),
    (no_public_access, "gcp:x/y:Y", {"policyData": '{"members":["allUsers"]}'}, "policyData grants access"),
    (invoker_check_on, SERVICE, {"invokerIamDisabled": True}, "invokerIamDisabled switches the check of the caller"),
    (
        invoker_check_on,
        V1_SERVICE,
        {"metadata": {"annotations": {ANNOTATION: "true"}}},
        f"metadata.annotations.{ANNOTATION}",
    ),
    (
        invoker_check_on,
        V1_SERVICE,
        {"template": {"annotations": {ANNOTATION: "true"}}},
        f"template.annotations.{ANNOTATION}",
    ),
    (
        image_by_digest,
        SERVICE,
        running(image="host/image:latest"),
        f"{CONTAINER}.image = 'host/image:latest' is an image by tag",
    ),
    (
        image_by_digest,
        JOB,
        {"template": running(image="image")},
        f"template.{CONTAINER}.image = 'image' is an image by tag",
    ),
    (no_default_account, SERVICE, {"template": {"containers": []}}, "template names no service account"),
    (
        no_default_account,
        SERVICE,
        {"template": {"containers": [], "serviceAccount": DEFAULT}},
        "template.serviceAccount is a default",
    ),
    (no_default_account, MEMBER, {"member": f"serviceAccount:{DEFAULT}"}, "member is a default account"),
    *(
        (grants_by_list, type_, {"role": role, "member": A}, f"grants {role}, which is not listed for it")
        for type_, roles in {
            PROJECT_MEMBER: "roles/run.invoker roles/iam.serviceAccountUser roles/owner projects/p/roles/custom",
            MEMBER: "roles/run.admin roles/run.servicesInvoker",
            QUEUE_MEMBER: "roles/cloudtasks.admin",
            ACCOUNT_MEMBER: "roles/iam.serviceAccountTokenCreator roles/iam.workloadIdentityUser",
        }.items()
        for role in roles.split()
    ),
    *(
        (grants_by_list, type_, {"role": "roles/run.invoker", "member": A}, "is not a listed kind of grant")
        for type_ in UNLISTED_KINDS
    ),
    *(
        (
            grants_by_list,
            type_,
            {"role": role, "member": member, "condition": {"expression": ONE_INSTANCE}},
            f"to {member}, which",
        )
        for type_, role, members in (
            (MEMBER, "roles/run.invoker", ("user:a@b.c", "group:a@b.c", "domain:b.c", f"{POOL}/group/g")),
            (MEMBER, "roles/run.invoker", ("deleted:serviceAccount:a@b.c?uid=1",)),
            (SECRET_MEMBER, "roles/secretmanager.secretAccessor", ("group:a@b.c",)),
            (QUEUE_MEMBER, "roles/cloudtasks.enqueuer", ("domain:b.c", f"{POOL}/*")),
            (ACCOUNT_MEMBER, "roles/iam.serviceAccountUser", (f"{POOL}/*",)),
            (PROJECT_MEMBER, "roles/cloudsql.client", ("user:a@b.c",)),
        )
        for member in members
    ),
    (grants_by_list, PROJECT_MEMBER, sql_client({"expression": "true"}), "on every instance of a project"),
    (no_account_key, "gcp:serviceaccount/key:Key", {}, "a key of a service account is created"),
    (no_account_key, "gcp:storage/hmacKey:HmacKey", {}, "a key of a service account is created"),
    *(
        (no_plain_secret, SERVICE, variable(name, "x"), f"{ENV} has a secret")
        for name in ("DB_PASSWORD", "client_secret", "API_KEY", "SMTP_PWD", "PGPASSFILE_PASSPHRASE", "PASSWORD_FILE")
    ),
    *(
        (no_plain_secret, SERVICE, variable("CONFIG", text), f"{ENV}.value has a secret")
        for text in (
            "postgresql://shop:hunter2@db/orders",
            "postgresql://db/orders?user=a&password=hunter2",
            "postgresql://db/orders?sslpassword=hunter2",
            "host=db password=hunter2",
            '{"password": "hunter2"}',
            "-----BEGIN RSA PRIVATE KEY-----\n",
        )
    ),
    (
        no_plain_secret,
        JOB,
        {"template": variable("URL", "smtp://a:hunter2@mail")},
        f"template.{ENV}.value has a secret",
    ),
    (no_plain_secret, SERVICE, running(args=["--port=1", "--db-password=hunter2"]), f"{CONTAINER}.args[1] has"),
    (no_plain_secret, SERVICE, running(args=["postgresql://shop:hunter2@db/orders"]), f"{CONTAINER}.args[0] has"),
    (no_plain_secret, SERVICE, running(args=["--port", "1", "--token", "hunter2"]), f"{CONTAINER}.args has"),
    (no_plain_secret, SERVICE, running(commands=["env", "SMTP_PASSWORD=hunter2", "x"]), f"{CONTAINER}.commands[1] has"),
    (
        no_plain_secret,
        SCHEDULED,
        {"httpTarget": {"headers": {"Authorization": "Basic x"}}},
        "httpTarget.headers.Authorization has",
    ),
    (
        no_plain_secret,
        QUEUE,
        {"httpTarget": {"headerOverrides": [{"header": {"key": "Authorization", "value": "Basic x"}}]}},
        "httpTarget.headerOverrides[0].header has a secret",
    ),
    *((queue_limits_written, QUEUE, without(path), f"q leaves out {path}") for path in LIMITS),
    (
        queue_limits_written,
        QUEUE,
        {"name": "q", "retryConfig": LIMITED["retryConfig"]},
        "q leaves out rateLimits.maxDispatchesPerSecond, rateLimits.maxConcurrentDispatches",
    ),
]
ACCEPTED: list[tuple[Callable[[Resource], Iterator[str]], str, dict[str, Any]]] = [
    (no_public_access, MEMBER, {"member": "user:allUsers@b.c", "description": "not for allUsers"}),
    (no_public_access, MEMBER, {"member": UNKNOWN}),
    (invoker_check_on, SERVICE, {"invokerIamDisabled": False}),
    (invoker_check_on, SERVICE, {"invokerIamDisabled": UNKNOWN}),
    (invoker_check_on, SERVICE, {}),
    (invoker_check_on, V1_SERVICE, {"metadata": {"annotations": {ANNOTATION: "false"}}}),
    (image_by_digest, SERVICE, running(image="host/image:latest@sha256:0123")),
    (image_by_digest, SERVICE, running(image=UNKNOWN)),
    (no_default_account, SERVICE, {"template": {"containers": [], "serviceAccount": UNKNOWN}}),
    (no_default_account, SERVICE, {"template": {"spec": {"containers": [], "serviceAccountName": "a@b"}}}),
    (no_default_account, SERVICE, running()),
    *(
        (grants_by_list, PROJECT_MEMBER, sql_client(condition))
        for condition in (UNKNOWN, {"expression": UNKNOWN}, {"expression": ONE_INSTANCE})
    ),
    (grants_by_list, QUEUE_MEMBER, {"role": "roles/cloudtasks.enqueuer", "member": f"{POOL}/attribute.a/b"}),
    (grants_by_list, MEMBER, {"role": UNKNOWN, "member": UNKNOWN}),
    (grants_by_list, "gcp:projects/iAMCustomRole:IAMCustomRole", {"permissions": ["run.jobs.run"]}),
    (no_account_key, "gcp:serviceaccount/account:Account", {}),
    (no_plain_secret, SERVICE, running(args=["--token-file", "/secrets/token", "--port=1"], commands=["serve"])),
    (no_plain_secret, SERVICE, variable("DATABASE_URL", "postgresql://db/orders?user=a@b")),
    (no_plain_secret, SERVICE, variable("DB_PASSWORD", "")),
    (no_plain_secret, SERVICE, variable("DB_PASSWORD", UNKNOWN)),
    (no_plain_secret, SERVICE, variable("DB_PASSWORD_FILE", "/secrets/password")),
    (no_plain_secret, SERVICE, running(envs=[{"name": "DB_PASSWORD", "valueSource": {"secretKeyRef": {}}}])),
    (queue_limits_written, QUEUE, {**LIMITED, "rateLimits": UNKNOWN}),
    (queue_limits_written, QUEUE, LIMITED),
    (queue_limits_written, SERVICE, {}),
]


@pytest.mark.parametrize(("policy", "token", "properties", "words"), REFUSED)
def test_a_policy_refuses_this_resource(
    policy: Callable[[Resource], Iterator[str]], token: str, properties: dict[str, Any], words: str
) -> None:
    [found] = policy(Resource(token, properties))
    assert words in found


@pytest.mark.parametrize(("policy", "token", "properties"), ACCEPTED)
def test_a_policy_accepts_this_resource(
    policy: Callable[[Resource], Iterator[str]], token: str, properties: dict[str, Any]
) -> None:
    assert list(policy(Resource(token, properties))) == []


def service(instances: object, requests: object, dead_letters: str = "") -> Resource:
    template = {"scaling": {"maxInstanceCount": 1000.0}, "maxInstanceRequestConcurrency": requests}
    envs = [{"name": "TASK_QUEUE", "value": PATH}, {"name": "DEAD_LETTER_QUEUE", "value": dead_letters}]
    scaling = {"maxInstanceCount": instances}
    return Resource(SERVICE, {"scaling": scaling, "template": {**template, "containers": [{"envs": envs}]}})


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
        ([queue(), service(1.0, 1.0, PATH)], [f"{PATH} is named in a service and is not paused"]),
        ([service(1.0, 1.0, PATH), queue(desiredState="RUNNING")], [f"{PATH} is named in a service and is not paused"]),
        ([queue(desiredState="PAUSED"), service(1.0, 1.0, PATH)], []),
        ([queue(desiredState=UNKNOWN), service(1.0, 1.0, PATH)], []),
        ([queue(), service(1.0, 1.0, f"{PATH}-dead-letters")], []),
        ([queue()], []),
    ],
)
def test_a_queue_that_a_service_stores_in_is_paused(resources: list[Resource], found: list[str]) -> None:
    assert list(dead_letters_paused(resources)) == found


def invoker(member: object, service: object = "handler") -> Resource:
    return Resource(MEMBER, {"name": service, "role": "roles/run.invoker", "member": member})


OWN = Resource("gcp:serviceaccount/account:Account", {"accountId": "a", "project": "p"})
OTHER = Resource("gcp:serviceaccount/account:Account", {"accountId": "b", "project": "p"})
B = "serviceAccount:b@p.iam.gserviceaccount.com"


@pytest.mark.parametrize(
    ("resources", "found"),
    [
        ([OWN, invoker(A)], []),
        ([OWN, invoker(UNKNOWN)], []),
        ([OWN, invoker(A), invoker(A, "other")], []),
        ([OWN, invoker(UNKNOWN, UNKNOWN), invoker(UNKNOWN, UNKNOWN)], []),
        ([OWN, OTHER, invoker(A), invoker(B)], ["2 members may call handler"]),
        ([OWN, invoker(UNKNOWN), invoker(UNKNOWN)], ["2 members may call handler"]),
        ([OWN, invoker(B)], [f"{B}, who may call handler, is not an account of this stack"]),
        ([invoker("user:a@b.c")], ["user:a@b.c, who may call handler, is not an account of this stack"]),
    ],
)
def test_one_account_of_the_stack_may_call_a_service(resources: list[Resource], found: list[str]) -> None:
    assert list(one_invoker(resources)) == found


def test_every_policy_has_a_name_and_says_what_it_is_for() -> None:
    names = [policy.name for policy in POLICIES]
    assert len(set(names)) == len(names) == 11
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
    for policy in {policy for policy, *_ in REFUSED}:
        assert [found for resource in resources for found in policy(resource)] == []
    assert list(one_invoker(resources)) == []
    assert list(dispatches_fit_the_service(resources)) == []
    assert list(dead_letters_paused(resources)) == []
