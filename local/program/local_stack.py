"""A stack's configuration on this machine: no encrypted value is read, and every secret has a local value."""

import json
import runpy
import secrets
from collections.abc import Mapping

import yaml

from local.program import PROJECT, ROOT, stack_configuration
from local.sinks.effects import PLACEHOLDERS

LOCAL_PROJECT = "local-project"
"""The Google Cloud project of a stack that names none."""


def local_configuration(stack: str, overrides: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the plain and the secret values, as `namespace:key` texts, for `evaluate`.

    `overrides` replace values of the stack's file; `secrets.NAME` and `environment.NAME` replace one variable.
    Raises ProgramError if there is no such stack."""
    texts = {"gcp:project": LOCAL_PROJECT, **stack_configuration(stack), **_generated_secrets(stack), **overrides}
    for key in [key for key in texts if key.startswith((f"{PROJECT}:secrets.", f"{PROJECT}:environment."))]:
        whole, _, name = key.partition(".")
        texts[whole] = json.dumps({**json.loads(texts.get(whole, "{}")), name: texts.pop(key)})
    secret_keys = _secret_keys()
    placeholders = {f"{PROJECT}:{key}": text for key, text in PLACEHOLDERS.items()}
    secret = {key: text for key, text in texts.items() if key in secret_keys}
    return {key: text for key, text in texts.items() if key not in secret_keys}, {**placeholders, **secret}


def _generated_secrets(stack: str) -> dict[str, str]:
    """Values for the names in the stack's map `secrets`, whose own values stay encrypted."""
    content = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text()) or {}
    names = (content.get("config") or {}).get(f"{PROJECT}:secrets") or {}
    values = {name: f"local-{secrets.token_hex(16)}" for name in names}
    return {f"{PROJECT}:secrets": json.dumps(values)} if values else {}


def _secret_keys() -> set[str]:
    """The full keys that the program accepts as secrets only."""
    settings = runpy.run_path(str(ROOT / "settings.py"))["SETTINGS"]
    return {f"{PROJECT}:{key}" for key, setting in settings.items() if setting.rule.secret}
