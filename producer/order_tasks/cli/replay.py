"""`replay`: delivers dead letters again and reports the result of each.

An entry counts as replayed when it is gone, and as failed when it has had one more attempt. An entry that is not yet
due is skipped, because the attempt that stored it may still be running.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

from google.api_core.exceptions import GoogleAPIError

from order_tasks.cli.command import Command, UsageError, read_config
from order_tasks.cli.dead_letter import DeadLetter
from order_tasks.cli.dead_letters import DeadLetters, NotPausedError, open_dead_letters
from order_tasks.cli.progress import Progress
from order_tasks.cli.times import Clock, format_duration

_POLL_SECONDS = 1.0
_MARGIN = timedelta(minutes=1)
# Up to this number, one GetTask for each is cheaper than listing the queue.
_FEW = 10


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="a dead letter's id or full path; delivered in turn")
    parser.add_argument(
        "--all",
        action="store_true",
        help="every dead letter that is due: resume the dead-letter queue until each was tried, then pause it again",
    )
    parser.add_argument("--json", action="store_true", help="print the results as one line of JSON")


def _run(args: argparse.Namespace, clock: Clock) -> int:
    if args.all == bool(args.names):
        raise UsageError("pass either the NAMEs of dead letters, or --all")
    with open_dead_letters(read_config(args, dead_letters=True)) as letters:
        return _Replaying(letters, clock).run(None if args.all else letters.paths(args.names), as_json=args.json)


class _Replaying:
    """One run of `replay`: delivers the entries, notes the results and reports the failures."""

    def __init__(self, letters: DeadLetters, clock: Clock) -> None:
        self._letters = letters
        self._clock = clock
        self._progress = Progress("replaying dead letters")
        self._replayed: list[str] = []
        self._failed: dict[str, str] = {}
        self._skipped: dict[str, str] = {}
        self._unfinished: dict[str, None] = {}
        self._paused_note = ""

    def run(self, paths: Sequence[str] | None, *, as_json: bool) -> int:
        """Replay the entries at `paths`, or all if None. Returns the exit code."""
        code = 0
        try:
            with self._progress:
                if paths is None:
                    self._replay_all()
                else:
                    self._replay_each(paths)
        except KeyboardInterrupt:
            code = 130
            self._progress.print(f"interrupted{self._paused_note}; an attempt that is running will finish")
        except GoogleAPIError as error:
            code = 1
            self._progress.print(f"{error}{self._paused_note}")
        except NotPausedError as error:
            code = 1
            self._progress.print(str(error))
        self._summarise(as_json)
        return code or int(bool(self._failed or self._skipped))

    def _replay_each(self, paths: Sequence[str]) -> None:
        """Run them one after the other, since forced runs ignore the queue's rate and concurrency."""
        self._unfinished = dict.fromkeys(_id(path) for path in paths)
        self._progress.set_total(len(self._unfinished))
        for path in paths:
            letter = self._letters.find(path)
            now = self._clock.now()
            if letter is None:
                self._fail(path, "not found: processed, dropped or never stored")
            elif letter.state(now) in ("due", "backing off"):
                self._letters.run(path)
                self._wait_for({path: letter})
            else:
                self._skip(letter, now)

    def _replay_all(self) -> None:
        """Let the queue deliver the due entries at its own rate."""
        listed = list(self._letters.entries(full=True))
        now = self._clock.now()
        self._unfinished = {letter.id: None for letter in listed}
        self._progress.set_total(len(listed))
        for letter in listed:
            if letter.state(now) != "due":
                self._skip(letter, now)
        due = {letter.path: letter for letter in listed if letter.state(now) == "due"}
        if due:
            self._paused_note = "; the dead-letter queue is paused again"
            self._letters.while_resumed(lambda: self._wait_for(due))

    def _wait_for(self, pending: dict[str, DeadLetter]) -> None:
        """Wait until each is gone or was tried once more. Give up if none ends for longer than an attempt may take."""
        patience = max(letter.deadline for letter in pending.values()) + _MARGIN
        give_up = self._clock.now() + patience
        while pending:
            if self._clock.now() >= give_up:
                for path in pending:
                    self._fail(path, f"no result within {format_duration(patience)}: it may still be running")
                return
            # One page of the queue a second. A project may list 600 pages a minute.
            self._clock.sleep(_POLL_SECONDS * (1 + len(pending) // 1000))
            if self._remove_ended(pending):
                give_up = self._clock.now() + patience

    def _remove_ended(self, pending: dict[str, DeadLetter]) -> bool:
        """Remove and report the entries that have ended. Returns whether there were any."""
        listed = {} if len(pending) <= _FEW else {letter.path: letter for letter in self._letters.entries(full=False)}
        now = self._clock.now()
        before = len(pending)
        for path, earlier in list(pending.items()):
            # A list may miss an entry that moves between two pages. Only GetTask proves that an entry is gone.
            letter = listed.get(path) or self._letters.find(path)
            if letter is None:
                self._replayed.append(self._end(path))
            elif letter.tries > earlier.tries and letter.state(now) != "running":
                self._fail(path, f"failed again{_order(earlier)}: {letter.last_status or 'no answer'}")
            else:
                continue
            del pending[path]
        return len(pending) < before

    def _skip(self, letter: DeadLetter, now: datetime) -> None:
        name = self._end(letter.path)
        self._skipped[name] = letter.format_state(now)
        self._progress.print(f"{name} skipped: {self._skipped[name]}")

    def _fail(self, path: str, reason: str) -> None:
        name = self._end(path)
        self._failed[name] = reason
        self._progress.print(f"{name} {reason}")

    def _end(self, path: str) -> str:
        name = _id(path)
        self._unfinished.pop(name, None)
        self._progress.advance()
        return name

    def _summarise(self, as_json: bool) -> None:
        if as_json:
            outcome = {
                "replayed": self._replayed,
                "failed": self._failed,
                "skipped": self._skipped,
                "unfinished": list(self._unfinished),
            }
            sys.stdout.write(f"{json.dumps(outcome)}\n")
            return
        unfinished = f", {len(self._unfinished)} unfinished" if self._unfinished else ""
        sys.stdout.write(
            f"{len(self._replayed)} replayed, {len(self._failed)} failed, {len(self._skipped)} skipped{unfinished}\n"
        )


def _id(path: str) -> str:
    return path.rpartition("/")[2]


def _order(letter: DeadLetter) -> str:
    return f" (order {letter.order_id}, {letter.action})" if letter.order_id or letter.action else ""


REPLAY = Command(
    "replay",
    "deliver dead letters again, and wait for the results",
    "A dead letter that is not yet due is skipped: the attempt that stored it may still be running.",
    _add_arguments,
    _run,
)
