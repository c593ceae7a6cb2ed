import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pulumi
import pytest
from google.protobuf import json_format
from pulumi.runtime import rpc
from pulumi.runtime.mocks import MockMonitor
from pulumi.runtime.settings import SETTINGS
from pulumi_gcp import organizations, projects

import configuration as reading
from components.apis import Apis
from local.program import ROOT, SERVICE_URL, Evaluation, ProgramError, Resource, evaluate, stack_configuration
from local.sinks.effects import PLACEHOLDERS
from settings import Settings

STACKS = sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in ROOT.glob("Pulumi.*.yaml"))
PROJECT = {"gcp:project": "shop-project"}
WEB = "serviceAccount:web@shop-project.iam.gserviceaccount.com"
HIDDEN = "hunter2"
"""Part of each secret, so that it can be searched for."""
SECRETS = {
    "cloud-run-tasks:databaseUrl": f"postgresql://shop:{HIDDEN}@db/orders",
    "cloud-run-tasks:smtpUrl": f"smtp://shop:{HIDDEN}@mail?from=orders@shop.example",
    "cloud-run-tasks:warehouseUrl": f"https://warehouse.example/{HIDDEN}",
    "cloud-run-tasks:warehouseSecret": f"{HIDDEN}-0123456789",
}
LABELS = ("database-url", "smtp-url", "warehouse-url", "warehouse-secret")
"""What Secret Manager calls them, after the service."""

API = {
    "gcp:artifactregistry": "artifactregistry",
    "gcp:cloudrunv2": "run",
    "gcp:cloudtasks": "cloudtasks",
    "gcp:monitoring": "monitoring",
    "gcp:secretmanager": "secretmanager",
    "gcp:serviceaccount": "iam",
    "docker:index": "artifactregistry",
}
"""The API that the resources of a module call: the image is pushed to the registry."""


def configuration(stack: str) -> dict[str, str]:
    """The stack's own file, a project, and a producer if it has none."""
    return {"cloud-run-tasks:producers": f'["{WEB}"]', **stack_configuration(stack), **PROJECT}


@pytest.fixture(params=STACKS)
def config(request: pytest.FixtureRequest) -> dict[str, str]:
    return configuration(request.param)


@pytest.fixture(params=[False, True], ids=["known", "preview"])
def evaluation(request: pytest.FixtureRequest, config: dict[str, str]) -> Evaluation:
    return evaluate(config=config, secrets=SECRETS, preview=request.param)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Pulumi keeps what is pending in one set for the whole process: left there, the next evaluation waits for ever."""
    yield
    left = len(SETTINGS.outputs)
    SETTINGS.outputs.clear()
    assert left == 0


def ancestors(resource: Resource, resources: Mapping[str, Resource]) -> set[str]:
    """Everything that a resource waits for, at any distance."""
    found: set[str] = set()
    ahead = set(resource.depends_on)
    while ahead:
        urn = ahead.pop()
        found.add(urn)
        ahead |= resources[urn].depends_on - found
    return found


def parsed(config: Mapping[str, str]) -> Settings:
    return reading.parse({**config, **SECRETS}, "cloud-run-tasks", SECRETS.__contains__)


def queues(evaluation: Evaluation) -> tuple[Resource, Resource]:
    """The queue and its dead-letter queue."""
    queue, dead_letters = sorted(evaluation.of_type("gcp:cloudtasks/queue:Queue"), key=lambda each: each.name)
    return queue, dead_letters


def is_component(resource: Resource) -> bool:
    return resource.type.startswith("cloud-run-tasks:")


def test_there_is_a_stack_to_develop_on_and_one_for_production() -> None:
    assert STACKS == ["dev", "prod"]


def test_production_retries_until_handled_and_simulates_nothing_and_development_needs_no_secret() -> None:
    production = parsed(configuration("prod"))
    assert production.queue["retry_until_handled"] is True
    assert production.effects["simulate_effects"] is False
    assert production.service["deletion_protection"] is True
    for key in SECRETS:
        with pytest.raises(reading.SettingsError, match=f"{key} = '': must be set"):
            evaluate(config=configuration("prod"), secrets={k: text for k, text in SECRETS.items() if k != key})
    evaluate(config=configuration("dev"))


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_can_be_evaluated_with_what_the_local_cloud_puts_for_its_secrets(stack: str) -> None:
    secrets = {f"cloud-run-tasks:{key}": text for key, text in PLACEHOLDERS.items()}
    assert secrets.keys() == SECRETS.keys()
    evaluation = evaluate(config=configuration(stack), secrets=secrets)
    versions = evaluation.of_type("gcp:secretmanager/secretVersion:SecretVersion")
    assert {version.inputs["secretData"] for version in versions} == set(PLACEHOLDERS.values())


def test_the_program_fits_on_a_page() -> None:
    assert len((ROOT / "__main__.py").read_text().splitlines()) <= 60


def test_it_exports_what_a_producer_and_an_operator_need(config: dict[str, str]) -> None:
    s = parsed(config)
    evaluation = evaluate(config=config, secrets=SECRETS)
    image = evaluation.exports["image"]
    queue = f"projects/shop-project/locations/{s.region}/queues/{s.queue['queue_name']}"
    assert evaluation.exports == {
        "service_url": SERVICE_URL,
        "invoker_email": f"{s.invoker['invoker_account']}@shop-project.iam.gserviceaccount.com",
        "queue": queue,
        "dead_letter_queue": f"{queue}-dead-letters",
        "image": image,
        "dashboard_url": (
            "https://console.cloud.google.com/monitoring/dashboards/builder/monitoring_id?project=shop-project"
        ),
    }
    assert {resource.id for resource in queues(evaluation)} == {queue, f"{queue}-dead-letters"}
    repository = f"{s.region}-docker.pkg.dev/shop-project/{s.image['repository_name']}/{s.service['service_name']}"
    assert re.fullmatch(re.escape(repository) + "@sha256:[0-9a-f]{64}", image)


def test_what_it_exports_is_unknown_in_a_first_preview(config: dict[str, str]) -> None:
    assert evaluate(config=config, secrets=SECRETS, preview=True).exports == dict.fromkeys(
        ["service_url", "invoker_email", "queue", "dead_letter_queue", "image", "dashboard_url"]
    )


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://x.run.app", {"scheme": "HTTPS", "host": "x.run.app"}),
        ("http://127.0.0.1:8080", {"scheme": "HTTP", "host": "127.0.0.1", "port": "8080"}),
    ],
)
def test_the_service_runs_the_exported_image_and_dead_letters_go_to_the_exported_url(
    config: dict[str, str], url: str, address: dict[str, str]
) -> None:
    evaluation = evaluate(config=config, secrets=SECRETS, service_url=url)
    [service] = evaluation.of_type("gcp:cloudrunv2/service:Service")
    [container] = service.inputs["template"]["containers"]
    assert container["image"] == evaluation.exports["image"]
    assert evaluation.exports["service_url"] == url
    _, dead_letters = queues(evaluation)
    assert dead_letters.inputs["httpTarget"] == {
        "httpMethod": "POST",
        "uriOverride": {**address, "pathOverride": {"path": "/process-order"}, "uriOverrideEnforceMode": "ALWAYS"},
        "oidcToken": {"serviceAccountEmail": evaluation.exports["invoker_email"], "audience": url},
    }


@pytest.mark.parametrize("simulate_effects", ["false", "true"])
@pytest.mark.parametrize(("retry_until_handled", "attempts"), [("false", 9), ("true", -1)])
def test_the_handler_has_the_attempt_budget_and_the_queue_too_unless_only_the_handler_ends_a_task(
    config: dict[str, str], retry_until_handled: str, attempts: int, simulate_effects: str
) -> None:
    other = {
        "cloud-run-tasks:maxAttempts": "9",
        "cloud-run-tasks:handlerTimeoutSeconds": "123",
        "cloud-run-tasks:retryUntilHandled": retry_until_handled,
        "cloud-run-tasks:simulateEffects": simulate_effects,
    }
    evaluation = evaluate(config=config | other, secrets=SECRETS)
    [service] = evaluation.of_type("gcp:cloudrunv2/service:Service")
    [container] = service.inputs["template"]["containers"]
    assert {env["name"]: env["value"] for env in container["envs"] if "value" in env} == {
        "MAX_ATTEMPTS": "9",
        "HANDLER_TIMEOUT_SECONDS": "123",
        "DEAD_LETTER_QUEUE": evaluation.exports["dead_letter_queue"],
        "SIMULATE_EFFECTS": simulate_effects,
        "GOOGLE_CLOUD_PROJECT": "shop-project",
    }
    queue, dead_letters = queues(evaluation)
    assert queue.inputs["retryConfig"]["maxAttempts"] == attempts
    assert dead_letters.inputs["retryConfig"]["maxAttempts"] == -1
    for each in (queue, dead_letters):
        assert each.inputs["retryConfig"]["maxRetryDuration"] == "0s"


def test_every_location_is_the_region(config: dict[str, str]) -> None:
    evaluation = evaluate(config=config | {"cloud-run-tasks:region": "europe-west1"}, secrets=SECRETS)
    places = {resource.inputs.get("location", "europe-west1") for resource in evaluation.resources.values()}
    assert places == {"europe-west1"}
    assert "/locations/europe-west1/" in evaluation.exports["dead_letter_queue"]


def test_both_queues_together_never_send_more_than_the_service_takes_at_once() -> None:
    most = {
        "cloud-run-tasks:maxInstances": "3",
        "cloud-run-tasks:containerConcurrency": "7",
        "cloud-run-tasks:maxConcurrentDispatches": "16",
    }
    evaluation = evaluate(config=configuration("dev") | most)
    assert sum(queue.inputs["rateLimits"]["maxConcurrentDispatches"] for queue in queues(evaluation)) == 3 * 7


def test_production_guards_its_queues_and_its_service_and_development_goes_at_the_first_destroy() -> None:
    for stack, guarded in (("prod", True), ("dev", False)):
        evaluation = evaluate(config=configuration(stack), secrets=SECRETS)
        [service] = evaluation.of_type("gcp:cloudrunv2/service:Service")
        assert service.inputs["deletionProtection"] is guarded
        protected = {resource.name for resource in evaluation.resources.values() if resource.options.protect}
        assert protected == ({"queue", "queue-dead-letters"} if guarded else set())
        hooks = [kind.name for each in evaluation.resources.values() for kind, _ in each.options.hooks.ListFields()]
        assert hooks == ["before_update"]  # one before a deletion would stop a destroy without --run-program


NAMES = ("accountId", "imageName", "member", "name", "repositoryId", "secret", "secretId", "serviceAccountId")
"""The inputs that name something in a project."""


def names(evaluation: Evaluation) -> set[tuple[str, ...]]:
    """Type and names of all that a stack declares but the APIs; titles where people have nothing else to go by."""
    found = set()
    for resource in evaluation.resources.values():
        inputs = resource.inputs
        if resource.type == "gcp:monitoring/dashboard:Dashboard":
            inputs = json.loads(inputs["dashboardJson"])
        if not is_component(resource) and resource.type != "gcp:projects/service:Service":
            named = [inputs[key] for key in NAMES if key in inputs] or [inputs["displayName"]]
            found.add((resource.type, *named))
    return found


def test_the_stacks_share_a_project_without_a_name_in_common() -> None:
    more = {"cloud-run-tasks:alertEmails": '["on-call@shop.example"]'}
    stacks = [names(evaluate(config=configuration(stack) | more, secrets=SECRETS)) for stack in STACKS]
    assert min(map(len, stacks)) > 20
    assert len(set.union(*stacks)) == sum(map(len, stacks))


def test_an_image_by_digest_is_run_and_exported_and_nothing_is_built(config: dict[str, str]) -> None:
    image = "us-central1-docker.pkg.dev/shop-project/cloud-run-tasks/task-handler@sha256:" + "5" * 64
    evaluation = evaluate(config=config | {"cloud-run-tasks:image": image}, secrets=SECRETS)
    [service] = evaluation.of_type("gcp:cloudrunv2/service:Service")
    assert service.inputs["template"]["containers"][0]["image"] == image == evaluation.exports["image"]
    assert not evaluation.of_type("docker:index/image:Image")


def test_every_resource_is_a_child_of_a_component(evaluation: Evaluation) -> None:
    components = {urn for urn, resource in evaluation.resources.items() if is_component(resource)}
    assert {evaluation.resources[urn].type.rpartition(":")[2] for urn in components} == {
        "Apis",
        "HandlerImage",
        "HandlerService",
        "Monitoring",
        "TaskInvoker",
        "TaskQueue",
    }
    for urn, resource in evaluation.resources.items():
        if urn not in components:
            assert resource.parent in components, urn


def test_every_resource_waits_for_the_api_that_it_calls_and_no_other_api_is_enabled(evaluation: Evaluation) -> None:
    enabled = {
        resource.inputs["service"]: urn
        for urn, resource in evaluation.resources.items()
        if resource.type == "gcp:projects/service:Service"
    }
    called = set()
    for urn, resource in evaluation.resources.items():
        if not is_component(resource) and urn not in enabled.values():
            api = API[resource.type.partition("/")[0]] + ".googleapis.com"
            assert enabled[api] in ancestors(resource, evaluation.resources), urn
            called.add(api)
    assert enabled.keys() == called | {"logging.googleapis.com"}  # an alert watches the handler's log


def test_a_stack_without_secrets_declares_none_and_keeps_the_api_enabled() -> None:
    evaluation = evaluate(config=configuration("dev"))
    assert not [resource for resource in evaluation.resources.values() if "secretmanager/" in resource.type]
    services = {service.inputs["service"] for service in evaluation.of_type("gcp:projects/service:Service")}
    assert "secretmanager.googleapis.com" in services


GRANTS = {
    "gcp:cloudrunv2/serviceIamMember:ServiceIamMember": "name",
    "gcp:cloudtasks/queueIamMember:QueueIamMember": "name",
    "gcp:secretmanager/secretIamMember:SecretIamMember": "secretId",
    "gcp:serviceaccount/iAMMember:IAMMember": "serviceAccountId",
}
"""The types of the grants, each a membership, and the input that says on what."""


def test_every_grant_is_a_membership_and_this_is_all_that_is_granted(config: dict[str, str]) -> None:
    """So nobody acts as the handler, and the handler may do nothing to the queue that its orders come from."""
    s = parsed(config)
    evaluation = evaluate(config=config, secrets=SECRETS)
    grants = [resource for resource in evaluation.resources.values() if "iam" in resource.type.lower()]
    accounts = "shop-project.iam.gserviceaccount.com"
    invoker, handler = s.invoker["invoker_account"], f"serviceAccount:{s.service['handler_account']}@{accounts}"
    service, queue = s.service["service_name"], s.queue["queue_name"]
    assert sorted((g.inputs["role"], g.inputs[GRANTS[g.type]], g.inputs["member"]) for g in grants) == sorted(
        [
            ("roles/run.invoker", service, f"serviceAccount:{invoker}@{accounts}"),
            *(
                (f"roles/cloudtasks.{role}", f"{queue}-dead-letters", handler)
                for role in ("enqueuer", "taskDeleter", "viewer")
            ),
            *(("roles/secretmanager.secretAccessor", f"{service}-{label}", handler) for label in LABELS),
            *(("roles/cloudtasks.enqueuer", queue, producer) for producer in s.producers),
            *(
                (
                    "roles/iam.serviceAccountUser",
                    f"projects/shop-project/serviceAccounts/{invoker}@{accounts}",
                    producer,
                )
                for producer in s.producers
            ),
        ]
    )
    assert s.producers


def test_no_other_type_of_grant_appears_in_a_preview(evaluation: Evaluation) -> None:
    assert {resource.type for resource in evaluation.resources.values() if "iam" in resource.type.lower()} == set(
        GRANTS
    )


def test_nobody_can_add_an_order_before_the_handler_can_store_what_fails(evaluation: Evaluation) -> None:
    grants = evaluation.of_type("gcp:cloudtasks/queueIamMember:QueueIamMember")
    queue, dead_letters = queues(evaluation)
    handler_s = {grant.urn for grant in grants if grant.inputs["name"] == dead_letters.inputs["name"]}
    producers_ = [grant for grant in grants if grant.inputs["name"] == queue.inputs["name"]]
    assert len(handler_s) == 3
    assert producers_
    for grant in producers_:
        assert handler_s <= grant.depends_on
        assert dead_letters.urn in ancestors(grant, evaluation.resources)


@pytest.mark.parametrize("preview", [False, True], ids=["known", "preview"])
def test_a_secret_is_nowhere_in_the_state_but_encrypted_and_in_no_log(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    config: dict[str, str],
    preview: bool,
) -> None:
    """Inputs as the engine receives them, and what components and the stack hand over as outputs."""
    sent: list[object] = []
    outputs = MockMonitor.RegisterResourceOutputs

    def spy(monitor: MockMonitor, request: object) -> object:
        sent.append(request)
        return outputs(monitor, request)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(MockMonitor, "RegisterResourceOutputs", spy)
    evaluation = evaluate(config=config, secrets=SECRETS, preview=preview)
    assert len(sent) == 7  # six components and the stack
    assert HIDDEN not in str(sent) + str(evaluation.exports) + caplog.text + "".join(capfd.readouterr())
    found = []
    for resource in evaluation.resources.values():
        request = type(resource.options)()
        request.CopyFrom(resource.options)
        if resource.type == "gcp:secretmanager/secretVersion:SecretVersion":
            value = json_format.MessageToDict(request.object)["secretData"]
            assert rpc.is_rpc_secret(value)
            found.append(rpc.unwrap_rpc_secret(value))
            del request.object.fields["secretData"]
        assert HIDDEN not in str(request), resource.urn
    assert sorted(found) == sorted(SECRETS.values())


def test_each_secret_reaches_the_variable_of_its_own_name(config: dict[str, str]) -> None:
    evaluation = evaluate(config=config, secrets=SECRETS)
    [service] = evaluation.of_type("gcp:cloudrunv2/service:Service")
    [container] = service.inputs["template"]["containers"]
    references = {env["name"]: env["valueSource"]["secretKeyRef"] for env in container["envs"] if "value" not in env}
    assert all(reference.keys() == {"secret", "version"} for reference in references.values())
    versions = {
        version.id: version.inputs["secretData"]
        for version in evaluation.of_type("gcp:secretmanager/secretVersion:SecretVersion")
    }
    assert {
        name: versions[f"projects/shop-project/secrets/{reference['secret']}/versions/{reference['version']}"]
        for name, reference in references.items()
    } == {
        "DATABASE_URL": SECRETS["cloud-run-tasks:databaseUrl"],
        "SMTP_URL": SECRETS["cloud-run-tasks:smtpUrl"],
        "WAREHOUSE_URL": SECRETS["cloud-run-tasks:warehouseUrl"],
        "WAREHOUSE_SECRET": SECRETS["cloud-run-tasks:warehouseSecret"],
    }


def test_the_service_starts_once_it_may_read_its_secrets(evaluation: Evaluation) -> None:
    [service] = evaluation.of_type("gcp:cloudrunv2/service:Service")
    readers = evaluation.of_type("gcp:secretmanager/secretIamMember:SecretIamMember")
    versions = evaluation.of_type("gcp:secretmanager/secretVersion:SecretVersion")
    assert len(readers) == len(versions) == 4
    assert {resource.urn for resource in (*readers, *versions)} <= service.depends_on


def test_no_stack_of_ours_is_warned_of_anything(caplog: pytest.LogCaptureFixture, config: dict[str, str]) -> None:
    evaluate(config=config, secrets=SECRETS)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_stack_that_sets_its_project_and_its_secrets_declares_the_figures_of_the_design() -> None:
    evaluation = evaluate(config=PROJECT, secrets=SECRETS)
    queue, dead_letters = queues(evaluation)
    assert dead_letters.inputs["name"] == "cloud-run-tasks-dead-letters"
    assert dead_letters.inputs["rateLimits"] == {"maxDispatchesPerSecond": 5.0, "maxConcurrentDispatches": 5.0}
    assert queue.inputs == {
        "project": "shop-project",
        "location": "us-central1",
        "name": "cloud-run-tasks",
        "rateLimits": {"maxDispatchesPerSecond": 50.0, "maxConcurrentDispatches": 20.0},
        "retryConfig": {
            "maxAttempts": 5.0,
            "minBackoff": "10s",
            "maxBackoff": "300s",
            "maxDoublings": 4.0,
            "maxRetryDuration": "0s",
        },
        "stackdriverLoggingConfig": {"samplingRatio": 1.0},
    }
    [service] = evaluation.of_type("gcp:cloudrunv2/service:Service")
    template = service.inputs["template"]
    [container] = template["containers"]
    assert (service.inputs["name"], service.inputs["location"]) == ("task-handler", "us-central1")
    assert service.inputs["deletionProtection"] is True
    assert container["resources"]["limits"]["memory"] == "512Mi"
    assert template["timeout"] == "300s"
    assert template["scaling"] == {"maxInstanceCount": 10.0}
    assert template["maxInstanceRequestConcurrency"] == 20.0
    assert template["serviceAccount"] == "task-handler-sa@shop-project.iam.gserviceaccount.com"
    accounts = {account.name: account.inputs for account in evaluation.of_type("gcp:serviceaccount/account:Account")}
    assert accounts == {
        "handler-account": {
            "project": "shop-project",
            "accountId": "task-handler-sa",
            "displayName": "Task Handler",
        },
        "invoker": {
            "project": "shop-project",
            "accountId": "cloud-tasks-invoker",
            "displayName": "Cloud Tasks Invoker",
        },
    }
    [binding] = evaluation.of_type("gcp:cloudrunv2/serviceIamMember:ServiceIamMember")
    assert binding.inputs == {
        "project": "shop-project",
        "location": "us-central1",
        "name": "task-handler",
        "role": "roles/run.invoker",
        "member": "serviceAccount:cloud-tasks-invoker@shop-project.iam.gserviceaccount.com",
    }
    [repository] = evaluation.of_type("gcp:artifactregistry/repository:Repository")
    assert repository.inputs["repositoryId"] == "cloud-run-tasks"
    [image] = evaluation.of_type("docker:index/image:Image")
    assert image.inputs["imageName"] == "us-central1-docker.pkg.dev/shop-project/cloud-run-tasks/task-handler:latest"
    assert (ROOT / image.inputs["build"]["dockerfile"]).is_file()


def test_without_producers_nobody_may_enqueue_or_act_as_the_invoker() -> None:
    evaluation = evaluate(config=PROJECT, secrets=SECRETS)
    assert evaluation.of_type("gcp:cloudrunv2/serviceIamMember:ServiceIamMember")
    assert not evaluation.of_type("gcp:serviceaccount/iAMMember:IAMMember")
    grants = evaluation.of_type("gcp:cloudtasks/queueIamMember:QueueIamMember")
    assert {grant.inputs["name"] for grant in grants} == {"cloud-run-tasks-dead-letters"}


@pytest.mark.parametrize("preview", [False, True], ids=["known", "preview"])
def test_nothing_is_declared_when_the_settings_are_refused(monkeypatch: pytest.MonkeyPatch, preview: bool) -> None:
    registered: list[str] = []
    register = MockMonitor.RegisterResource

    def spy(monitor: MockMonitor, request: object) -> object:
        registered.append(request.type)  # type: ignore[attr-defined]
        return register(monitor, request)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(MockMonitor, "RegisterResource", spy)
    with pytest.raises(reading.SettingsError, match=r"cloud-run-tasks:maxAttempts = '0'"):
        evaluate(config=PROJECT | {"cloud-run-tasks:maxAttempts": "0"}, secrets=SECRETS, preview=preview)
    assert set(registered) <= {"pulumi:pulumi:Stack"}
    evaluate(config=PROJECT, secrets=SECRETS, preview=preview)
    assert "gcp:cloudtasks/queue:Queue" in registered


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("preview", [False, True], ids=["known", "preview"])
def test_a_resource_that_is_declared_twice_is_refused(preview: bool) -> None:
    def program() -> None:
        projects.Service("api", service="run.googleapis.com")
        projects.Service("api", service="iam.googleapis.com")

    with pytest.raises(ProgramError, match=r"gcp:projects/service:Service 'api' is declared twice"):
        evaluate(program, config={}, preview=preview)


@pytest.mark.usefixtures("nothing_left")
def test_a_component_that_is_declared_twice_is_refused() -> None:
    def program() -> None:
        Apis("apis", "shop-project", ["run"])
        Apis("apis", "shop-project", ["iam"])

    with pytest.raises(ProgramError, match=r"cloud-run-tasks:index:Apis 'apis' is declared twice"):
        evaluate(program, config={})


@pytest.mark.usefixtures("nothing_left")
def test_a_program_that_asks_the_cloud_is_refused() -> None:
    with pytest.raises(ProgramError, match=r"gcp:organizations/getProject:getProject"):
        evaluate(lambda: organizations.get_project(), config={})


@pytest.fixture
def left_over() -> Iterator[None]:
    """What a failed evaluation can leave in Pulumi's set: an output of a loop that is closed."""
    loop = asyncio.new_event_loop()
    output: asyncio.Future[None] = loop.create_future()
    output.set_result(None)
    loop.close()
    SETTINGS.outputs.add(output)
    yield
    SETTINGS.outputs.discard(output)


@pytest.mark.usefixtures("left_over")
def test_an_evaluation_waits_for_nothing_that_another_left_over() -> None:
    assert evaluate(config=PROJECT, secrets=SECRETS).exports["service_url"] == SERVICE_URL


def test_one_evaluation_s_exports_and_configuration_do_not_reach_the_next() -> None:
    def program() -> None:
        pulumi.export("colour", pulumi.Config("shop").get("colour"))

    assert evaluate(program, config={"shop:colour": "red"}).exports == {"colour": "red"}
    assert evaluate(program, config={}).exports == {"colour": None}
    assert evaluate(lambda: None, config={"shop:colour": "red"}).exports == {}


def test_what_was_set_with_secret_is_known_as_such_and_to_one_evaluation_alone() -> None:
    def program() -> None:
        pulumi.export("colour", pulumi.Config("shop").get("colour"))
        pulumi.export("secret", pulumi.runtime.is_config_secret("shop:colour"))

    secret = evaluate(program, config={"shop:size": "9"}, secrets={"shop:colour": "red"})
    assert secret.exports == {"colour": "red", "secret": True}
    assert evaluate(program, config={}).exports == {"colour": None, "secret": False}
    assert evaluate(program, config={"shop:colour": "red"}).exports == {"colour": "red", "secret": False}


def test_what_was_set_with_secret_is_added_to_a_stack_s_own_file() -> None:
    configured: dict[str, str] = {}
    evaluate(lambda: configured.update(reading.raw_configuration()), stack="prod", secrets=SECRETS)
    assert configured == {**stack_configuration("prod"), **SECRETS}


def write(root: Path, text: str, stack: str = "dev") -> Path:
    (root / f"Pulumi.{stack}.yaml").write_text(text)
    return root


def test_the_texts_of_a_stack_s_file_are_those_that_the_engine_hands_over(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        config:
          a:text: red
          a:true: true
          a:whole: 9
          a:fraction: 0.5
          a:quoted: "5"
          a:list: [x, y]
          a:map: {x: 1}
        """,
    )
    assert stack_configuration("dev", tmp_path) == {
        "a:text": "red",
        "a:true": "true",
        "a:whole": "9",
        "a:fraction": "0.5",
        "a:quoted": "5",
        "a:list": '["x", "y"]',
        "a:map": '{"x": 1}',
    }


def test_encrypted_values_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "config:\n  a:password:\n    secure: v1:abc=\n  a:text: red\n")
    assert stack_configuration("dev", tmp_path) == {"a:text": "red"}


@pytest.mark.parametrize("text", ["", "config:\n", "config: {}\n", "encryptionsalt: v1:abc=\n"])
def test_a_stack_s_file_may_set_nothing(tmp_path: Path, text: str) -> None:
    assert stack_configuration("dev", write(tmp_path, text)) == {}


def test_a_stack_without_a_file_is_refused_with_those_that_have_one(tmp_path: Path) -> None:
    write(write(tmp_path, "", "dev"), "", "prod")
    with pytest.raises(ProgramError) as refused:
        stack_configuration("stage", tmp_path)
    assert str(refused.value) == (
        f"no stack 'stage': {tmp_path}/Pulumi.stage.yaml does not exist; stacks here: dev, prod"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("config: a: b\n", "is not YAML: "),
        ("config: [\n", "is not YAML: "),
        ("config: [a]\n", "`config:` must map keys to values"),
        ("config: red\n", "`config:` must map keys to values"),
        ("red", "`config:` must map keys to values"),
    ],
)
def test_a_file_that_is_no_stack_s_configuration_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(reason)) as refused:
        stack_configuration("dev", write(tmp_path, text))
    assert str(refused.value).startswith(f"{tmp_path}/Pulumi.dev.yaml")


def test_a_stack_is_evaluated_with_its_own_file() -> None:
    configured: dict[str, str] = {}
    evaluate(lambda: configured.update(reading.raw_configuration()), stack="dev")
    assert configured == stack_configuration("dev")
    assert configured["cloud-run-tasks:deletionProtection"] == "false"
