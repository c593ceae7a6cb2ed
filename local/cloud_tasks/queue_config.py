"""A queue's configuration as the service takes it and shows it: checks, limits, defaults, updates by mask.

The texts of errors are the service's own where a recorded answer gives them.
"""

import copy
import re
from collections.abc import Iterable, Sequence

from google.cloud.tasks_v2 import types
from google.protobuf import field_mask_pb2

from local.cloud_tasks.messages import CallError, Message, QueueMessage, error_info, invalid
from local.cloud_tasks.schedule import RateLimits, RetryConfig

LARGEST_DURATION_SECONDS = 315_576_000_000
"""10,000 years: the longest google.protobuf.Duration."""
_NO_LIMIT = float("inf")
_FIGURES = {
    "max_dispatches_per_second": (0, 500),
    "max_concurrent_dispatches": (0, 5000),
    "max_attempts": (-1, _NO_LIMIT),
    "max_doublings": (0, _NO_LIMIT),
    "min_backoff": (0, _NO_LIMIT),
    "max_backoff": (0, _NO_LIMIT),
}
"""The least and the largest value of each figure of a queue; 0 stands for the default."""

_MUTABLE = ("rate_limits", "retry_config", "http_target", "stackdriver_logging_config", "app_engine_routing_override")
_TOKENS = ("oidc_token", "oauth_token")
_EMAIL = re.compile(r"[^@]+@[^@]+")
_HOST = re.compile(r"[^\s/?#@:\\]+")
_RESERVED_OVERRIDE = re.compile(
    r"(?i)|.*:.*|host|user-agent|content-length|connection|transfer-encoding|x-forwarded-for"
    r"|x-(google|appengine|cloudtasks)-.*",
    re.DOTALL,
)


def new_queue(requested: Message) -> Message:
    """The queue to store for the requested one; raises CallError where the service refuses it.

    Output-only fields are dropped, and what is left out gets the service's default."""
    _check_target(requested.http_target)
    return _completed(requested)


def updated_queue(current: Message, requested: Message, paths: Sequence[str] | None) -> Message:
    """`current` with the fields of `requested` that the mask's paths name; all of them without a mask (None).

    A named field that is not set in `requested` is cleared. Raises CallError where the service refuses the result."""
    _check_target(requested.http_target)
    merged = copy.deepcopy(current)
    for path in _MUTABLE if paths is None else paths:
        if path.partition(".")[0] in _MUTABLE:
            _copy_field(path, requested, merged)
    queue = _completed(merged)
    queue.state = current.state
    if current.HasField("purge_time"):
        queue.purge_time.CopyFrom(current.purge_time)
    return queue


def check_mask(paths: Iterable[str]) -> None:
    """Raise the CallError of a path that names no field of a queue."""
    for path in paths:
        if not field_mask_pb2.FieldMask(paths=[path]).IsValidForDescriptor(QueueMessage.DESCRIPTOR):
            raise invalid(f"Invalid mask: {path}")


def _copy_field(path: str, source: Message, target: Message) -> None:
    """Copy the field at a path, or clear it in the target if the source has no value. The path's parents are set."""
    *parents, name = path.split(".")
    for parent in parents:
        source, target = getattr(source, parent), getattr(target, parent)
        target.SetInParent()
    target.ClearField(name)
    for field, value in source.ListFields():
        if field.name == name:
            target.MergeFrom(type(source)(**{name: value}))


def _completed(requested: Message) -> Message:
    """A queue with these mutable fields, checked and filled in with defaults."""
    if requested.HasField("app_engine_routing_override"):
        raise CallError("UNIMPLEMENTED", "App Engine routing is not served here; use an http_target")
    queue = QueueMessage(name=requested.name, state=types.Queue.State.RUNNING)
    for field in _MUTABLE:
        if requested.HasField(field):
            getattr(queue, field).CopyFrom(getattr(requested, field))
    _complete_figures(queue.rate_limits, RateLimits())
    queue.rate_limits.max_burst_size = rate_limits(queue).max_burst_size
    complete_retries(queue.retry_config)
    target, logging = queue.http_target, queue.stackdriver_logging_config
    for token in _TOKENS:
        if target.HasField(token) and not getattr(target, token).ByteSize():
            target.ClearField(token)
    _check_parts(target)
    if target.header_overrides:
        overrides = [override for override in target.header_overrides if override.HasField("header")]
        target.ClearField("header_overrides")
        target.header_overrides.extend(overrides)
    if not 0 <= logging.sampling_ratio <= 1:
        raise invalid("sampling_ratio must be between 0.0 and 1.0.")
    if not logging.sampling_ratio:
        queue.ClearField("stackdriver_logging_config")
    return queue


def rate_limits(queue: Message) -> RateLimits:
    """The figures of a queue that `new_queue` has completed."""
    return RateLimits(queue.rate_limits.max_dispatches_per_second, queue.rate_limits.max_concurrent_dispatches)


def retry_config(config: Message) -> RetryConfig:
    """The figures of a RetryConfig message that `complete_retries` has completed."""
    return RetryConfig(
        config.max_attempts,
        float(config.max_retry_duration.seconds),
        config.min_backoff.ToNanoseconds() / 1e9,
        config.max_backoff.ToNanoseconds() / 1e9,
        config.max_doublings,
    )


def complete_retries(config: Message) -> None:
    """Check a RetryConfig message and fill in what is left out; raises CallError."""
    _complete_figures(config, RetryConfig())
    if config.max_retry_duration.seconds < 0:
        raise invalid("RetryConfig.max_retry_duration.seconds cannot be negative.")
    if config.max_retry_duration.nanos:
        raise invalid("RetryConfig.max_retry_duration.nanos cannot be set.")
    if not nanoseconds(config.max_retry_duration):
        config.ClearField("max_retry_duration")
    if nanoseconds(config.min_backoff) > nanoseconds(config.max_backoff):
        raise invalid("RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.")


def _complete_figures(config: Message, default: RateLimits | RetryConfig) -> None:
    """Check the figures of a message and fill in what is left out; raises CallError."""
    for field in config.DESCRIPTOR.fields:
        if field.name not in _FIGURES:
            continue
        least, most = _FIGURES[field.name]
        value = getattr(config, field.name)
        figure = nanoseconds(value) if field.message_type else value
        name = f"{config.DESCRIPTOR.name}.{field.json_name}"
        if figure < least:
            raise invalid(f"{name} {'must be greater or equal to -1' if least else 'cannot be negative'}.")
        if not figure <= most:
            raise invalid(f"{name} must be less than or equal to {most}.")
        if not figure and field.message_type:
            value.FromMicroseconds(int(getattr(default, field.name) * 1e6))
        elif not figure:
            setattr(config, field.name, getattr(default, field.name))


def nanoseconds(duration: Message) -> int:
    """The length of a Duration; raises CallError where its fields are out of their range."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > LARGEST_DURATION_SECONDS or abs(nanos) > 999_999_999 or seconds * nanos < 0:
        raise invalid()
    return int(seconds * 1_000_000_000 + nanos)


def check_email(email: str) -> None:
    """Raise the CallError of a token's account that is not an e-mail."""
    if not email:
        raise invalid("service_account_email must be set.")
    if not _EMAIL.fullmatch(email):
        raise invalid()


def _check_parts(target: Message) -> None:
    """Raise the CallError of an http_target that is refused when it is given, and when an update leaves it."""
    uri, known = target.uri_override, types.UriOverride
    for refused, what in (
        (target.HasField("uri_override") and not uri.ByteSize(), "Invalid uri_override."),
        (uri.HasField("host") and not _HOST.fullmatch(uri.host), "Invalid Host."),
        (uri.HasField("port") and uri.port <= 0, "Port number should be a positive integer."),
        (uri.scheme not in list(known.Scheme), ""),
        (uri.uri_override_enforce_mode not in list(known.UriOverrideEnforceMode), ""),
        (target.http_method not in list(types.HttpMethod), ""),
    ):
        if refused:
            reason, domain = "INVALID_INPUT_ON_HTTP_TARGET_OVERRIDE", "cloudtasks.googleapis.com"
            raise invalid(f"Error in parsing HttpTarget. {what}", error_info(reason, domain, invalid_field=what))


def _check_target(target: Message) -> None:
    """Raise the CallError of an http_target that is refused when it is given, whatever the update mask is."""
    _check_parts(target)
    keys = [override.header.key for override in target.header_overrides if override.HasField("header")]
    reserved = [key for key in keys if _RESERVED_OVERRIDE.fullmatch(key)]
    if reserved:
        raise invalid(
            "Error in parsing HttpTarget.headers. Header name cannot be empty or start with reserved prefixes. "
            f"Invalid headers found: {', '.join(reserved)}"
        )
    for token in _TOKENS:
        if target.HasField(token):
            check_email(getattr(target, token).service_account_email)
