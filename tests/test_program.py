import asyncio
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pulumi
import pytest
from pulumi.runtime.mocks import MockMonitor
from pulumi.runtime.settings import SETTINGS
from pulumi_gcp import organizations, projects

import settings
from components.apis import Apis
from local.program import ROOT, SERVICE_URL, Evaluation, ProgramError, Resource, evaluate, stack_configuration

STACKS = sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in ROOT.glob("Pulumi.*.yaml"))
PROJECT = {"gcp:project": "shop-project"}
WEB = "serviceAccount:web@shop-project.iam.gserviceaccount.com"

API = {
    "gcp:artifactregistry": "artifactregistry",
    "gcp:cloudrunv2": "run",
    "gcp:cloudtasks": "cloudtasks",
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
    return evaluate(config=config, preview=request.param)


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


def is_component(resource: Resource) -> bool:
    return resource.type.startswith("cloud-run-tasks:")


def test_the_development_stack_is_among_those_found() -> None:
    assert "dev" in STACKS


def test_the_program_fits_on_a_page() -> None:
    assert len((ROOT / "__main__.py").read_text().splitlines()) <= 60


def test_it_exports_what_a_producer_needs(config: dict[str, str]) -> None:
    s = settings.parse(config, "cloud-run-tasks")
    evaluation = evaluate(config=config)
    image = evaluation.exports["image"]
    assert evaluation.exports == {
        "service_url": SERVICE_URL,
        "invoker_email": f"{s.invoker['invoker_account']}@shop-project.iam.gserviceaccount.com",
        "queue": f"projects/shop-project/locations/{s.region}/queues/{s.queue['queue_name']}",
        "image": image,
    }
    repository = f"{s.region}-docker.pkg.dev/shop-project/{s.image['repository_name']}/{s.service['service_name']}"
    assert re.fullmatch(re.escape(repository) + "@sha256:[0-9a-f]{64}", image)


def test_what_it_exports_is_unknown_in_a_first_preview(config: dict[str, str]) -> None:
    assert evaluate(config=config, preview=True).exports == dict.fromkeys(
        ["service_url", "invoker_email", "queue", "image"]
    )


def test_the_service_runs_the_exported_image_and_is_reached_at_the_exported_url(config: dict[str, str]) -> None:
    evaluation = evaluate(config=config, service_url="http://127.0.0.1:8080")
    [service] = evaluation.of_type("gcp:cloudrunv2/service:Service")
    [container] = service.inputs["template"]["containers"]
    assert container["image"] == evaluation.exports["image"]
    assert evaluation.exports["service_url"] == "http://127.0.0.1:8080"


def test_queue_and_handler_have_one_attempt_budget_and_every_location_is_the_region(config: dict[str, str]) -> None:
    other = {"cloud-run-tasks:maxAttempts": "9", "cloud-run-tasks:region": "europe-west1"}
    evaluation = evaluate(config=config | other)
    [service] = evaluation.of_type("gcp:cloudrunv2/service:Service")
    [queue] = evaluation.of_type("gcp:cloudtasks/queue:Queue")
    [container] = service.inputs["template"]["containers"]
    assert {"name": "MAX_ATTEMPTS", "value": "9"} in container["envs"]
    assert queue.inputs["retryConfig"]["maxAttempts"] == 9
    places = {resource.inputs.get("location", "europe-west1") for resource in evaluation.resources.values()}
    assert places == {"europe-west1"}


def test_every_resource_is_a_child_of_a_component(evaluation: Evaluation) -> None:
    components = {urn for urn, resource in evaluation.resources.items() if is_component(resource)}
    assert {evaluation.resources[urn].type.rpartition(":")[2] for urn in components} == {
        "Apis",
        "HandlerImage",
        "HandlerService",
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
    assert enabled.keys() == called


def test_every_grant_is_a_membership_of_one_known_member(evaluation: Evaluation, config: dict[str, str]) -> None:
    grants = [resource for resource in evaluation.resources.values() if "iam" in resource.type.lower()]
    assert {grant.type.rpartition(":")[2] for grant in grants} == {"ServiceIamMember", "IAMMember", "QueueIamMember"}
    assert {grant.inputs["role"] for grant in grants} == {
        "roles/run.invoker",
        "roles/iam.serviceAccountUser",
        "roles/cloudtasks.enqueuer",
    }
    producers = settings.parse(config, "cloud-run-tasks").producers
    for grant in grants:
        [invoker] = evaluation.of_type("gcp:cloudrunv2/serviceIamMember:ServiceIamMember")
        assert (grant.inputs["member"] in producers) is (grant is not invoker)


def test_a_stack_that_sets_only_its_project_declares_the_figures_of_the_design() -> None:
    evaluation = evaluate(config=PROJECT)
    [queue] = evaluation.of_type("gcp:cloudtasks/queue:Queue")
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
    types = {resource.type for resource in evaluate(config=PROJECT).resources.values()}
    assert "gcp:cloudrunv2/serviceIamMember:ServiceIamMember" in types
    assert not types & {"gcp:cloudtasks/queueIamMember:QueueIamMember", "gcp:serviceaccount/iAMMember:IAMMember"}


@pytest.mark.parametrize("preview", [False, True], ids=["known", "preview"])
def test_nothing_is_declared_when_the_settings_are_refused(monkeypatch: pytest.MonkeyPatch, preview: bool) -> None:
    registered: list[str] = []
    register = MockMonitor.RegisterResource

    def spy(monitor: MockMonitor, request: object) -> object:
        registered.append(request.type)  # type: ignore[attr-defined]
        return register(monitor, request)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(MockMonitor, "RegisterResource", spy)
    with pytest.raises(settings.SettingsError, match=r"cloud-run-tasks:maxAttempts = '0'"):
        evaluate(config=PROJECT | {"cloud-run-tasks:maxAttempts": "0"}, preview=preview)
    assert set(registered) <= {"pulumi:pulumi:Stack"}
    evaluate(config=PROJECT, preview=preview)
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
    assert evaluate(config=PROJECT).exports["service_url"] == SERVICE_URL


def test_one_evaluation_s_exports_and_configuration_do_not_reach_the_next() -> None:
    def program() -> None:
        pulumi.export("colour", pulumi.Config("shop").get("colour"))

    assert evaluate(program, config={"shop:colour": "red"}).exports == {"colour": "red"}
    assert evaluate(program, config={}).exports == {"colour": None}
    assert evaluate(lambda: None, config={"shop:colour": "red"}).exports == {}


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
    evaluate(lambda: configured.update(settings.raw_configuration()), stack="dev")
    assert configured == stack_configuration("dev")
    assert configured["cloud-run-tasks:deletionProtection"] == "false"
