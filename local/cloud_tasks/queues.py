"""The queues that exist, and what each call on a queue does.

A queue is declared by the program or made by a call; both are kept with their state and their policy. Knows nothing of
tasks but that they go with their queue.
"""

import copy
import dataclasses
import datetime
import re
from collections.abc import Callable, Iterable
from typing import Any

from google.cloud.tasks_v2 import types
from google.iam.v1 import iam_policy_pb2
from google.protobuf import empty_pb2

from local.cloud_tasks import filters, iam
from local.cloud_tasks.messages import NOT_FOUND, CallError, Message, QueueMessage, error_info, invalid, page
from local.cloud_tasks.names import check_new_queue
from local.cloud_tasks.queue_config import check_mask, new_queue, rate_limits, updated_queue
from local.cloud_tasks.schedule import Schedule, Statistics
from local.cloud_tasks.store import Store

NAME_BLOCKED_SECONDS = 24 * 3600
"""How long the name of an ended task stays blocked; the service promises 1 to 24 hours."""
QUEUE_BLOCKED_SECONDS = 7 * 24 * 3600
"""How long the name of a deleted queue stays blocked; in the service 3 to 7 days."""
MAX_PAGE = 9800
"""The service's largest page, which is its default one too."""
QUEUE_MISSING = (
    "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
)
QUEUE_BLOCKED = "The queue cannot be created because a queue with this name existed too recently."

_KEY_RING = r"(projects/[^/]+/locations/[^/]+)/keyRings/[^/]+"
_KEY = re.compile(rf"{_KEY_RING}/cryptoKeys/[^/]+")
_NOT_A_KEY = re.compile(rf"{_KEY_RING}(/cryptoKeys/[^/]+/cryptoKeyVersions/[^/]+)?")


@dataclasses.dataclass(frozen=True, slots=True)
class OpenQueue:
    """One queue that exists."""

    message: Message
    policy: Message
    declared: bool
    """By the program; else made by a call."""
    schedule: Schedule


class Queues:
    """The queues of a store."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        schedule_stored: Callable[[str], None],
        queue_changed: Callable[[str], None],
    ) -> None:
        """`clock`: seconds since the epoch. `monotonic`: seconds of a clock that never jumps. Called with a queue's
        path: `schedule_stored` when it was opened, `queue_changed` when it may have a task to dispatch."""
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._schedule_stored = schedule_stored
        self._queue_changed = queue_changed
        self._open: dict[str, OpenQueue] = {}
        self._stored = {message.name: (message, policy, declared) for message, policy, declared in store.queues()}

    def reopen(self) -> None:
        """Reopen the queues that API calls created."""
        for message, policy, declared in list(self._stored.values()):
            if not declared:
                self._put(message, policy, declared=False)

    def declare(self, declared: Message, grants: Iterable[tuple[str, str]]) -> None:
        """Open a queue of the program with these figures; one that is stored keeps its state and its tasks.

        `grants`: the role and the member of each; they replace a stored policy."""
        message = new_queue(declared)
        stored = self._stored.get(message.name, (declared,))[0]
        message.state = stored.state or message.state
        self._put(message, iam.policy(grants), declared=True)

    def undeclared(self) -> list[str]:
        """The paths of stored queues of the program that it no longer declares; they do not exist in this run."""
        return sorted(self._stored)

    def paths(self) -> list[str]:
        """The paths of all queues."""
        return sorted(self._open)

    def __contains__(self, path: str) -> bool:
        return path in self._open

    def __getitem__(self, path: str) -> OpenQueue:
        """The queue; raises CallError if it does not exist."""
        if path not in self._open:
            raise CallError("NOT_FOUND", QUEUE_MISSING)
        return self._open[path]

    def busy(self) -> bool:
        """Whether a running queue has a task."""
        return any(len(queue.schedule) and not queue.schedule.paused for queue in self._open.values())

    def allows(self, member: str, permission: str, path: str) -> bool:
        """Whether a member, `serviceAccount:...`, has a permission, such as `tasks.create`, on a queue."""
        return path in self._open and iam.allows(self._open[path].policy, member, permission)

    def statistics(self, path: str) -> Statistics:
        """The figures of a queue now; raises CallError if it does not exist."""
        return self[path].schedule.statistics(self._monotonic())

    def _in(self, location: str) -> list[Message]:
        """The queues of a location, by name."""
        return [self._open[path].message for path in self.paths() if path.startswith(f"{location}/queues/")]

    # Calls

    def get_queue(self, request: Message) -> Message:
        return self[request.name].message

    def list_queues(self, request: Message) -> Message:
        matches = filters.parse(request.filter, QueueMessage.DESCRIPTOR)
        found = [queue for queue in self._in(request.parent) if matches(queue)]
        queues, token = page(
            request, MAX_PAGE, lambda after, size: [queue for queue in found if queue.name > after][:size]
        )
        return types.ListQueuesResponse.pb()(queues=queues, next_page_token=token)

    def create_queue(self, request: Message) -> Message:
        check_new_queue(request.queue.name, request.parent)
        if request.queue.name in self._open:
            raise CallError("ALREADY_EXISTS", "Queue already exists")
        return self._create(new_queue(request.queue))

    def update_queue(self, request: Message) -> Message:
        path = request.queue.name
        paths = request.update_mask.paths if request.HasField("update_mask") else None
        check_mask(paths or ())
        queue = self._open.get(path)
        if queue is None:
            return self._create(updated_queue(new_queue(QueueMessage(name=path)), request.queue, paths))
        return self._put(updated_queue(queue.message, request.queue, paths), queue.policy, declared=queue.declared)

    def delete_queue(self, request: Message) -> Message:
        if request.name not in self._open:
            raise CallError("NOT_FOUND", NOT_FOUND)
        self._store.delete_queue(request.name, self._clock() + QUEUE_BLOCKED_SECONDS)
        del self._open[request.name]
        return empty_pb2.Empty()

    def pause_queue(self, request: Message) -> Message:
        return self._change(request.name, state=types.Queue.State.PAUSED)

    def resume_queue(self, request: Message) -> Message:
        return self._change(request.name, state=types.Queue.State.RUNNING)

    def purge_queue(self, request: Message) -> Message:
        schedule, now = self[request.name].schedule, self._clock()
        self._store.end_all_tasks(request.name, now + NAME_BLOCKED_SECONDS)
        schedule.clear()
        purge_time = datetime.datetime.fromtimestamp(now, datetime.UTC)
        return self._change(request.name, purge_time=purge_time)

    def get_iam_policy(self, request: Message) -> Message:
        return self[request.resource].policy

    def set_iam_policy(self, request: Message) -> Message:
        queue = self[request.resource]
        policy = iam.replaced(queue.policy, request.policy)
        self._put(queue.message, policy, declared=queue.declared)
        return policy

    def test_iam_permissions(self, request: Message) -> Message:
        """All permissions that were asked for, sorted; the caller of this method knows which the client has."""
        self[request.resource]  # must exist
        iam.check_permissions(request.permissions)
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=sorted(request.permissions))

    def get_cmek_config(self, request: Message) -> Message:
        return types.CmekConfig.pb()(name=request.name)

    def update_cmek_config(self, request: Message) -> Message:
        """Only the refusals of the service are known; no key can be set."""
        wanted, location = request.cmek_config.kms_key, request.cmek_config.name.removesuffix("/cmekConfig")
        if any(queue.http_target.header_overrides for queue in self._in(location)):
            raise CallError(
                "FAILED_PRECONDITION",
                "CMEK cannot be enabled on any project that has one or more queues with HTTP Target Override headers "
                "or tasks ttl of more than 60 days.",
                error_info("UNSATISFIED_PRECONDITION_FOR_CMEK", "cloudtasks.googleapis.com"),
            )
        key = _KEY.fullmatch(wanted)
        if key is None and _NOT_A_KEY.fullmatch(wanted):
            raise invalid()
        if key is None:
            raise invalid(f"Resource name [{wanted}] does not match any known resource name pattern.")
        if key[1] != location:
            raise CallError("NOT_FOUND", NOT_FOUND)
        raise CallError("UNIMPLEMENTED", "Keys of Cloud KMS are not served here")

    def _create(self, queue: Message) -> Message:
        if self._store.name_blocked(queue.name, self._clock()):
            raise CallError("FAILED_PRECONDITION", QUEUE_BLOCKED)
        return self._put(queue, iam.policy(()), declared=False)

    def _change(self, path: str, **fields: Any) -> Message:  # noqa: ANN401 - any field of a queue
        queue = self[path]
        message = copy.deepcopy(queue.message)
        for field in fields:
            message.ClearField(field)
        message.MergeFrom(QueueMessage(**fields))
        return self._put(message, queue.policy, declared=queue.declared)

    def _put(self, message: Message, policy: Message, *, declared: bool) -> Message:
        """Store the queue, then change it here: a change that cannot be stored does not happen."""
        path = message.name
        self._store.put_queue(message, policy, declared=declared)
        limits, now = rate_limits(message), self._monotonic()
        is_new, kept = path not in self._open, self._stored.pop(path, None)
        schedule = Schedule(limits, now, rested=kept is None) if is_new else self._open[path].schedule
        schedule.set_limits(limits, now)
        schedule.paused = message.state == types.Queue.State.PAUSED
        self._open[path] = OpenQueue(message, policy, declared, schedule)
        if kept:
            self._schedule_stored(path)
        self._queue_changed(path)
        return message
