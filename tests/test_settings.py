import dataclasses
import json
import re
import shlex
import traceback
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

import configuration
import settings
from configuration import SettingsError
from local.program import evaluate
from local.sinks.effects import PLACEHOLDERS
from settings import SETTINGS, Settings
from tests.accepted import COMPLETE, EXAMPLES, HIDDEN, INCOMPLETE, SECRETS, cases

PROJECT = "cloud-run-tasks"
FOREIGN = f"no such setting; the settings of this project begin with {PROJECT}:"
WIDE = {
    "maxInstances": "50",
    "containerConcurrency": "1000",
    "maxConcurrentDispatches": "1",
    "minBackoffSeconds": "0.001",
    "maxBackoffSeconds": "2678400",
    "databasePool": "1",
    "databaseMaxConnections": "262143",
}
"""Figures beside which any value of another setting fits."""


def own(**keys: str) -> dict[str, str]:
    """These keys in the project's namespace."""
    return {f"{PROJECT}:{key}": text for key, text in keys.items()}


def configured(**keys: str) -> dict[str, str]:
    """The configuration of a stack that sets a project and these keys."""
    return {"gcp:project": "shop-project", **own(**keys)}


def encrypted(full_key: str) -> bool:
    """Whether the key was set as a secret: here, whether it should have been."""
    return full_key.removeprefix(f"{PROJECT}:") in {*SECRETS, "secrets"}


def parse(**keys: str) -> Settings:
    """Settings of a stack that sets a project, its secrets and these keys."""
    return configuration.parse(configured(**SECRETS | keys), PROJECT, encrypted)


def findings(config: Mapping[str, str]) -> list[str]:
    """What is refused about a whole configuration; fails if a secret's text is repeated."""
    with pytest.raises(SettingsError) as refused:
        configuration.parse(config, PROJECT, encrypted)
    assert HIDDEN not in "".join(traceback.format_exception(refused.value))
    heading, *lines = str(refused.value).split("\n  ")
    assert heading == "The configuration of this stack cannot be deployed:"
    return lines


def finding(**keys: str) -> str:
    """The one thing that is refused about these keys."""
    [line] = findings(configured(**SECRETS | keys))
    return line


def fields(settings: Settings) -> dict[str, Any]:
    """Every setting's value by its key."""
    nested = dataclasses.asdict(settings)
    return {key: (nested[s.section] if s.section else nested)[s.name] for key, s in SETTINGS.items()}


def test_every_setting_has_examples_and_the_first_is_not_its_default() -> None:
    assert EXAMPLES.keys() == SETTINGS.keys()
    defaults = fields(parse())
    assert [key for key in EXAMPLES if fields(parse(**{key: EXAMPLES[key]["accepted"][0]}))[key] == defaults[key]] == []


@pytest.mark.parametrize(("key", "text"), [*cases("accepted"), *PLACEHOLDERS.items()])
def test_an_accepted_text_reaches_its_own_field_and_no_other(key: str, text: str) -> None:
    wide = {name: value for name, value in WIDE.items() if name != key}
    before, after = fields(parse(**wide)), fields(parse(**wide, **{key: text}))
    assert {name: value for name, value in after.items() if name != key} == {
        name: value for name, value in before.items() if name != key
    }
    assert type(after[key]) is SETTINGS[key].type or isinstance(after[key], tuple | dict)
    assert after[key] == (text if SETTINGS[key].type is str else json_value(after[key], text))


def json_value(value: object, text: str) -> object:
    parsed = json.loads(text)
    return tuple(parsed) if isinstance(value, tuple) else parsed


@pytest.mark.parametrize(("key", "text"), [*cases("refused"), *((key, "") for key in SECRETS)])
def test_a_refused_text_is_named_with_its_key_and_a_remedy_that_works(key: str, text: str) -> None:
    line = finding(**{key: text})
    what, _, remedy = line.rpartition("; ")
    shown = "(secret)" if SETTINGS[key].accepts.secret else repr(text)
    assert what.startswith(f"{PROJECT}:{key} = {shown}: must be ")
    match shlex.split(remedy.partition(": ")[2]):
        case ["pulumi", "config", "set", *secret, "--path", path, item] if path.startswith(f"{key}."):
            assert bool(secret) is SETTINGS[key].accepts.secret
            parse(**{key: json.dumps({path.partition(".")[2]: item})})
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


@pytest.mark.parametrize("key", [key for key in EXAMPLES if "conflict" in EXAMPLES[key]])
def test_settings_must_fit_each_other(key: str) -> None:
    conflict = EXAMPLES[key]["conflict"]
    parse(**{**conflict["beside"], key: conflict["fits"]})
    line = finding(**{**conflict["beside"], key: conflict["broken"]})
    assert line.startswith(f"{PROJECT}:{key} = {conflict['broken']!r}: {conflict['reason']}")
    assert "; " in line


def test_the_handler_does_not_run_as_the_invoker() -> None:
    assert "handlerAccount = 'cloud-tasks-invoker': must not be invokerAccount" in finding(
        handlerAccount="cloud-tasks-invoker"
    )


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_that_is_missing_is_refused_unless_effects_are_simulated(key: str) -> None:
    others = {other: text for other, text in SECRETS.items() if other != key}
    assert findings(configured(**others)) == [
        f"{PROJECT}:{key} = '': must be set, or its effects would not happen; "
        f"set it: pulumi config set --secret {key}, or simulateEffects true"
    ]


@pytest.mark.parametrize("given", COMPLETE)
def test_a_stack_that_simulates_effects_needs_no_other_secret(given: set[str]) -> None:
    config = configured(simulateEffects="true", **{key: SECRETS[key] for key in given})
    parsed = fields(configuration.parse(config, PROJECT, encrypted))
    assert {key: parsed[key] for key in SECRETS} == {key: SECRETS[key] if key in given else "" for key in SECRETS}


@pytest.mark.parametrize(("given", "missing"), INCOMPLETE)
def test_an_effect_that_is_not_simulated_needs_its_ledger_and_its_signature(given: set[str], missing: set[str]) -> None:
    lines = findings(configured(simulateEffects="true", **{key: SECRETS[key] for key in given}))
    assert {line.partition(" = '': must be set with ")[0] for line in lines} == {f"{PROJECT}:{key}" for key in missing}
    assert all(f"pulumi config set --secret {key}" in "".join(lines) for key in missing)


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_in_plain_text_is_refused_and_not_repeated(key: str) -> None:
    """Checked in a running program, which asks Pulumi whether a key is encrypted."""
    plain = configured(**{key: SECRETS[key], "maxAttempts": "9"})
    secrets = own(**{other: text for other, text in SECRETS.items() if other != key})
    with pytest.raises(SettingsError) as refused:
        evaluate(configuration.load, config=plain, secrets=secrets)
    assert str(refused.value).split("\n  ")[1:] == [
        f"{PROJECT}:{key} = (secret): must be encrypted; set it: pulumi config set --secret {key}"
    ]


@pytest.mark.parametrize("key", ["maxAttempts", "colour"])
def test_an_encrypted_text_is_not_repeated(key: str) -> None:
    with pytest.raises(SettingsError) as refused:
        configuration.parse(configured(**SECRETS, **{key: HIDDEN}), PROJECT, lambda full_key: True)
    assert f"{PROJECT}:{key} = (secret): " in str(refused.value)
    assert HIDDEN not in str(refused.value)


def test_the_longest_name_of_a_queue_leaves_room_for_its_dead_letter_queue() -> None:
    path = parse(queueName="q" * 87, region="europe-west1").dead_letter_queue
    assert path == f"projects/shop-project/locations/europe-west1/queues/{'q' * 87}-dead-letters"
    assert len(path.rpartition("/")[2]) == 100


@pytest.mark.parametrize("project", [None, "", "Shop", "shop", "1-shop-project", "shop-project-", "a" * 31, "shop_pro"])
def test_a_missing_or_impossible_project_is_refused(project: str | None) -> None:
    assert findings({} if project is None else {"gcp:project": project}) == [
        f"gcp:project = {project or ''!r}: must be the id of a Google Cloud project; "
        "set it: pulumi config set gcp:project PROJECT_ID"
    ]


@pytest.mark.parametrize(
    ("full_key", "shown", "what"),
    [
        (
            f"{PROJECT}:maxAttempt",
            repr(HIDDEN),
            "no such setting; did you mean maxAttempts?; remove it: pulumi config rm maxAttempt",
        ),
        (
            f"{PROJECT}:MaxAttempts",
            repr(HIDDEN),
            "no such setting; did you mean maxAttempts?; remove it: pulumi config rm MaxAttempts",
        ),
        (f"{PROJECT}:colour", repr(HIDDEN), "no such setting; remove it: pulumi config rm colour"),
        (
            f"{PROJECT}:databaseURL",
            "(secret)",
            "no such setting; did you mean databaseUrl?; remove it: pulumi config rm databaseURL",
        ),
        ("shop:warehouseSecret", "(secret)", f"{FOREIGN}; remove it: pulumi config rm shop:warehouseSecret"),
        ("cloud-tasks:colour", repr(HIDDEN), f"{FOREIGN}; remove it: pulumi config rm cloud-tasks:colour"),
    ],
)
def test_an_unknown_key_is_refused_and_its_text_not_repeated_if_it_resembles_a_secret(
    full_key: str, shown: str, what: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"\n  {full_key} = {shown}: {what}") + r"\Z"):
        configuration.parse(configured(**SECRETS) | {full_key: HIDDEN}, PROJECT, encrypted)


@pytest.mark.parametrize(
    "theirs",
    [
        {"gcp:project": "a" * 30},
        {"gcp:project": "example.com:shop-project"},
        {"gcp:region": "europe-west1", "docker:host": "unix:///run/docker.sock", "pulumi:tags": "{}"},
    ],
)
def test_the_configuration_of_providers_and_of_pulumi_is_not_judged(theirs: dict[str, str]) -> None:
    config = configured(**SECRETS) | theirs
    parsed = configuration.parse(config, PROJECT, encrypted)
    assert parsed == dataclasses.replace(parse(), project=config["gcp:project"])


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"gcp:project": "", **own(maxAttempts="0", colour="red")}, ["gcp:project", "colour", "maxAttempts"]),
        (
            configured(maxInstances="1", containerConcurrency="19", maxBackoffSeconds="9"),
            ["maxConcurrentDispatches", "minBackoffSeconds", *SECRETS],
        ),
    ],
)
def test_all_findings_and_all_conflicts_are_reported_at_once(config: dict[str, str], keys: list[str]) -> None:
    assert [line.partition(" = ")[0].removeprefix(f"{PROJECT}:") for line in findings(config)] == keys


CONFIGURED = {"gcp:project": "shop-project", f"{PROJECT}:maxAttempts": "9", f"{PROJECT}:colour": "red", "a:b": "c"}


@pytest.mark.parametrize(
    ("engine", "config", "listed"),
    [
        ({}, CONFIGURED, CONFIGURED),
        (CONFIGURED, {}, CONFIGURED),
        (CONFIGURED, {f"{PROJECT}:maxAttempts": "2"}, CONFIGURED | {f"{PROJECT}:maxAttempts": "2"}),
    ],
    ids=["mocks", "engine", "both"],
)
def test_every_configured_key_is_listed_and_pulumi_reads_the_same(
    monkeypatch: pytest.MonkeyPatch, engine: dict[str, str], config: dict[str, str], listed: dict[str, str]
) -> None:
    """Mocks set the configuration directly; the engine sends it in an environment variable."""
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(engine))
    found: dict[str, str] = {}

    def program() -> None:
        found.update(configuration.raw_configuration())
        for full_key, text in found.items():
            namespace, _, key = full_key.partition(":")
            assert pulumi.Config(namespace).get(key) == text

    evaluate(program, config=config)
    assert found == listed


@pytest.mark.parametrize(("decided", "warned"), [({}, True), ({"retryUntilHandled": "false"}, False)])
def test_a_running_program_loads_its_stack_s_settings_and_warns_until_retries_are_decided(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, decided: dict[str, str], warned: bool
) -> None:
    monkeypatch.delenv("PULUMI_CONFIG", raising=False)
    loaded: list[Settings] = []
    evaluate(
        lambda: loaded.append(configuration.load()),
        config=configured(maxAttempts="9", **decided),
        secrets=own(**SECRETS),
    )
    assert loaded == [parse(maxAttempts="9", **decided)]
    assert HIDDEN not in caplog.text
    assert ("retryUntilHandled is not set" in caplog.text) is warned


def test_what_an_action_needs_must_be_among_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [
        {"variable": "REFUND_URL", "pattern": "https://.+", "accepts": "https://HOST", "secret": False},
        {"variable": "REFUND_KEY", "pattern": ".{16,}", "accepts": "16 characters", "secret": True},
    ]
    monkeypatch.setitem(settings.CONTRACT, "issue_refund", {"needs": needs})
    url, key = '{"REFUND_URL": "https://refunds.example"}', '{"REFUND_KEY": "0123456789abcdef"}'
    parse(environment=url, secrets=key)
    leaked = finding(environment=url, secrets=json.dumps({"REFUND_KEY": HIDDEN}))
    assert "secrets = (secret): must contain 16 characters as REFUND_KEY" in leaked
    assert "must contain REFUND_KEY, which issue_refund needs; set one: pulumi config set --secret --path " in finding(
        environment=url
    )
    assert "must contain https://HOST as REFUND_URL" in finding(environment='{"REFUND_URL": "http"}', secrets=key)
    assert "REFUND_URL" in finding(secrets=key)
