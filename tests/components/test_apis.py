import pulumi
import pytest
from pulumi_gcp import projects

from components.apis import Apis
from tests.components.conftest import Declare


def program() -> None:
    apis = Apis("apis", "shop-project", ["run", "cloudtasks"])
    projects.Service("caller", service="x", opts=pulumi.ResourceOptions(depends_on=[apis["cloudtasks"]]))


def test_each_api_is_enabled_and_stays_enabled_when_the_stack_goes(declare: Declare) -> None:
    declared = declare(program)
    children = {key: child for key, child in declared.items() if child.parent == declared["Apis apis"].urn}
    assert {key: child.inputs for key, child in children.items()} == {
        "Service apis-run": {"project": "shop-project", "service": "run.googleapis.com", "disableOnDestroy": False},
        "Service apis-cloudtasks": {
            "project": "shop-project",
            "service": "cloudtasks.googleapis.com",
            "disableOnDestroy": False,
        },
    }
    assert {child.type for child in children.values()} == {"gcp:projects/service:Service"}
    assert len(declared) == len(children) + 2


def test_an_api_by_its_short_name_is_what_its_callers_wait_for(declare: Declare) -> None:
    declared = declare(program)
    assert declared["Service caller"].depends_on == {declared["Service apis-cloudtasks"].urn}


def test_an_api_that_is_not_enabled_cannot_be_waited_for(declare: Declare) -> None:
    def program() -> None:
        apis = Apis("apis", "shop-project", ["run"])
        with pytest.raises(KeyError, match="iam"):
            apis["iam"]

    assert declare(program).keys() == {"Apis apis", "Service apis-run"}
