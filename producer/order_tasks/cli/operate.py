"""The operators' commands: status, find, replay, drop, run, cancel, pause, resume, rate."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from threading import Event

from google.api_core.exceptions import GoogleAPIError

from order_tasks.cli.arguments import UsageError, database_url, read_config
from order_tasks.cli.show import describe, show_situation, show_story
from order_tasks.operations import Entry, Operations, is_called, to_json
from order_tasks.operations.queues import NotPausedError
from order_tasks.operations.times import Clock


def status(args: argparse.Namespace, clock: Clock) -> int:
    """Show the queues, what fails and the dead letters. Changes nothing."""
    with _operations(args, clock) as operations:
        situation = operations.situation()
    _print_json(situation) if args.json else show_situation(situation)
    return 0


def find(args: argparse.Namespace, clock: Clock) -> int:
    """Show what became of one order. Changes nothing."""
    with _operations(args, clock) as operations:
        story = operations.story(args.order)
    _print_json(story) if args.json else show_story(story, clock.now())
    return 0 if story.is_known else 1


def pause(args: argparse.Namespace, clock: Clock) -> int:
    """Stop deliveries. Tasks can still be created, and running attempts finish."""
    with _operations(args, clock) as operations:
        queue = operations.queues.dead_letters if args.dead_letters else operations.queues.main
        operations.queues.pause(queue)
    sys.stdout.write("The queue is paused. Running attempts finish\n")
    return 0


def resume(args: argparse.Namespace, clock: Clock) -> int:
    """Start deliveries again."""
    with _operations(args, clock) as operations:
        operations.queues.resume(operations.queues.main)
    sys.stdout.write("The queue is running\n")
    return 0


def rate(args: argparse.Namespace, clock: Clock) -> int:
    """Change how fast the queue delivers."""
    with _operations(args, clock) as operations:
        limits = operations.queues.set_rate(args.per_second, args.in_flight).rate_limits
    allowed = f"{limits.max_dispatches_per_second:g} per second and {limits.max_concurrent_dispatches} at once"
    sys.stdout.write(f"The queue allows {allowed}. To keep that, change the stack's settings too\n")
    return 0


def run(args: argparse.Namespace, clock: Clock) -> int:
    """Deliver waiting tasks of the queue now."""
    with _operations(args, clock) as operations:
        started = sum(operations.queues.run(task.path) for task in operations.tasks(args.name))
    sys.stdout.write(f"{started} started\n")
    return int(started == 0)


def drop(args: argparse.Namespace, clock: Clock) -> int:
    """Delete dead letters for good. Their orders will not be processed."""
    _require_confirmation(args)
    with _operations(args, clock) as operations:
        letters, code = _select(args, operations)
        describe(letters, clock.now())
        if not letters or not _confirm(args, f"Drop {len(letters)} for good?"):
            return 1
        dropped = sum(operations.queues.delete(letter.path) for letter in letters)
    sys.stdout.write(f"{dropped} dropped\n")
    return code


def cancel(args: argparse.Namespace, clock: Clock) -> int:
    """Prevent what is open of one order."""
    _require_confirmation(args)
    with _operations(args, clock) as operations:
        story = operations.story(args.order)
        show_story(story, clock.now())
        if not story.is_known or not _confirm(args, "Cancel what is open of it?"):
            return 1
        operations.cancel(story)
        left = operations.story(args.order)
    if left.ledger is None:
        sys.stdout.write("No database was given: a task that runs already, or is created later, is not prevented\n")
    sys.stdout.write(f"Now: {left.summary}\n")
    return 0 if {row.state for row in left.ledger or ()} <= {"cancelled"} else 1


def replay(args: argparse.Namespace, clock: Clock) -> int:
    """Deliver dead letters again, and wait for the results. Skips those that are not yet due."""
    stop = Event()
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    # Not those that are ignored, as under nohup.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, lambda *_: stop.set()) for number in heard]
    try:
        with _operations(args, clock) as operations:
            return _replay(args, operations, stop)
    finally:
        for number, handler in zip(heard, before, strict=True):
            signal.signal(number, handler)


def _replay(args: argparse.Namespace, operations: Operations, stop: Event) -> int:
    letters, code = _select(args, operations)
    left = dict.fromkeys(letter.id for letter in letters)
    ended: dict[str, dict[str, str | None]] = {"replayed": {}, "failed": {}, "skipped": {}}
    try:
        for entry, outcome, reason in operations.replay(letters, stop, force=args.force):
            del left[entry.id]
            ended[outcome][entry.id] = reason
            if reason:
                who = f"{entry.short} ({entry.order_id or 'unknown order'}, {entry.effect or 'no action'})"
                sys.stderr.write(f"{who} {outcome}: {reason}\n")
    except (GoogleAPIError, NotPausedError) as error:
        code = 1
        sys.stderr.write(f"{error}\n")
    if stop.is_set() and left:
        code = code or 130
        sys.stderr.write("interrupted; an attempt that is running will finish\n")
    if args.json:
        sys.stdout.write(f"{json.dumps(ended | {'replayed': [*ended['replayed']], 'unfinished': [*left]})}\n")
    else:
        counts = [f"{len(ids)} {outcome}" for outcome, ids in ended.items()]
        sys.stdout.write(f"{', '.join([*counts, *([f'{len(left)} unfinished'] if left else [])])}\n")
    return code or int(bool(ended["failed"] or ended["skipped"]))


def _operations(args: argparse.Namespace, clock: Clock) -> Operations:
    return Operations(read_config(args, dead_letters=True), database_url(args), clock)


def _select(args: argparse.Namespace, operations: Operations) -> tuple[Sequence[Entry], int]:
    """The dead letters that are meant, and the exit code: 1 if a name is none of them, which is reported."""
    if args.all == bool(args.names or args.reason or args.action):
        raise UsageError("pass NAMEs, --reason or --action, or --all")
    letters = operations.dead_letters(args.names, args.reason, args.action)
    missing = [name for name in args.names if not any(is_called(letter, name) for letter in letters)]
    sys.stderr.write("".join(f"{name} not found: processed, dropped or never stored\n" for name in missing))
    return letters, int(bool(missing))


def _print_json(value: object) -> None:
    sys.stdout.write(f"{to_json(value)}\n")


def _require_confirmation(args: argparse.Namespace) -> None:
    if not args.yes and not sys.stdin.isatty():
        raise UsageError("there is no terminal to confirm at, and this cannot be undone: pass --yes")


def _confirm(args: argparse.Namespace, question: str) -> bool:
    if args.yes:
        return True
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
