"""A configuration error says what is wrong, where, and which command fixes it."""

import re

import pytest
from order_tasks import Config, ConfigError

ENVIRONMENT = {
    "ORDER_TASKS_QUEUE": "projects/shop/locations/us-central1/queues/cloud-run-tasks",
    "ORDER_TASKS_SERVICE_URL": "https://task-handler-abc.a.run.app",
    "ORDER_TASKS_INVOKER_EMAIL": "cloud-tasks-invoker@shop.iam.gserviceaccount.com",
}
OUTPUTS = {
    "queue": ENVIRONMENT["ORDER_TASKS_QUEUE"],
    "service_url": ENVIRONMENT["ORDER_TASKS_SERVICE_URL"],
    "invoker_email": ENVIRONMENT["ORDER_TASKS_INVOKER_EMAIL"],
    "image": "ignored",
}
LOCAL = {
    **OUTPUTS,
    "service_url": "http://127.0.0.1:8080",
    "tasks_grpc": "127.0.0.1:8123",
    "issuer": "http://127.0.0.1:8124",
}


def test_environment_and_outputs_say_the_same() -> None:
    assert Config.from_environment(ENVIRONMENT) == Config.from_outputs(OUTPUTS, {})


def test_a_local_clouds_line_is_enough() -> None:
    config = Config.from_outputs(LOCAL, {"CLOUD_TASKS_EMULATOR_HOST": "other:1"})
    assert (config.emulator_host, config.service_url) == ("127.0.0.1:8123", "http://127.0.0.1:8080")


@pytest.mark.parametrize("host", ["127.0.0.1:8123", "localhost:1", "[::1]:65535", "cloud-tasks:8123"])
def test_the_emulator_variable_counts_beside_environment_and_outputs(host: str) -> None:
    emulator = {"CLOUD_TASKS_EMULATOR_HOST": host}
    assert Config.from_environment(ENVIRONMENT | emulator).emulator_host == host
    assert Config.from_outputs(OUTPUTS, emulator).emulator_host == host


def test_an_empty_emulator_variable_is_an_unset_one() -> None:
    assert Config.from_environment(ENVIRONMENT | {"CLOUD_TASKS_EMULATOR_HOST": ""}).emulator_host is None


def test_the_audience_has_no_trailing_slash() -> None:
    slash = {"ORDER_TASKS_SERVICE_URL": "https://task-handler-abc.a.run.app/"}
    assert Config.from_environment(ENVIRONMENT | slash).service_url == "https://task-handler-abc.a.run.app"


def test_all_missing_variables_are_named_at_once_each_with_its_command() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_environment({"ORDER_TASKS_QUEUE": ""})
    assert str(caught.value).splitlines() == [
        'ORDER_TASKS_QUEUE is missing: export ORDER_TASKS_QUEUE="$(pulumi stack output queue)"',
        'ORDER_TASKS_SERVICE_URL is missing: export ORDER_TASKS_SERVICE_URL="$(pulumi stack output service_url)"',
        'ORDER_TASKS_INVOKER_EMAIL is missing: export ORDER_TASKS_INVOKER_EMAIL="$(pulumi stack output invoker_email)"',
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORDER_TASKS_QUEUE", "cloud-run-tasks"),
        ("ORDER_TASKS_QUEUE", "projects/p/locations/l/queues/under_score"),
        ("ORDER_TASKS_QUEUE", "projects/p/locations/l/queues/q/tasks/t"),
        ("ORDER_TASKS_QUEUE", "projects/p/locations/l/queues/q\n"),
        ("ORDER_TASKS_DEAD_LETTER_QUEUE", "dead-letters"),
        ("ORDER_TASKS_SERVICE_URL", "task-handler-abc.a.run.app"),
        ("ORDER_TASKS_SERVICE_URL", "https://task-handler-abc.a.run.app/process-order"),
        ("ORDER_TASKS_SERVICE_URL", "https://task-handler-abc.a.run.app?x=1"),
        ("ORDER_TASKS_SERVICE_URL", "https://host:99999"),
        ("ORDER_TASKS_SERVICE_URL", "http://task-handler-abc.a.run.app"),
        ("ORDER_TASKS_INVOKER_EMAIL", "cloud-tasks-invoker"),
        ("ORDER_TASKS_INVOKER_EMAIL", "a b@c.d"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1"),
        ("CLOUD_TASKS_EMULATOR_HOST", "http://127.0.0.1:8123"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:0x50"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:65536"),
    ],
)
def test_an_invalid_variable_is_named_with_its_value_and_remedy(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{variable} is {re.escape(repr(value))}.*: export {variable}="):
        Config.from_environment(ENVIRONMENT | {variable: value})


def test_outputs_are_named_as_outputs() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_outputs({**OUTPUTS, "queue": 7, "service_url": None}, {})
    assert str(caught.value).splitlines() == [
        "output queue is 7, not projects/P/locations/L/queues/Q: run `pulumi stack output queue` in a deployed stack",
        "output service_url is missing: run `pulumi stack output service_url` in a deployed stack",
    ]
    with pytest.raises(ConfigError, match=r"^output tasks_grpc is 8123, not host:port .*python -m local up --json"):
        Config.from_outputs({**LOCAL, "tasks_grpc": 8123}, {})
    with pytest.raises(ConfigError, match=r"^CLOUD_TASKS_EMULATOR_HOST is 'x', not host:port"):
        Config.from_outputs(OUTPUTS, {"CLOUD_TASKS_EMULATOR_HOST": "x"})


def test_a_config_built_in_code_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^Config.invoker_email is 'x'"):
        Config(OUTPUTS["queue"], OUTPUTS["service_url"], "x")


def test_a_plain_http_service_needs_a_local_cloud() -> None:
    with pytest.raises(ConfigError, match="https only, except to a local cloud"):
        Config(OUTPUTS["queue"], "http://127.0.0.1:8080", OUTPUTS["invoker_email"])


DEAD_LETTER_QUEUE = "projects/shop/locations/us-central1/queues/cloud-run-tasks-dead-letters"


def test_only_operators_need_the_dead_letter_queue() -> None:
    assert Config.from_environment(ENVIRONMENT).dead_letter_queue is None
    assert Config.from_environment(ENVIRONMENT | {"ORDER_TASKS_DEAD_LETTER_QUEUE": ""}).dead_letter_queue is None
    variable = {"ORDER_TASKS_DEAD_LETTER_QUEUE": DEAD_LETTER_QUEUE}
    assert Config.from_environment(ENVIRONMENT | variable, dead_letters=True).dead_letter_queue == DEAD_LETTER_QUEUE
    output = {"dead_letter_queue": DEAD_LETTER_QUEUE}
    assert Config.from_outputs(OUTPUTS | output, {}, dead_letters=True).dead_letter_queue == DEAD_LETTER_QUEUE
    with pytest.raises(ConfigError) as missing_variable:
        Config.from_environment(ENVIRONMENT, dead_letters=True)
    assert str(missing_variable.value) == (
        "ORDER_TASKS_DEAD_LETTER_QUEUE is missing: "
        'export ORDER_TASKS_DEAD_LETTER_QUEUE="$(pulumi stack output dead_letter_queue)"'
    )
    with pytest.raises(ConfigError) as missing_output:
        Config.from_outputs(OUTPUTS, {}, dead_letters=True)
    assert str(missing_output.value) == (
        "output dead_letter_queue is missing: run `pulumi stack output dead_letter_queue` in a deployed stack"
    )


def test_the_queue_is_not_its_own_dead_letter_queue() -> None:
    with pytest.raises(ConfigError, match=r"^output dead_letter_queue is .*, the same as the queue: a replay would"):
        Config.from_outputs({**OUTPUTS, "dead_letter_queue": OUTPUTS["queue"]}, {})
    with pytest.raises(ConfigError, match=r"^Config.dead_letter_queue is 'x', not projects/P/"):
        Config(OUTPUTS["queue"], OUTPUTS["service_url"], OUTPUTS["invoker_email"], dead_letter_queue="x")
