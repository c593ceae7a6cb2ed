"""The two queues of a configuration through the API of Cloud Tasks: what is in them, and the calls that change them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from google.api_core import exceptions
from google.cloud import tasks_v2, tasks_v2beta3
from google.cloud.tasks_v2beta3.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.field_mask_pb2 import FieldMask

from order_tasks import connection
from order_tasks.config import Config
from order_tasks.errors import OrderTasksError
from order_tasks.operations.entry import Entry
from order_tasks.operations.times import Clock

# A page is held in memory, and each body may have a megabyte.
_FULL_PAGE, BASIC_PAGE = 100, 1000
_STATISTICS_SECONDS = 5.0

Queue = tasks_v2.Queue | tasks_v2beta3.Queue


class NotPausedError(OrderTasksError):
    """The dead-letter queue may be running. While it runs, entries are delivered at once and fail again."""


class Queues:
    """The main queue and the dead-letter queue. Its methods raise GoogleAPIError."""

    def __init__(self, config: Config, clock: Clock) -> None:
        assert config.dead_letter_queue is not None, "read_config requires it"
        self.main = config.queue
        self.dead_letters = config.dead_letter_queue
        self._clock = clock
        self._api = connection.connect(config)
        shared = CloudTasksGrpcTransport(channel=self._api.transport.grpc_channel)  # type: ignore[attr-defined]
        self._beta = tasks_v2beta3.CloudTasksClient(transport=shared)
        self._options = connection.call_options(config)
        self._run_options = connection.call_options(config, 90.0)  # the quota is 60 calls a minute

    def close(self) -> None:
        self._api.transport.close()  # type: ignore[no-untyped-call]

    def describe(self, queue: str) -> Queue:
        """The queue, with its statistics where v2beta3 answers."""
        fields = FieldMask(paths=["name", "state", "rate_limits", "retry_config", "stats"])
        request = tasks_v2beta3.GetQueueRequest(name=queue, read_mask=fields)
        with suppress(exceptions.GoogleAPIError):
            return self._beta.get_queue(request, retry=None, timeout=_STATISTICS_SECONDS)
        return self._api.get_queue(name=queue, **self._options)

    def entries(self, queue: str, *, full: bool) -> Iterator[Entry]:
        """All entries in any order, page by page. Only with `full` do they contain the orders."""
        request = tasks_v2.ListTasksRequest(
            parent=queue,
            response_view=tasks_v2.Task.View.FULL if full else tasks_v2.Task.View.BASIC,
            page_size=_FULL_PAGE if full else BASIC_PAGE,
        )
        for task in self._api.list_tasks(request, **self._options):
            yield Entry.from_task(task, self._clock.now())

    def find(self, path: str) -> Entry | None:
        """One entry in full, or None if it was processed, deleted or never stored."""
        request = tasks_v2.GetTaskRequest(name=path, response_view=tasks_v2.Task.View.FULL)
        with self._missing_is_fine(path):
            return Entry.from_task(self._api.get_task(request, **self._options), self._clock.now())
        return None

    def run(self, path: str) -> bool:
        """Deliver an entry now, whatever its due time and its queue's state. Returns False if it is gone."""
        with self._missing_is_fine(path):
            # After a lost answer it may run twice, which the handler allows.
            self._api.run_task(tasks_v2.RunTaskRequest(name=path), **self._run_options)
            return True
        return False

    def delete(self, path: str) -> bool:
        """Delete an entry. Returns False if it is gone."""
        with self._missing_is_fine(path):
            self._api.delete_task(name=path, **self._options)
            return True
        return False

    def pause(self, queue: str) -> None:
        self._api.pause_queue(name=queue, **self._options)

    def resume(self, queue: str) -> None:
        self._api.resume_queue(name=queue, **self._options)

    def set_rate(self, per_second: float, in_flight: int | None) -> tasks_v2.Queue:
        """Change the main queue's dispatches per second, and how many run at once unless that is None."""
        limits = {"max_dispatches_per_second": per_second}
        limits |= {} if in_flight is None else {"max_concurrent_dispatches": in_flight}
        queue = tasks_v2.Queue(name=self.main, rate_limits=limits)
        mask = FieldMask(paths=[f"rate_limits.{field}" for field in limits])
        return self._api.update_queue(queue=queue, update_mask=mask, **self._options)

    @contextmanager
    def resumed_dead_letters(self) -> Iterator[None]:
        """Resume the dead-letter queue, and pause it again, however the block ends. Raises NotPausedError."""
        try:
            self.resume(self.dead_letters)
            yield
        finally:
            try:
                self.pause(self.dead_letters)
            except Exception as error:
                raise NotPausedError(
                    f"THE DEAD-LETTER QUEUE MAY STILL BE RUNNING. Pausing it failed ({error}): "
                    "run python -m order_tasks pause --dead-letters"
                ) from error

    @contextmanager
    def _missing_is_fine(self, path: str) -> Iterator[None]:
        try:
            yield
        except exceptions.NotFound:
            # A missing queue has the same error, and it must not look like success.
            self._api.get_queue(name=path.rpartition("/tasks/")[0], **self._options)
