"""A queue's configuration as the service takes it and shows it: checks, limits, defaults, updates by mask.

The texts of errors are the service's own where a recorded answer gives them.
"""

import copy
import re
from collections.abc import Iterable, Sequence

from google.cloud.tasks_v2 import types

from local.cloud_tasks.messages import CallError, Message, QueueMessage, error_info, invalid
from local.cloud_tasks.schedule import RateLimits, RetryConfig

MAX_DISPATCHES_PER_SECOND, MAX_CONCURRENT_DISPATCHES = 500, 5000
LARGEST_DURATION_SECONDS = 315_576_000_000
"""10,000 years: the longest google.protobuf.Duration."""

_MUTABLE = ("rate_limits", "retry_config", "http_target", "stackdriver_logging_config", "app_engine_routing_override")
_BACKOFF = ("min_backoff", "max_backoff")
_EMAIL = re.compile(r"[^@]+@[^@]+")
_HOST = re.compile(r"[^\s/?#@:\\]+")
_RESERVED_OVERRIDE = re.compile(
    r"(?i)|.*:.*|host|user-agent|content-length|connection|transfer-encoding|x-forwarded-for"
    r"|x-(google|appengine|cloudtasks)-.*",
    re.DOTALL,
)
_TOKENS = ("oidc_token", "oauth_token")


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
        message = QueueMessage.DESCRIPTOR
        for name in path.split("."):
            field = message.fields_by_name.get(name) if message else None
            if field is None:
                raise invalid(f"Invalid mask: {path}")
            message = None if field.is_repeated else field.message_type


def _copy_field(path: str, source: Message, target: Message) -> None:
    """Copy the field at a path, or clear it in the target if the source has no value. The path's parents are set."""
    *parents, name = path.split(".")
    for parent in parents:
        source, target = getattr(source, parent), getattr(target, parent)
        target.SetInParent()
    field = target.DESCRIPTOR.fields_by_name[name]
    if field.has_presence and not source.HasField(name):
        target.ClearField(name)
    elif field.is_repeated:
        target.ClearField(name)
        getattr(target, name).extend(getattr(source, name))
    elif field.message_type:
        getattr(target, name).CopyFrom(getattr(source, name))
    else:
        setattr(target, name, getattr(source, name))


def _completed(requested: Message) -> Message:
    """A queue with these mutable fields, checked and filled in with defaults."""
    if requested.HasField("app_engine_routing_override"):
        raise CallError("UNIMPLEMENTED", "App Engine routing is not served here; use an http_target")
    queue = QueueMessage(name=requested.name, state=types.Queue.State.RUNNING)
    for field in _MUTABLE:
        if requested.HasField(field):
            getattr(queue, field).CopyFrom(getattr(requested, field))
    _complete_rates(queue.rate_limits)
    complete_retries(queue.retry_config)
    target = queue.http_target
    for token in _TOKENS:
        if target.HasField(token) and not getattr(target, token).ByteSize():
            target.ClearField(token)
    if target.HasField("uri_override") and not target.uri_override.ByteSize():
        raise _target_error("Invalid uri_override.")
    overrides = [override for override in target.header_overrides if override.HasField("header")]
    if len(overrides) != len(target.header_overrides):
        target.ClearField("header_overrides")
        target.header_overrides.extend(overrides)
    if not 0 <= queue.stackdriver_logging_config.sampling_ratio <= 1:
        raise invalid("sampling_ratio must be between 0.0 and 1.0.")
    if not queue.stackdriver_logging_config.sampling_ratio:
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


def _complete_rates(limits: Message) -> None:
    default = RateLimits()
    for field, most in (
        ("max_dispatches_per_second", MAX_DISPATCHES_PER_SECOND),
        ("max_concurrent_dispatches", MAX_CONCURRENT_DISPATCHES),
    ):
        value = getattr(limits, field)
        if value < 0:
            raise invalid(f"{_json_path(limits, field)} cannot be negative.")
        if not value <= most:
            raise invalid(f"{_json_path(limits, field)} must be less than or equal to {most}.")
        setattr(limits, field, value or getattr(default, field))
    limits.max_burst_size = RateLimits(limits.max_dispatches_per_second).max_burst_size


def complete_retries(config: Message) -> None:
    """Check a RetryConfig message and fill in what is left out; raises CallError."""
    default = RetryConfig()
    if config.max_attempts < -1:
        raise invalid("RetryConfig.maxAttempts must be greater or equal to -1.")
    if config.max_doublings < 0:
        raise invalid("RetryConfig.maxDoublings cannot be negative.")
    for field in _BACKOFF:
        if duration_nanoseconds(getattr(config, field)) < 0:
            raise invalid(f"{_json_path(config, field)} cannot be negative.")
    if config.max_retry_duration.seconds < 0:
        raise invalid("RetryConfig.max_retry_duration.seconds cannot be negative.")
    if config.max_retry_duration.nanos:
        raise invalid("RetryConfig.max_retry_duration.nanos cannot be set.")
    duration_nanoseconds(config.max_retry_duration)
    config.max_attempts = config.max_attempts or default.max_attempts
    config.max_doublings = config.max_doublings or default.max_doublings
    if not config.max_retry_duration.seconds:
        config.ClearField("max_retry_duration")
    for field in _BACKOFF:
        backoff = getattr(config, field)
        if not backoff.ByteSize():
            backoff.FromMicroseconds(int(getattr(default, field) * 1e6))
    if config.min_backoff.ToNanoseconds() > config.max_backoff.ToNanoseconds():
        raise invalid("RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.")


def duration_nanoseconds(duration: Message) -> int:
    """The length of a Duration; raises CallError where its fields are out of their range."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > LARGEST_DURATION_SECONDS or abs(nanos) > 999_999_999 or seconds * nanos < 0:
        raise invalid()
    return int(seconds * 1_000_000_000 + nanos)


def check_token(token: Message) -> None:
    """Raise the CallError of an OIDC or OAuth token whose account is not an e-mail."""
    if not token.service_account_email:
        raise invalid("service_account_email must be set.")
    if not _EMAIL.fullmatch(token.service_account_email):
        raise invalid()


def _check_target(target: Message) -> None:
    """Raise the CallError of an http_target that the service refuses whatever the update mask is."""
    uri = target.uri_override
    known = types.UriOverride
    if target.HasField("uri_override") and not uri.ByteSize():
        raise _target_error("Invalid uri_override.")
    if uri.HasField("host") and not _HOST.fullmatch(uri.host):
        raise _target_error("Invalid Host.")
    if uri.HasField("port") and uri.port <= 0:
        raise _target_error("Port number should be a positive integer.")
    for number, enum in (
        (uri.scheme, known.Scheme),
        (uri.uri_override_enforce_mode, known.UriOverrideEnforceMode),
        (target.http_method, types.HttpMethod),
    ):
        if number not in list(enum):
            raise _target_error("")
    keys = [override.header.key for override in target.header_overrides if override.HasField("header")]
    reserved = [key for key in keys if _RESERVED_OVERRIDE.fullmatch(key)]
    if reserved:
        raise invalid(
            "Error in parsing HttpTarget.headers. Header name cannot be empty or start with reserved prefixes. "
            f"Invalid headers found: {', '.join(reserved)}"
        )
    for token in _TOKENS:
        if target.HasField(token):
            check_token(getattr(target, token))


def _target_error(what: str) -> CallError:
    info = error_info("INVALID_INPUT_ON_HTTP_TARGET_OVERRIDE", "cloudtasks.googleapis.com", invalid_field=what)
    return invalid(f"Error in parsing HttpTarget. {what}", info)


def _json_path(message: Message, field: str) -> str:
    """A field as errors name it, such as `RateLimits.maxDispatchesPerSecond`."""
    return f"{message.DESCRIPTOR.name}.{message.DESCRIPTOR.fields_by_name[field].json_name}"
