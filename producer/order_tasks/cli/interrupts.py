"""Ctrl-C, SIGTERM and SIGHUP, raised as one KeyboardInterrupt that cannot interrupt a section that must finish."""

import signal
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))

_Handler = Callable[[int, FrameType | None], object] | int | None


class Interrupts:
    """Raises KeyboardInterrupt in the main thread at a signal: once, and only between `allow` and `hold`."""

    def __init__(self) -> None:
        self._allowed = False
        self._signalled = False
        self._before: dict[signal.Signals, _Handler] = {}

    def install(self) -> None:
        """Handle the signals, except those that are ignored, as under nohup. Until `allow`, only note them."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)

    def allow(self) -> None:
        """Raise for the signal that came since `install`, or else for the next one."""
        self._allowed = True
        if self._signalled:
            self._raise()

    def hold(self) -> None:
        """Ignore signals from now on."""
        self._allowed = False

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        if self._allowed:
            self._raise()

    def _raise(self) -> None:
        self._allowed = False
        raise KeyboardInterrupt
