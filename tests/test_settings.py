import dataclasses
import json
import re
import shlex
import traceback
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

import configuration as reading
import settings
from configuration import SettingsError
from docs.pages import settings_table
from local.program import evaluate
from local.sinks.effects import PLACEHOLDERS
from settings import Settings

PROJECT = "cloud-run-tasks"
WEB = "serviceAccount:web@shop-project.iam.gserviceaccount.com"

HIDDEN = "hunter2"
"""Part of each secret here, so that it can be searched for."""
SECRETS = {
    "databaseUrl": f"postgresql://shop:{HIDDEN}@db.shop.example/orders?sslmode=require",
    "smtpUrl": f"smtp://shop:{HIDDEN}@mail.shop.example:587?from=orders@shop.example",
    "warehouseUrl": f"https://warehouse.example/{HIDDEN}/orders",
    "warehouseSecret": f"{HIDDEN}-0123456789",
}

DEFAULTS: dict[str, Any] = {
    "project": "shop-project",
    "region": "us-central1",
    "producers": (),
    "queue": {
        "queue_name": "cloud-run-tasks",
        "max_dispatches_per_second": 50.0,
        "max_concurrent_dispatches": 20,
        "max_attempts": 5,
        "retry_until_handled": False,
        "min_backoff_seconds": 10.0,
        "max_backoff_seconds": 300.0,
        "max_doublings": 4,
        "attempt_log_ratio": 1.0,
    },
    "image": {"repository_name": "cloud-run-tasks", "image": ""},
    "service": {
        "service_name": "task-handler",
        "memory": "512Mi",
        "handler_timeout_seconds": 300,
        "max_instances": 10,
        "container_concurrency": 20,
        "deletion_protection": True,
        "handler_account": "task-handler-sa",
    },
    "effects": {
        "simulate_effects": False,
        "database_url": SECRETS["databaseUrl"],
        "smtp_url": SECRETS["smtpUrl"],
        "warehouse_url": SECRETS["warehouseUrl"],
        "warehouse_secret": SECRETS["warehouseSecret"],
    },
    "invoker": {"invoker_account": "cloud-tasks-invoker", "invoker_display_name": "Cloud Tasks Invoker"},
    "monitoring": {"alert_emails": (), "notification_channels": ()},
}
"""What a stack has that sets only its project and its secrets."""
SECTIONS = ("queue", "image", "service", "effects", "invoker", "monitoring")
IMAGE = "europe-west1-docker.pkg.dev/shop-project/images/handler@sha256:" + "5" * 64
PAGER = "projects/shop-project/notificationChannels/17"

OVERRIDES: dict[str, tuple[str, str, str, object]] = {
    "region": ("europe-west1", "", "region", "europe-west1"),
    "producers": (json.dumps([WEB]), "", "producers", (WEB,)),
    "queueName": ("Orders-2", "queue", "queue_name", "Orders-2"),
    "maxDispatchesPerSecond": ("0.5", "queue", "max_dispatches_per_second", 0.5),
    "maxConcurrentDispatches": ("7", "queue", "max_concurrent_dispatches", 7),
    "maxAttempts": ("9", "queue", "max_attempts", 9),
    "retryUntilHandled": ("true", "queue", "retry_until_handled", True),
    "minBackoffSeconds": ("0.1", "queue", "min_backoff_seconds", 0.1),
    "maxBackoffSeconds": ("3600", "queue", "max_backoff_seconds", 3600.0),
    "maxDoublings": ("16", "queue", "max_doublings", 16),
    "attemptLogRatio": ("0.25", "queue", "attempt_log_ratio", 0.25),
    "repositoryName": ("order-images", "image", "repository_name", "order-images"),
    "image": (IMAGE, "image", "image", IMAGE),
    "serviceName": ("order-handler", "service", "service_name", "order-handler"),
    "memory": ("1Gi", "service", "memory", "1Gi"),
    "handlerTimeoutSeconds": ("60", "service", "handler_timeout_seconds", 60),
    "maxInstances": ("3", "service", "max_instances", 3),
    "containerConcurrency": ("80", "service", "container_concurrency", 80),
    "deletionProtection": ("false", "service", "deletion_protection", False),
    "handlerAccount": ("order-handler-sa", "service", "handler_account", "order-handler-sa"),
    "simulateEffects": ("true", "effects", "simulate_effects", True),
    "databaseUrl": ("postgresql:///other", "effects", "database_url", "postgresql:///other"),
    "smtpUrl": ("smtps://mail?from=a@b.example", "effects", "smtp_url", "smtps://mail?from=a@b.example"),
    "warehouseUrl": ("https://other.example", "effects", "warehouse_url", "https://other.example"),
    "warehouseSecret": ("0123456789abcdef", "effects", "warehouse_secret", "0123456789abcdef"),
    "invokerAccount": ("order-invoker", "invoker", "invoker_account", "order-invoker"),
    "invokerDisplayName": ("Order Invoker", "invoker", "invoker_display_name", "Order Invoker"),
    "alertEmails": ('["on-call@shop.example"]', "monitoring", "alert_emails", ("on-call@shop.example",)),
    "notificationChannels": (json.dumps([PAGER]), "monitoring", "notification_channels", (PAGER,)),
}
"""Another value for each setting: its text, where it goes, and what stands there."""

ACCOUNT_IDS = ["", "short", "a" * 31, "1-account", "Account", "account-", "an_account", "account@example"]
WHOLE_NUMBERS = ["", "many", "1.5", "true", "[1]", "nan", "inf", "-inf", "-1", "0"]
FLAGS = ["", "yes", "True", "0", "1", '"false"', "[false]", "null"]
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
    "queueName": ["", "a" * 88, "my_queue", "a/b", "a.b", "a b", "queue\n"],
    "maxDispatchesPerSecond": [*NUMBERS, "500.1"],
    "maxConcurrentDispatches": [*WHOLE_NUMBERS, "5001"],
    "maxAttempts": [*WHOLE_NUMBERS, "1001", "9" * 400, "5_0", " 5", "٣"],
    "retryUntilHandled": FLAGS,
    "minBackoffSeconds": [*NUMBERS, "10s", "2678401", "1e300"],
    "maxBackoffSeconds": [*NUMBERS, "300s", "2678401"],
    "maxDoublings": [*WHOLE_NUMBERS, "101"],
    "attemptLogRatio": ["", "most", "true", "nan", "-0.1", "1.1", "10%"],
    "image": [IMAGE[:-1], IMAGE + "5", IMAGE.partition("@")[0] + ":latest", "handler@sha256:" + "5" * 64, f"{IMAGE}\n"],
    "repositoryName": ["", "a" * 64, "1-images", "Images", "images-", "my_images", "a/b"],
    "serviceName": ["", "a" * 50, "1-handler", "Handler", "handler-", "my_handler"],
    "memory": ["", "512", "512M", "512mi", "0.5Gi", "127Mi", "4097Mi", "0Gi", "5Gi", " 512Mi"],
    "handlerTimeoutSeconds": [*WHOLE_NUMBERS, "59", "601", "300s"],
    "maxInstances": [*WHOLE_NUMBERS, "1001"],
    "containerConcurrency": [*WHOLE_NUMBERS, "1001"],
    "deletionProtection": FLAGS,
    "handlerAccount": ACCOUNT_IDS,
    "simulateEffects": FLAGS,
    "databaseUrl": [
        "",
        HIDDEN,
        f"mysql://shop:{HIDDEN}@db/orders",
        f"postgres://shop:{HIDDEN}@db/orders",
        f"sqlite:///{HIDDEN}.sqlite",
        f"POSTGRESQL://shop:{HIDDEN}@db/orders",
        f"postgresql://shop:{HIDDEN}@db/ord ers",
        f"postgresql://shop:{HIDDEN}@db/orders\n",
        f" postgresql://shop:{HIDDEN}@db/orders",
        "postgresql://",
    ],
    "smtpUrl": [
        "",
        HIDDEN,
        f"http://shop:{HIDDEN}@mail?from=orders@shop.example",
        f"smtp://shop:{HIDDEN}@mail:587",
        f"smtp://shop:{HIDDEN}@mail:587?sender=orders@shop.example",
        f"smtp://shop:{HIDDEN}@mail:587?from=",
        f"smtp://shop:{HIDDEN}@mail:587?from=orders",
        f"smtp://shop:{HIDDEN}@mail:587?from=orders@shop.example&tls=no",
        f"smtp://shop:{HIDDEN}@x@mail:587?from=orders@shop.example",
        f"smtp://{HIDDEN}@mail:587?from=orders@shop.example",
        f"smtp://shop:{HIDDEN}@mail:587?from=orders@shop.example\n",
        f"smtp://shop:{HIDDEN} @mail:587?from=orders@shop.example",
    ],
    "warehouseUrl": [
        "",
        HIDDEN,
        f"ftp://warehouse.example/{HIDDEN}",
        f"warehouse.example/{HIDDEN}",
        f"https://warehouse.example/{HIDDEN} orders",
        f"https://warehouse.example/{HIDDEN}\n",
        "https://",
    ],
    "warehouseSecret": ["", HIDDEN, f"{HIDDEN}-8901234", f"{HIDDEN} 9012345678", f"{HIDDEN}-0123456789\n"],
    "invokerAccount": ACCOUNT_IDS,
    "invokerDisplayName": ["", "a" * 101, "two\nlines"],
    "alertEmails": ["", "on-call@shop.example", '["on-call"]', '["on-call@shop"]', '["a b@shop.example"]', "[1]"],
    "notificationChannels": ["", PAGER, '["17"]', '["projects/shop-project/notificationChannels/pager"]', "[1]"],
}


def configuration(**keys: str) -> dict[str, str]:
    """The configuration of a stack that sets a project, its secrets and these keys."""
    return {"gcp:project": "shop-project", **{f"{PROJECT}:{key}": text for key, text in (SECRETS | keys).items()}}


def encrypted(full_key: str) -> bool:
    """Whether the key was set as a secret: here, whether it should have been."""
    return full_key.removeprefix(f"{PROJECT}:") in SECRETS


def parse(**keys: str) -> Settings:
    """Settings of a stack that sets a project, its secrets and these keys."""
    return reading.parse(configuration(**keys), PROJECT, encrypted)


def findings(configuration: Mapping[str, str]) -> list[str]:
    """What is refused about a whole configuration; never with the text of a secret."""
    with pytest.raises(SettingsError) as refused:
        reading.parse(configuration, PROJECT, encrypted)
    assert HIDDEN not in "".join(traceback.format_exception(refused.value))
    heading, *lines = str(refused.value).split("\n  ")
    assert heading == "The configuration of this stack cannot be deployed:"
    return lines


def finding(**keys: str) -> str:
    """The one thing that is refused about these keys."""
    [line] = findings(configuration(**keys))
    return line


def test_a_stack_that_sets_its_project_and_its_secrets_has_the_defaults_of_the_design() -> None:
    assert dataclasses.asdict(parse()) == DEFAULTS


@pytest.mark.parametrize("key", OVERRIDES)
def test_each_setting_reaches_its_own_field_and_no_other(key: str) -> None:
    text, section, name, value = OVERRIDES[key]
    got = dataclasses.asdict(parse(**{key: text}))
    place = got[section] if section else got
    assert type(place[name]) is type(value)
    assert got == DEFAULTS | ({section: DEFAULTS[section] | {name: value}} if section else {name: value})


def test_every_setting_has_a_row_of_the_table_an_override_and_refused_values_here() -> None:
    leaves = DEFAULTS.keys() - {"project", *SECTIONS}
    names = leaves.union(*(DEFAULTS[section] for section in SECTIONS))
    keys = {re.sub(r"_(.)", lambda match: match[1].upper(), name) for name in names}
    assert OVERRIDES.keys() == keys
    assert REFUSED.keys() == keys
    heading, rule, *rows = "\n".join(settings_table._rows()).splitlines()
    assert heading == "| setting | default | accepts | meaning |"
    assert rule == "| --- | --- | --- | --- |"
    assert {re.match(r"\| `(\w+)` \|", row)[1] for row in rows} == keys  # type: ignore[index]
    assert len(rows) == len(keys)
    assert all(row.count("|") == 5 for row in rows)
    assert {re.match(r"\| `(\w+)` \|", row)[1] for row in rows if "|  |" in row} == SECRETS.keys() | {"image"}  # type: ignore[index]


@pytest.mark.parametrize(
    "row",
    [
        "| `maxDispatchesPerSecond` | `50` | a number from 0.001 to 500 | Highest dispatch rate |",
        "| `maxAttempts` | `5` | a whole number from 1 to 1000 |",
        "| `deletionProtection` | `true` | true or false |",
        "| `retryUntilHandled` | `false` | true or false |",
        "| `simulateEffects` | `false` | true or false |",
        "| `queueName` | `cloud-run-tasks` | 1 to 87 letters, digits and hyphens",
        "| `databaseUrl` |  | a URL `postgresql://...` | Secret: ",
        "| `invokerDisplayName` | `Cloud Tasks Invoker` | 1 to 100 characters |",
        "| `producers` | `[]` | a list of",
    ],
)
def test_a_row_of_the_table_says_the_default_and_what_is_accepted(row: str) -> None:
    assert f"\n{row}" in "\n".join(settings_table._rows())


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in REFUSED.items() for text in texts])
def test_a_refused_value_is_named_with_its_key_and_a_remedy_that_works(key: str, text: str) -> None:
    line = finding(**{key: text})
    what, _, remedy = line.rpartition("; ")
    shown = "(secret)" if key in SECRETS else repr(text)
    assert what.startswith(f"{PROJECT}:{key} = {shown}: must be ")
    _, _, command = remedy.partition(": ")
    match shlex.split(command):
        case ["pulumi", "config", "set", "--path", path, item]:
            assert path == f"{key}[0]"
            parse(**{key: json.dumps([item])})
        case ["pulumi", "config", "set", "--secret", named]:
            assert named == key
            assert key in SECRETS
        case ["pulumi", "config", "set", named, value]:
            assert named == key
            assert parse(**{key: value}) == parse()
        case _:
            pytest.fail(f"no command in {line!r}")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("queueName", "a"),
        ("queueName", "A" * 87),
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
        ("attemptLogRatio", "0"),
        ("attemptLogRatio", "1"),
        ("image", ""),
        ("image", "a.b/c@sha256:" + "0" * 64),
        ("repositoryName", "a"),
        ("repositoryName", "a" * 63),
        ("serviceName", "a"),
        ("serviceName", "a" * 49),
        ("memory", "128Mi"),
        ("memory", "4096Mi"),
        ("memory", "4Gi"),
        ("handlerTimeoutSeconds", "60"),
        ("handlerTimeoutSeconds", "600"),
        ("maxInstances", "1"),
        ("maxInstances", "1000"),
        ("containerConcurrency", "1"),
        ("containerConcurrency", "1000"),
        ("deletionProtection", "true"),
        ("retryUntilHandled", "false"),
        ("simulateEffects", "false"),
        ("databaseUrl", "postgresql://db"),
        ("smtpUrl", "smtp://mail?from=a@b"),
        ("smtpUrl", "smtps://shop:p%40ss@mail.example:465?from=a@b.example"),
        ("warehouseSecret", "x" * 16),
        *PLACEHOLDERS.items(),
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
            {"maxConcurrentDispatches": "13", "maxInstances": "3", "containerConcurrency": "6"},
            {"maxConcurrentDispatches": "14"},
            "maxConcurrentDispatches",
            "must not exceed maxInstances x containerConcurrency - 5 for dead letters = 13,",
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
            "must name each item once",
        ),
        (
            {"notificationChannels": json.dumps([PAGER])},
            {"notificationChannels": json.dumps([PAGER, PAGER])},
            "notificationChannels",
            "must name each item once",
        ),
    ],
)
def test_settings_must_fit_each_other(fits: dict[str, str], broken: dict[str, str], key: str, reason: str) -> None:
    parse(**fits)
    line = finding(**fits | broken)
    assert line.startswith(f"{PROJECT}:{key} = {broken[key]!r}: {reason}")
    assert "; " in line


def without(*keys: str, **more: str) -> dict[str, str]:
    """A configuration with all secrets but these."""
    left_out = {f"{PROJECT}:{key}" for key in keys}
    return {full_key: text for full_key, text in configuration(**more).items() if full_key not in left_out}


def missing(key: str, reason: str) -> str:
    return f"{PROJECT}:{key} = '': must be set{reason}; set it: pulumi config set --secret {key}"


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_that_is_missing_is_refused_unless_effects_are_simulated(key: str) -> None:
    assert findings(without(key)) == [missing(key, ", or its effects would not happen") + ", or simulateEffects true"]


def test_a_stack_that_sets_only_its_project_is_told_of_all_its_secrets() -> None:
    lines = findings({"gcp:project": "shop-project"})
    assert [line.partition(" = ")[0] for line in lines] == [f"{PROJECT}:{key}" for key in SECRETS]


def test_a_stack_that_simulates_effects_needs_no_secret() -> None:
    simulated = reading.parse(without(*SECRETS, simulateEffects="true"), PROJECT, encrypted)
    assert dataclasses.asdict(simulated) == DEFAULTS | {
        "effects": {
            "simulate_effects": True,
            "database_url": "",
            "smtp_url": "",
            "warehouse_url": "",
            "warehouse_secret": "",
        }
    }
    assert simulated.secrets == {"DATABASE_URL": "", "SMTP_URL": "", "WAREHOUSE_URL": "", "WAREHOUSE_SECRET": ""}


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        (set(), []),
        ({"databaseUrl"}, []),
        ({"warehouseSecret"}, []),
        ({"databaseUrl", "smtpUrl"}, []),
        ({"databaseUrl", "warehouseUrl", "warehouseSecret"}, []),
        (set(SECRETS), []),
        ({"smtpUrl"}, ["databaseUrl"]),
        ({"warehouseUrl", "warehouseSecret"}, ["databaseUrl"]),
        ({"smtpUrl", "warehouseUrl", "warehouseSecret"}, ["databaseUrl"]),
        ({"databaseUrl", "warehouseUrl"}, ["warehouseSecret"]),
        ({"warehouseUrl"}, ["databaseUrl", "warehouseSecret"]),
    ],
    ids=lambda keys: " ".join(sorted(keys)) or "none",
)
def test_what_is_not_simulated_has_its_ledger_and_its_signature(given: set[str], refused: list[str]) -> None:
    config = without(*SECRETS.keys() - given, simulateEffects="true")
    reasons = {
        "databaseUrl": " with smtpUrl or warehouseUrl, or effects could repeat",
        "warehouseSecret": " with warehouseUrl, or the warehouse could not tell who calls",
    }
    if refused:
        assert findings(config) == [missing(key, reasons[key]) for key in refused]
    else:
        reading.parse(config, PROJECT, encrypted)


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_in_plain_text_is_refused_and_not_repeated(key: str) -> None:
    """As the running program is told: the others are encrypted, and what is no secret need not be."""
    plain = {"gcp:project": "shop-project", f"{PROJECT}:{key}": SECRETS[key], f"{PROJECT}:maxAttempts": "9"}
    secrets = {f"{PROJECT}:{other}": text for other, text in SECRETS.items() if other != key}
    with pytest.raises(SettingsError) as refused:
        evaluate(reading.load, config=plain, secrets=secrets)
    assert str(refused.value).split("\n  ")[1:] == [
        f"{PROJECT}:{key} = (secret): must be encrypted; set it: pulumi config set --secret {key}"
    ]


def test_a_secret_in_plain_text_that_is_also_malformed_has_two_findings() -> None:
    with pytest.raises(SettingsError) as refused:
        reading.parse(
            configuration(warehouseSecret=HIDDEN), PROJECT, lambda full_key: "warehouseSecret" not in full_key
        )
    assert HIDDEN not in str(refused.value)
    assert [line.partition("; ")[0] for line in str(refused.value).split("\n  ")[1:]] == [
        f"{PROJECT}:warehouseSecret = (secret): must be encrypted",
        f"{PROJECT}:warehouseSecret = (secret): must be at least 16 characters without spaces",
    ]


@pytest.mark.parametrize("full_key", [f"{PROJECT}:databaseURL", f"{PROJECT}:smtpurl", "shop:warehouseSecret"])
def test_a_misspelled_secret_is_not_repeated(full_key: str) -> None:
    [line] = findings(configuration() | {full_key: HIDDEN})
    assert line.startswith(f"{full_key} = (secret): no such setting; ")


@pytest.mark.parametrize("key", ["maxAttempts", "colour"])
def test_what_was_encrypted_without_need_is_not_repeated(key: str) -> None:
    with pytest.raises(SettingsError) as refused:
        reading.parse(configuration(**{key: HIDDEN}), PROJECT, lambda full_key: True)
    assert f"{PROJECT}:{key} = (secret): " in str(refused.value)
    assert HIDDEN not in str(refused.value)


def test_the_secrets_go_by_the_names_of_the_handler_s_variables() -> None:
    assert parse().secrets == {
        "DATABASE_URL": SECRETS["databaseUrl"],
        "SMTP_URL": SECRETS["smtpUrl"],
        "WAREHOUSE_URL": SECRETS["warehouseUrl"],
        "WAREHOUSE_SECRET": SECRETS["warehouseSecret"],
    }


def test_the_longest_name_of_a_queue_leaves_its_dead_letter_queue_one_that_the_service_takes() -> None:
    path = parse(queueName="q" * 87, region="europe-west1").dead_letter_queue
    assert path == f"projects/shop-project/locations/europe-west1/queues/{'q' * 87}-dead-letters"
    assert len(path.rpartition("/")[2]) == 100


def test_the_handler_never_outlasts_the_dispatch_deadline() -> None:
    assert settings.DISPATCH_DEADLINE_SECONDS == 600
    assert "must be a whole number from 60 to 600;" in finding(handlerTimeoutSeconds="601")


@pytest.mark.parametrize("project", [None, "", "Shop", "shop", "1-shop-project", "shop-project-", "a" * 31, "shop_pro"])
def test_a_missing_or_impossible_project_is_refused(project: str | None) -> None:
    assert findings({} if project is None else {"gcp:project": project}) == [
        f"gcp:project = {project or ''!r}: must be the id of a Google Cloud project; "
        "set it: pulumi config set gcp:project PROJECT_ID"
    ]


@pytest.mark.parametrize("project", ["shop-1", "a" * 30, "example.com:shop-project"])
def test_the_project_is_taken_from_the_provider_s_configuration(project: str) -> None:
    assert reading.parse(configuration() | {"gcp:project": project}, PROJECT, encrypted).project == project


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
    assert reading.parse(configuration() | theirs, PROJECT, encrypted) == parse()


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
        *(f"{PROJECT}:{key} = ''" for key in SECRETS),
    ]


CONFIGURED = {"gcp:project": "shop-project", f"{PROJECT}:maxAttempts": "9", f"{PROJECT}:colour": "red", "a:b": "c"}


def read(config: Mapping[str, str]) -> dict[str, str]:
    """What `raw_configuration` lists while a program runs, which must be what `pulumi.Config` reads key by key."""
    found: dict[str, str] = {}

    def program() -> None:
        found.update(reading.raw_configuration())
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


def load(**keys: str) -> Settings:
    """What a running program loads."""
    loaded: list[Settings] = []
    evaluate(
        lambda: loaded.append(reading.load()),
        config={"gcp:project": "shop-project", **{f"{PROJECT}:{key}": text for key, text in keys.items()}},
        secrets={f"{PROJECT}:{key}": text for key, text in SECRETS.items()},
    )
    [one] = loaded
    return one


def test_a_running_program_loads_its_own_stack_s_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULUMI_CONFIG", raising=False)
    assert load(maxAttempts="9") == parse(maxAttempts="9")


WARNING = (
    "retryUntilHandled is not set: Cloud Tasks deletes a task whose attempts fail before they reach the handler. "
    "Set it to true if no order may be lost, or to false to accept that"
)


@pytest.mark.parametrize(
    ("keys", "warnings"),
    [({}, [WARNING]), ({"retryUntilHandled": "true"}, []), ({"retryUntilHandled": "false"}, [])],
)
def test_a_queue_that_deletes_what_failed_is_warned_of_until_somebody_decides(
    caplog: pytest.LogCaptureFixture, keys: dict[str, str], warnings: list[str]
) -> None:
    load(**keys)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == warnings
    assert HIDDEN not in caplog.text
