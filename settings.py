"""What a stack may set: every key with its type, default, accepted values and meaning, and the rules between settings.

configuration.py reads a stack's configuration into these settings. A value is refused here if a service would refuse
it later or, worse, accept it and then lose tasks. The docstring of a setting is its line in docs/settings.md.
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
RELAY_CONCURRENCY = 2
"""Requests of the relay at once: a pass, and the next one if the first is slow."""


class Accepts(NamedTuple):
    """The values that a setting accepts, beyond its type."""

    pattern: str = ""
    """Of a text, of each item of a list, or of each key of a map."""
    words: str = ""
    """The same in words."""
    low: float = 0
    high: float = 0
    example: str = ""
    """An item of a list, or key and value of a map, for the error message."""
    value: str = r"(?s:.+)"
    """Pattern of a map's values."""
    secret: bool = False
    """The value must be encrypted and is never shown."""
    url: bool = False
    """The port and an IPv6 host are checked, beyond the pattern."""


def _from(low: float, high: float) -> Accepts:
    return Accepts(low=low, high=high)


def _name(longest: int) -> Accepts:
    words = f"1 to {longest} lower-case letters, digits and hyphens; the first a letter, the last not a hyphen"
    return Accepts(rf"[a-z]([a-z0-9-]{{0,{longest - 2}}}[a-z0-9])?", words)


_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ACCOUNT_ID = Accepts(
    r"[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "6 to 30 lower-case letters, digits and hyphens; the first a letter, the last not a hyphen",
)
_QUEUE_ID = Accepts(
    r"[A-Za-z0-9-]{1,87}",
    "1 to 87 letters, digits and hyphens (`-dead-letters` is appended for the second queue)",
)
_URL_PATH = Accepts(r"(/[A-Za-z0-9._~/-]*)?", "a path such as /process-order, or nothing")


class QueueSettings(TypedDict):
    queue_name: Annotated[str, "cloud-run-tasks", _QUEUE_ID]
    """Name of the queue. A rename creates new queues, then deletes the old two with all their tasks; the old names stay
    blocked for days."""
    handler_path: Annotated[str, "/process-order", _URL_PATH]
    """Path that every task is sent to, whatever its URL. If empty, each task keeps the path of its URL."""
    max_dispatches_per_second: Annotated[float, 50.0, _from(0.001, 500)]
    """Highest dispatch rate."""
    max_concurrent_dispatches: Annotated[int, 20, _from(1, 5000)]
    """Dispatches in progress at once."""
    max_attempts: Annotated[int, 5, _from(1, 1000)]
    """Attempts, including the first, after which the handler stores a task as a dead letter."""
    retry_until_handled: Annotated[bool, False]
    """Unlimited attempts. If false, Cloud Tasks deletes tasks that run out of attempts."""
    min_backoff_seconds: Annotated[float, 10.0, _from(0.001, MAX_BACKOFF_SECONDS)]
    """Wait before the first retry."""
    max_backoff_seconds: Annotated[float, 300.0, _from(0.001, MAX_BACKOFF_SECONDS)]
    """Longest wait between two attempts."""
    max_doublings: Annotated[int, 4, _from(1, 100)]
    """How often the wait doubles before it grows linearly; Cloud Tasks reads 0 as not set."""
    attempt_log_ratio: Annotated[float, 1.0, _from(0, 1)]
    """Share of tasks whose creation, attempts and responses Cloud Tasks logs."""


_FOLDER = Accepts(r"(?!/)[A-Za-z0-9._/-]{1,200}", "a path relative to the project, such as handler or ../resizer")
_DIGEST = Accepts(
    r"([a-z0-9.-]+(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64})?", "an image by digest, `HOST/PATH@sha256:...`, or nothing"
)


class ImageSettings(TypedDict):
    handler_context: Annotated[str, "handler", _FOLDER]
    """Folder of the handler: its Dockerfile and everything that it copies."""
    repository_name: Annotated[str, "cloud-run-tasks", _name(63)]
    """Artifact Registry repository of the handler's image. A rename deletes the old one and its images last."""
    image: Annotated[str, "", _DIGEST]
    """Copy this image, such as the output `image` of another stack, instead of building one."""


_MEMORY = Accepts(
    # the handler with Cloud Tasks' client needs over 128Mi
    r"(25[6-9]|2[6-9]\d|[3-9]\d\d|[1-3]\d{3}|40[0-8]\d|409[0-6])Mi|[1-4]Gi",
    "256Mi to 4096Mi, or 1Gi to 4Gi",
)
_INGRESS = Accepts("all|internal-and-cloud-load-balancing|internal", "all, internal-and-cloud-load-balancing, internal")
_NETWORK = Accepts(
    rf"(?:(?:projects/[^/\s]+/global/networks/)?{_ID})?",
    "a network's name, `projects/PROJECT_ID/global/networks/NAME`, or nothing",
)
_SUBNETWORK = Accepts(
    rf"(?:(?:projects/[^/\s]+/regions/[^/\s]+/subnetworks/)?{_ID})?",
    "a subnetwork's name, `projects/PROJECT_ID/regions/REGION/subnetworks/NAME`, or nothing",
)
_CLOUD_SQL = Accepts(
    r"(?:(?:[a-z0-9.-]+:)?[a-z0-9-]+:[a-z0-9-]+:[a-z][a-z0-9-]{0,97})?", "`PROJECT_ID:REGION:INSTANCE`, or nothing"
)


class ServiceSettings(TypedDict):
    service_name: Annotated[str, "task-handler", _name(49)]
    """Name of the Cloud Run service, its image and its secrets. A rename creates new ones, sends all tasks to the new
    service, and deletes the old ones last."""
    memory: Annotated[str, "512Mi", _MEMORY]
    """Memory of one instance, which has one CPU."""
    handler_timeout_seconds: Annotated[int, 300, _from(60, DISPATCH_DEADLINE_SECONDS)]
    """Request timeout in seconds; Cloud Tasks waits 600."""
    min_instances: Annotated[int, 0, _from(0, 1000)]
    """Instances that are kept ready and billed while idle; 0 means a cold start after a pause."""
    max_instances: Annotated[int, 10, _from(1, 1000)]
    """Maximum number of instances."""
    container_concurrency: Annotated[int, 20, _from(1, 1000)]
    """Requests that one instance handles at once."""
    database_pool: Annotated[int, 4, _from(1, 100)]
    """Most database connections of one instance."""
    handler_account: Annotated[str, "task-handler-sa", _ACCOUNT_ID]
    """Id of the service account that the handler runs as. A rename deletes the old one last; for about a minute dead
    letters may not be stored, and such tasks are retried."""
    ingress: Annotated[str, "all", _INGRESS]
    """Networks whose requests reach the service, beside Cloud Tasks and Cloud Scheduler of its own project."""
    vpc_network: Annotated[str, "", _NETWORK]
    """VPC network that the handler reaches private addresses through, such as a database's."""
    vpc_subnetwork: Annotated[str, "", _SUBNETWORK]
    """Subnetwork of the service's addresses. If empty, the one in the region with the network's name."""
    cloud_sql_instance: Annotated[str, "", _CLOUD_SQL]
    """Cloud SQL instance whose socket the handler gets, in /cloudsql."""


_PUBLISHED = json.loads((Path(__file__).resolve().parent / "handler/contract.json").read_text())
CONTRACT = _PUBLISHED["actions"]
"""The handler's actions, and what each needs from the environment."""


def _need(variable: str) -> Accepts:
    """What the handler accepts as this secret variable; anything if no action needs it."""
    needs = [_PUBLISHED["database"], *(need for action in CONTRACT.values() for need in action["needs"])]
    for need in needs:
        if need["variable"] == variable:
            words = f"a URL `{need['accepts']}`, percent-encoded" if need["url"] else need["accepts"]
            return Accepts(need["pattern"], words, secret=True, url=need["url"])
    return Accepts(".*", "a text", secret=True)


class EffectSettings(TypedDict):
    simulate_effects: Annotated[bool, False]
    """Only log an effect whose URL below is not set. If false, all four are required."""
    database_url: Annotated[str, "", _need("DATABASE_URL")]
    """Database of the orders, the stock and the ledger of effects; a socket needs no sslmode."""
    database_max_connections: Annotated[int, 100, _from(2, 262_143)]
    """Connections that the database allows the handler; a rollout needs 2 x maxInstances x databasePool."""
    smtp_url: Annotated[str, "", _need("SMTP_URL")]
    """Mail server and sender of the confirmations."""
    warehouse_url: Annotated[str, "", _need("WAREHOUSE_URL")]
    """URL that the warehouse is notified at."""
    warehouse_secret: Annotated[str, "", _need("WAREHOUSE_SECRET")]
    """Key that signs the notifications."""


_RESERVED = (
    "PORT|HOST|K_.*|X_GOOGLE_.*|GOOGLE_CLOUD_PROJECT|CLOUD_TASKS_EMULATOR_HOST|CLOUD_RUN_.*|"
    "MAX_ATTEMPTS|HANDLER_TIMEOUT_SECONDS|DEAD_LETTER_QUEUE|TASK_QUEUE|DATABASE_POOL|SIMULATE_EFFECTS|"
    "DATABASE_URL|SMTP_URL|WAREHOUSE_URL|WAREHOUSE_SECRET"
)
_VARIABLES = Accepts(
    rf"(?!({_RESERVED})\Z)[A-Z][A-Z0-9_]{{0,99}}",
    "a map of variables to texts; the names are upper-case letters, digits and underscores, and neither Cloud Run nor "
    "the program sets them",
    example="NAME VALUE",
)


class VariableSettings(TypedDict):
    environment: Annotated[dict[str, str], {}, _VARIABLES]
    """More environment variables of the handler."""
    secrets: Annotated[dict[str, str], {}, _VARIABLES._replace(secret=True)]
    """More environment variables of the handler, from Secret Manager."""


class InvokerSettings(TypedDict):
    invoker_account: Annotated[str, "cloud-tasks-invoker", _ACCOUNT_ID]
    """Id of the service account whose token Cloud Tasks sends. Queued tasks keep the old account, which a rename
    deletes, so rename it only while both queues are empty."""
    invoker_display_name: Annotated[str, "Cloud Tasks Invoker", Accepts(r"\S.{0,99}", "1 to 100 characters")]
    """Display name of that account."""
    producers_act_as_invoker: Annotated[bool, True]
    """Let producers put the invoker's token into a task, as tasks of the tutorial do. Weaker: a producer can send that
    token to any URL. If false, only the queue sets the token."""


_EMAIL = Accepts(r"[^\s@]+@[^\s@]+\.[^\s@]+", "a list of e-mail addresses", example="ON_CALL@EXAMPLE.COM")
_CHANNEL = Accepts(
    r"projects/[^\s/]+/notificationChannels/[0-9]+",
    "a list of `projects/PROJECT_ID/notificationChannels/NUMBER`",
    example="projects/PROJECT_ID/notificationChannels/1234567890",
)


class MonitoringSettings(TypedDict):
    alert_emails: Annotated[tuple[str, ...], (), _EMAIL]
    """Addresses that alerts are mailed to."""
    notification_channels: Annotated[tuple[str, ...], (), _CHANNEL]
    """Other Cloud Monitoring channels that receive alerts, such as a pager."""


class HandlerEnvironment(TypedDict):
    """The handler's environment, beyond the settings of its service."""

    max_attempts: int
    simulate_effects: bool
    environment: dict[str, str]
    secrets: dict[str, str]


_REGION = Accepts(r"[a-z]+-[a-z]+[0-9]+", "a region such as us-central1")
_MEMBER = Accepts(
    r"(serviceAccount|user|group):[^\s@:]+@[^\s@:]+|principal(Set)?://iam\.googleapis\.com/\S*[^\s*]",
    "a list of `serviceAccount:`, `user:`, `group:` with an e-mail, `principal://`, `principalSet://` (no whole pool)",
    example="serviceAccount:WEB_APP@PROJECT_ID.iam.gserviceaccount.com",
)
_LABEL = Accepts(
    r"[a-z][a-z0-9_-]{0,62}",
    "a map of labels to texts; both are up to 63 lower-case letters, digits, hyphens and underscores",
    example="team shop",
    value=r"[a-z0-9_-]{0,63}",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """One stack's settings, checked. Each section holds the settings of one component."""

    project: str
    region: Annotated[str, "us-central1", _REGION]
    """Region of queues, image and service. A change creates all of them there, then deletes the old ones with all
    tasks."""
    producers: Annotated[tuple[str, ...], (), _MEMBER]
    """Members that may create tasks, such as the web app's service account."""
    labels: Annotated[dict[str, str], {}, _LABEL]
    """More labels of everything that takes labels, beside `stack`."""
    deletion_protection: Annotated[bool, True]
    """Refuse to delete or replace service, secrets, accounts, queues and repository, also by `pulumi destroy`. A rename
    then fails in the preview."""
    queue: QueueSettings
    image: ImageSettings
    service: ServiceSettings
    effects: EffectSettings = dataclasses.field(repr=False)
    variables: VariableSettings = dataclasses.field(repr=False)
    invoker: InvokerSettings
    monitoring: MonitoringSettings

    @property
    def has_outbox(self) -> bool:
        """Whether the handler relays the outbox, a table in its database."""
        return bool(self.effects["database_url"])

    @property
    def dead_letter_queue(self) -> str:
        """Full path as text, because the service is declared before the queue."""
        return f"projects/{self.project}/locations/{self.region}/queues/{self.queue['queue_name']}-dead-letters"

    @property
    def further_apis(self) -> list[str]:
        """The APIs of what only some stacks have."""
        chosen = {"cloudscheduler": self.has_outbox, "sqladmin": bool(self.service["cloud_sql_instance"])}
        return [api for api in chosen if chosen[api]]

    @property
    def environment(self) -> HandlerEnvironment:
        effects = self.effects
        return {
            "max_attempts": self.queue["max_attempts"],
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
    default: Any
    accepts: Accepts

    @property
    def words(self) -> str:
        """The accepted values in words."""
        if self.type is bool:
            return "true or false"
        if self.type not in (int, float):
            return self.accepts.words
        noun = "a whole number" if self.type is int else "a number"
        return f"{noun} from {as_text(self.accepts.low)} to {as_text(self.accepts.high)}"

    @property
    def remedy(self) -> str:
        """The command that sets an accepted value."""
        secret = "--secret " if self.accepts.secret else ""
        if self.default == {}:
            return f"set one: pulumi config set {secret}--path {self.key}.{self.accepts.example}"
        if self.default == ():
            return f"set an item: pulumi config set --path '{self.key}[0]' {self.accepts.example}"
        value = "" if secret else f" {shlex.quote(as_text(self.default))}"
        return f"set it: pulumi config set {secret}{self.key}{value}"


def as_text(value: object) -> str:
    """The value as the configuration writes it."""
    if isinstance(value, bool | tuple | dict):
        return json.dumps(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _settings(owner: type = Settings, section: str = "") -> Iterator[Setting]:
    for name, hint in get_type_hints(owner, include_extras=True).items():
        if hasattr(hint, "__metadata__"):
            key = re.sub(r"_(.)", lambda match: match[1].upper(), name)
            default, *accepts = hint.__metadata__
            yield Setting(key, section, name, hint.__origin__, default, *accepts or [Accepts()])
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
    yield from _unmet_needs(values)
    missing = [key for key in ("databaseUrl", "smtpUrl", "warehouseUrl", "warehouseSecret") if not values[key]]
    for key in missing:
        if not values["simulateEffects"]:
            yield key, f"must be set, or its effects would not happen; {SETTINGS[key].remedy}, or simulateEffects true"
        elif key == "databaseUrl" and not {"smtpUrl", "warehouseUrl"} <= set(missing):
            yield key, f"must be set with smtpUrl or warehouseUrl, or effects could repeat; {SETTINGS[key].remedy}"
        elif key == "warehouseSecret" and "warehouseUrl" not in missing:
            reason = "must be set with warehouseUrl, or the warehouse could not tell who calls"
            yield key, f"{reason}; {SETTINGS[key].remedy}"


def _unmet_needs(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the actions need and the maps of variables lack or have in another form."""
    variables = {**values["environment"], **values["secrets"]}
    for action, declared in CONTRACT.items():
        for need in declared["needs"]:
            variable, key = need["variable"], "secrets" if need["secret"] else "environment"
            if re.fullmatch(_RESERVED, variable):  # a setting of its own
                continue
            missing = variable not in variables and not values["simulateEffects"]
            unfit = variable in variables and not re.fullmatch(need["pattern"], variables[variable], re.ASCII)
            if missing or unfit:
                contain = variable if missing else f"{need['accepts']} as {variable}"
                remedy = SETTINGS[key].remedy.replace("NAME", variable)
                yield key, f"must contain {contain}, which {action} needs; {remedy}"
