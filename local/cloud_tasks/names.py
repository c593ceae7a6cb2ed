"""The names of resources: their shapes, and what the service answers to one that does not fit.

The resource that a call is about is checked before anything else: that it lies in a project, then its shape, its ids.
"""

import functools
import re

from google.rpc import error_details_pb2

from local.cloud_tasks.messages import CallError, Message, error_info, invalid

_LOCATION = "projects/<PROJECT_ID>/locations/<LOCATION_ID>"
TEMPLATES = {
    "location": _LOCATION,
    "queue": f"{_LOCATION}/queues/<QUEUE_ID>",
    "task": f"{_LOCATION}/queues/<QUEUE_ID>/tasks/<TASK_ID>",
    "cmek_config": f"{_LOCATION}/cmekConfig",
    "operation": f"{_LOCATION}/operations/<OPERATION_ID>",
}
_SHAPES = {kind: re.compile(re.sub("<[A-Z_]+>", "([^/]+)", template)) for kind, template in TEMPLATES.items()}
_IDS = (
    (
        "Queue",
        re.compile(r"[A-Za-z0-9-]{1,100}"),
        "letters ([A-Za-z]), numbers ([0-9]), or hyphens (-). Queue ID must be between 1 and 100 characters.",
    ),
    (
        "Task",
        re.compile(r"[A-Za-z0-9_-]{1,500}"),
        "letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or underscores (_). "
        "Task ID must between 1 and 500 characters.",
    ),
)
_SERVICE = "cloudtasks.googleapis.com"
_REFERENCE = "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues"


@functools.lru_cache(maxsize=256)  # the tasks of a producer mostly go to the same queue
def check_resource(kind: str, name: str, method: str, permission: str) -> None:
    """Raise the CallError of a call whose resource is not the name of a location, queue, task or cmek_config.

    `method`: the call's full name in the protos. `permission`: the one it needs, without `cloudtasks.`."""
    if not name:
        project_invalid = error_info("RESOURCE_PROJECT_INVALID", "googleapis.com", method=method, service=_SERVICE)
        raise invalid("Invalid resource field value in the request.", project_invalid)
    if not name.startswith("projects/"):
        text = f"Permission denied on resource project {name}."
        consumer = {"consumer": f"projects/{name}", "containerInfo": name, "service": _SERVICE}
        raise CallError(
            "PERMISSION_DENIED",
            text,
            error_info("CONSUMER_INVALID", "googleapis.com", **consumer),
            error_details_pb2.LocalizedMessage(locale="en-US", message=text),
            _help("Google developers console", "https://console.developers.google.com"),
        )
    match = _SHAPES[kind].fullmatch(name)
    if match is None and permission == "cmekConfig.update":
        raise invalid(f'CMEK Config name must be formatted: "{TEMPLATES[kind]}".')
    if match is None:
        raise denied(permission, name)
    _check_ids(match)


def denied(permission: str, name: str) -> CallError:
    """The error of a caller that lacks a permission, given without `cloudtasks.`, on a resource."""
    return CallError(
        "PERMISSION_DENIED",
        f'The principal (user or service account) lacks IAM permission "cloudtasks.{permission}" '
        f'for the resource "{name}" (or the resource may not exist).',
    )


def check_new_queue(name: str, location: str) -> None:
    """Raise the CallError of a name that no queue can be created under in a location."""
    _check_shape("queue", name)
    if not name.startswith(f"{location}/queues/"):
        raise invalid(f"{name} must begin with {location}.")


def split_task(name: str) -> tuple[str, str]:
    """The queue's path and the task's id; raises CallError."""
    _check_shape("task", name)
    path, _, task_id = name.rpartition("/tasks/")
    return path, task_id


def check_task_in_queue(name: str, queue: str) -> str:
    """The id of a task of a queue; raises CallError, for a task of another queue too."""
    path, task_id = split_task(name)
    if path != queue:
        raise invalid(
            f"The queue name from request ('{queue}') must be the same as the queue name in the named task ('{path}')."
        )
    return task_id


def _check_shape(kind: str, name: str) -> None:
    match = _SHAPES[kind].fullmatch(name)
    if match is None:
        raise invalid(f'{kind.title()} name must be formatted: "{TEMPLATES[kind]}".', _definition(f"{kind} name"))
    _check_ids(match)


def _check_ids(match: re.Match[str]) -> None:
    for given, (noun, pattern, text) in zip(match.groups()[2:], _IDS, strict=False):
        if not pattern.fullmatch(given):
            raise invalid(f'{noun} ID "{given}" can contain only {text}', _definition(f"{noun.lower()} ID"))


def _definition(noun: str) -> Message:
    """The link to the reference of a `queue name`, `queue ID`, `task name` or `task ID`."""
    page = ".tasks#Task" if noun.startswith("task") else "#Queue"
    return _help(f"Definition of {noun}", f"{_REFERENCE}{page}.FIELDS.name")


def _help(description: str, url: str) -> Message:
    return error_details_pb2.Help(links=[error_details_pb2.Help.Link(description=description, url=url)])
