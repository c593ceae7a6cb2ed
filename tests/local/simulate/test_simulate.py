"""The whole pipeline on one virtual clock: nothing is lost whatever breaks, and a seed can be repeated."""

import gc
import logging
import os
import subprocess
import sys

import pytest

from local.program import ROOT
from local.simulate.command import story
from local.simulate.loop import Process
from local.simulate.simulation import simulate


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_no_seed_loses_or_repeats_an_effect(first: int) -> None:
    for seed in range(first, first + 10):
        result = simulate(seed)
        assert not result.problems, story(result, 30, 10)
        assert result.orders


def test_a_seed_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # pytest keeps logged exceptions and frames
    before = sum(type(each) is Process for each in gc.get_objects())
    for seed in range(2):
        simulate(seed, orders=3)
    assert sum(type(each) is Process for each in gc.get_objects()) <= before


def test_a_seed_gives_the_same_hashes_in_every_process() -> None:
    hashes = [
        subprocess.run(
            [sys.executable, "-m", "local", "simulate", "--seeds", "3..5", "--orders", "10"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(number)},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        ).stdout
        for number in (1, 2)
    ]
    assert hashes[0] == hashes[1]
    assert [line.split(":")[0] for line in hashes[0].splitlines()] == ["seed 3", "seed 4", "seed 5"]
