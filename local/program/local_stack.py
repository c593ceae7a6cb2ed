"""A stack's configuration on this machine: no encrypted value is read, and every secret has a local value."""

import runpy
from collections.abc import Mapping

from local.program import PROJECT, ROOT, stack_configuration
from local.sinks.effects import PLACEHOLDERS

LOCAL_PROJECT = "local-project"
"""The Google Cloud project of a stack that names none."""


def local_configuration(stack: str, overrides: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the plain and the secret values, as `namespace:key` texts, for `evaluate`.

    `overrides` replace values of the stack's file. Raises ProgramError if there is no such stack."""
    texts = {"gcp:project": LOCAL_PROJECT, **stack_configuration(stack), **overrides}
    secret_keys = _secret_keys()
    placeholders = {f"{PROJECT}:{key}": text for key, text in PLACEHOLDERS.items()}
    secrets = {key: text for key, text in texts.items() if key in secret_keys}
    return {key: text for key, text in texts.items() if key not in secret_keys}, {**placeholders, **secrets}


def _secret_keys() -> set[str]:
    """The full keys that the program accepts as secrets only."""
    settings = runpy.run_path(str(ROOT / "settings.py"))["SETTINGS"]
    return {f"{PROJECT}:{key}" for key, setting in settings.items() if setting.rule.secret}
