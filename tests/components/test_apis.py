import pytest

from tests.declared import STACKS, declare

API = {
    "gcp:artifactregistry": "artifactregistry",
    "gcp:cloudrunv2": "run",
    "gcp:cloudscheduler": "cloudscheduler",
    "gcp:cloudtasks": "cloudtasks",
    "gcp:logging": "logging",
    "gcp:monitoring": "monitoring",
    "gcp:secretmanager": "secretmanager",
    "gcp:serviceaccount": "iam",
    "docker:index": "artifactregistry",
}
"""The API that the resources of a module call; the image is pushed to the registry."""


@pytest.mark.parametrize("preview", [False, True])
def test_every_resource_waits_for_the_api_that_it_calls_and_no_other_api_is_enabled(preview: bool) -> None:
    declared = declare(preview=preview)
    called = {"logging"}  # an alert reads the handler's log
    for name, resource in declared.resources.items():
        module = resource.type.partition("/")[0]
        if not resource.type.startswith("cloud-run-tasks:") and module != "gcp:projects":
            called.add(API[module])
            assert f"Service apis-{API[module]}" in declared.long_after(name), name
    enabled = {name for name in declared.resources if name.startswith("Service apis-")}
    assert enabled == {f"Service apis-{api}" for api in called}
    for name in enabled:
        assert declared[name]["service"] == name.removeprefix("Service apis-") + ".googleapis.com"


@pytest.mark.parametrize("stack", STACKS)
def test_an_api_stays_enabled_when_the_stack_is_destroyed(stack: str) -> None:
    """Something else in the project may use it."""
    apis = [inputs for name, inputs in declare(stack).of("Service").items() if "apis-" in name]
    assert apis
    assert not any(api["disableOnDestroy"] for api in apis)
