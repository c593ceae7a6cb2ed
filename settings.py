"""What a stack may set: every key, its type, default, range and meaning, stated once.

Reads the stack's configuration and refuses, before anything is declared, what the services would refuse later or,
worse, accept and then lose tasks over: unknown keys, values out of range, figures that do not fit each other. All
findings are reported together; each names the key, the value, the reason and the remedy.
"""

import dataclasses
import difflib
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, TypedDict, get_type_hints

import pulumi

DISPATCH_DEADLINE_SECONDS = 600
"""What Cloud Tasks grants one attempt of a task that names no deadline of its own."""
MAX_BACKOFF_SECONDS = 31 * 24 * 3600
"""No task lives longer."""
DEAD_LETTER_CONCURRENCY = 5
"""Dead letters that may be replayed at once."""


class SettingsError(pulumi.RunError):
    """The stack's configuration cannot be deployed; the message has a line for each finding."""


class Rule(NamedTuple):
    """What one setting means and accepts."""

    default: Any
    meaning: str
    low: float = 0
    high: float = 0
    pattern: str = ""
    accepts: str = ""
    """The pattern in words."""
    example: str = ""
    """An item of a list, for the remedy."""
    secret: bool = False
    """Never shown, and refused where it was not encrypted."""


_ACCOUNT_ID: dict[str, Any] = {
    "pattern": r"[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "accepts": "6 to 30 lower-case letters, digits and hyphens, first a letter, last no hyphen",
}


class QueueSettings(TypedDict):
    """The queue's."""

    queue_name: Annotated[
        str,
        Rule(
            "cloud-run-tasks",
            "Queue; a rename deletes it and its dead letters with every task in them, and blocks the old name for days",
            pattern=r"[A-Za-z0-9-]{1,87}",
            accepts="1 to 87 letters, digits and hyphens: its dead-letter queue adds 13",
        ),
    ]
    max_dispatches_per_second: Annotated[float, Rule(50.0, "Highest rate of dispatches", 0.001, 500)]
    max_concurrent_dispatches: Annotated[int, Rule(20, "Dispatches that may be under way at once", 1, 5000)]
    max_attempts: Annotated[
        int, Rule(5, "Attempts before the handler gives a task up to the dead letters, the first included", 1, 1000)
    ]
    retry_until_handled: Annotated[
        bool,
        Rule(False, "Let Cloud Tasks retry without end, so that only the handler ends a task; else it deletes some"),
    ]
    min_backoff_seconds: Annotated[float, Rule(10.0, "Wait before the first retry", 0.001, MAX_BACKOFF_SECONDS)]
    max_backoff_seconds: Annotated[float, Rule(300.0, "Longest wait between two attempts", 0.001, MAX_BACKOFF_SECONDS)]
    max_doublings: Annotated[
        int, Rule(4, "Times the wait doubles before it grows linearly; 0 would read as unset", 1, 100)
    ]
    attempt_log_ratio: Annotated[
        float, Rule(1.0, "Share of the tasks whose creation, attempts and answers Cloud Tasks logs", 0, 1)
    ]


class ImageSettings(TypedDict):
    """The image's."""

    repository_name: Annotated[
        str,
        Rule(
            "cloud-run-tasks",
            "Artifact Registry repository of the handler's image",
            pattern=r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
            accepts="1 to 63 lower-case letters, digits and hyphens, first a letter, last no hyphen",
        ),
    ]
    image: Annotated[
        str,
        Rule(
            "",
            "Image to run instead of building handler/, such as the output `image` of another stack",
            pattern=r"([a-z0-9.-]+(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64})?",
            accepts="an image by digest, `HOST/PATH@sha256:...`, or nothing",
        ),
    ]


class ServiceSettings(TypedDict):
    """The service's."""

    service_name: Annotated[
        str,
        Rule(
            "task-handler",
            "Cloud Run service and its image; queued tasks carry its address, so empty the queue before a rename",
            pattern=r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?",
            accepts="1 to 49 lower-case letters, digits and hyphens, first a letter, last no hyphen",
        ),
    ]
    memory: Annotated[
        str,
        Rule(
            "512Mi",
            "Memory of one instance, which has one CPU",
            pattern=r"(12[89]|1[3-9]\d|[2-9]\d\d|[1-3]\d{3}|40[0-8]\d|409[0-6])Mi|[1-4]Gi",
            accepts="128Mi to 4096Mi, or 1Gi to 4Gi",
        ),
    ]
    handler_timeout_seconds: Annotated[
        int,
        Rule(
            300,
            "Longest request: longer than an effect and its record take, never longer than Cloud Tasks waits",
            60,
            DISPATCH_DEADLINE_SECONDS,
        ),
    ]
    max_instances: Annotated[int, Rule(10, "Most instances of the service", 1, 1000)]
    container_concurrency: Annotated[int, Rule(20, "Requests that one instance takes at once", 1, 1000)]
    deletion_protection: Annotated[
        bool, Rule(True, "Refuse to delete or replace the service and the queues, on `pulumi destroy` too")
    ]
    handler_account: Annotated[str, Rule("task-handler-sa", "Id of the account the handler runs as", **_ACCOUNT_ID)]


class EffectSettings(TypedDict):
    """What the handler's effects need."""

    simulate_effects: Annotated[
        bool,
        Rule(False, "Log the effects that have no address below instead of refusing to deploy; never in production"),
    ]
    database_url: Annotated[
        str,
        Rule(
            "",
            "Secret: stock, and the ledger of effects done",
            pattern=r"postgresql://\S+",
            accepts="a URL `postgresql://...`",
            secret=True,
        ),
    ]
    smtp_url: Annotated[
        str,
        Rule(
            "",
            "Secret: mail server of the confirmations",
            pattern=r"smtps?://([^\s:@/?#]+:[^\s@/?#]+@)?[^\s:@/?#]+(:[0-9]{1,5})?/?\?from=[^@\s&<>]+(@|%40)[^@\s&<>]+",
            accepts="a URL `smtp://user:password@host:587?from=ADDRESS`, or `smtps://`",
            secret=True,
        ),
    ]
    warehouse_url: Annotated[
        str,
        Rule(
            "",
            "Secret: address that the warehouse is notified at",
            pattern=r"https?://\S+",
            accepts="a URL `https://...` or `http://...`",
            secret=True,
        ),
    ]
    warehouse_secret: Annotated[
        str,
        Rule(
            "",
            "Secret: key of the notifications' signature",
            pattern=r"\S{16,}",
            accepts="at least 16 characters without spaces",
            secret=True,
        ),
    ]


class InvokerSettings(TypedDict):
    """The invoker's."""

    invoker_account: Annotated[
        str,
        Rule(
            "cloud-tasks-invoker",
            "Id of the account that Cloud Tasks signs in as; queued tasks carry it too",
            **_ACCOUNT_ID,
        ),
    ]
    invoker_display_name: Annotated[
        str,
        Rule(
            "Cloud Tasks Invoker", "Display name of that account", pattern=r"\S.{0,99}", accepts="1 to 100 characters"
        ),
    ]


class MonitoringSettings(TypedDict):
    """The alerts'."""

    alert_emails: Annotated[
        tuple[str, ...],
        Rule(
            (),
            "Addresses that alerts are mailed to",
            pattern=r"[^\s@]+@[^\s@]+\.[^\s@]+",
            accepts="a list of e-mail addresses",
            example="ON_CALL@EXAMPLE.COM",
        ),
    ]
    notification_channels: Annotated[
        tuple[str, ...],
        Rule(
            (),
            "Channels of Cloud Monitoring that alerts go to as well, such as a pager",
            pattern=r"projects/[^\s/]+/notificationChannels/[0-9]+",
            accepts="a list of `projects/PROJECT_ID/notificationChannels/NUMBER`",
            example="projects/PROJECT_ID/notificationChannels/1234567890",
        ),
    ]


class Watched(TypedDict):
    """What the alerts watch."""

    queue_name: str
    dead_letter_queue: str
    service_name: str
    handler_timeout_seconds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """One stack's settings, checked; a section for each component that takes figures."""

    project: str
    """`gcp:project`: the Google Cloud project that everything is declared in."""

    region: Annotated[
        str,
        Rule(
            "us-central1",
            "Region of queues, image and service; another one replaces the queues, with the tasks that are in them",
            pattern=r"[a-z]+-[a-z]+[0-9]+",
            accepts="a region such as us-central1",
        ),
    ]
    producers: Annotated[
        tuple[str, ...],
        Rule(
            (),
            "Members that may create tasks and act as the invoker, such as the web app's account",
            pattern=r"(serviceAccount|user|group):[^\s@:]+@[^\s@:]+|principal(Set)?://iam\.googleapis\.com/\S+",
            accepts="a list of `serviceAccount:`, `user:`, `group:` with an e-mail, `principal://`, `principalSet://`",
            example="serviceAccount:WEB_APP@PROJECT_ID.iam.gserviceaccount.com",
        ),
    ]
    queue: QueueSettings
    image: ImageSettings
    service: ServiceSettings
    effects: EffectSettings = dataclasses.field(repr=False)
    invoker: InvokerSettings
    monitoring: MonitoringSettings

    @property
    def dead_letter_queue(self) -> str:
        """Full path; text, so that the service can know it before the queue, which needs the service, exists."""
        return f"projects/{self.project}/locations/{self.region}/queues/{self.queue['queue_name']}-dead-letters"

    @property
    def watched(self) -> Watched:
        """What the alerts watch, of other sections."""
        return {
            "queue_name": self.queue["queue_name"],
            "dead_letter_queue": self.dead_letter_queue,
            "service_name": self.service["service_name"],
            "handler_timeout_seconds": self.service["handler_timeout_seconds"],
        }

    @property
    def secrets(self) -> dict[str, str]:
        """The secret settings by the names of the handler's environment variables."""
        effects = self.effects
        return {
            "DATABASE_URL": effects["database_url"],
            "SMTP_URL": effects["smtp_url"],
            "WAREHOUSE_URL": effects["warehouse_url"],
            "WAREHOUSE_SECRET": effects["warehouse_secret"],
        }


class _Setting(NamedTuple):
    section: str
    """Field of Settings; empty for a setting that stands there itself."""
    name: str
    type: type
    rule: Rule


def _settings() -> dict[str, _Setting]:
    """Every setting by its key."""
    found: dict[str, _Setting] = {}

    def visit(owner: type, section: str) -> None:
        for name, hint in get_type_hints(owner, include_extras=True).items():
            if hasattr(hint, "__metadata__"):
                key = re.sub(r"_(.)", lambda match: match[1].upper(), name)
                found[key] = _Setting(section, name, hint.__origin__, hint.__metadata__[0])
            elif hint is not str:
                visit(hint, name)

    visit(Settings, "")
    return found


_SETTINGS = _settings()
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?(e[+-]?[0-9]{1,2})?")
"""As YAML and the configuration write numbers; Python alone would also take 5_0 and digits of every script."""
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")


def load() -> Settings:
    """The current stack's settings; raises SettingsError with every finding."""
    configuration, namespace = raw_configuration(), pulumi.get_project()
    settings = parse(configuration, namespace, pulumi.runtime.is_config_secret)
    if f"{namespace}:retryUntilHandled" not in configuration:
        pulumi.log.warn(
            "retryUntilHandled is not set: Cloud Tasks deletes a task whose attempts were used up before they reached "
            "the handler; set it to true where no order may be lost, or to false to accept that"
        )
    return settings


def raw_configuration() -> dict[str, str]:
    """Every configured key, `namespace:key`, with its text.

    `pulumi.Config` reads one key at a time and cannot list them, so unknown ones would pass unseen."""
    return {**pulumi.runtime.config.get_config_env(), **pulumi.runtime.config.CONFIG.get()}


def parse(configuration: Mapping[str, str], namespace: str, encrypted: Callable[[str], bool]) -> Settings:
    """Settings out of `namespace:key` texts; raises SettingsError with every finding.

    `encrypted`: whether a full key was set as a secret."""
    findings: list[str] = []
    project = configuration.get("gcp:project", "")
    if not _PROJECT.fullmatch(project):
        remedy = "set it: pulumi config set gcp:project PROJECT_ID"
        findings.append(f"gcp:project = {project!r}: must be the id of a Google Cloud project; {remedy}")
    values = {key: setting.rule.default for key, setting in _SETTINGS.items()}
    for full_key, text in sorted(configuration.items()):
        space, _, key = full_key.partition(":")
        if space in ("gcp", "docker", "pulumi"):
            continue
        near = difflib.get_close_matches(key, _SETTINGS, 1)  # itself, if it is a setting
        secret = encrypted(full_key) or any(_SETTINGS[setting].rule.secret for setting in near)
        shown = "(secret)" if secret else repr(text)
        if space != namespace:
            remedy = f"the settings of this project begin with {namespace}:; remove it: pulumi config rm {full_key}"
            findings.append(f"{full_key} = {shown}: no such setting; {remedy}")
        elif key not in _SETTINGS:
            hint = f"; did you mean {near[0]}?" if near else ""
            findings.append(f"{full_key} = {shown}: no such setting{hint}; remove it: pulumi config rm {key}")
        else:
            if _SETTINGS[key].rule.secret and not encrypted(full_key):
                findings.append(f"{full_key} = {shown}: must be encrypted; {_remedy(key)}")
            try:
                values[key] = _value(_SETTINGS[key], text)
            except (ValueError, RecursionError):
                findings.append(f"{full_key} = {shown}: must be {_accepts(_SETTINGS[key])}; {_remedy(key)}")
    if not findings:  # between values that are each accepted
        findings = [f"{namespace}:{k} = {_text(values[k])!r}: {why}" for k, why in _conflicts(values)]
    if findings:
        lines = "\n".join(f"  {finding}" for finding in findings)
        raise SettingsError(f"The configuration of this stack cannot be deployed:\n{lines}")
    fields: dict[str, Any] = {"project": project}
    for key, (section, name, _, _) in _SETTINGS.items():
        (fields.setdefault(section, {}) if section else fields)[name] = values[key]
    return Settings(**fields)


def _conflicts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Broken rules between settings: the key to change, and why."""
    conflicts = []
    capacity = values["maxInstances"] * values["containerConcurrency"] - DEAD_LETTER_CONCURRENCY
    if values["maxConcurrentDispatches"] > capacity:
        reason = (
            f"must not exceed maxInstances x containerConcurrency - {DEAD_LETTER_CONCURRENCY} for dead letters = "
            f"{capacity}, or the service answers 429 and tasks use up their attempts; lower it, or raise one of those"
        )
        conflicts.append(("maxConcurrentDispatches", reason))
    if values["minBackoffSeconds"] > values["maxBackoffSeconds"]:
        reason = f"must not exceed maxBackoffSeconds = {values['maxBackoffSeconds']:g}; lower it, or raise that"
        conflicts.append(("minBackoffSeconds", reason))
    if values["handlerAccount"] == values["invokerAccount"]:
        reason = "must not be invokerAccount, or the handler could invoke itself; give each its own id"
        conflicts.append(("handlerAccount", reason))
    for key, value in values.items():
        if isinstance(value, tuple) and len(set(value)) < len(value):
            conflicts.append((key, "must name each item once; remove the repetition"))
    if not values["simulateEffects"]:
        for key in ("databaseUrl", "smtpUrl", "warehouseUrl", "warehouseSecret"):
            if not values[key]:
                reason = f"must be set, or its effects would not happen; {_remedy(key)}, or simulateEffects true"
                conflicts.append((key, reason))
    else:
        if not values["databaseUrl"] and (values["smtpUrl"] or values["warehouseUrl"]):
            reason = (
                f"must be set beside smtpUrl or warehouseUrl, or an effect could happen twice; {_remedy('databaseUrl')}"
            )
            conflicts.append(("databaseUrl", reason))
        if values["warehouseUrl"] and not values["warehouseSecret"]:
            reason = f"must be set beside warehouseUrl, or it cannot tell who calls; {_remedy('warehouseSecret')}"
            conflicts.append(("warehouseSecret", reason))
    return conflicts


def _value(setting: _Setting, text: str) -> Any:  # noqa: ANN401 - of the setting's own type
    """The setting's value out of its text; ValueError where it is not accepted."""
    rule = setting.rule
    value: Any
    if setting.type is str:
        value = text
        accepted = bool(re.fullmatch(rule.pattern, text, re.ASCII))
    elif setting.type in (int, float):
        value = setting.type(text) if _NUMBER.fullmatch(text) else math.nan
        accepted = rule.low <= value <= rule.high
    elif setting.type is bool:
        value = json.loads(text)
        accepted = isinstance(value, bool)
    else:
        items = json.loads(text)
        accepted = isinstance(items, list) and all(
            isinstance(i, str) and re.fullmatch(rule.pattern, i, re.ASCII) for i in items
        )
        value = tuple(items) if accepted else ()
    if not accepted:
        raise ValueError(text)
    return value


def _accepts(setting: _Setting) -> str:
    """What a setting accepts, in words."""
    if setting.type is bool:
        return "true or false"
    if setting.type not in (int, float):
        return setting.rule.accepts
    noun = "a whole number" if setting.type is int else "a number"
    return f"{noun} from {_text(setting.rule.low)} to {_text(setting.rule.high)}"


def _remedy(key: str) -> str:
    default = _SETTINGS[key].rule.default
    if _SETTINGS[key].rule.secret:
        return f"set it: pulumi config set --secret {key}"
    if isinstance(default, tuple):
        return f"set an item: pulumi config set --path '{key}[0]' {_SETTINGS[key].rule.example}"
    return f"set it: pulumi config set {key} {shlex.quote(_text(default))}"


def _text(value: object) -> str:
    """A value as the configuration writes it."""
    if isinstance(value, bool | tuple):
        return json.dumps(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def table() -> str:
    """The settings as a Markdown table, for docs/settings.md."""
    rows = ["| setting | default | accepts | meaning |", "| --- | --- | --- | --- |"]
    for key, setting in _SETTINGS.items():
        default = _text(setting.rule.default)
        shown = f"`{default}`" if default else ""
        rows.append(f"| `{key}` | {shown} | {_accepts(setting)} | {setting.rule.meaning} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())  # noqa: T201 - this is its output
