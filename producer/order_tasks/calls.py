"""How a call reaches Cloud Tasks: the connection, its retries and time limits, the same for web apps and operators."""

import grpc
import grpc.aio
from google.api_core import exceptions
from google.api_core.retry import AsyncRetry, Retry, if_exception_type
from google.api_core.timeout import ConstantTimeout
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks import transports

from order_tasks.config import Config

# Safe to repeat even when the first attempt's outcome is unknown, because the task's name is fixed. INTERNAL is how
# gRPC reports a broken stream, RESOURCE_EXHAUSTED a quota that refills within the minute.
_transient = if_exception_type(
    exceptions.ServiceUnavailable,
    exceptions.DeadlineExceeded,
    exceptions.ResourceExhausted,
    exceptions.InternalServerError,
)
# Delays are drawn from 0 to a step that doubles from 0.1 s to 5 s (full jitter); no attempt starts after 30 s.
RETRY = Retry(predicate=_transient, initial=0.1, maximum=5.0, multiplier=2.0, timeout=30.0)
ASYNC_RETRY = AsyncRetry(predicate=_transient, initial=0.1, maximum=5.0, multiplier=2.0, timeout=30.0)
# A plain number would be shared by all attempts: one lost packet would leave the later ones nothing.
ATTEMPT_TIMEOUT = ConstantTimeout(10.0)  # type: ignore[no-untyped-call]

# A proxy for the outside world cannot reach a local cloud; a page of full tasks may be larger than gRPC's 4 MiB.
_EMULATOR_CHANNEL = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]


def connect(config: Config) -> tasks_v2.CloudTasksClient:
    """A blocking client: the caller closes its transport."""
    if config.emulator_host is None:
        return tasks_v2.CloudTasksClient()
    channel = grpc.insecure_channel(config.emulator_host, options=_EMULATOR_CHANNEL)
    return tasks_v2.CloudTasksClient(transport=transports.CloudTasksGrpcTransport(channel=channel))


def connect_async(config: Config) -> tasks_v2.CloudTasksAsyncClient:
    """A client of the running event loop: the caller closes its transport there."""
    if config.emulator_host is None:
        return tasks_v2.CloudTasksAsyncClient()
    channel = grpc.aio.insecure_channel(config.emulator_host, options=_EMULATOR_CHANNEL)
    return tasks_v2.CloudTasksAsyncClient(transport=transports.CloudTasksGrpcAsyncIOTransport(channel=channel))
