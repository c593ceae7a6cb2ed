"""The connection to Cloud Tasks: the official client, its retries and its timeouts."""

import grpc
import grpc.aio
from google.api_core import exceptions
from google.api_core.retry import AsyncRetry, Retry, if_exception_type
from google.api_core.timeout import ConstantTimeout
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks import transports

from order_tasks.config import Config

# The task's name is fixed, so a call can be repeated even if the outcome of the first attempt is unknown.
# gRPC reports a broken stream as INTERNAL. RESOURCE_EXHAUSTED is a quota that refills within a minute.
_transient = if_exception_type(
    exceptions.ServiceUnavailable,
    exceptions.DeadlineExceeded,
    exceptions.ResourceExhausted,
    exceptions.InternalServerError,
)
# Each delay is random, between 0 and a limit that doubles from 0.1 s to 5 s. No attempt starts after 30 s.
RETRY = Retry(predicate=_transient, initial=0.1, maximum=5.0, multiplier=2.0, timeout=30.0)
ASYNC_RETRY = AsyncRetry(predicate=_transient, initial=0.1, maximum=5.0, multiplier=2.0, timeout=30.0)
# A plain number would limit all attempts together: one lost packet would leave no time for the next attempt.
ATTEMPT_TIMEOUT = ConstantTimeout(10.0)  # type: ignore[no-untyped-call]

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
