"""Who may do what to a queue: the roles of Cloud Tasks, and the policy that grants them.

Knows the roles that may stand on a queue. Refuses conditions, as the service does.
"""

import random
import re
from collections.abc import Iterable, Sequence

from google.iam.v1 import policy_pb2

from local.cloud_tasks.messages import CallError, Message, invalid

_READ_QUEUE = ("queues.get", "queues.list")
_ADMINISTER_QUEUE = (
    *_READ_QUEUE,
    *("queues.create", "queues.update", "queues.delete", "queues.pause", "queues.resume", "queues.purge"),
    *("queues.getIamPolicy", "queues.setIamPolicy"),
)
_READ_TASKS = ("tasks.get", "tasks.list")
ROLES = {
    "roles/cloudtasks.enqueuer": ("tasks.create", "tasks.fullView"),
    "roles/cloudtasks.viewer": (*_READ_QUEUE, *_READ_TASKS),
    "roles/cloudtasks.taskDeleter": ("tasks.delete",),
    "roles/cloudtasks.taskRunner": ("tasks.run", "tasks.fullView"),
    "roles/cloudtasks.queueAdmin": _ADMINISTER_QUEUE,
    "roles/cloudtasks.admin": (
        *(*_ADMINISTER_QUEUE, *_READ_TASKS),
        *("tasks.create", "tasks.delete", "tasks.run", "tasks.fullView"),
    ),
}
"""Permissions of each role, below cloudtasks."""

_OF_QUEUE = frozenset(ROLES["roles/cloudtasks.admin"]) - {"queues.create", "queues.list"}
_ROLE = re.compile(r"roles/[^/]+|(organizations|projects)/[^/]+/roles/[^/]+")
_MEMBER = re.compile(
    r"allUsers|allAuthenticatedUsers|(user|group|serviceAccount|domain|deleted):\S+|principal(Set)?://\S+"
)
_NEVER_SET = b"\x00\x20\x01"
"""The etag of a queue whose policy was never set."""


def policy(grants: Iterable[tuple[str, str]], *, was_set: bool = False) -> Message:
    """The policy of these grants, role and member each. Each that was set has an etag of its own."""
    members: dict[str, dict[str, None]] = {}
    for role, member in grants:
        members.setdefault(role, {})[member] = None
    if not members and not was_set:
        return policy_pb2.Policy(etag=_NEVER_SET)
    bindings = [policy_pb2.Binding(role=role, members=each) for role, each in members.items()]
    return policy_pb2.Policy(version=1, etag=random.randbytes(8), bindings=bindings)


def replaced(current: Message, requested: Message) -> Message:
    """The policy to store instead of the current one; raises CallError where the service refuses it."""
    if requested.etag and requested.etag != current.etag:
        raise CallError(
            "ABORTED",
            "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff. "
            f"The request's ETag '{_octal(requested.etag)}' did not match "
            f"the current policy's ETag '{_octal(current.etag)}'.",
        )
    if requested.version not in (0, 1, 3):
        raise invalid(
            f"Specified policy version ({requested.version}) is not supported. For more information, please refer to "
            "https://cloud.google.com/iam/help/allow-policies/versions."
        )
    for binding in requested.bindings:
        if not _ROLE.fullmatch(binding.role):
            raise invalid(
                'The role name must be in the form "roles/{role}", "organizations/{organization_id}/roles/{role}", '
                'or "projects/{project_id}/roles/{role}".'
            )
        if binding.role.startswith("roles/") and binding.role not in ROLES:
            raise invalid(f"Role {binding.role} is not supported for this resource.")
        for member in binding.members:
            if not _MEMBER.fullmatch(member):
                unknown = f"The member {member} is of an unknown type."
                raise invalid(f"{unknown} Please set a valid type prefix for the member.")
        if binding.HasField("condition"):
            raise invalid("Can't set conditional policy on this resource")
    return policy(((each.role, member) for each in requested.bindings for member in each.members), was_set=True)


def check_permissions(permissions: Sequence[str]) -> None:
    """Raise the CallError of permissions that cannot be tested on a queue; the first bad one is reported."""
    if not permissions:
        raise invalid("At least one permission must be specified.")
    for permission in permissions:
        parts = permission.split(".")
        if len(parts) != 3 or "" in parts or "*" in permission:
            raise invalid(f"The permission {permission} is invalid.")
        if permission.removeprefix("cloudtasks.") not in _OF_QUEUE:
            raise invalid(f"Permission {permission} is not valid for this resource.")


def allows(granted: Message, member: str, permission: str) -> bool:
    """Whether a policy gives a member a permission, such as `tasks.create`."""
    return any(
        permission in ROLES.get(binding.role, ())
        and not {member, "allUsers", "allAuthenticatedUsers"}.isdisjoint(binding.members)
        for binding in granted.bindings
    )


def _octal(etag: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in etag)
