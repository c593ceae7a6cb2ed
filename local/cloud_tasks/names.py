"""The names of resources: their shapes, and what the service answers to one that does not fit.

The resource that a call is about is checked before anything else: that it lies in a project, then its shape, its ids.
"""

import re

from google.rpc import error_details_pb2

from local.cloud_tasks.messages import CallError, definition, error_info, help_link, invalid

QUEUE_NAME = 'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'
TASK_NAME = (
    'Task name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>/tasks/<TASK_ID>".'
)

_SERVICE = "cloudtasks.googleapis.com"
_PARTS = {
    "location": r"projects/[^/]+/locations/[^/]+",
    "queue": r"(projects/[^/]+/locations/[^/]+/queues)/([^/]+)",
    "task": r"(projects/[^/]+/locations/[^/]+/queues)/([^/]+)/tasks/([^/]+)",
    "cmek_config": r"projects/[^/]+/locations/[^/]+/cmekConfig",
}
_QUEUE_ID = re.compile(r"[A-Za-z0-9-]{1,100}")
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")


def check_resource(kind: str, name: str, method: str, permission: str) -> None:
    """Raise the CallError of a call whose resource is not the name of a location, queue, task or cmek_config.

    `method`: the call's full name in the protos. `permission`: the one it needs, without `cloudtasks.`."""
    if not name:
        project_invalid = error_info("RESOURCE_PROJECT_INVALID", "googleapis.com", method=method, service=_SERVICE)
        raise invalid("Invalid resource field value in the request.", project_invalid)
    if not name.startswith("projects/"):
        text = f"Permission denied on resource project {name}."
        raise CallError(
            "PERMISSION_DENIED",
            text,
            error_info(
                "CONSUMER_INVALID",
                "googleapis.com",
                consumer=f"projects/{name}",
                containerInfo=name,
                service=_SERVICE,
            ),
            error_details_pb2.LocalizedMessage(locale="en-US", message=text),
            help_link("Google developers console", "https://console.developers.google.com"),
        )
    match = re.fullmatch(_PARTS[kind], name)
    if match is None and permission == "cmekConfig.update":
        raise invalid('CMEK Config name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/cmekConfig".')
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
    match = re.fullmatch(_PARTS["queue"], name)
    if match is None:
        raise invalid(QUEUE_NAME, definition("queue name"))
    _check_ids(match)
    if match[1] != f"{location}/queues":
        raise invalid(f"{name} must begin with {location}.")


def split_task(name: str) -> tuple[str, str]:
    """The queue's path and the task's id; raises CallError."""
    match = re.fullmatch(_PARTS["task"], name)
    if match is None:
        raise invalid(TASK_NAME, definition("task name"))
    _check_ids(match)
    return f"{match[1]}/{match[2]}", match[3]


def check_task_in_queue(name: str, queue: str) -> str:
    """The id of a task of a queue; raises CallError, for a task of another queue too."""
    path, task_id = split_task(name)
    if path != queue:
        raise invalid(
            f"The queue name from request ('{queue}') must be the same as the queue name in the named task ('{path}')."
        )
    return task_id


def _check_ids(match: re.Match[str]) -> None:
    ids = match.groups()[1:]
    if ids and not _QUEUE_ID.fullmatch(ids[0]):
        raise invalid(
            f'Queue ID "{ids[0]}" can contain only letters ([A-Za-z]), numbers ([0-9]), or hyphens (-). '
            "Queue ID must be between 1 and 100 characters.",
            definition("queue ID"),
        )
    if len(ids) > 1 and not _TASK_ID.fullmatch(ids[1]):
        raise invalid(
            f'Task ID "{ids[1]}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or '
            "underscores (_). Task ID must between 1 and 500 characters.",
            definition("task ID"),
        )
