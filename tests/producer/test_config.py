"""A configuration error says what is wrong, where, and which command fixes it."""

import re
from typing import Any

import pytest
from order_tasks import Config, ConfigError

OUTPUTS = {
    "queue": "projects/shop/locations/us-central1/queues/cloud-run-tasks",
    "service_url": "https://task-handler-abc.a.run.app",
    "invoker_email": "cloud-tasks-invoker@shop.iam.gserviceaccount.com",
}
ENVIRONMENT = {f"ORDER_TASKS_{name.upper()}": value for name, value in OUTPUTS.items()}
LOCAL = {**OUTPUTS, "service_url": "http://127.0.0.1:8080", "tasks_grpc": "127.0.0.1:8123", "issuer": "ignored"}
DEAD_LETTER_QUEUE = f"{OUTPUTS['queue']}-dead-letters"


def test_outputs_name_an_invoker_that_producers_need_not_act_as() -> None:
    config = Config.from_outputs({**OUTPUTS, "image": "ignored"}, {})
    assert config == Config.from_environment({"ORDER_TASKS_QUEUE": OUTPUTS["queue"]})


def test_the_line_of_a_local_cloud_is_enough() -> None:
    assert Config.from_outputs(LOCAL, {"CLOUD_TASKS_EMULATOR_HOST": "other:1"}).emulator_host == "127.0.0.1:8123"


@pytest.mark.parametrize("host", ["127.0.0.1:8123", "localhost:1", "[::1]:65535", "cloud-tasks:8123", ""])
def test_the_emulator_variable_counts_beside_environment_and_outputs(host: str) -> None:
    emulator = {"CLOUD_TASKS_EMULATOR_HOST": host}
    assert Config.from_environment(ENVIRONMENT | emulator).emulator_host == (host or None)
    assert Config.from_outputs(OUTPUTS, emulator).emulator_host == (host or None)


def test_the_audience_has_no_trailing_slash() -> None:
    slash = {"ORDER_TASKS_SERVICE_URL": "https://task-handler-abc.a.run.app/"}
    assert Config.from_environment(ENVIRONMENT | slash).service_url == "https://task-handler-abc.a.run.app"


def test_the_queue_alone_is_enough() -> None:
    for config in (Config.from_environment({"ORDER_TASKS_QUEUE": OUTPUTS["queue"]}), Config(OUTPUTS["queue"])):
        assert (config.service_url, config.invoker_email) == (None, None)


def errors(variables: dict[str, str], **options: bool) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.from_environment(variables, **options)
    return str(caught.value).splitlines()


def output_errors(outputs: dict[str, object], environ: dict[str, str] | None = None, **options: bool) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.from_outputs(outputs, environ or {}, **options)
    return str(caught.value).splitlines()


def test_all_missing_variables_are_named_at_once_each_with_its_command() -> None:
    assert errors({"ORDER_TASKS_QUEUE": "", "ORDER_TASKS_INVOKER_EMAIL": "x"}) == [
        'ORDER_TASKS_QUEUE is missing: export ORDER_TASKS_QUEUE="$(pulumi stack output queue)"',
        "ORDER_TASKS_SERVICE_URL is missing, and the invoker's tokens need it as their audience: "
        'export ORDER_TASKS_SERVICE_URL="$(pulumi stack output service_url)"',
        "ORDER_TASKS_INVOKER_EMAIL is 'x', not a service account's e-mail: "
        'export ORDER_TASKS_INVOKER_EMAIL="$(pulumi stack output invoker_email)"',
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
    [error] = errors(ENVIRONMENT | {variable: value})
    assert re.match(rf"{variable} is {re.escape(repr(value))}.*: export {variable}=", error)


def test_outputs_are_named_as_outputs() -> None:
    assert output_errors({**OUTPUTS, "queue": 7, "dead_letter_queue": 8}) == [
        "output queue is 7, not projects/P/locations/L/queues/Q: run `pulumi stack output queue` in a deployed stack",
        "output dead_letter_queue is 8, not projects/P/locations/L/queues/Q: "
        "run `pulumi stack output dead_letter_queue` in a deployed stack",
    ]
    [error] = output_errors({**LOCAL, "tasks_grpc": 8123})
    assert re.match(r"output tasks_grpc is 8123, not host:port .*python -m local up --json", error)
    [error] = output_errors({**OUTPUTS}, {"CLOUD_TASKS_EMULATOR_HOST": "x"})
    assert error.startswith("CLOUD_TASKS_EMULATOR_HOST is 'x', not host:port")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"invoker_email": "x"}, "Config.invoker_email is 'x'"),
        ({"service_url": "http://127.0.0.1:8080"}, "https only, except to a local cloud"),
        ({"call_timeout": 0}, "Config.call_timeout is 0: pass a number of seconds above 0"),
        ({"attempt_timeout": float("nan")}, "Config.attempt_timeout is nan: pass"),
        ({"dead_letter_queue": "x"}, "Config.dead_letter_queue is 'x', not projects/P/"),
        ({"dead_letter_queue": OUTPUTS["queue"]}, "the same as the queue: a replay would pause it"),
    ],
)
def test_a_config_built_in_code_is_checked_too(arguments: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        Config(**(OUTPUTS | arguments))


def test_only_operators_need_the_dead_letter_queue() -> None:
    assert Config.from_environment(ENVIRONMENT).dead_letter_queue is None
    variables, outputs = {"ORDER_TASKS_DEAD_LETTER_QUEUE": DEAD_LETTER_QUEUE}, {"dead_letter_queue": DEAD_LETTER_QUEUE}
    assert Config.from_environment(ENVIRONMENT | variables, dead_letters=True).dead_letter_queue == DEAD_LETTER_QUEUE
    assert Config.from_outputs(OUTPUTS | outputs, {}, dead_letters=True).dead_letter_queue == DEAD_LETTER_QUEUE
    command = 'export ORDER_TASKS_DEAD_LETTER_QUEUE="$(pulumi stack output dead_letter_queue)"'
    missing = [f"ORDER_TASKS_DEAD_LETTER_QUEUE is missing: {command}"]
    assert errors(ENVIRONMENT | {"ORDER_TASKS_DEAD_LETTER_QUEUE": ""}, dead_letters=True) == missing
    assert output_errors({**OUTPUTS}, dead_letters=True) == [
        "output dead_letter_queue is missing: run `pulumi stack output dead_letter_queue` in a deployed stack"
    ]
