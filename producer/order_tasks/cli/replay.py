"""`replay`: has dead letters delivered again, and says what became of each.

Owns when an entry counts as replayed (it is gone) or failed (it has one more attempt, and that has ended). Refuses a
reserve that is not yet due: its run may still be going.
"""

import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

from google.api_core.exceptions import GoogleAPIError

from order_tasks.cli.clock import Clock, span
from order_tasks.cli.dead_letter import DeadLetter
from order_tasks.cli.dead_letters import DeadLetters, NotPausedError
from order_tasks.cli.progress import Progress

_POLL_SECONDS = 1.0
_MARGIN = timedelta(minutes=1)
# Up to here one GetTask each is cheaper than a page of the queue.
_FEW = 10


def replay(letters: DeadLetters, paths: Sequence[str] | None, clock: Clock, *, as_json: bool) -> int:
    """Replay the entries at `paths`, or all (None); return the exit code."""
    progress = Progress("replaying dead letters")
    replaying = _Replaying(letters, clock, progress)
    code = 0
    try:
        with progress:
            if paths is None:
                replaying.all()
            else:
                replaying.each(paths)
    except KeyboardInterrupt:
        code = 130
        progress.say(f"interrupted{replaying.paused}: an attempt under way goes on to its end")
    except GoogleAPIError as error:
        code = 1
        progress.say(f"{error}{replaying.paused}")
    except NotPausedError as error:
        code = 1
        progress.say(str(error))
    replaying.summarise(as_json)
    return code or int(bool(replaying.failed or replaying.skipped))


class _Replaying:
    """One run of `replay`: counts what happens and says what fails."""

    def __init__(self, letters: DeadLetters, clock: Clock, progress: Progress) -> None:
        self._letters = letters
        self._clock = clock
        self._progress = progress
        self._replayed: list[str] = []
        self.failed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self._unfinished: dict[str, None] = {}
        self.paused = ""
        """What to say of the queue once the work has ended, unless that was by NotPausedError."""

    def each(self, paths: Sequence[str]) -> None:
        """Run them one after the other: a forced run heeds neither rate nor concurrency."""
        self._unfinished = dict.fromkeys(_id(path) for path in paths)
        self._progress.expect(len(self._unfinished))
        for path in dict.fromkeys(paths):
            letter = self._letters.find(path)
            now = self._clock.now()
            if letter is None:
                self._end(path, self.failed, "is not there: it was processed or dropped, or never stored")
            elif letter.state(now) in ("due", "backing off"):
                self._letters.run(path)
                self._watch({path: letter})
            else:
                self._skip(letter, now)

    def all(self) -> None:
        """Let the queue deliver what is due, at its own rate."""
        listed = list(self._letters.entries(full=True))
        now = self._clock.now()
        self._unfinished = {letter.id: None for letter in listed}
        self._progress.expect(len(listed))
        for letter in listed:
            if letter.state(now) != "due":
                self._skip(letter, now)
        due = {letter.path: letter for letter in listed if letter.state(now) == "due"}
        if due:
            self.paused = ", the dead-letter queue is paused again"
            self._letters.while_resumed(lambda: self._watch(due))

    def _watch(self, pending: dict[str, DeadLetter]) -> None:
        """Wait until each is gone or was tried once more, or for longer than an attempt may take."""
        patience = max(letter.deadline for letter in pending.values()) + _MARGIN
        give_up = self._clock.now() + patience
        while pending:
            if self._clock.now() >= give_up:
                for path in pending:
                    self._end(path, self.failed, f"has not ended within {span(patience)}: it may still be going")
                return
            # A page of the queue a second: 60 of the 600 that a project may list in a minute.
            self._clock.sleep(_POLL_SECONDS * (1 + len(pending) // 1000))
            if self._look(pending):
                give_up = self._clock.now() + patience

    def _look(self, pending: dict[str, DeadLetter]) -> bool:
        """Take out what has ended; whether anything has."""
        listed = {} if len(pending) <= _FEW else {letter.path: letter for letter in self._letters.entries(full=False)}
        now = self._clock.now()
        before = len(pending)
        for path, earlier in list(pending.items()):
            # A list may miss an entry, its order changes between two pages: only GetTask proves that one is gone.
            letter = listed.get(path) or self._letters.find(path)
            if letter is None:
                self._end(path, None, "")
            elif letter.tries > earlier.tries and letter.state(now) != "running":
                self._end(path, self.failed, f"failed again{_order(earlier)}: {letter.last_status or 'no answer'}")
            else:
                continue
            del pending[path]
        return len(pending) < before

    def _skip(self, letter: DeadLetter, now: datetime) -> None:
        self._end(letter.path, self.skipped, letter.when(now), "skipped: ")

    def _end(self, path: str, named: dict[str, str] | None, why: str, said: str = "") -> None:
        name = _id(path)
        self._unfinished.pop(name, None)
        self._progress.advance()
        if named is None:
            self._replayed.append(name)
        else:
            named[name] = why
            self._progress.say(f"{name} {said}{why}")

    def summarise(self, as_json: bool) -> None:
        """What became of them, on standard output."""
        if as_json:
            outcome = {
                "replayed": self._replayed,
                "failed": self.failed,
                "skipped": self.skipped,
                "unfinished": list(self._unfinished),
            }
            sys.stdout.write(f"{json.dumps(outcome)}\n")
            return
        unfinished = f", {len(self._unfinished)} unfinished" if self._unfinished else ""
        sys.stdout.write(
            f"{len(self._replayed)} replayed, {len(self.failed)} failed, {len(self.skipped)} skipped{unfinished}\n"
        )


def _id(path: str) -> str:
    return path.rpartition("/")[2]


def _order(letter: DeadLetter) -> str:
    return f" (order {letter.order_id}, {letter.action})" if letter.order_id or letter.action else ""
