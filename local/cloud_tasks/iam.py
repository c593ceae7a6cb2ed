"""Who may do what to a queue: the roles of Cloud Tasks, and the policy that grants them.

Knows the roles that may stand on a queue. Refuses conditions, as the service does.
"""

import re
import secrets
from collections.abc import Iterable

from google.iam.v1 import policy_pb2

from local.cloud_tasks.messages import CallError, Message, invalid

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

_OF_LOCATION = frozenset(("queues.create", "queues.list"))
_OF_QUEUE = frozenset(permission for role in ROLES.values() for permission in role) - _OF_LOCATION
_ROLE = re.compile(r"roles/[^/]+|(organizations|projects)/[^/]+/roles/[^/]+")
_MEMBER = re.compile(
    r"allUsers|allAuthenticatedUsers|(user|group|serviceAccount|domain|deleted):\S+|principal(Set)?://\S+"
)
_NEVER_SET = b"\x00\x20\x01"
"""The etag of a queue whose policy was never set."""


def policy(grants: Iterable[tuple[str, str]]) -> Message:
    """The policy of these grants, role and member each; without any, that of a queue whose policy was never set."""
    members: dict[str, dict[str, None]] = {}
    for role, member in grants:
        members.setdefault(role, {})[member] = None
    if not members:
        return Policy(etag=_NEVER_SET)
    return _new([policy_pb2.Binding(role=role, members=each) for role, each in members.items()])


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
        _check_binding(binding)
    granted = policy((binding.role, member) for binding in requested.bindings for member in binding.members)
    return granted if granted.bindings else _new([])


def _check_binding(binding: Message) -> None:
    if not _ROLE.fullmatch(binding.role):
        raise invalid(
            'The role name must be in the form "roles/{role}", "organizations/{organization_id}/roles/{role}", '
            'or "projects/{project_id}/roles/{role}".'
        )
    if binding.role.startswith("roles/") and binding.role not in ROLES:
        raise invalid(f"Role {binding.role} is not supported for this resource.")
    for member in binding.members:
        if not _MEMBER.fullmatch(member):
            raise invalid(f"The member {member} is of an unknown type. Please set a valid type prefix for the member.")
    if binding.HasField("condition"):
        raise invalid("Can't set conditional policy on this resource")


def check_permissions(permissions: Iterable[str]) -> None:
    """Raise the CallError of a permission that cannot be tested on a queue; the first bad one is reported."""
    for permission in permissions:
        parts = permission.split(".")
        if len(parts) != 3 or "" in parts or "*" in permission:
            raise invalid(f"The permission {permission} is invalid.")
        if permission.removeprefix("cloudtasks.") not in _OF_QUEUE:
            raise invalid(f"Permission {permission} is not valid for this resource.")


def allows(granted: Message, member: str, permission: str) -> bool:
    """Whether a policy gives a member a permission, such as `tasks.create`."""
    return any(
        permission in ROLES[binding.role]
        and not {member, "allUsers", "allAuthenticatedUsers"}.isdisjoint(binding.members)
        for binding in granted.bindings
        if binding.role in ROLES
    )


def _new(bindings: Iterable[Message]) -> Message:
    """A policy that was set now: each has an etag of its own."""
    return Policy(version=1, etag=secrets.token_bytes(8), bindings=bindings)


def _octal(etag: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in etag)
