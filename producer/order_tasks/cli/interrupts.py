"""Ctrl-C, SIGTERM and a closed terminal, as one KeyboardInterrupt that cannot strike what must be finished."""

import signal
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))

_Handler = Callable[[int, FrameType | None], object] | int | None


class Interrupts:
    """Raises KeyboardInterrupt in the main thread at a signal: once, and only between `allow` and `hold`."""

    def __init__(self) -> None:
        self._allowed = False
        self._struck = False
        self._before: dict[signal.Signals, _Handler] = {}

    def install(self) -> None:
        """Take over the signals, except those that were ignored, as under nohup; note what comes."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._strike)

    def allow(self) -> None:
        """Raise what came so far, or else what comes next."""
        self._allowed = True
        if self._struck:
            self._raise()

    def hold(self) -> None:
        """Ignore what comes from now on."""
        self._allowed = False

    def restore(self) -> None:
        """Let signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _strike(self, number: int, frame: FrameType | None) -> None:
        self._struck = True
        if self._allowed:
            self._raise()

    def _raise(self) -> None:
        self._allowed = False
        raise KeyboardInterrupt
