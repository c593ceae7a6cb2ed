"""A queue's configuration as the service takes it and shows it: checks, limits, defaults, updates by mask.

The texts of errors are the service's own where a recorded answer gives them.
"""

import copy
from typing import NoReturn

from google.cloud.tasks_v2 import types
from google.protobuf import field_mask_pb2

from local.cloud_tasks.messages import CallError, Message, QueueMessage
from local.cloud_tasks.schedule import RateLimits, RetryConfig

MAX_DISPATCHES_PER_SECOND, MAX_CONCURRENT_DISPATCHES = 500, 5000

_MUTABLE = ("rate_limits", "retry_config", "http_target", "stackdriver_logging_config", "app_engine_routing_override")
_BACKOFF = ("min_backoff", "max_backoff")


def new_queue(given: Message) -> Message:
    """The queue to keep, out of the one given; raises CallError where the service refuses it.

    Output-only fields are dropped, and what is left out gets the service's default."""
    if given.HasField("app_engine_routing_override"):
        raise CallError("UNIMPLEMENTED", "App Engine routing is not served here; use an http_target")
    queue = QueueMessage(name=given.name, state=types.Queue.State.RUNNING)
    for field in _MUTABLE:
        if given.HasField(field):
            getattr(queue, field).CopyFrom(getattr(given, field))
    _complete_rates(queue.rate_limits)
    complete_retries(queue.retry_config)
    if queue.HasField("http_target"):
        _complete_target(queue)
    if not 0 <= queue.stackdriver_logging_config.sampling_ratio <= 1:
        _refuse("StackdriverLoggingConfig.samplingRatio must be between 0.0 and 1.0.")
    return queue


def updated_queue(current: Message, given: Message, mask: field_mask_pb2.FieldMask) -> Message:
    """`current` with the fields of `given` that the mask names: all without one, the default where it has none."""
    if not mask.IsValidForDescriptor(QueueMessage.DESCRIPTOR):
        _refuse(f"Invalid update mask: {', '.join(mask.paths)!r} names a field that a queue does not have.")
    merged = copy.deepcopy(current)
    for path in mask.paths or _MUTABLE:
        if path.partition(".")[0] in _MUTABLE:
            _replace(path, given, merged)
    queue = new_queue(merged)
    queue.state = current.state
    if current.HasField("purge_time"):
        queue.purge_time.CopyFrom(current.purge_time)
    return queue


def _replace(path: str, source: Message, target: Message) -> None:
    """Have the source's field at a path in the target, or none where the source has none."""
    *parents, name = path.split(".")
    for parent in parents:
        source, target = getattr(source, parent), getattr(target, parent)
    field = copy.deepcopy(source)
    for other, _ in source.ListFields():
        if other.name != name:
            field.ClearField(other.name)
    target.ClearField(name)
    target.MergeFrom(field)


def rate_limits(queue: Message) -> RateLimits:
    """The figures of a queue that `new_queue` has completed."""
    return RateLimits(queue.rate_limits.max_dispatches_per_second, queue.rate_limits.max_concurrent_dispatches)


def retry_config(given: Message) -> RetryConfig:
    """The figures of a RetryConfig message that `complete_retries` has completed."""
    return RetryConfig(
        given.max_attempts,
        float(given.max_retry_duration.seconds),
        given.min_backoff.ToMicroseconds() / 1e6,
        given.max_backoff.ToMicroseconds() / 1e6,
        given.max_doublings,
    )


def _complete_rates(given: Message) -> None:
    default = RateLimits()
    for field, most in (
        ("max_dispatches_per_second", MAX_DISPATCHES_PER_SECOND),
        ("max_concurrent_dispatches", MAX_CONCURRENT_DISPATCHES),
    ):
        value = getattr(given, field)
        if value < 0:
            _refuse(f"{_shown(given, field)} cannot be negative.")
        if not value <= most:
            _refuse(f"{_shown(given, field)} must be less than or equal to {most}.")
        setattr(given, field, value or getattr(default, field))
    given.max_burst_size = RateLimits(given.max_dispatches_per_second).max_burst_size


def complete_retries(given: Message) -> None:
    """Check a RetryConfig message and fill in what is left out; raises CallError."""
    default = RetryConfig()
    if given.max_attempts < -1:
        _refuse("RetryConfig.maxAttempts must be greater or equal to -1.")
    if given.max_doublings < 0:
        _refuse("RetryConfig.maxDoublings cannot be negative.")
    for field in ("max_retry_duration", *_BACKOFF):
        if getattr(given, field).ToNanoseconds() < 0:
            _refuse(f"{_shown(given, field)} cannot be negative.")
    given.max_attempts = given.max_attempts or default.max_attempts
    given.max_doublings = given.max_doublings or default.max_doublings
    given.max_retry_duration.nanos = 0  # kept in whole seconds
    if not given.max_retry_duration.seconds:
        given.ClearField("max_retry_duration")
    for field in _BACKOFF:
        backoff = getattr(given, field)
        backoff.FromMicroseconds(backoff.ToMicroseconds() or int(getattr(default, field) * 1e6))
    if given.min_backoff.ToMicroseconds() > given.max_backoff.ToMicroseconds():
        _refuse("RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.")


def _complete_target(queue: Message) -> None:
    target = queue.http_target
    uri = target.uri_override
    if target.HasField("oauth_token"):
        raise CallError("UNIMPLEMENTED", "OAuth tokens are for Google's own APIs; use an OIDC token")
    if target.HasField("oidc_token") and not target.oidc_token.service_account_email:
        target.ClearField("oidc_token")
    if target.HasField("oidc_token") and not target.oidc_token.audience:
        _refuse("HttpTarget.oidcToken.audience is required where the queue sets the token.")
    if uri.HasField("host") and not uri.host:
        _refuse("UriOverride.host cannot be empty.")
    if uri.port < 0 or uri.port > 65535:
        _refuse("UriOverride.port must be between 0 and 65535.")
    if target.HasField("uri_override"):
        uri.uri_override_enforce_mode = uri.uri_override_enforce_mode or types.UriOverride.UriOverrideEnforceMode.ALWAYS
    if not target.ByteSize():
        queue.ClearField("http_target")


def _shown(message: Message, field: str) -> str:
    """A field as errors name it, `RateLimits.maxDispatchesPerSecond`."""
    return f"{message.DESCRIPTOR.name}.{message.DESCRIPTOR.fields_by_name[field].json_name}"


def _refuse(text: str) -> NoReturn:
    raise CallError("INVALID_ARGUMENT", text)
