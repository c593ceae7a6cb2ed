"""`python -m local simulate`: runs many seeds on every core, and tells the shortest story of the first that fails."""

import contextlib
import gc
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from rich.console import Console
from rich.progress import track

from local.simulate.simulation import Result, simulate


def run(seeds: Sequence[int], orders: int, minutes: float, *, trace: bool) -> int:
    """Prints a line of hashes for each seed. Returns 1 if a seed fails. `trace`: prints every event too."""
    output, progress = Console(width=500, highlight=False), Console(stderr=True)
    started = time.monotonic()
    results = []
    failed: Result | None = None
    with _mapping(len(seeds)) as mapped:
        work = partial(_run, orders=orders, minutes=minutes, trace=trace)
        for result in track(mapped(work, seeds), "simulating", len(seeds), console=progress, transient=True):
            for event in result.events if trace else ():
                output.print(str(event), markup=False, soft_wrap=True)
            output.print(f"seed {result.seed}: {' '.join(result.digests)}")
            results.append(result)
            if result.problems and not failed:
                failed = result
    seconds = time.monotonic() - started
    total = sum(result.orders for result in results)
    progress.print(
        f"{len(results)} seeds, {total} orders, {sum(result.faults for result in results)} faults, "
        f"{sum(result.repeats for result in results)} repeats that a fault explains, "
        f"{sum(bool(result.problems) for result in results)} seeds failed; {total / seconds:.0f} orders/s",
        highlight=False,
        soft_wrap=True,
    )
    if failed:
        output.print(story(failed, orders, minutes), markup=False, soft_wrap=True)
    return int(failed is not None)


def story(failed: Result, orders: int, minutes: float) -> str:
    """What went wrong in a seed, with as few faults as lead to the same kind of problem."""
    kind = failed.problems[0].partition(":")[0]

    def fails(without: frozenset[int], most_faults: int | None = None) -> Result | None:
        result = simulate(failed.seed, orders, minutes, without, most_faults)
        return result if any(problem.startswith(kind) for problem in result.problems) else None

    shortest, low, high = failed, 0, failed.faults
    while low < high:
        middle = (low + high) // 2
        if result := fails(frozenset(), middle):
            shortest, high = result, middle
        else:
            low = middle + 1
    without: frozenset[int] = frozenset()
    for number in reversed(range(high)):
        if result := fails(without | {number}, high):
            shortest, without = result, without | {number}
    problem = next(problem for problem in shortest.problems if problem.startswith(kind))
    named = re.search(r"ORD-\d+\b", problem)
    about = re.compile(rf"FAULT|{named[0]}\b| dies| freezes|operator|restarts" if named else "")
    events = [str(event) for event in shortest.events if about.search(event.text)]
    return "\n".join([f"Seed {failed.seed} fails:", *events, problem])


def _run(seed: int, orders: int, minutes: float, *, trace: bool) -> Result:
    result = simulate(seed, orders, minutes)
    return result if trace or result.problems else result._replace(events=())


@contextlib.contextmanager
def _mapping(count: int) -> Iterator[partial[Iterator[Result]]]:
    """A `map` on every core."""
    gc.freeze()  # each seed ends with a collection, which need not look through the libraries
    with ProcessPoolExecutor(min(count, os.cpu_count() or 1)) as pool:
        yield partial(pool.map, chunksize=max(1, min(10, count // 8)))
