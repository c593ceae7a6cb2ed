"""A signal strikes once, and only where it may."""

import os
import signal
from collections.abc import Iterator

import pytest
from order_tasks.cli.interrupts import Interrupts


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    taken = Interrupts()
    taken.install()
    yield taken
    taken.restore()


def strike() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_comes_too_early_strikes_when_it_may(interrupts: Interrupts) -> None:
    strike()
    with pytest.raises(KeyboardInterrupt):
        interrupts.allow()


def test_a_second_signal_does_not_strike_what_the_first_set_off(interrupts: Interrupts) -> None:
    interrupts.allow()
    with pytest.raises(KeyboardInterrupt):
        strike()
    strike()


def test_what_comes_too_late_is_ignored(interrupts: Interrupts) -> None:
    interrupts.allow()
    interrupts.hold()
    strike()


def test_a_signal_that_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupts = Interrupts()
        interrupts.install()
        interrupts.allow()
        os.kill(os.getpid(), signal.SIGHUP)
        interrupts.restore()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
