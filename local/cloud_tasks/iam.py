"""Who may do what to a queue: the roles of Cloud Tasks, and the policy that grants them.

Knows the roles that may stand on a queue. Refuses conditions, which nothing here could evaluate.
"""

import hashlib
import re
from collections.abc import Iterable

from google.iam.v1 import policy_pb2

from local.cloud_tasks.messages import CallError, Message

Policy: Message = policy_pb2.Policy

_QUEUE_READER = ("queues.get", "queues.list")
_QUEUE_ADMIN = (
    *_QUEUE_READER,
    *("queues.create", "queues.update", "queues.delete", "queues.pause", "queues.resume", "queues.purge"),
    *("queues.getIamPolicy", "queues.setIamPolicy"),
)
ROLES = {
    "roles/cloudtasks.enqueuer": ("tasks.create", "tasks.fullView"),
    "roles/cloudtasks.viewer": (*_QUEUE_READER, "tasks.get", "tasks.list"),
    "roles/cloudtasks.taskDeleter": ("tasks.delete",),
    "roles/cloudtasks.taskRunner": ("tasks.run", "tasks.fullView"),
    "roles/cloudtasks.queueAdmin": _QUEUE_ADMIN,
    "roles/cloudtasks.admin": (
        *_QUEUE_ADMIN,
        *("tasks.create", "tasks.get", "tasks.list", "tasks.delete", "tasks.run", "tasks.fullView"),
    ),
}
"""Permissions of each role, below cloudtasks."""
PERMISSIONS = frozenset(permission for role in ROLES.values() for permission in role)

_MEMBER = re.compile(
    r"allUsers|allAuthenticatedUsers|(user|group|serviceAccount|domain|deleted):\S+|principal(Set)?://\S+"
)


def policy(grants: Iterable[tuple[str, str]]) -> Message:
    """The policy of these grants, (role, member) each; by its etag a change since it was read is seen."""
    members: dict[str, list[str]] = {}
    for role, member in sorted(grants):
        members.setdefault(role, []).append(member)
    bindings = [policy_pb2.Binding(role=role, members=each) for role, each in members.items()]
    granted = Policy(version=1, bindings=bindings)
    granted.etag = hashlib.sha256(granted.SerializeToString(deterministic=True)).digest()[:8]
    return granted


def replaced(current: Message, given: Message) -> Message:
    """The policy to keep instead of the current one; raises CallError where the service refuses it."""
    if given.etag and given.etag != current.etag:
        raise CallError(
            "ABORTED",
            "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff.",
        )
    for binding in given.bindings:
        if binding.HasField("condition"):
            raise CallError("UNIMPLEMENTED", "Conditions on bindings are not served here")
        if binding.role not in ROLES:
            raise CallError("INVALID_ARGUMENT", f"Role {binding.role} is not supported for this resource.")
        for member in binding.members:
            if not _MEMBER.fullmatch(member):
                raise CallError("INVALID_ARGUMENT", f"Invalid member {member}: it must be type:name, as in user:E-MAIL")
    return policy((binding.role, member) for binding in given.bindings for member in set(binding.members))


def allows(given: Message, member: str, permission: str) -> bool:
    """Whether the policy gives a member a permission, such as `tasks.create`."""
    return any(
        permission in ROLES[binding.role]
        and not {member, "allUsers", "allAuthenticatedUsers"}.isdisjoint(binding.members)
        for binding in given.bindings
        if binding.role in ROLES
    )
