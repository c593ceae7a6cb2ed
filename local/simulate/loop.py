"""A deterministic event loop: one thread, virtual time, and processes that die or freeze at any moment.

Whatever runs in the context of a process belongs to it. Nothing of a dead process runs again, not even its cleanup.
What happens to a frozen process waits until it goes on.
"""

import asyncio
import heapq
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextvars import Context, ContextVar
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")
_MOST_TURNS = 20_000_000
_SLOW_SECONDS = 5.0
"""A job of a thread that takes longer counts as a fault."""


class KilledError(BaseException):
    """Ends the synchronous code of a process that has died."""


class StuckError(Exception):
    """Something waits for ever, or goes round in circles."""


class Loop(asyncio.BaseEventLoop):
    """Runs what is ready, in order, and then lets the clock jump to the next timer."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, before: Callable[["Process"], None]) -> None:
        """`before`: called before each step of a process, which it may kill or freeze."""
        super().__init__()
        self._before = before
        self.now = 0.0
        """Seconds since the start."""
        self.errors: list[str] = []
        """What callbacks raised."""
        self.tasks: list[asyncio.Task[Any]] = []
        """All tasks, so that no collector ends one."""
        self._turns = 0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        self._turns += 1
        while not self._ready:
            if not self._scheduled or self._turns > _MOST_TURNS:
                raise StuckError("nothing happens any more, or always the same")
            timer = heapq.heappop(self._scheduled)
            if not timer.cancelled():
                self.now = max(self.now, timer.when())
                self._ready.append(timer)
        handle = self._ready.popleft()
        process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
        if handle.cancelled():
            return
        if process and process.runs:
            self._before(process)
        if process and not process.runs:
            process.held.append(handle)
        else:
            handle._run()

    def go_on(self, process: "Process") -> None:
        process.frozen = False
        self._ready.extend(process.held)
        process.held.clear()

    def outside(self, delay: float, callback: Callable[..., object], *arguments: object) -> None:
        """Calls it later, whatever becomes of the current process."""
        self.call_later(delay, callback, *arguments, context=Context())

    def start(self, work: Coroutine[Any, Any, _T], context: Context | None = None) -> "asyncio.Task[_T]":
        """A task that nobody waits for, so that its exception is an error."""

        def check(task: "asyncio.Task[_T]") -> None:
            if not task.cancelled() and (error := task.exception()):
                self.call_exception_handler({"exception": error})

        task = self.create_task(work, context=context)
        task.add_done_callback(check)
        return task

    def create_task(self, coro: Any, **options: Any) -> "asyncio.Task[Any]":  # noqa: ANN401
        self.tasks.append(super().create_task(coro, **options))
        return self.tasks[-1]

    def run_in_executor(self, executor: Executor | None, func: Any, *args: Any) -> Any:  # type: ignore[override]  # noqa: ANN401
        return asyncio.wrap_future((executor or current_process().thread).submit(func, *args), loop=self)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if error := context.get("exception"):
            self.errors.append("".join(traceback.format_exception(error)))

    def _write_to_self(self) -> None:
        """Nothing waits for a file or a signal."""

    async def end(self) -> None:
        """Ends every other task, so that nothing outlives the simulation."""
        while left := [task for task in self.tasks if not task.done() and task is not asyncio.current_task()]:
            for task in left:
                task.cancel()
            await asyncio.sleep(1)


class Process:
    """A process of the operating system: a context, a worker thread and a clock."""

    def __init__(self, name: str, loop: Loop, pause: Callable[[], float]) -> None:
        self.name = name
        self.alive, self.frozen = True, False
        self.clock_offset = 0.0
        self.held: deque[asyncio.Handle] = deque()
        self.met: list[tuple[float, float]] = []
        """When faults met it: begin and end."""
        self.at_death: list[Callable[[], object]] = []
        self.context = Context()
        self.context.run(PROCESS.set, self)
        self.thread = Thread(self, loop, pause)
        self._loop = loop

    @property
    def runs(self) -> bool:
        return self.alive and not self.frozen

    def start(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        return self._loop.start(work, self.context.copy())

    def kill(self) -> None:
        self.alive = False
        for tell in self.at_death:
            tell()

    def freeze(self, seconds: float) -> None:
        if not self.frozen:
            self.frozen = True
            self._loop.outside(seconds, self._loop.go_on, self)

    def bury(self) -> None:
        """Lets what it left come to its end, without effect."""
        self.alive, self.thread.closed = True, True
        self._loop.go_on(self)


class Thread(Executor):
    """The worker thread of a process. A job takes some time, but it happens at one instant."""

    def __init__(self, process: Process, loop: Loop, pause: Callable[[], float]) -> None:
        self.closed = False
        self._process, self._loop, self._pause = process, loop, pause
        self._free_at = 0.0

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> "Future[_T]":  # noqa: ANN401
        future: Future[_T] = Future()
        if self.closed:
            future.set_exception(RuntimeError("The process has ended"))
            return future
        asked_at = self._loop.now

        def work() -> None:
            answer: Callable[[], None]
            if not future.set_running_or_notify_cancel():
                return
            try:
                answer = partial(future.set_result, fn(*args, **kwargs))
            except KilledError:
                return
            except Exception as error:
                answer = partial(future.set_exception, error)
            answered_at = self._loop.now + self._pause()
            if answered_at - asked_at > _SLOW_SECONDS:
                self._process.met.append((asked_at, answered_at))
            self._loop.call_at(answered_at, answer)

        at = max(self._free_at, asked_at) + self._pause()
        self._free_at = at + self._pause()
        self._loop.call_at(at, work, context=self._process.context.copy())
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """It ends with its process."""


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
"""The process that the current code belongs to. None: the world outside."""


def current_process() -> Process:
    process = PROCESS.get()
    assert process is not None
    return process
