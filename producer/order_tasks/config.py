"""The configuration: the queue, the service that its tasks call, the invoker's account, the dead-letter queue.

Knows the environment variables and the stack outputs. Refuses a value that Cloud Tasks or a delivery would refuse
later. Reports all problems at once, since finding each one could cost a deployment.
"""

import os
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Self

from order_tasks.errors import ConfigError

_VARIABLES = {
    "queue": "ORDER_TASKS_QUEUE",
    "service_url": "ORDER_TASKS_SERVICE_URL",
    "invoker_email": "ORDER_TASKS_INVOKER_EMAIL",
    "dead_letter_queue": "ORDER_TASKS_DEAD_LETTER_QUEUE",
    "dashboard_url": "ORDER_TASKS_DASHBOARD_URL",
}
_EMULATOR = "CLOUD_TASKS_EMULATOR_HOST"
_EMULATOR_OUTPUT = "tasks_grpc"

# For each source of values: field -> the error text, with a remedy.
_IN_CODE = dict.fromkeys([*_VARIABLES, "emulator_host"], "Config.{field} {problem}")
_IN_EMULATOR = {"emulator_host": f"{_EMULATOR} {{problem}}: export {_EMULATOR}=127.0.0.1:8123, or unset it"}
_IN_ENVIRONMENT = _IN_EMULATOR | {
    field: f'{name} {{problem}}: export {name}="$(pulumi stack output {field})"' for field, name in _VARIABLES.items()
}
_IN_OUTPUTS = _IN_EMULATOR | {
    field: f"output {field} {{problem}}: run `pulumi stack output {field}` in a deployed stack" for field in _VARIABLES
}
_IN_LOCAL_OUTPUTS = _IN_OUTPUTS | {
    "emulator_host": f"output {_EMULATOR_OUTPUT} {{problem}}: run `python -m local up --json`"
}

_HOST = r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])"
_QUEUE_FORM = r"projects/[A-Za-z0-9.:-]+/locations/[a-z0-9-]+/queues/[A-Za-z0-9-]{1,100}"
_FORMS = {
    "queue": (_QUEUE_FORM, "projects/P/locations/L/queues/Q"),
    "service_url": (rf"https?://{_HOST}(:\d{{1,5}})?", "a root URL such as https://service-abc.a.run.app"),
    "invoker_email": (r"[^@\s]+@[^@\s]+", "a service account's e-mail"),
    "dead_letter_queue": (_QUEUE_FORM, "projects/P/locations/L/queues/Q"),
    "dashboard_url": (r"https://\S+", "a URL that begins with https://"),
    "emulator_host": (rf"{_HOST}:\d{{1,5}}", "host:port such as 127.0.0.1:8123"),
}
_OPTIONAL = _FORMS.keys() - {"queue"}


@dataclass(frozen=True)
class Config:
    """Where tasks go. Raises ConfigError for an invalid value."""

    queue: str
    """`projects/P/locations/L/queues/Q`."""
    service_url: str | None = None
    """The service's root URL and the tokens' audience. A trailing slash is removed. None: the queue knows the URL."""
    invoker_email: str | None = None
    """The service account whose OIDC token each delivery carries. Naming it requires the right to act as this account.
    None: the queue adds the token."""
    emulator_host: str | None = None
    """`host:port` of a local cloud's gRPC port, used without TLS and credentials. None: Google's Cloud Tasks."""
    dead_letter_queue: str | None = None
    """The dead-letter queue. Only the operators' commands need it."""
    dashboard_url: str | None = None
    """The stack's dashboard, to which the console leads."""
    call_timeout: float | None = None
    """Seconds for a call with its retries. None: 30, or 2 with a local cloud."""
    attempt_timeout: float | None = None
    """Seconds for each attempt of a call. None: 10, or 2 with a local cloud, but not more than for the call."""

    def __post_init__(self) -> None:
        _refuse({field: getattr(self, field) for field in _FORMS}, _IN_CODE, _OPTIONAL)
        for field in ("call_timeout", "attempt_timeout"):
            seconds = getattr(self, field)
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ConfigError(f"Config.{field} is {seconds!r}: pass a number of seconds above 0")
        if self.service_url is not None:
            object.__setattr__(self, "service_url", self.service_url.removesuffix("/"))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, *, dead_letters: bool = False) -> Self:
        """Read ORDER_TASKS_QUEUE and the optional variables.

        Optional are ORDER_TASKS_SERVICE_URL, ORDER_TASKS_INVOKER_EMAIL, CLOUD_TASKS_EMULATOR_HOST and, without
        `dead_letters`, ORDER_TASKS_DEAD_LETTER_QUEUE. Raises ConfigError with the command that sets each missing or
        invalid variable.
        """
        values = {field: environ.get(variable) or None for field, variable in _VARIABLES.items()}
        return cls._checked(values | {"emulator_host": environ.get(_EMULATOR) or None}, _IN_ENVIRONMENT, dead_letters)

    @classmethod
    def from_outputs(
        cls, outputs: Mapping[str, object], environ: Mapping[str, str] = os.environ, *, dead_letters: bool = False
    ) -> Self:
        """Read what `pulumi stack output --json` or `python -m local up --json` prints. Other keys are ignored.

        The latter contains the local cloud's address; with a stack's outputs, CLOUD_TASKS_EMULATOR_HOST is used. The
        output dead_letter_queue is required only with `dead_letters`. The queue adds the handler's address and the
        token: a stack names its invoker also where producers may not act as it.
        """
        values = {field: outputs.get(field) for field in _VARIABLES} | {"service_url": None, "invoker_email": None}
        values["emulator_host"] = outputs.get(_EMULATOR_OUTPUT, environ.get(_EMULATOR) or None)
        return cls._checked(values, _IN_LOCAL_OUTPUTS if _EMULATOR_OUTPUT in outputs else _IN_OUTPUTS, dead_letters)

    def environment(self) -> dict[str, str]:
        """The variables from which another process reads this configuration."""
        variables = {**_VARIABLES, "emulator_host": _EMULATOR}
        values = {variable: getattr(self, field) for field, variable in variables.items()}
        return {variable: value for variable, value in values.items() if value is not None}

    @classmethod
    def _checked(cls, values: Mapping[str, object], reports: Mapping[str, str], dead_letters: bool) -> Self:
        _refuse(values, reports, _OPTIONAL - {"dead_letter_queue"} if dead_letters else _OPTIONAL)
        return cls(**values)  # type: ignore[arg-type]  # _refuse accepts only text


def _refuse(values: Mapping[str, object], reports: Mapping[str, str], optional: Set[str]) -> None:
    if values["invoker_email"] is not None:
        optional = optional - {"service_url"}
    required = [field for field, value in values.items() if value is not None or field not in optional]
    problems = {field: _problem(field, values) for field in required}
    lines = [reports[field].format(field=field, problem=problem) for field, problem in problems.items() if problem]
    if lines:
        raise ConfigError("\n".join(lines))


def _problem(field: str, values: Mapping[str, object]) -> str | None:
    value = values[field]
    pattern, form = _FORMS[field]
    if value is None and field == "service_url":
        return "is missing, and the invoker's tokens need it as their audience"
    if value is None or value == "":
        return "is missing"
    text = value.removesuffix("/") if field == "service_url" and isinstance(value, str) else value
    if not isinstance(text, str) or not re.fullmatch(pattern, text, re.ASCII) or _port(text) > 65535:
        return f"is {value!r}, not {form}"
    if field == "service_url" and text.startswith("http:") and values["emulator_host"] is None:
        return f"is {value!r}, but tokens are sent over https only, except to a local cloud ({_EMULATOR})"
    if field == "dead_letter_queue" and text == values["queue"]:
        return f"is {value!r}, the same as the queue: a replay would pause it"
    return None


def _port(text: str) -> int:
    found = re.search(r":(\d+)$", text)
    return int(found[1]) if found else 0
