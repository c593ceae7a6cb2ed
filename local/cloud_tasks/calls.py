"""The calls of Cloud Tasks that are served, each described once for gRPC and REST alike.

Follows the official protos: names, messages and URL patterns are theirs.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.cloud.location import locations_pb2
from google.cloud.tasks_v2 import types
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from local.cloud_tasks.messages import QueueMessage, TaskMessage

_PROJECT = "projects/[^/]+"
_LOCATION = f"{_PROJECT}/locations/[^/:]+"
_QUEUE = f"{_LOCATION}/queues/[^/:]+"
_PATTERNS = {
    "PROJECT": _PROJECT,
    "LOCATION": _LOCATION,
    "QUEUE": _QUEUE,
    "TASK": f"{_QUEUE}/tasks/[^/:]+",
    "CMEK_CONFIG": f"{_LOCATION}/cmekConfig",
    "OPERATION": f"{_LOCATION}/operations/[^/:]+",
}


class Call(NamedTuple):
    """One call of the service."""

    service: str
    """The service's full name in the protos."""
    name: str
    """Name in the proto. The method that runs it has the same name in snake case."""
    permission: str
    """IAM permission without `cloudtasks.`; empty if the call needs none."""
    request: Any
    response: Any
    verb: str
    field: str
    """The request's field that names the resource."""
    kind: str
    """The kind of that resource, such as `queue`."""
    path: re.Pattern[str]
    """Path over REST below the version; its group is the resource."""
    body: str
    """The request's field that the JSON body fills. `*` is the request itself; empty if there is no body."""


def _calls(service: str, prefix: str, requests: Any, *rows: tuple[str, str, Any, str]) -> Iterator[Call]:  # noqa: ANN401
    """The calls of a service: name, permission below `prefix`, response, REST as `VERB field=RESOURCE:suffix body`."""
    for name, permission, response, rest in rows:
        verb, target, *body = rest.split(" ")
        field, noun, suffix = re.fullmatch(r"([a-z_.]+)=([A-Z_]+)(.*)", target).groups()  # type: ignore[union-attr]
        request = getattr(requests, f"{name}Request")
        yield Call(
            service,
            name,
            permission and f"{prefix}.{permission}",
            request.pb() if requests is types else request,
            response.pb() if requests is types and hasattr(response, "pb") else response,
            verb,
            field,
            noun.lower(),
            re.compile(f"({_PATTERNS[noun]}){suffix}"),
            *body or ["*" if verb == "POST" else ""],
        )


SERVICE = "google.cloud.tasks.v2.CloudTasks"
CALLS = (
    *_calls(
        SERVICE,
        "queues",
        types,
        ("ListQueues", "list", types.ListQueuesResponse, "GET parent=LOCATION/queues"),
        ("GetQueue", "get", QueueMessage, "GET name=QUEUE"),
        ("CreateQueue", "create", QueueMessage, "POST parent=LOCATION/queues queue"),
        ("UpdateQueue", "update", QueueMessage, "PATCH queue.name=QUEUE queue"),
        ("DeleteQueue", "delete", empty_pb2.Empty, "DELETE name=QUEUE"),
        ("PurgeQueue", "purge", QueueMessage, "POST name=QUEUE:purge"),
        ("PauseQueue", "pause", QueueMessage, "POST name=QUEUE:pause"),
        ("ResumeQueue", "resume", QueueMessage, "POST name=QUEUE:resume"),
    ),
    *_calls(
        SERVICE,
        "cmekConfig",
        types,
        ("GetCmekConfig", "get", types.CmekConfig, "GET name=CMEK_CONFIG"),
        ("UpdateCmekConfig", "update", types.CmekConfig, "PATCH cmek_config.name=CMEK_CONFIG cmek_config"),
    ),
    *_calls(
        SERVICE,
        "queues",
        iam_policy_pb2,
        ("GetIamPolicy", "getIamPolicy", policy_pb2.Policy, "POST resource=QUEUE:getIamPolicy"),
        ("SetIamPolicy", "setIamPolicy", policy_pb2.Policy, "POST resource=QUEUE:setIamPolicy"),
        ("TestIamPermissions", "", iam_policy_pb2.TestIamPermissionsResponse, "POST resource=QUEUE:testIamPermissions"),
    ),
    *_calls(
        SERVICE,
        "tasks",
        types,
        ("ListTasks", "list", types.ListTasksResponse, "GET parent=QUEUE/tasks"),
        ("GetTask", "get", TaskMessage, "GET name=TASK"),
        ("CreateTask", "create", TaskMessage, "POST parent=QUEUE/tasks"),
        ("DeleteTask", "delete", empty_pb2.Empty, "DELETE name=TASK"),
        ("RunTask", "run", TaskMessage, "POST name=TASK:run"),
        ("BatchCreateTasks", "create", operations_pb2.Operation, "POST parent=QUEUE/tasks:batchCreate"),
        ("BatchDeleteTasks", "delete", operations_pb2.Operation, "POST parent=QUEUE/tasks:batchDelete"),
    ),
    *_calls(
        "google.longrunning.Operations",
        "operations",
        operations_pb2,
        ("GetOperation", "", operations_pb2.Operation, "GET name=OPERATION"),
        ("ListOperations", "", operations_pb2.ListOperationsResponse, "- name=OPERATION"),
        ("WaitOperation", "", operations_pb2.Operation, "- name=OPERATION"),
        ("CancelOperation", "", empty_pb2.Empty, "- name=OPERATION"),
        ("DeleteOperation", "", empty_pb2.Empty, "- name=OPERATION"),
    ),
    *_calls(
        "google.cloud.location.Locations",
        "locations",
        locations_pb2,
        ("ListLocations", "", locations_pb2.ListLocationsResponse, "GET name=PROJECT/locations"),
        ("GetLocation", "", locations_pb2.Location, "GET name=LOCATION"),
    ),
)

"""A call with the verb `-` is not served over REST."""
