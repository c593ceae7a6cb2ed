"""What a stack may set: every key with its type, default, range and meaning, and the rules between settings.

configuration.py reads a stack's configuration into these settings. A value is refused here if a service would refuse
it later or, worse, accept it and then lose tasks.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict, get_type_hints

DISPATCH_DEADLINE_SECONDS = 600
"""How long Cloud Tasks waits for an attempt's answer; tasks set no deadline of their own."""
MAX_BACKOFF_SECONDS = 31 * 24 * 3600
"""Cloud Tasks deletes a task after 31 days."""
DEAD_LETTER_CONCURRENCY = 5
"""How many dead letters a replay sends at once."""
INGRESS = ("all", "internal-and-cloud-load-balancing", "internal")
RELAY_CONCURRENCY = 2
"""Requests of the relay at once: a pass, and the next one if the first is slow."""


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
    """An item of a list, or key and value of a map, for the error message."""
    item: str = r"(?s:.+)"
    """The pattern of a map's values."""
    secret: bool = False
    """The value must be encrypted and is never shown."""
    url: bool = False
    """The port and an IPv6 host are checked, beyond the pattern."""


_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ACCOUNT_ID: dict[str, Any] = {
    "pattern": r"[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "accepts": "6 to 30 lower-case letters, digits and hyphens; the first a letter, the last not a hyphen",
}


class QueueSettings(TypedDict):
    queue_name: Annotated[
        str,
        Rule(
            "cloud-run-tasks",
            "Name of the queue. A rename creates new queues, then deletes the old two with all their tasks; "
            "the old names stay blocked for days",
            pattern=r"[A-Za-z0-9-]{1,87}",
            accepts="1 to 87 letters, digits and hyphens (`-dead-letters` is appended for the second queue)",
        ),
    ]
    handler_path: Annotated[
        str,
        Rule(
            "/process-order",
            "Path that every task is sent to, whatever its URL. If empty, each task keeps the path of its URL",
            pattern=r"(/[A-Za-z0-9._~/-]*)?",
            accepts="a path such as /process-order, or nothing",
        ),
    ]
    max_dispatches_per_second: Annotated[float, Rule(50.0, "Highest dispatch rate", 0.001, 500)]
    max_concurrent_dispatches: Annotated[int, Rule(20, "Dispatches in progress at once", 1, 5000)]
    max_attempts: Annotated[
        int, Rule(5, "Attempts, including the first, after which the handler stores a task as a dead letter", 1, 1000)
    ]
    retry_until_handled: Annotated[
        bool,
        Rule(False, "Unlimited attempts. If false, Cloud Tasks deletes tasks that run out of attempts"),
    ]
    min_backoff_seconds: Annotated[float, Rule(10.0, "Wait before the first retry", 0.001, MAX_BACKOFF_SECONDS)]
    max_backoff_seconds: Annotated[float, Rule(300.0, "Longest wait between two attempts", 0.001, MAX_BACKOFF_SECONDS)]
    max_doublings: Annotated[
        int,
        Rule(4, "How often the wait doubles before it grows linearly; Cloud Tasks reads 0 as not set", 1, 100),
    ]
    attempt_log_ratio: Annotated[
        float, Rule(1.0, "Share of tasks whose creation, attempts and responses Cloud Tasks logs", 0, 1)
    ]


_PUBLISHED = json.loads((Path(__file__).resolve().parent / "handler/contract.json").read_text())
CONTRACT = _PUBLISHED["actions"]
"""The handler's actions, and what each needs from the environment."""
_NEEDS: list[dict[str, Any]] = [
    _PUBLISHED["database"],
    *(need for action in CONTRACT.values() for need in action["needs"]),
]


def _need(variable: str) -> Rule:
    """The rule of a secret that the handler gets as this variable and checks in the same way."""
    unused: dict[str, Any] = {"meaning": "No action needs it", "pattern": ".*", "accepts": "a text", "url": False}
    need = next((need for need in _NEEDS if need["variable"] == variable), unused)
    accepts = f"a URL `{need['accepts']}`, percent-encoded" if need["url"] else need["accepts"]
    return Rule(
        "", f"{need['meaning']} (secret)", pattern=need["pattern"], accepts=accepts, secret=True, url=need["url"]
    )


_RESERVED = (
    "PORT|HOST|K_.*|X_GOOGLE_.*|GOOGLE_CLOUD_PROJECT|CLOUD_TASKS_EMULATOR_HOST|CLOUD_RUN_.*|"
    "MAX_ATTEMPTS|HANDLER_TIMEOUT_SECONDS|DEAD_LETTER_QUEUE|TASK_QUEUE|DATABASE_POOL|SIMULATE_EFFECTS|"
    "DATABASE_URL|SMTP_URL|WAREHOUSE_URL|WAREHOUSE_SECRET"
)
_VARIABLES: dict[str, Any] = {
    "pattern": rf"(?!({_RESERVED})\Z)[A-Z][A-Z0-9_]{{0,99}}",
    "accepts": "a map of variables to texts; the names are upper-case letters, digits and underscores, and neither "
    "Cloud Run nor the program sets them",
    "example": "NAME VALUE",
}


class ImageSettings(TypedDict):
    handler_context: Annotated[
        str,
        Rule(
            "handler",
            "Folder of the handler: its Dockerfile and everything that it copies",
            pattern=r"(?!/)[A-Za-z0-9._/-]{1,200}",
            accepts="a path relative to the project, such as handler or ../resizer",
        ),
    ]
    repository_name: Annotated[
        str,
        Rule(
            "cloud-run-tasks",
            "Artifact Registry repository of the handler's image. A rename deletes the old one and its images last",
            pattern=r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
            accepts="1 to 63 lower-case letters, digits and hyphens; the first a letter, the last not a hyphen",
        ),
    ]
    image: Annotated[
        str,
        Rule(
            "",
            "Copy this image, such as the output `image` of another stack, instead of building one",
            pattern=r"([a-z0-9.-]+(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64})?",
            accepts="an image by digest, `HOST/PATH@sha256:...`, or nothing",
        ),
    ]


class ServiceSettings(TypedDict):
    service_name: Annotated[
        str,
        Rule(
            "task-handler",
            "Name of the Cloud Run service, its image and its secrets. A rename creates new ones, sends all tasks to "
            "the new service, and deletes the old ones last",
            pattern=r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?",
            accepts="1 to 49 lower-case letters, digits and hyphens; the first a letter, the last not a hyphen",
        ),
    ]
    memory: Annotated[
        str,
        Rule(
            "512Mi",
            "Memory of one instance, which has one CPU",
            # the handler with Cloud Tasks' client needs over 128Mi
            pattern=r"(25[6-9]|2[6-9]\d|[3-9]\d\d|[1-3]\d{3}|40[0-8]\d|409[0-6])Mi|[1-4]Gi",
            accepts="256Mi to 4096Mi, or 1Gi to 4Gi",
        ),
    ]
    handler_timeout_seconds: Annotated[
        int, Rule(300, "Request timeout in seconds; Cloud Tasks waits 600", 60, DISPATCH_DEADLINE_SECONDS)
    ]
    min_instances: Annotated[
        int, Rule(0, "Instances that are kept ready and billed while idle; 0 means a cold start after a pause", 0, 1000)
    ]
    max_instances: Annotated[int, Rule(10, "Maximum number of instances", 1, 1000)]
    container_concurrency: Annotated[int, Rule(20, "Requests that one instance handles at once", 1, 1000)]
    database_pool: Annotated[int, Rule(4, "Most database connections of one instance", 1, 100)]
    handler_account: Annotated[
        str,
        Rule(
            "task-handler-sa",
            "Id of the service account that the handler runs as. A rename deletes the old one last; for about a minute "
            "dead letters may not be stored, and such tasks are retried",
            **_ACCOUNT_ID,
        ),
    ]
    ingress: Annotated[
        str,
        Rule(
            "all",
            "Networks whose requests reach the service, beside Cloud Tasks and Cloud Scheduler of its own project",
            pattern="|".join(INGRESS),
            accepts=", ".join(INGRESS),
        ),
    ]
    vpc_network: Annotated[
        str,
        Rule(
            "",
            "VPC network that the handler reaches private addresses through, such as a database's",
            pattern=rf"(?:(?:projects/[^/\s]+/global/networks/)?{_ID})?",
            accepts="a network's name, `projects/PROJECT_ID/global/networks/NAME`, or nothing",
        ),
    ]
    vpc_subnetwork: Annotated[
        str,
        Rule(
            "",
            "Subnetwork of the service's addresses. If empty, the one in the region with the network's name",
            pattern=rf"(?:(?:projects/[^/\s]+/regions/[^/\s]+/subnetworks/)?{_ID})?",
            accepts="a subnetwork's name, `projects/PROJECT_ID/regions/REGION/subnetworks/NAME`, or nothing",
        ),
    ]
    cloud_sql_instance: Annotated[
        str,
        Rule(
            "",
            "Cloud SQL instance whose socket the handler gets, in /cloudsql",
            pattern=r"(?:(?:[a-z0-9.-]+:)?[a-z0-9-]+:[a-z0-9-]+:[a-z][a-z0-9-]{0,97})?",
            accepts="`PROJECT_ID:REGION:INSTANCE`, or nothing",
        ),
    ]


class EffectSettings(TypedDict):
    simulate_effects: Annotated[
        bool,
        Rule(False, "Only log an effect whose URL below is not set. If false, all four are required"),
    ]
    database_url: Annotated[str, _need("DATABASE_URL")]
    database_max_connections: Annotated[
        int,
        Rule(
            100,
            "Connections that the database allows the handler; a rollout needs 2 x maxInstances x databasePool",
            2,
            262_143,
        ),
    ]
    smtp_url: Annotated[str, _need("SMTP_URL")]
    warehouse_url: Annotated[str, _need("WAREHOUSE_URL")]
    warehouse_secret: Annotated[str, _need("WAREHOUSE_SECRET")]


class VariableSettings(TypedDict):
    environment: Annotated[dict[str, str], Rule({}, "More environment variables of the handler", **_VARIABLES)]
    secrets: Annotated[
        dict[str, str],
        Rule({}, "Secrets: more environment variables of the handler, from Secret Manager", **_VARIABLES, secret=True),
    ]


class InvokerSettings(TypedDict):
    invoker_account: Annotated[
        str,
        Rule(
            "cloud-tasks-invoker",
            "Id of the service account whose token Cloud Tasks sends. Queued tasks keep the old account, "
            "which a rename deletes, so rename it only while both queues are empty",
            **_ACCOUNT_ID,
        ),
    ]
    invoker_display_name: Annotated[
        str,
        Rule(
            "Cloud Tasks Invoker", "Display name of that account", pattern=r"\S.{0,99}", accepts="1 to 100 characters"
        ),
    ]
    producers_act_as_invoker: Annotated[
        bool,
        Rule(
            True,
            "Let producers put the invoker's token into a task, as tasks of the tutorial do. Weaker: a producer can "
            "send that token to any URL. If false, only the queue sets the token",
        ),
    ]


class MonitoringSettings(TypedDict):
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
            "Other Cloud Monitoring channels that receive alerts, such as a pager",
            pattern=r"projects/[^\s/]+/notificationChannels/[0-9]+",
            accepts="a list of `projects/PROJECT_ID/notificationChannels/NUMBER`",
            example="projects/PROJECT_ID/notificationChannels/1234567890",
        ),
    ]


class HandlerEnvironment(TypedDict):
    """The handler's environment, beyond the settings of its service."""

    max_attempts: int
    dead_letter_queue: str
    task_queue: str
    simulate_effects: bool
    environment: Mapping[str, str]
    secrets: dict[str, str]


class DeadLetterFigures(TypedDict):
    dead_letter_queue: str
    dead_letter_concurrency: int


class RelayNames(TypedDict):
    queue_name: str
    service_name: str


class MonitoredResources(TypedDict):
    """The names and figures in the alerts' queries."""

    queue_name: str
    dead_letter_queue: str
    service_name: str
    handler_timeout_seconds: int
    has_outbox: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """One stack's settings, checked. Each section holds the settings of one component."""

    project: str
    """`gcp:project`, the Google Cloud project of all resources."""

    region: Annotated[
        str,
        Rule(
            "us-central1",
            "Region of queues, image and service. A change creates all of them there, then deletes the old ones with "
            "all tasks",
            pattern=r"[a-z]+-[a-z]+[0-9]+",
            accepts="a region such as us-central1",
        ),
    ]
    producers: Annotated[
        tuple[str, ...],
        Rule(
            (),
            "Members that may create tasks, such as the web app's service account",
            pattern=r"(serviceAccount|user|group):[^\s@:]+@[^\s@:]+|principal(Set)?://iam\.googleapis\.com/\S*[^\s*]",
            accepts="a list of `serviceAccount:`, `user:`, `group:` with an e-mail, `principal://`, "
            "`principalSet://` (no whole pool)",
            example="serviceAccount:WEB_APP@PROJECT_ID.iam.gserviceaccount.com",
        ),
    ]
    labels: Annotated[
        dict[str, str],
        Rule(
            {},
            "More labels of everything that takes labels, beside `stack`",
            pattern=r"[a-z][a-z0-9_-]{0,62}",
            accepts="a map of labels to texts; both are up to 63 lower-case letters, digits, hyphens and underscores",
            example="team shop",
            item=r"[a-z0-9_-]{0,63}",
        ),
    ]
    deletion_protection: Annotated[
        bool,
        Rule(
            True,
            "Refuse to delete or replace service, secrets, accounts, queues and repository, also by `pulumi destroy`. "
            "A rename then fails in the preview",
        ),
    ]
    queue: QueueSettings
    image: ImageSettings
    service: ServiceSettings
    effects: EffectSettings = dataclasses.field(repr=False)
    variables: VariableSettings = dataclasses.field(repr=False)
    invoker: InvokerSettings
    monitoring: MonitoringSettings

    @property
    def dead_letter_queue(self) -> str:
        """Full path of the dead-letter queue.

        The service needs it as text, because the queue itself is declared after the service."""
        return f"projects/{self.project}/locations/{self.region}/queues/{self.queue['queue_name']}-dead-letters"

    @property
    def has_outbox(self) -> bool:
        """Whether the handler relays the outbox, a table in its database."""
        return bool(self.effects["database_url"])

    @property
    def further_apis(self) -> list[str]:
        """The APIs of what only some stacks have."""
        chosen = {"cloudscheduler": self.has_outbox, "sqladmin": bool(self.service["cloud_sql_instance"])}
        return [api for api in chosen if chosen[api]]

    @property
    def task_queue(self) -> str:
        """Full path of the main queue, for the relay; empty without an outbox."""
        return self.dead_letter_queue.removesuffix("-dead-letters") if self.has_outbox else ""

    @property
    def monitored(self) -> MonitoredResources:
        return {
            "queue_name": self.queue["queue_name"],
            "dead_letter_queue": self.dead_letter_queue,
            "service_name": self.service["service_name"],
            "handler_timeout_seconds": self.service["handler_timeout_seconds"],
            "has_outbox": self.has_outbox,
        }

    @property
    def dead_letters(self) -> DeadLetterFigures:
        return {"dead_letter_queue": self.dead_letter_queue, "dead_letter_concurrency": DEAD_LETTER_CONCURRENCY}

    @property
    def relay(self) -> RelayNames:
        return {"queue_name": self.queue["queue_name"], "service_name": self.service["service_name"]}

    @property
    def environment(self) -> HandlerEnvironment:
        effects = self.effects
        return {
            "max_attempts": self.queue["max_attempts"],
            "dead_letter_queue": self.dead_letter_queue,
            "task_queue": self.task_queue,
            "simulate_effects": effects["simulate_effects"],
            "environment": self.variables["environment"],
            "secrets": {
                "DATABASE_URL": effects["database_url"],
                "SMTP_URL": effects["smtp_url"],
                "WAREHOUSE_URL": effects["warehouse_url"],
                "WAREHOUSE_SECRET": effects["warehouse_secret"],
                **self.variables["secrets"],
            },
        }


class Setting(NamedTuple):
    key: str
    section: str
    """Field of Settings that the setting is part of; empty if it is a field itself."""
    name: str
    type: type
    rule: Rule

    @property
    def accepts(self) -> str:
        """The accepted values in words."""
        if self.type is bool:
            return "true or false"
        if self.type not in (int, float):
            return self.rule.accepts
        noun = "a whole number" if self.type is int else "a number"
        return f"{noun} from {as_text(self.rule.low)} to {as_text(self.rule.high)}"

    @property
    def remedy(self) -> str:
        """The command that sets an accepted value."""
        if self.rule.default == {}:
            secret = "--secret " if self.rule.secret else ""
            return f"set one: pulumi config set {secret}--path {self.key}.{self.rule.example}"
        if self.rule.secret:
            return f"set it: pulumi config set --secret {self.key}"
        if isinstance(self.rule.default, tuple):
            return f"set an item: pulumi config set --path '{self.key}[0]' {self.rule.example}"
        return f"set it: pulumi config set {self.key} {shlex.quote(as_text(self.rule.default))}"


def as_text(value: object) -> str:
    """The value as the configuration writes it."""
    if isinstance(value, bool | tuple | dict):
        return json.dumps(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _settings(owner: type = Settings, section: str = "") -> Iterator[Setting]:
    for name, hint in get_type_hints(owner, include_extras=True).items():
        if hasattr(hint, "__metadata__"):
            key = re.sub(r"_(.)", lambda match: match[1].upper(), name)
            yield Setting(key, section, name, hint.__origin__, hint.__metadata__[0])
        elif hint is not str:
            yield from _settings(hint, name)


SETTINGS = {setting.key: setting for setting in _settings()}
"""Every setting by its key."""


def conflicts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The broken rules between settings, given every setting's value by key: the key to change, and why."""
    reserved = f"{DEAD_LETTER_CONCURRENCY} for dead letters"
    capacity = values["maxInstances"] * values["containerConcurrency"] - DEAD_LETTER_CONCURRENCY
    if values["databaseUrl"]:
        reserved += f" - {RELAY_CONCURRENCY} for the relay"
        capacity -= RELAY_CONCURRENCY
    if values["maxConcurrentDispatches"] > capacity:
        yield (
            "maxConcurrentDispatches",
            f"must not exceed maxInstances x containerConcurrency - {reserved} = "
            f"{capacity}, or the service answers 429 and tasks use up their attempts; lower it, or raise one of those",
        )
    if values["minInstances"] > values["maxInstances"]:
        yield "minInstances", f"must not exceed maxInstances = {values['maxInstances']}; lower it, or raise that"
    connections = 2 * values["maxInstances"] * values["databasePool"]
    if values["databaseUrl"] and connections > values["databaseMaxConnections"]:
        yield (
            "databasePool",
            f"must not exceed databaseMaxConnections / (2 x maxInstances), because old and new instances run at once "
            f"in a rollout: they could open {connections} connections, and databaseMaxConnections = "
            f"{values['databaseMaxConnections']}; lower it or maxInstances, or raise databaseMaxConnections if the "
            "database allows more",
        )
    if values["minBackoffSeconds"] > values["maxBackoffSeconds"]:
        reason = f"must not exceed maxBackoffSeconds = {values['maxBackoffSeconds']:g}; lower it, or raise that"
        yield "minBackoffSeconds", reason
    if values["handlerAccount"] == values["invokerAccount"]:
        yield "handlerAccount", "must not be invokerAccount, or the handler could invoke itself; use another id"
    for key, value in values.items():
        if isinstance(value, tuple) and len(set(value)) < len(value):
            yield key, "must name each item once; remove the duplicate"
    socket = re.search(r"[?&]host=/cloudsql/([^&]*)", values["databaseUrl"])
    if socket and socket[1] != values["cloudSqlInstance"]:
        yield "cloudSqlInstance", "must be the instance that databaseUrl names in host=/cloudsql/; change one of them"
    for name in sorted(values["environment"].keys() & values["secrets"].keys()):
        yield "environment", f"must not contain {name}, which secrets contains too; remove one of them"
    for action, variable, setting, broken in _unmet_needs(values):
        yield setting, f"{broken}, which {action} needs; {SETTINGS[setting].remedy.replace('NAME', variable)}"
    missing = [key for key in ("databaseUrl", "smtpUrl", "warehouseUrl", "warehouseSecret") if not values[key]]
    for key in missing:
        if not values["simulateEffects"]:
            yield key, f"must be set, or its effects would not happen; {SETTINGS[key].remedy}, or simulateEffects true"
        elif key == "databaseUrl" and not {"smtpUrl", "warehouseUrl"} <= set(missing):
            yield key, f"must be set with smtpUrl or warehouseUrl, or effects could repeat; {SETTINGS[key].remedy}"
        elif key == "warehouseSecret" and "warehouseUrl" not in missing:
            reason = "must be set with warehouseUrl, or the warehouse could not tell who calls"
            yield key, f"{reason}; {SETTINGS[key].remedy}"


def _unmet_needs(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """What the actions need and the maps of variables lack: action, variable, setting, and how it reads."""
    variables = {**values["environment"], **values["secrets"]}
    for action, declared in CONTRACT.items():
        for need in declared["needs"]:
            variable, setting = need["variable"], "secrets" if need["secret"] else "environment"
            if re.fullmatch(_RESERVED, variable):  # a setting of its own
                continue
            if variable not in variables and not values["simulateEffects"]:
                yield action, variable, setting, f"must contain {variable}"
            elif variable in variables and not re.fullmatch(need["pattern"], variables[variable], re.ASCII):
                yield action, variable, setting, f"must contain {need['accepts']} as {variable}"
