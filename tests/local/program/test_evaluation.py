import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pulumi
import pytest
from pulumi.runtime.settings import SETTINGS
from pulumi_gcp import organizations, projects

from components.apis import Apis
from configuration import raw_configuration
from local.program import SERVICE_URL, ProgramError, evaluate, stack_configuration
from tests.declared import SECRET_TEXTS, configuration


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Pulumi keeps what is pending in one set for the whole process: left there, the next evaluation waits for ever."""
    yield
    left = len(SETTINGS.outputs)
    SETTINGS.outputs.clear()
    assert left == 0


def twice(declare: Callable[[str], object]) -> Callable[[], None]:
    """A program that declares something twice."""

    def program() -> None:
        declare("run")
        declare("iam")

    return program


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("preview", [False, True], ids=["known", "preview"])
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            twice(lambda api: projects.Service("api", service=f"{api}.googleapis.com")),
            "gcp:projects/service:Service 'api' is declared twice",
        ),
        (
            twice(lambda api: Apis("apis", "shop-project", [api])),
            "cloud-run-tasks:index:Apis 'apis' is declared twice",
        ),
        (lambda: organizations.get_project(), "gcp:organizations/getProject:getProject"),
    ],
    ids=["a resource twice", "a component twice", "a question to the cloud"],
)
def test_what_the_engine_or_the_cloud_would_have_to_answer_is_refused(
    program: Callable[[], object], reason: str, preview: bool
) -> None:
    with pytest.raises(ProgramError, match=reason):
        evaluate(program, config={}, preview=preview)


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
    assert evaluate(config=configuration(), secrets=SECRET_TEXTS).exports["service_url"] == SERVICE_URL


def test_one_evaluation_s_exports_configuration_and_secrets_do_not_reach_the_next() -> None:
    def program() -> None:
        pulumi.export("colour", pulumi.Config("shop").get("colour"))
        pulumi.export("secret", pulumi.runtime.is_config_secret("shop:colour"))

    secret = evaluate(program, config={"shop:size": "9"}, secrets={"shop:colour": "red"})
    assert secret.exports == {"colour": "red", "secret": True}
    assert evaluate(program, config={}).exports == {"colour": None, "secret": False}
    assert evaluate(program, config={"shop:colour": "red"}).exports == {"colour": "red", "secret": False}
    assert evaluate(lambda: None, config={"shop:colour": "red"}).exports == {}


def test_what_was_set_with_secret_is_added_to_a_stack_s_own_file() -> None:
    configured: dict[str, str] = {}
    evaluate(lambda: configured.update(raw_configuration()), stack="prod", secrets=SECRET_TEXTS)
    assert configured == {**stack_configuration("prod"), **SECRET_TEXTS}


def write(root: Path, text: str, stack: str = "dev") -> Path:
    (root / f"Pulumi.{stack}.yaml").write_text(text)
    return root


def test_the_texts_of_a_stack_s_file_are_those_that_the_engine_hands_over_without_encrypted_ones(
    tmp_path: Path,
) -> None:
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
          a:password: {secure: "v1:abc="}
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
    evaluate(lambda: configured.update(raw_configuration()), stack="dev")
    assert configured == stack_configuration("dev")
    assert configured["cloud-run-tasks:deletionProtection"] == "false"
