"""Delivers dead letters again and tells the result of each: of a failure the reason, from the handler's log.

An entry counts as replayed when it is gone, and as failed when it has had one more attempt. An entry that is not yet
due is skipped, because the attempt that stored it may still be running.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from threading import Event
from typing import Literal, NamedTuple

from order_tasks.operations.entry import Entry
from order_tasks.operations.log import HandlerLog
from order_tasks.operations.queues import Queues
from order_tasks.operations.times import Clock, format_duration

_POLL_SECONDS = 1.0
_MARGIN = timedelta(minutes=1)
# Up to this number, one RunTask or GetTask for each is better than resuming or listing the queue.
_FEW = 10
_LOG_TRIES = 5


class Replayed(NamedTuple):
    """How the replay of one dead letter ended."""

    entry: Entry
    outcome: Literal["replayed", "failed", "skipped"]
    reason: str | None = None


class Replay:
    """One replay. `stop`, once set, ends it within seconds."""

    def __init__(self, queues: Queues, log: HandlerLog, clock: Clock, stop: Event) -> None:
        self._queues = queues
        self._log = log
        self._clock = clock
        self._stop = stop

    def run(self, entries: Sequence[Entry], *, force: bool) -> Iterator[Replayed]:
        """One result as each ends. Many that are all that is due are delivered by the queue, at its own rate.

        `force`: also those that are not yet due. Raises NotPausedError.
        """
        now = self._clock.now()
        for entry in entries:
            if entry.state == "running":
                yield Replayed(entry, "skipped", "being tried now")
            elif entry.state == "scheduled" and not force:
                text = f"{entry.describe_state(now)}: its last attempt may still run; --force replays it all the same"
                yield Replayed(entry, "skipped", text)
        due = {entry.path: entry for entry in entries if entry.state == "due"}
        alone = [entry for entry in entries if entry.state == "backing off" or (entry.state == "scheduled" and force)]
        if len(due) > _FEW and self._nothing_else_is_due(due):
            with self._queues.resumed_dead_letters():
                yield from self._wait_for(due)
        else:
            alone = [*due.values(), *alone]
        # One after the other, since forced runs ignore the queue's rate and concurrency.
        for entry in alone:
            if self._stop.is_set():
                return
            self._queues.run(entry.path)
            yield from self._wait_for({entry.path: entry})

    def _nothing_else_is_due(self, due: Mapping[str, Entry]) -> bool:
        listed = self._queues.entries(self._queues.dead_letters, full=False)
        return all(entry.path in due or entry.state != "due" for entry in listed)

    def _wait_for(self, pending: dict[str, Entry]) -> Iterator[Replayed]:
        """Wait until each is gone or was tried once more. Give up if none ends for longer than an attempt may take."""
        patience = max(entry.deadline for entry in pending.values()) + _MARGIN
        began = self._clock.now()
        give_up = began + patience
        while pending and not self._stop.is_set():
            if self._clock.now() >= give_up:
                for entry in pending.values():
                    reason = f"no result within {format_duration(patience)}: it may still be running"
                    yield Replayed(entry, "failed", reason)
                return
            # One page of the queue a second. A project may list 600 pages a minute.
            self._clock.sleep(_POLL_SECONDS * (1 + len(pending) // 1000))
            ended = list(self._ended(pending))
            if ended:
                give_up = self._clock.now() + patience
            reasons = self._reasons({now.id: str(now.tries) for _, now in ended if now}, began)
            for entry, now in ended:
                del pending[entry.path]
                if now is None:
                    yield Replayed(entry, "replayed")
                    continue
                more = f"{now.last_status or 'no answer'}: `{self._log.command(entry.order)}` says more"
                yield Replayed(entry, "failed", reasons.get(now.id, more))

    def _ended(self, pending: Mapping[str, Entry]) -> Iterator[tuple[Entry, Entry | None]]:
        """Each entry that has ended, with what is there now; None: it is gone."""
        few = len(pending) <= _FEW
        listed = () if few else self._queues.entries(self._queues.dead_letters, full=False)
        found = {entry.path: entry for entry in listed}
        for path, earlier in pending.items():
            # A list may miss an entry that moves between two pages. Only GetTask proves that an entry is gone.
            now = found.get(path) or self._queues.find(path)
            if now is None or (now.tries > earlier.tries and now.state != "running"):
                yield earlier, now

    def _reasons(self, failed: Mapping[str, str], began: datetime) -> Mapping[str, str]:
        """Why they failed, by id, as far as the handler's log says it. `failed`: id -> number of the attempt."""
        reasons: dict[str, str] = {}
        for _ in range(_LOG_TRIES if failed else 0):
            lines, trouble = self._log.failures(began - _MARGIN)
            reasons = {line.task: line.message for line in lines if line.task and failed.get(line.task) == line.attempt}
            if trouble or reasons.keys() == failed.keys() or self._stop.is_set():
                break
            self._clock.sleep(_POLL_SECONDS)  # Cloud Logging shows a line some seconds after it was written
        return reasons
