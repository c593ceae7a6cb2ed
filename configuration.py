"""How a stack's configuration is read into settings.

Refuses unknown keys, refused values and secrets in plain text before anything is declared. One error reports all
findings; each names the key, the value, the reason and the remedy.
"""

import difflib
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import pulumi
from pulumi.runtime.proto.resource_pb2_grpc import ResourceMonitorStub
from pulumi.runtime.settings import get_monitor

from settings import SETTINGS, Setting, Settings, as_text, conflicts

_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?(e[+-]?[0-9]{1,2})?")
"""A number as YAML writes it. float() alone would also accept `5_0`, `nan` and digits of other scripts."""
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")


class SettingsError(pulumi.RunError):
    """The stack's configuration cannot be deployed; the message has a line for each finding."""


def load() -> Settings:
    """Read the current stack's settings; raises SettingsError with every finding."""
    configuration, namespace = raw_configuration(), pulumi.get_project()
    settings = parse(configuration, namespace, pulumi.runtime.is_config_secret)
    if f"{namespace}:retryUntilHandled" not in configuration:
        pulumi.log.warn(
            "retryUntilHandled is not set: Cloud Tasks deletes a task whose attempts fail before they reach the "
            "handler. Set it to true if no order may be lost, or to false to accept that"
        )
    image = settings.image["image"]
    if image and isinstance(get_monitor(), ResourceMonitorStub) and not shutil.which("skopeo"):
        raise SettingsError(
            f"{namespace}:image = {image!r}: skopeo, which copies it into the stack's repository, is not on the path; "
            "install it: https://github.com/containers/skopeo/blob/main/install.md"
        )
    return settings


def raw_configuration() -> dict[str, str]:
    """Every configured key, `namespace:key`, with its text.

    `pulumi.Config` reads one key at a time and cannot list them, so it would not notice unknown keys."""
    return {**pulumi.runtime.config.get_config_env(), **pulumi.runtime.config.CONFIG.get()}


def parse(configuration: Mapping[str, str], namespace: str, encrypted: Callable[[str], bool]) -> Settings:
    """Turn `namespace:key` texts into settings; raises SettingsError with every finding.

    `encrypted`: whether a full key was set as a secret."""
    values = {key: setting.default for key, setting in SETTINGS.items()}
    findings: list[str] = []
    project = configuration.get("gcp:project", "")
    if not _PROJECT.fullmatch(project):
        remedy = "set it: pulumi config set gcp:project PROJECT_ID"
        findings.append(f"gcp:project = {project!r}: must be the id of a Google Cloud project; {remedy}")
    for full_key, text in sorted(configuration.items()):
        space, _, key = full_key.partition(":")
        if space in ("gcp", "docker", "pulumi"):
            continue
        near = difflib.get_close_matches(key, SETTINGS, 1)  # the key itself if it is a setting
        secret = encrypted(full_key) or any(SETTINGS[setting].accepts.secret for setting in near)
        shown = "(secret)" if secret else repr(text)
        if space != namespace:
            remedy = f"the settings of this project begin with {namespace}:; remove it: pulumi config rm {full_key}"
            findings.append(f"{full_key} = {shown}: no such setting; {remedy}")
        elif key not in SETTINGS:
            hint = f"; did you mean {near[0]}?" if near else ""
            findings.append(f"{full_key} = {shown}: no such setting{hint}; remove it: pulumi config rm {key}")
        else:
            setting = SETTINGS[key]
            if setting.accepts.secret and not encrypted(full_key):
                findings.append(f"{full_key} = {shown}: must be encrypted; {setting.remedy}")
            try:
                values[key] = _value(setting, text)
            except (ValueError, RecursionError):
                findings.append(f"{full_key} = {shown}: must be {setting.words}; {setting.remedy}")
    if not findings:  # only accepted values can be compared
        texts = {key: repr(as_text(value)) for key, value in values.items()} | {"secrets": "(secret)"}
        findings = [f"{namespace}:{k} = {texts[k]}: {reason}" for k, reason in conflicts(values)]
    if findings:
        lines = "\n".join(f"  {finding}" for finding in findings)
        raise SettingsError(f"The configuration of this stack cannot be deployed:\n{lines}")
    fields: dict[str, Any] = {"project": project}
    for setting in SETTINGS.values():
        section = fields.setdefault(setting.section, {}) if setting.section else fields
        section[setting.name] = values[setting.key]
    return Settings(**fields)


def _value(setting: Setting, text: str) -> Any:  # noqa: ANN401 - the setting's own type
    """Parse the text of a setting; raises ValueError if it is not accepted."""
    accepts = setting.accepts

    def fits(item: object, pattern: str = accepts.pattern) -> bool:
        return isinstance(item, str) and re.fullmatch(pattern, item, re.ASCII) is not None

    value: Any
    if setting.type is str:
        value = text
        accepted = fits(text) and not (accepts.url and urlsplit(text).port == 0)
    elif setting.type in (int, float):
        value = setting.type(text) if _NUMBER.fullmatch(text) else math.nan
        accepted = accepts.low <= value <= accepts.high
    else:
        value = json.loads(text)
        value = tuple(value) if isinstance(value, list) else value
        accepted = type(value) is type(setting.default)
        if accepted and setting.type is not bool:
            items = value.values() if isinstance(value, dict) else ()
            accepted = all(map(fits, value)) and all(fits(item, accepts.value) for item in items)
    if not accepted:
        raise ValueError(text)
    return value
