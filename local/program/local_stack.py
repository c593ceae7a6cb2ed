"""A stack's configuration on this machine: no encrypted value is read, and every secret has a local value."""

import contextlib
import json
import re
import runpy
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from local.program import PROJECT, ROOT, ProgramError, stack_configuration
from local.sinks.effects import PLACEHOLDERS, WEB_SERVICES

LOCAL_PROJECT = "local-project"
"""The Google Cloud project of a stack that names none."""
_MAPS = ("environment", "secrets")


def local_configuration(stack: str, overrides: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the plain and the secret values, as `namespace:key` texts, for `evaluate`.

    What the handler's contract needs gets a value of this machine, so that no action reaches a deployed service.
    `overrides` replace values of the stack's file; `secrets.NAME` and `environment.NAME` replace one variable.
    Raises ProgramError if there is no such stack, or no value for a need."""
    settings = runpy.run_path(str(ROOT / "settings.py"))["SETTINGS"]
    texts = {"gcp:project": LOCAL_PROJECT, **stack_configuration(stack), **overrides}
    variables = {name: _variables(f"{PROJECT}:{name}", texts) for name in _MAPS}
    if f"{PROJECT}:secrets" not in overrides:
        variables["secrets"] = {name: _random() for name in _encrypted_names(stack)}
    chosen = set()
    for key in overrides:
        whole, _, name = key.removeprefix(f"{PROJECT}:").partition(".")
        if whole in variables and name:
            variables[whole][name] = texts.pop(key)
            chosen.add(name)
    for need in (need for needs in _needs().values() for need in needs):
        name = need["variable"]
        is_setting = re.sub("_(.)", lambda match: match[1].upper(), name.lower()) in settings
        # a plain text of the stack's file holds here too, unless it is an address
        if not is_setting and name not in chosen and "://" in variables["environment"].get(name, "://"):
            secret = need["secret"] or name in variables["secrets"]
            variables["secrets" if secret else "environment"][name] = _local_value(need)
    texts |= {f"{PROJECT}:{whole}": json.dumps(values) for whole, values in variables.items() if values}
    placeholders = {f"{PROJECT}:{key}": text for key, text in PLACEHOLDERS.items()}
    secret_keys = {f"{PROJECT}:{key}" for key, setting in settings.items() if setting.accepts.secret}
    secret_texts = {key: text for key, text in texts.items() if key in secret_keys}
    plain = {key: text for key, text in texts.items() if key not in secret_keys}
    return plain, {**placeholders, **secret_texts}


def needed_variables() -> dict[str, list[str]]:
    """Return the variables that each action reads."""
    return {action: [need["variable"] for need in needs] for action, needs in _needs().items()}


def _needs() -> dict[str, list[dict[str, Any]]]:
    """Return what each action of the handler's contract needs."""
    contract = json.loads((ROOT / "handler/contract.json").read_text())["actions"]
    return {action: declared["needs"] for action, declared in contract.items()}


def _local_value(need: Mapping[str, Any]) -> str:
    """Return a value of this machine that the need accepts. Raises ProgramError if no kind fits."""
    name = need["variable"]
    kinds = (_random(), f"{WEB_SERVICES}{name}", PLACEHOLDERS["smtpUrl"])
    for value in kinds:
        if re.fullmatch(need["pattern"], value, re.ASCII):
            return value
    whole = "secrets" if need["secret"] else "environment"
    raise ProgramError(f"{name} needs {need['accepts']}, and no local value is one; add --config {whole}.{name}=VALUE")


def _random() -> str:
    return f"local-{secrets.token_hex(16)}"


def _variables(key: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Return a map of the configuration. Raises ProgramError if its text is not one."""
    with contextlib.suppress(ValueError):
        found = json.loads(texts.get(key, "{}"))
        if isinstance(found, dict):
            return found
    raise ProgramError(
        f"{key} must be a map of variables to texts; set one: --config {key.partition(':')[2]}.NAME=VALUE"
    )


def _encrypted_names(stack: str) -> Iterator[str]:
    """Yield the names in the stack's map `secrets`, whose own values stay encrypted."""
    content = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text()) or {}
    yield from (content.get("config") or {}).get(f"{PROJECT}:secrets") or {}
