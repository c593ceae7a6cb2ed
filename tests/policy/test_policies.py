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
UNLISTED = "not listed for it"
ENV = "template.containers[0].envs[1]"
SCHEDULED = "httpTarget.headers.Authorization"
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
    (no_public_access, MEMBER, {"member": "allUsers"}, ["member grants access to everybody"]),
    (
        no_public_access,
        MEMBER,
        {"members": ["user:a@b.c", "allAuthenticatedUsers"]},
        ["members[1] grants access to everybody"],
    ),
    (
        no_public_access,
        "gcp:storage/x:X",
        {"roleEntities": ["READER:allUsers"]},
        ["roleEntities[0] grants access to everybody"],
    ),
    (
        no_public_access,
        "gcp:x/y:Y",
        {"policyData": '{"members":["allUsers"]}'},
        ["policyData grants access to everybody"],
    ),
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
        ["template.serviceAccount is a default account"],
    ),
    (no_default_account, MEMBER, {"member": f"serviceAccount:{DEFAULT}"}, ["member is a default account"]),
    (no_default_account, SERVICE, {"template": {"containers": [], "serviceAccount": UNKNOWN}}, []),
    (no_default_account, SERVICE, {"template": {"spec": {"containers": [], "serviceAccountName": "a@b"}}}, []),
    (no_default_account, SERVICE, running(), []),
    *(
        (invoker_check_on, "gcp:cloudrun/service:Service", {where: {"annotations": {ANNOTATION: "true"}}}, [found])
        for where, found in (
            ("metadata", f"metadata.annotations.{ANNOTATION} switches the check of the caller off"),
            ("template", f"template.annotations.{ANNOTATION} switches the check of the caller off"),
        )
    ),
    (invoker_check_on, "gcp:cloudrun/service:Service", {"metadata": {"annotations": {ANNOTATION: "false"}}}, []),
    *(
        (grants_by_list, PROJECT_MEMBER, {"role": role, "member": A}, [f"IAMMember grants {role}, which is {UNLISTED}"])
        for role in (
            *("roles/run.invoker", "roles/run.servicesInvoker", "roles/run.admin", "roles/owner", "roles/editor"),
            *("roles/iam.serviceAccountUser", "roles/iam.serviceAccountTokenCreator", "roles/cloudtasks.admin"),
            *("roles/iam.serviceAccountOpenIdTokenCreator", "roles/secretmanager.secretAccessor", "roles/run.viewer"),
            *("roles/iam.workloadIdentityUser", "projects/p/roles/custom", "organizations/1/roles/custom"),
        )
    ),
    *(
        (grants_by_list, type_, {"role": role, "member": A}, [f"{kind} grants {role}, which is {UNLISTED}"])
        for type_, kind, role in (
            (MEMBER, "ServiceIamMember", "roles/run.admin"),
            (MEMBER, "ServiceIamMember", "roles/run.servicesInvoker"),
            (QUEUE_MEMBER, "QueueIamMember", "roles/cloudtasks.admin"),
            (QUEUE_MEMBER, "QueueIamMember", "roles/owner"),
            (ACCOUNT_MEMBER, "IAMMember", "roles/iam.serviceAccountTokenCreator"),
            (ACCOUNT_MEMBER, "IAMMember", "roles/iam.serviceAccountOpenIdTokenCreator"),
            (ACCOUNT_MEMBER, "IAMMember", "roles/iam.serviceAccountKeyAdmin"),
            (ACCOUNT_MEMBER, "IAMMember", "roles/iam.workloadIdentityUser"),
        )
    ),
    *(
        (grants_by_list, type_, {"role": "roles/run.invoker", "member": A}, [f"{kind} is not a listed kind of grant"])
        for type_, kind in (
            ("gcp:projects/iAMBinding:IAMBinding", "IAMBinding"),
            ("gcp:projects/iAMPolicy:IAMPolicy", "IAMPolicy"),
            ("gcp:folder/iAMMember:IAMMember", "IAMMember"),
            ("gcp:organizations/iAMMember:IAMMember", "IAMMember"),
            ("gcp:cloudrunv2/serviceIamBinding:ServiceIamBinding", "ServiceIamBinding"),
            ("gcp:cloudrunv2/serviceIamPolicy:ServiceIamPolicy", "ServiceIamPolicy"),
            ("gcp:cloudrun/iamMember:IamMember", "IamMember"),
            ("gcp:cloudrunv2/jobIamMember:JobIamMember", "JobIamMember"),
            ("gcp:secretmanager/secretIamBinding:SecretIamBinding", "SecretIamBinding"),
            ("gcp:cloudtasks/queueIamPolicy:QueueIamPolicy", "QueueIamPolicy"),
            ("gcp:storage/bucketIAMMember:BucketIAMMember", "BucketIAMMember"),
        )
    ),
    *(
        (
            grants_by_list,
            type_,
            {"role": role, "member": member, "condition": {"expression": 'resource.name == "projects/p/instances/i"'}},
            [f"{type_.rpartition(':')[2]} grants {role} to {member}, which is not a listed kind of member"],
        )
        for type_, role, member in (
            *((MEMBER, "roles/run.invoker", m) for m in ("user:a@b.c", "group:a@b.c", "domain:b.c", f"{POOL}/group/g")),
            (MEMBER, "roles/run.invoker", "deleted:serviceAccount:a@b.c?uid=1"),
            (SECRET_MEMBER, "roles/secretmanager.secretAccessor", "group:a@b.c"),
            (QUEUE_MEMBER, "roles/cloudtasks.enqueuer", "domain:b.c"),
            (QUEUE_MEMBER, "roles/cloudtasks.enqueuer", f"{POOL}/*"),
            (ACCOUNT_MEMBER, "roles/iam.serviceAccountUser", f"{POOL}/*"),
            (PROJECT_MEMBER, "roles/cloudsql.client", "user:a@b.c"),
        )
    ),
    (
        grants_by_list,
        PROJECT_MEMBER,
        {"role": "roles/cloudsql.client", "member": A, "condition": {"expression": "true"}},
        ["IAMMember grants roles/cloudsql.client on every instance of a project, without a condition that names one"],
    ),
    *(
        (grants_by_list, PROJECT_MEMBER, {"role": "roles/cloudsql.client", "member": A, "condition": condition}, [])
        for condition in (UNKNOWN, {"expression": UNKNOWN}, {"expression": 'resource.name == "projects/p/instances/i"'})
    ),
    (grants_by_list, QUEUE_MEMBER, {"role": "roles/cloudtasks.enqueuer", "member": f"{POOL}/attribute.a/b"}, []),
    (grants_by_list, MEMBER, {"role": UNKNOWN, "member": UNKNOWN}, []),
    (grants_by_list, "gcp:projects/iAMCustomRole:IAMCustomRole", {"permissions": ["run.jobs.run"]}, []),
    (no_account_key, "gcp:serviceaccount/key:Key", {}, ["a key of a service account is created"]),
    (no_account_key, "gcp:storage/hmacKey:HmacKey", {}, ["a key of a service account is created"]),
    (no_account_key, "gcp:serviceaccount/account:Account", {}, []),
    *(
        (no_plain_secret, SERVICE, variable(*each), [f"template.containers[0].envs[1] has {each[0]} in plain text"])
        for each in (
            ("DB_PASSWORD", "x"),
            ("client_secret", "x"),
            ("API_KEY", "x"),
            ("SMTP_PWD", "x"),
            ("PGPASSFILE_PASSPHRASE", "x"),
        )
    ),
    *(
        (no_plain_secret, type_, declared, [f"{path} has a secret in plain text"])
        for type_, declared, path in (
            (SERVICE, variable("DATABASE_URL", "postgresql://shop:hunter2@db/orders"), f"{ENV}.value"),
            (SERVICE, variable("DATABASE_URL", "postgresql://db/orders?user=a&password=hunter2"), f"{ENV}.value"),
            (SERVICE, variable("DATABASE_URL", "postgresql://db/orders?sslpassword=hunter2"), f"{ENV}.value"),
            (SERVICE, variable("CONNECTION", "host=db password=hunter2"), f"{ENV}.value"),
            (SERVICE, variable("CONFIG", '{"password": "hunter2"}'), f"{ENV}.value"),
            (SERVICE, variable("CONFIG", "-----BEGIN RSA PRIVATE KEY-----\n"), f"{ENV}.value"),
            (JOB, {"template": variable("URL", "smtp://a:hunter2@mail")}, f"template.{ENV}.value"),
            (SERVICE, running(args=["--port=1", "--db-password=hunter2"]), "template.containers[0].args[1]"),
            (SERVICE, running(args=["postgresql://shop:hunter2@db/orders"]), "template.containers[0].args[0]"),
            (SERVICE, running(commands=["env", "SMTP_PASSWORD=hunter2", "x"]), "template.containers[0].commands[1]"),
            ("gcp:cloudscheduler/job:Job", {"httpTarget": {"headers": {"Authorization": "Basic x"}}}, SCHEDULED),
        )
    ),
    (
        no_plain_secret,
        SERVICE,
        running(args=["--port", "1", "--token", "hunter2"]),
        ["template.containers[0].args[3] is the value of --token in plain text"],
    ),
    (
        no_plain_secret,
        QUEUE,
        {"httpTarget": {"headerOverrides": [{"header": {"key": "Authorization", "value": "Basic x"}}]}},
        ["httpTarget.headerOverrides[0].header has Authorization in plain text"],
    ),
    (no_plain_secret, SERVICE, running(args=["--token-file", "/secrets/token", "--port=1"], commands=["serve"]), []),
    (no_plain_secret, SERVICE, variable("DATABASE_URL", "postgresql://db/orders?user=a@b"), []),
    (no_plain_secret, SERVICE, variable("DB_PASSWORD", ""), []),
    (no_plain_secret, SERVICE, variable("DB_PASSWORD_FILE", "/secrets/password"), []),
    (no_plain_secret, SERVICE, variable("DB_PASSWORD_FILE", "x"), [f"{ENV} has DB_PASSWORD_FILE in plain text"]),
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
    for policy in {policy for policy, *_ in OF_RESOURCE}:
        assert [found for resource in resources for found in policy(resource)] == []
    assert list(one_invoker(resources)) == []
    assert list(dispatches_fit_the_service(resources)) == []
    assert list(dead_letters_paused(resources)) == []
