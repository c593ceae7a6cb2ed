"""The connection to Cloud Tasks: the official client, its retries, its timeouts, and what a fork does to it."""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict
from weakref import WeakSet

import grpc
import grpc.aio
from google.api_core import exceptions
from google.api_core.retry import AsyncRetry, Retry, if_exception_type
from google.api_core.timeout import ConstantTimeout
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks import transports

from order_tasks.config import Config

LOCAL_SECONDS = 2.0
"""Default timeout of a call to a local cloud. One that runs answers in milliseconds."""

# The task's name is fixed, so a call can be repeated even if the outcome of the first attempt is unknown.
# gRPC reports a broken stream as INTERNAL. RESOURCE_EXHAUSTED is a quota that refills within a minute.
is_transient = if_exception_type(
    exceptions.ServiceUnavailable,
    exceptions.DeadlineExceeded,
    exceptions.ResourceExhausted,
    exceptions.InternalServerError,
)


class _LocalRetry(Retry):
    """Says how to start a local cloud if none answers."""

    def __call__(self, func: Any, on_error: Any = None) -> Any:  # noqa: ANN401 - any call of the client
        return _explain_silence()(super().__call__(func, on_error))


class _LocalAsyncRetry(AsyncRetry):
    """Like _LocalRetry."""

    def __call__(self, func: Any, on_error: Any = None) -> Any:  # noqa: ANN401
        call = super().__call__(func, on_error)

        async def explained(*args: Any, **fields: Any) -> Any:  # noqa: ANN401
            with _explain_silence():
                return await call(*args, **fields)

        return explained


@contextmanager
def _explain_silence() -> Iterator[None]:
    try:
        yield
    except exceptions.RetryError as error:
        text = (
            "the local cloud does not answer: start one with `python -m local up`, or unset CLOUD_TASKS_EMULATOR_HOST"
        )
        raise exceptions.RetryError(f"{text}. {error.message}", error.cause) from error  # type: ignore[no-untyped-call]


class CallOptions(TypedDict):
    """Arguments of a call of the official client."""

    retry: Any
    timeout: object


def call_options(config: Config, seconds: float = 30.0) -> CallOptions:
    """How a call is retried. `seconds`: how long, unless the configuration says so or a local cloud is called."""
    retry = Retry if config.emulator_host is None else _LocalRetry
    return {"retry": retry(**_delays(config, seconds)), "timeout": _attempt_timeout(config)}


def async_call_options(config: Config, seconds: float = 30.0) -> CallOptions:
    """Like `call_options`, for asyncio."""
    retry = AsyncRetry if config.emulator_host is None else _LocalAsyncRetry
    return {"retry": retry(**_delays(config, seconds)), "timeout": _attempt_timeout(config)}


def _delays(config: Config, seconds: float) -> dict[str, Any]:
    # Each delay is random, between 0 and a limit that doubles from 0.1 s to 5 s. No attempt starts after the timeout.
    timeout = config.call_timeout or (seconds if config.emulator_host is None else LOCAL_SECONDS)
    return {"predicate": is_transient, "initial": 0.1, "maximum": 5.0, "multiplier": 2.0, "timeout": timeout}


def _attempt_timeout(config: Config) -> ConstantTimeout:
    # A plain number would limit all attempts together: one lost packet would leave no time for the next attempt.
    default = 10.0 if config.emulator_host is None else LOCAL_SECONDS
    seconds = config.attempt_timeout or min(default, config.call_timeout or default)
    return ConstantTimeout(seconds)  # type: ignore[no-untyped-call]


# An HTTP proxy cannot reach a local cloud. A page of full tasks may be larger than gRPC's default limit of 4 MiB.
_EMULATOR_CHANNEL = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]


def connect(config: Config) -> tasks_v2.CloudTasksClient:
    """A blocking client. Close it by using it as a context manager, or by closing its transport."""
    if config.emulator_host is None:
        return tasks_v2.CloudTasksClient()
    channel = grpc.insecure_channel(config.emulator_host, options=_EMULATOR_CHANNEL)
    return tasks_v2.CloudTasksClient(transport=transports.CloudTasksGrpcTransport(channel=channel))


def connect_async(config: Config) -> tasks_v2.CloudTasksAsyncClient:
    """A client for the running event loop. Close its transport in the same loop."""
    if config.emulator_host is None:
        return tasks_v2.CloudTasksAsyncClient()
    channel = grpc.aio.insecure_channel(config.emulator_host, options=_EMULATOR_CHANNEL)
    return tasks_v2.CloudTasksAsyncClient(transport=transports.CloudTasksGrpcAsyncIOTransport(channel=channel))


class Connection:
    """A blocking client for many threads. It is closed before a fork, and opens again in the parent and in the child.

    gRPC's own threads do not survive a fork. A child that inherits an open channel hangs in its first call.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._client: tasks_v2.CloudTasksClient | None = None
        self._closed = False
        _connections.add(self)
        with self.client():
            pass  # without credentials this raises now, not in the first call

    @contextmanager
    def client(self) -> Iterator[tasks_v2.CloudTasksClient]:
        """The client for one call. A fork waits for the end of the call."""
        global _calls
        with _no_fork:
            _no_fork.wait_for(lambda: not _forking)
            if self._closed:
                raise RuntimeError("this client is closed: create a new one")
            self._client = client = self._client or connect(self._config)
            _calls += 1
        try:
            yield client
        finally:
            with _no_fork:
                _calls -= 1
                _no_fork.notify_all()

    def close(self) -> None:
        """Close the channel for good. Calls in flight fail."""
        self._closed = True
        self.disconnect()

    def disconnect(self) -> None:
        """Close the channel. The next call opens a new one."""
        client, self._client = self._client, None
        if client is not None:
            client.transport.close()  # type: ignore[no-untyped-call]


_FORK_PATIENCE_SECONDS = 10.0
_connections: WeakSet[Connection] = WeakSet()
_calls = 0
_forking = False
_no_fork = threading.Condition(threading.RLock())
_inherited: list[object] = []


def _before_fork() -> None:
    global _forking
    _no_fork.acquire()
    _forking = True  # holds back the next calls, so that the wait ends
    if _no_fork.wait_for(lambda: _calls == 0, _FORK_PATIENCE_SECONDS) and _connections:
        for connection in list(_connections):
            connection.disconnect()
        gc.collect()  # the official client is a reference cycle, and gRPC ends its threads with the last channel


def _after_fork_in_parent() -> None:
    global _forking
    _forking = False
    _no_fork.notify_all()
    _no_fork.release()


def _after_fork_in_child() -> None:
    global _calls, _forking, _no_fork
    _calls, _forking, _no_fork = 0, False, threading.Condition(threading.RLock())
    for connection in list(_connections):
        if connection._client is not None:  # a call of the parent took too long
            _inherited.append(connection._client)  # kept, because destroying a channel of the parent can hang
            connection._client = None


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
