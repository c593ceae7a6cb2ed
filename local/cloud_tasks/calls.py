"""The calls of Cloud Tasks that are served, each described once for gRPC and REST alike.

Follows the official protos: names, messages and URL patterns are theirs.
"""

import operator
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.cloud.tasks_v2 import types
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from local.cloud_tasks.messages import Message
from local.cloud_tasks.names import TEMPLATES

SERVICE = "google.cloud.tasks.v2.CloudTasks"
_TABLE = {
    SERVICE: """
        ListQueues         queues.list         ListQueuesResponse         GET parent=location/queues
        GetQueue           queues.get          Queue                      GET name=queue
        CreateQueue        queues.create       Queue                      POST parent=location/queues queue
        UpdateQueue        queues.update       Queue                      PATCH queue.name=queue queue
        DeleteQueue        queues.delete       Empty                      DELETE name=queue
        PurgeQueue         queues.purge        Queue                      POST name=queue:purge *
        PauseQueue         queues.pause        Queue                      POST name=queue:pause *
        ResumeQueue        queues.resume       Queue                      POST name=queue:resume *
        GetCmekConfig      cmekConfig.get      CmekConfig                 GET name=cmek_config
        UpdateCmekConfig   cmekConfig.update   CmekConfig                 PATCH cmek_config.name=cmek_config cmek_config
        GetIamPolicy       queues.getIamPolicy Policy                     POST resource=queue:getIamPolicy *
        SetIamPolicy       queues.setIamPolicy Policy                     POST resource=queue:setIamPolicy *
        TestIamPermissions -                   TestIamPermissionsResponse POST resource=queue:testIamPermissions *
        ListTasks          tasks.list          ListTasksResponse          GET parent=queue/tasks
        GetTask            tasks.get           Task                       GET name=task
        CreateTask         tasks.create        Task                       POST parent=queue/tasks *
        DeleteTask         tasks.delete        Empty                      DELETE name=task
        RunTask            tasks.run           Task                       POST name=task:run *
        BatchCreateTasks   tasks.create        Operation                  POST parent=queue/tasks:batchCreate *
        BatchDeleteTasks   tasks.delete        Operation                  POST parent=queue/tasks:batchDelete *
    """,
    "google.longrunning.Operations": """
        GetOperation       -                   Operation                  GET name=operation
        ListOperations     -                   ListOperationsResponse     - name=operation
        WaitOperation      -                   Operation                  - name=operation
        CancelOperation    -                   Empty                      - name=operation
        DeleteOperation    -                   Empty                      - name=operation
    """,
}
"""Calls of each service: name, permission, response, verb and path over REST, field of the body."""


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
    """Empty if the call is not served over REST."""
    field: str
    """The request's field that names the resource."""
    kind: str
    """The kind of that resource, such as `queue`."""
    path: re.Pattern[str]
    """Path over REST below the version; its group is the resource."""
    body: str
    """The request's field that the JSON body fills. `*` is the request itself; empty if there is no body."""

    @property
    def routing_field(self) -> str:
        """The field as a gRPC call's routing header names it."""
        return "cmek_config.name" if self.name == "GetCmekConfig" else self.field

    def resource(self, request: Message) -> str:
        """The name of the resource that a request is about."""
        return str(operator.attrgetter(self.field)(request))


def _calls() -> Iterator[Call]:
    for service, table in _TABLE.items():
        for row in table.strip().splitlines():
            name, permission, response, verb, target, *body = row.split()
            field, kind, suffix = re.fullmatch(r"([a-z_.]+)=([a-z_]+)(.*)", target).groups()  # type: ignore[union-attr]
            resource = re.sub("<[A-Z_]+>", "[^/:]+", TEMPLATES[kind].replace("<PROJECT_ID>", "[^/]+"))
            yield Call(
                service,
                name,
                permission.strip("-"),
                _message(f"{name}Request"),
                _message(response),
                verb.strip("-"),
                field,
                kind,
                re.compile(f"({resource}){suffix}"),
                *body or [""],
            )


def _message(name: str) -> Message:
    """The class of an official message."""
    if hasattr(types, name):
        return getattr(types, name).pb()
    modules = (iam_policy_pb2, policy_pb2, operations_pb2, empty_pb2)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


CALLS = tuple(_calls())
