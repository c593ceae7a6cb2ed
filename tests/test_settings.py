import dataclasses
import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

import settings
from local.program import evaluate
from settings import Settings, SettingsError

PROJECT = "cloud-run-tasks"
WEB = "serviceAccount:web@shop-project.iam.gserviceaccount.com"

DEFAULTS: dict[str, Any] = {
    "project": "shop-project",
    "region": "us-central1",
    "producers": (),
    "queue": {
        "queue_name": "cloud-run-tasks",
        "max_dispatches_per_second": 50.0,
        "max_concurrent_dispatches": 20,
        "max_attempts": 5,
        "min_backoff_seconds": 10.0,
        "max_backoff_seconds": 300.0,
        "max_doublings": 4,
    },
    "image": {"repository_name": "cloud-run-tasks"},
    "service": {
        "service_name": "task-handler",
        "memory": "512Mi",
        "handler_timeout_seconds": 300,
        "max_instances": 10,
        "container_concurrency": 20,
        "deletion_protection": True,
        "handler_account": "task-handler-sa",
    },
    "invoker": {"invoker_account": "cloud-tasks-invoker", "invoker_display_name": "Cloud Tasks Invoker"},
}

OVERRIDES: dict[str, tuple[str, str, str, object]] = {
    "region": ("europe-west1", "", "region", "europe-west1"),
    "producers": (json.dumps([WEB]), "", "producers", (WEB,)),
    "queueName": ("Orders-2", "queue", "queue_name", "Orders-2"),
    "maxDispatchesPerSecond": ("0.5", "queue", "max_dispatches_per_second", 0.5),
    "maxConcurrentDispatches": ("7", "queue", "max_concurrent_dispatches", 7),
    "maxAttempts": ("9", "queue", "max_attempts", 9),
    "minBackoffSeconds": ("0.1", "queue", "min_backoff_seconds", 0.1),
    "maxBackoffSeconds": ("3600", "queue", "max_backoff_seconds", 3600.0),
    "maxDoublings": ("16", "queue", "max_doublings", 16),
    "repositoryName": ("order-images", "image", "repository_name", "order-images"),
    "serviceName": ("order-handler", "service", "service_name", "order-handler"),
    "memory": ("1Gi", "service", "memory", "1Gi"),
    "handlerTimeoutSeconds": ("60", "service", "handler_timeout_seconds", 60),
    "maxInstances": ("3", "service", "max_instances", 3),
    "containerConcurrency": ("80", "service", "container_concurrency", 80),
    "deletionProtection": ("false", "service", "deletion_protection", False),
    "handlerAccount": ("order-handler-sa", "service", "handler_account", "order-handler-sa"),
    "invokerAccount": ("order-invoker", "invoker", "invoker_account", "order-invoker"),
    "invokerDisplayName": ("Order Invoker", "invoker", "invoker_display_name", "Order Invoker"),
}
"""Another value for each setting: its text, where it goes, and what stands there."""

ACCOUNT_IDS = ["", "short", "a" * 31, "1-account", "Account", "account-", "an_account", "account@example"]
WHOLE_NUMBERS = ["", "many", "1.5", "true", "[1]", "nan", "inf", "-inf", "-1", "0"]
NUMBERS = ["", "many", "true", "[1]", "nan", "inf", "-inf", "-1", "0", "0.0009"]

REFUSED: dict[str, list[str]] = {
    "region": ["", "us-central", "us-central1-a", "US-CENTRAL1", "uscentral1", "us-central1 "],
    "producers": [
        "",
        WEB,
        json.dumps(WEB),
        json.dumps({"0": WEB}),
        "[1]",
        "null",
        f'["{WEB}"',
        '["allUsers"]',
        '["allAuthenticatedUsers"]',
        '["group:allUsers"]',
        '["domain:example.com"]',
        '["web@shop-project.iam.gserviceaccount.com"]',
        '["serviceAccount:web"]',
        '["serviceAccount: web@example.com"]',
        '["principal://example.com/subject/web"]',
        json.dumps([WEB, "allUsers"]),
    ],
    "queueName": ["", "a" * 101, "my_queue", "a/b", "a.b", "a b", "queue\n"],
    "maxDispatchesPerSecond": [*NUMBERS, "500.1"],
    "maxConcurrentDispatches": [*WHOLE_NUMBERS, "5001"],
    "maxAttempts": [*WHOLE_NUMBERS, "1001", "9" * 400, "5_0", " 5", "٣"],
    "minBackoffSeconds": [*NUMBERS, "10s", "2678401", "1e300"],
    "maxBackoffSeconds": [*NUMBERS, "300s", "2678401"],
    "maxDoublings": [*WHOLE_NUMBERS, "101"],
    "repositoryName": ["", "a" * 64, "1-images", "Images", "images-", "my_images", "a/b"],
    "serviceName": ["", "a" * 50, "1-handler", "Handler", "handler-", "my_handler"],
    "memory": ["", "512", "512M", "512mi", "0.5Gi", "127Mi", "4097Mi", "0Gi", "5Gi", " 512Mi"],
    "handlerTimeoutSeconds": [*WHOLE_NUMBERS, "601", "300s"],
    "maxInstances": [*WHOLE_NUMBERS, "1001"],
    "containerConcurrency": [*WHOLE_NUMBERS, "1001"],
    "deletionProtection": ["", "yes", "True", "0", "1", '"false"', "[false]", "null"],
    "handlerAccount": ACCOUNT_IDS,
    "invokerAccount": ACCOUNT_IDS,
    "invokerDisplayName": ["", "a" * 101, "two\nlines"],
}


def parse(**configuration: str) -> Settings:
    """Settings of a stack that sets these keys and a project."""
    keys = {f"{PROJECT}:{key}": text for key, text in configuration.items()}
    return settings.parse({"gcp:project": "shop-project", **keys}, PROJECT)


def findings(configuration: Mapping[str, str]) -> list[str]:
    """What is refused about a whole configuration."""
    with pytest.raises(SettingsError) as refused:
        settings.parse(configuration, PROJECT)
    heading, *lines = str(refused.value).split("\n  ")
    assert heading == "The configuration of this stack cannot be deployed:"
    return lines


def finding(**configuration: str) -> str:
    """The one thing that is refused about these keys."""
    keys = {f"{PROJECT}:{key}": text for key, text in configuration.items()}
    [line] = findings({"gcp:project": "shop-project", **keys})
    return line


def test_a_stack_that_sets_only_its_project_has_the_defaults_of_the_design() -> None:
    assert dataclasses.asdict(parse()) == DEFAULTS


@pytest.mark.parametrize("key", OVERRIDES)
def test_each_setting_reaches_its_own_field_and_no_other(key: str) -> None:
    text, section, name, value = OVERRIDES[key]
    got = dataclasses.asdict(parse(**{key: text}))
    place = got[section] if section else got
    assert type(place[name]) is type(value)
    assert got == DEFAULTS | ({section: DEFAULTS[section] | {name: value}} if section else {name: value})


def test_every_setting_has_a_row_of_the_table_an_override_and_refused_values_here() -> None:
    leaves = DEFAULTS.keys() - {"project", "queue", "image", "service", "invoker"}
    names = leaves.union(*(DEFAULTS[section] for section in ("queue", "image", "service", "invoker")))
    keys = {re.sub(r"_(.)", lambda match: match[1].upper(), name) for name in names}
    assert OVERRIDES.keys() == keys
    assert REFUSED.keys() == keys
    heading, rule, *rows = settings.table().splitlines()
    assert heading == "| setting | default | accepts | meaning |"
    assert rule == "| --- | --- | --- | --- |"
    assert {re.match(r"\| `(\w+)` \|", row)[1] for row in rows} == keys  # type: ignore[index]
    assert len(rows) == len(keys)
    assert all(row.count("|") == 5 and "|  |" not in row for row in rows)


@pytest.mark.parametrize(
    "row",
    [
        "| `maxDispatchesPerSecond` | `50` | a number from 0.001 to 500 | Highest rate of dispatches |",
        "| `maxAttempts` | `5` | a whole number from 1 to 1000 |",
        "| `deletionProtection` | `true` | true or false |",
        "| `invokerDisplayName` | `Cloud Tasks Invoker` | 1 to 100 characters |",
        "| `producers` | `[]` | a list of",
    ],
)
def test_a_row_of_the_table_says_the_default_and_what_is_accepted(row: str) -> None:
    assert f"\n{row}" in settings.table()


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in REFUSED.items() for text in texts])
def test_a_refused_value_is_named_with_its_key_and_a_remedy_that_works(key: str, text: str) -> None:
    line = finding(**{key: text})
    what, _, remedy = line.rpartition("; ")
    assert what.startswith(f"{PROJECT}:{key} = {text!r}: must be ")
    _, _, command = remedy.partition(": ")
    match shlex.split(command):
        case ["pulumi", "config", "set", "--path", path, item]:
            assert path == f"{key}[0]"
            parse(**{key: json.dumps([f"{item}@shop-project.iam.gserviceaccount.com"])})
        case ["pulumi", "config", "set", named, value]:
            assert named == key
            assert parse(**{key: value}) == parse()
        case _:
            pytest.fail(f"no command in {line!r}")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("queueName", "a"),
        ("queueName", "A" * 100),
        ("maxDispatchesPerSecond", "0.001"),
        ("maxDispatchesPerSecond", "500"),
        ("maxConcurrentDispatches", "1"),
        ("maxConcurrentDispatches", "5000"),
        ("maxAttempts", "1"),
        ("maxAttempts", "1000"),
        ("minBackoffSeconds", "0.001"),
        ("maxBackoffSeconds", "100000"),
        ("maxDoublings", "1"),
        ("maxDoublings", "100"),
        ("repositoryName", "a"),
        ("repositoryName", "a" * 63),
        ("serviceName", "a"),
        ("serviceName", "a" * 49),
        ("memory", "128Mi"),
        ("memory", "4096Mi"),
        ("memory", "4Gi"),
        ("handlerTimeoutSeconds", "1"),
        ("handlerTimeoutSeconds", "600"),
        ("maxInstances", "1"),
        ("maxInstances", "1000"),
        ("containerConcurrency", "1"),
        ("containerConcurrency", "1000"),
        ("deletionProtection", "true"),
        ("handlerAccount", "abcde1"),
        ("invokerAccount", "a" * 30),
        ("invokerDisplayName", "x" * 100),
        ("region", "northamerica-northeast2"),
        ("producers", "[]"),
        ("producers", '["user:ada@example.com", "group:web@example.com"]'),
        ("producers", '["principal://iam.googleapis.com/locations/global/workforcePools/p/subject/s"]'),
        ("producers", '["principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/*"]'),
    ],
)
def test_a_range_includes_both_its_ends(key: str, text: str) -> None:
    capacity = {"maxConcurrentDispatches": "1", "maxInstances": "1000", "containerConcurrency": "1000"}
    parse(**capacity | {key: text})


@pytest.mark.parametrize(
    ("fits", "broken", "key", "reason"),
    [
        (
            {"maxConcurrentDispatches": "12", "maxInstances": "3", "containerConcurrency": "4"},
            {"maxConcurrentDispatches": "13"},
            "maxConcurrentDispatches",
            "must not exceed maxInstances x containerConcurrency = 12",
        ),
        (
            {"minBackoffSeconds": "7.5", "maxBackoffSeconds": "7.5"},
            {"minBackoffSeconds": "7.6"},
            "minBackoffSeconds",
            "must not exceed maxBackoffSeconds = 7.5",
        ),
        (
            {"handlerAccount": "order-handler", "invokerAccount": "order-invoker"},
            {"handlerAccount": "order-invoker"},
            "handlerAccount",
            "must not be invokerAccount",
        ),
        (
            {"producers": json.dumps([WEB, "group:web@example.com"])},
            {"producers": json.dumps([WEB, WEB])},
            "producers",
            "must name each member once",
        ),
    ],
)
def test_settings_must_fit_each_other(fits: dict[str, str], broken: dict[str, str], key: str, reason: str) -> None:
    parse(**fits)
    line = finding(**fits | broken)
    assert line.startswith(f"{PROJECT}:{key} = {broken[key]!r}: {reason}")
    assert "; " in line


def test_the_handler_never_outlasts_the_dispatch_deadline() -> None:
    assert settings.DISPATCH_DEADLINE_SECONDS == 600
    assert "must be a whole number from 1 to 600;" in finding(handlerTimeoutSeconds="601")


@pytest.mark.parametrize("project", [None, "", "Shop", "shop", "1-shop-project", "shop-project-", "a" * 31, "shop_pro"])
def test_a_missing_or_impossible_project_is_refused(project: str | None) -> None:
    assert findings({} if project is None else {"gcp:project": project}) == [
        f"gcp:project = {project or ''!r}: must be the id of a Google Cloud project; "
        "set it: pulumi config set gcp:project PROJECT_ID"
    ]


@pytest.mark.parametrize("project", ["shop-1", "a" * 30, "example.com:shop-project"])
def test_the_project_is_taken_from_the_provider_s_configuration(project: str) -> None:
    assert settings.parse({"gcp:project": project}, PROJECT).project == project


@pytest.mark.parametrize(
    ("key", "hint"),
    [("maxAttempt", "; did you mean maxAttempts?"), ("MaxAttempts", "; did you mean maxAttempts?"), ("colour", "")],
)
def test_an_unknown_key_is_refused_with_the_setting_that_it_resembles(key: str, hint: str) -> None:
    assert finding(**{key: "3"}) == (f"{PROJECT}:{key} = '3': no such setting{hint}; remove it: pulumi config rm {key}")


def test_a_setting_under_another_project_s_name_is_refused() -> None:
    assert findings({"gcp:project": "shop-project", "cloud-tasks:maxAttempts": "3"}) == [
        "cloud-tasks:maxAttempts = '3': no such setting; the settings of this project begin with "
        f"{PROJECT}:; remove it: pulumi config rm cloud-tasks:maxAttempts"
    ]


def test_the_configuration_of_providers_and_of_pulumi_is_theirs() -> None:
    theirs = {"gcp:region": "europe-west1", "docker:host": "unix:///run/docker.sock", "pulumi:tags": "{}"}
    assert settings.parse({"gcp:project": "shop-project", **theirs}, PROJECT) == parse()


def test_all_findings_are_reported_at_once() -> None:
    bad = {"maxAttempts": "0", "memory": "lots", "colour": "red"}
    lines = findings({f"{PROJECT}:{key}": text for key, text in bad.items()} | {"other:region": "x"})
    assert [line.partition(" = ")[0] for line in lines] == [
        "gcp:project",
        f"{PROJECT}:colour",
        f"{PROJECT}:maxAttempts",
        f"{PROJECT}:memory",
        "other:region",
    ]


def test_all_conflicts_are_reported_at_once() -> None:
    lines = findings(
        {
            "gcp:project": "shop-project",
            f"{PROJECT}:maxInstances": "1",
            f"{PROJECT}:containerConcurrency": "19",
            f"{PROJECT}:maxBackoffSeconds": "9",
            f"{PROJECT}:handlerAccount": "cloud-tasks-invoker",
        }
    )
    assert [line.partition(": must")[0] for line in lines] == [
        f"{PROJECT}:maxConcurrentDispatches = '20'",
        f"{PROJECT}:minBackoffSeconds = '10'",
        f"{PROJECT}:handlerAccount = 'cloud-tasks-invoker'",
    ]


CONFIGURED = {"gcp:project": "shop-project", f"{PROJECT}:maxAttempts": "9", f"{PROJECT}:colour": "red", "a:b": "c"}


def read(config: Mapping[str, str]) -> dict[str, str]:
    """What `raw_configuration` lists while a program runs, which must be what `pulumi.Config` reads key by key."""
    found: dict[str, str] = {}

    def program() -> None:
        found.update(settings.raw_configuration())
        for full_key, text in found.items():
            namespace, _, key = full_key.partition(":")
            assert pulumi.Config(namespace).get(key) == text

    evaluate(program, config=config)
    return found


def test_every_configured_key_is_listed_under_mocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULUMI_CONFIG", raising=False)
    assert read(CONFIGURED) == CONFIGURED


def test_every_configured_key_is_listed_from_the_engine_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(CONFIGURED))
    assert read({}) == CONFIGURED


def test_what_is_set_outright_prevails_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(CONFIGURED))
    assert read({f"{PROJECT}:maxAttempts": "2"}) == CONFIGURED | {f"{PROJECT}:maxAttempts": "2"}


def test_a_running_program_loads_its_own_stack_s_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULUMI_CONFIG", raising=False)
    loaded: list[Settings] = []
    evaluate(
        lambda: loaded.append(settings.load()), config={"gcp:project": "shop-project", f"{PROJECT}:maxAttempts": "9"}
    )
    assert loaded == [parse(maxAttempts="9")]
