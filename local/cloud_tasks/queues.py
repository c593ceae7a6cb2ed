"""The queues that exist, and what each call on a queue does.

A queue is declared by the program or made by a call; both are kept with their state and their policy. Knows nothing of
tasks but that they go with their queue.
"""

import bisect
import copy
import dataclasses
import re
from collections.abc import Callable, Iterable

from google.cloud.location import locations_pb2
from google.cloud.tasks_v2 import types
from google.iam.v1 import iam_policy_pb2
from google.protobuf import empty_pb2

from local.cloud_tasks import iam
from local.cloud_tasks.messages import CallError, Message, QueueMessage, microseconds, page_size
from local.cloud_tasks.queue_config import new_queue, rate_limits, updated_queue
from local.cloud_tasks.schedule import Schedule
from local.cloud_tasks.store import Store, StoredQueue

ListQueuesResponse: Message = types.ListQueuesResponse.pb()

NAME_BLOCKED_SECONDS = 24 * 3600
"""How long the name of an ended task stays blocked; the service promises 1 to 24 hours."""
QUEUE_BLOCKED_SECONDS = 7 * 24 * 3600
"""How long the name of a deleted queue stays blocked; in the service 3 to 7 days."""
MAX_PAGE = 9800
"""The service's largest page, which is its default one too."""
QUEUE_MISSING = (
    "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
)
ENTITY_MISSING = "Requested entity was not found."
QUEUE_BLOCKED = "The queue cannot be created because a queue with this name existed too recently."
QUEUE_NAME_INVALID = 'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'

_LOCATION_PATH = re.compile(r"(projects/[A-Za-z0-9.:-]+)/locations/[A-Za-z0-9-]+")
_QUEUE_PATH = re.compile(rf"{_LOCATION_PATH.pattern}/queues/[A-Za-z0-9-]{{1,100}}")


@dataclasses.dataclass(slots=True)
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
        schedule_stored: Callable[[str], None],
        queue_changed: Callable[[str], None],
    ) -> None:
        """`clock`: seconds since the epoch. `schedule_stored`: schedules the stored tasks of a queue that was opened.
        `queue_changed`: called with a queue's path when it may have a task to dispatch."""
        self._store = store
        self._clock = clock
        self._schedule_stored = schedule_stored
        self._queue_changed = queue_changed
        self._open: dict[str, OpenQueue] = {}
        self._stored = {queue.path: queue for queue in store.queues()}

    def reopen(self) -> None:
        """Reopen the queues that API calls created."""
        for stored in [queue for queue in self._stored.values() if not queue.declared]:
            self._put(QueueMessage.FromString(stored.message), iam.Policy.FromString(stored.policy), declared=False)

    def declare(self, declared: Message, grants: Iterable[tuple[str, str]]) -> None:
        """Have a queue of the program: new, or with these figures and the state that the store has.

        `grants`: role and member of each, and no others."""
        message = new_queue(declared)
        stored = self._stored.get(message.name)
        message.state = QueueMessage.FromString(stored.message).state if stored else declared.state or message.state
        self._put(message, iam.policy(grants), declared=True)

    def undeclared(self) -> list[str]:
        """The paths of queues that the store has of the program and nobody declared; they do not exist here."""
        return sorted(self._stored)

    def paths(self) -> list[str]:
        """The paths of all queues."""
        return sorted(self._open)

    def __contains__(self, path: str) -> bool:
        return path in self._open

    def __getitem__(self, path: str) -> OpenQueue:
        """The queue; raises CallError where there is none."""
        try:
            return self._open[path]
        except KeyError:
            _check_name(path)
            raise CallError("NOT_FOUND", QUEUE_MISSING) from None

    def busy(self) -> bool:
        """Whether a running queue has a task."""
        return any(len(queue.schedule) and not queue.schedule.paused for queue in self._open.values())

    def allows(self, member: str, permission: str, path: str) -> bool:
        """Whether a member, `serviceAccount:...`, has a permission, such as `tasks.create`, on a queue."""
        return path in self._open and iam.allows(self._open[path].policy, member, permission)

    # Calls

    def get_queue(self, request: Message) -> Message:
        return self[request.name].message

    def list_queues(self, request: Message) -> Message:
        if request.filter:
            raise CallError("UNIMPLEMENTED", "Filters are not served here; list all queues")
        _check_location(request.parent)
        paths = [path for path in self.paths() if path.startswith(f"{request.parent}/queues/")]
        size = page_size(request, MAX_PAGE)
        rest = paths[bisect.bisect_right(paths, request.page_token) :]
        return ListQueuesResponse(
            queues=[self._open[path].message for path in rest[:size]],
            next_page_token=rest[size - 1] if len(rest) > size else "",
        )

    def create_queue(self, request: Message) -> Message:
        path = request.queue.name
        _check_location(request.parent)
        _check_name(path)
        if not path.startswith(f"{request.parent}/queues/"):
            raise CallError("INVALID_ARGUMENT", f"The queue {path!r} must be in the location {request.parent!r}.")
        if path in self._open:
            raise CallError("ALREADY_EXISTS", "Queue already exists")
        return self._create(request.queue)

    def update_queue(self, request: Message) -> Message:
        path = request.queue.name
        _check_name(path)
        if path not in self._open:
            return self._create(request.queue)
        queue = self._open[path]
        return self._put(
            updated_queue(queue.message, request.queue, request.update_mask), queue.policy, declared=queue.declared
        )

    def delete_queue(self, request: Message) -> Message:
        _check_name(request.name)
        if request.name not in self._open:
            raise CallError("NOT_FOUND", ENTITY_MISSING)
        self._store.delete_queue(request.name, self._clock() + QUEUE_BLOCKED_SECONDS)
        del self._open[request.name]
        return empty_pb2.Empty()

    def pause_queue(self, request: Message) -> Message:
        return self._set_state(request.name, types.Queue.State.PAUSED)

    def resume_queue(self, request: Message) -> Message:
        return self._set_state(request.name, types.Queue.State.RUNNING)

    def purge_queue(self, request: Message) -> Message:
        queue = self[request.name]
        now = self._clock()
        self._store.end_all_tasks(request.name, now + NAME_BLOCKED_SECONDS)
        queue.schedule.clear()
        message = copy.deepcopy(queue.message)
        message.purge_time.FromMicroseconds(microseconds(now))
        return self._put(message, queue.policy, declared=queue.declared)

    def get_iam_policy(self, request: Message) -> Message:
        return self[request.resource].policy

    def set_iam_policy(self, request: Message) -> Message:
        queue = self[request.resource]
        policy = iam.replaced(queue.policy, request.policy)
        self._put(queue.message, policy, declared=queue.declared)
        return policy

    def test_iam_permissions(self, request: Message) -> Message:
        """Those of the asked permissions that there are; the caller's own are for who knows the caller to tell."""
        known = [each for each in request.permissions if each.removeprefix("cloudtasks.") in iam.PERMISSIONS]
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=known if request.resource in self._open else [])

    def list_locations(self, request: Message) -> Message:
        """The locations that have a queue of the project."""
        found = {path.partition("/queues/")[0] for path in self._open if path.startswith(f"{request.name}/locations/")}
        return locations_pb2.ListLocationsResponse(locations=map(_location, sorted(found)))

    def get_location(self, request: Message) -> Message:
        if not any(path.startswith(f"{request.name}/queues/") for path in self._open):
            raise CallError("NOT_FOUND", f"Location {request.name} has no queue here")
        return _location(request.name)

    def _create(self, given: Message) -> Message:
        if self._store.queue_blocked(given.name, self._clock()):
            raise CallError("FAILED_PRECONDITION", QUEUE_BLOCKED)
        return self._put(new_queue(given), iam.policy(()), declared=False)

    def _set_state(self, path: str, state: Message) -> Message:
        queue = self[path]
        message = copy.deepcopy(queue.message)
        message.state = state
        return self._put(message, queue.policy, declared=queue.declared)

    def _put(self, message: Message, policy: Message, *, declared: bool) -> Message:
        """Keep the queue as it now is; what is not kept has not changed."""
        path = message.name
        self._store.put_queue(
            StoredQueue(path, declared, message.SerializeToString(), policy.SerializeToString(deterministic=True))
        )
        limits, now = rate_limits(message), self._clock()
        is_new, kept = path not in self._open, self._stored.pop(path, None)
        schedule = Schedule(limits, now, rested=kept is None) if is_new else self._open[path].schedule
        schedule.set_limits(limits, now)
        schedule.paused = message.state == types.Queue.State.PAUSED
        self._open[path] = OpenQueue(message, policy, declared, schedule)
        if kept:
            self._schedule_stored(path)
        self._queue_changed(path)
        return message


def _check_name(path: str) -> None:
    if not _QUEUE_PATH.fullmatch(path):
        raise CallError("INVALID_ARGUMENT", QUEUE_NAME_INVALID)


def _check_location(path: str) -> None:
    if not _LOCATION_PATH.fullmatch(path):
        text = f'Location name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>", not {path!r}.'
        raise CallError("INVALID_ARGUMENT", text)


def _location(path: str) -> Message:
    region = path.rpartition("/")[2]
    return locations_pb2.Location(
        name=path, location_id=region, display_name=region, labels={"cloud.googleapis.com/region": region}
    )
