"""The operators' commands: status, find, replay, drop, run, cancel, pause, resume, rate."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from threading import Event

from google.api_core.exceptions import GoogleAPIError

from order_tasks.cli.arguments import UsageError, database_url, read_config
from order_tasks.cli.progress import Progress
from order_tasks.cli.show import describe, show_situation, show_story
from order_tasks.operations import Entry, NotPausedError, Operations, Replayed, Selection, to_json
from order_tasks.operations.times import Clock

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def status(args: argparse.Namespace, clock: Clock) -> int:
    with _operations(args, clock) as operations:
        situation = operations.situation()
    if args.json:
        sys.stdout.write(f"{to_json(situation)}\n")
    else:
        show_situation(situation)
    return 0


def find(args: argparse.Namespace, clock: Clock) -> int:
    with _operations(args, clock) as operations:
        story = operations.story(args.order)
    if args.json:
        sys.stdout.write(f"{to_json(story)}\n")
    else:
        show_story(story, clock.now())
    return 0 if story.is_known else 1


def pause(args: argparse.Namespace, clock: Clock) -> int:
    with _operations(args, clock) as operations:
        queue = operations.queues.dead_letters if args.dead_letters else operations.queues.main
        operations.queues.pause(queue)
    sys.stdout.write(f"{queue} is paused. Running attempts finish\n")
    return 0


def resume(args: argparse.Namespace, clock: Clock) -> int:
    with _operations(args, clock) as operations:
        operations.queues.resume(operations.queues.main)
        sys.stdout.write(f"{operations.queues.main} is running\n")
    return 0


def rate(args: argparse.Namespace, clock: Clock) -> int:
    with _operations(args, clock) as operations:
        limits = operations.queues.set_rate(args.per_second, args.in_flight).rate_limits
    allowed = f"{limits.max_dispatches_per_second:g} per second and {limits.max_concurrent_dispatches} at once"
    sys.stdout.write(f"The queue allows {allowed}. To keep that, change the stack's settings too\n")
    return 0


def run(args: argparse.Namespace, clock: Clock) -> int:
    with _operations(args, clock) as operations:
        tasks = operations.tasks(args.name)
        started = sum(operations.queues.run(task.path) for task in tasks)
    sys.stdout.write(f"{started} started\n")
    return int(started == 0)


def drop(args: argparse.Namespace, clock: Clock) -> int:
    selection = _selection(args)
    _require_confirmation(args)
    with _operations(args, clock) as operations:
        letters = operations.select(selection)
        code = _report_missing(selection, letters)
        if not letters:
            return 1
        describe(letters, clock.now())
        noun = "a dead letter" if len(letters) == 1 else f"{len(letters)} dead letters"
        if not _confirm(args, f"Drop {noun} for good?"):
            return 1
        dropped = sum(operations.queues.delete(letter.path) for letter in letters)
    sys.stdout.write(f"{dropped} dropped\n")
    return code


def cancel(args: argparse.Namespace, clock: Clock) -> int:
    _require_confirmation(args)
    with _operations(args, clock) as operations:
        story = operations.story(args.order)
        show_story(story, clock.now())
        if not story.is_known or not _confirm(args, f"Cancel what is open of {args.order}?"):
            return 1
        cancelled = operations.cancel(story)
    for effect, state in (cancelled.effects or {}).items():
        sys.stdout.write(f"{effect}: {state}\n")
    sys.stdout.write(f"{cancelled.rows} rows of the outbox and {cancelled.tasks} tasks deleted\n")
    if cancelled.effects is None:
        sys.stdout.write("No database was given: a task that runs already, or is created later, is not prevented\n")
    return 0 if cancelled.is_whole else 1


def replay(args: argparse.Namespace, clock: Clock) -> int:
    selection = _selection(args)
    stop = Event()
    before = {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda *_: stop.set())
    try:
        with _operations(args, clock) as operations:
            return _Replaying(operations, stop).run(selection, as_json=args.json, force=args.force)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Replaying:
    """One run of `replay`: notes and reports the results."""

    def __init__(self, operations: Operations, stop: Event) -> None:
        self._operations = operations
        self._stop = stop
        self._progress = Progress("replaying dead letters")
        self._results: dict[str, dict[str, str | None]] = {"replayed": {}, "failed": {}, "skipped": {}}
        self._unfinished: dict[str, None] = {}

    def run(self, selection: Selection, *, as_json: bool, force: bool) -> int:
        code = 0
        try:
            letters = self._operations.select(selection)
            code = _report_missing(selection, letters)
            self._unfinished = dict.fromkeys(letter.id for letter in letters)
            self._progress.set_total(len(letters))
            with self._progress:
                for result in self._operations.replay(letters, self._stop, force=force):
                    self._note(result)
        except (GoogleAPIError, NotPausedError) as error:
            code = 1
            self._progress.print(str(error))
        if self._stop.is_set() and self._unfinished:
            code = code or 130
            self._progress.print("interrupted; an attempt that is running will finish")
        self._summarise(as_json)
        return code or int(bool(self._results["failed"] or self._results["skipped"]))

    def _note(self, result: Replayed) -> None:
        entry = result.entry
        del self._unfinished[entry.id]
        self._results[result.outcome][entry.id] = result.reason
        self._progress.advance()
        if result.reason:
            order = f" ({entry.order_id or 'unknown order'}, {entry.effect or 'no action'})"
            self._progress.print(f"{entry.short}{order} {result.outcome}: {result.reason}")

    def _summarise(self, as_json: bool) -> None:
        if as_json:
            outcome = self._results | {
                "replayed": list(self._results["replayed"]),
                "unfinished": list(self._unfinished),
            }
            sys.stdout.write(f"{json.dumps(outcome)}\n")
            return
        counts = ", ".join(f"{len(ids)} {outcome}" for outcome, ids in self._results.items())
        unfinished = f", {len(self._unfinished)} unfinished" if self._unfinished else ""
        sys.stdout.write(f"{counts}{unfinished}\n")


def _operations(args: argparse.Namespace, clock: Clock) -> Operations:
    return Operations(read_config(args, dead_letters=True), database_url(args), clock)


def _selection(args: argparse.Namespace) -> Selection:
    if args.all == bool(args.names or args.reason or args.action):
        raise UsageError("pass NAMEs, --reason or --action, or --all")
    return Selection(tuple(args.names), args.reason, args.action)


def _report_missing(selection: Selection, letters: Sequence[Entry]) -> int:
    """Name what is not there. Returns the exit code."""
    missing = selection.missing(letters)
    for name in missing:
        sys.stderr.write(f"{name} not found: processed, dropped or never stored\n")
    return int(bool(missing))


def _require_confirmation(args: argparse.Namespace) -> None:
    if not args.yes and not sys.stdin.isatty():
        raise UsageError("there is no terminal to confirm at, and this cannot be undone: pass --yes")


def _confirm(args: argparse.Namespace, question: str) -> bool:
    if args.yes:
        return True
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
