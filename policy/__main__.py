"""What no deployment of this project may contain, whatever its program and settings say.

Each policy is a function that yields what it refuses, of one resource or of all that a stack declares. It knows the
services' own words, nothing of our components. What a preview does not know yet is judged by the `pulumi up`.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

UNKNOWN = object()
"""Stands for a value that is not known yet."""
QUEUE = "gcp:cloudtasks/queue:Queue"
SERVICE = "gcp:cloudrunv2/service:Service"
LIMITS = (
    "rateLimits.maxDispatchesPerSecond",
    "rateLimits.maxConcurrentDispatches",
    "retryConfig.maxAttempts",
    "retryConfig.maxRetryDuration",
    "retryConfig.minBackoff",
    "retryConfig.maxBackoff",
    "retryConfig.maxDoublings",
)


class Resource(NamedTuple):
    type: str
    """Token, such as `gcp:cloudtasks/queue:Queue`."""
    properties: Mapping[str, Any]
    """camelCase keys; UNKNOWN where that is so."""


OfResource = Callable[[Resource], Iterator[str]]
OfStack = Callable[[Sequence[Resource]], Iterator[str]]
POLICIES: list[Policy] = []


def on_each(remedy: str) -> Callable[[OfResource], OfResource]:
    """A policy on each resource: named as the function, described by its docstring, and what to do instead."""

    def register(find: OfResource) -> OfResource:
        def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
            for found in find(Resource(args.resource_type, known(args.props))):
                report(f"{found}; {remedy}", None)

        POLICIES.append(ResourceValidationPolicy(find.__name__.replace("_", "-"), find.__doc__ or "", validate))
        return find

    return register


def on_all(remedy: str) -> Callable[[OfStack], OfStack]:
    """A policy on all of a stack's resources together."""

    def register(find: OfStack) -> OfStack:
        def validate(args: StackValidationArgs, report: ReportViolation) -> None:
            for found in find([Resource(each.resource_type, known(each.props)) for each in args.resources]):
                report(f"{found}; {remedy}", None)

        POLICIES.append(StackValidationPolicy(find.__name__.replace("_", "-"), find.__doc__ or "", validate))
        return find

    return register


@on_each("grant it to the one account that needs it")
def no_public_access(resource: Resource) -> Iterator[str]:
    """Nobody gets in without a grant to them: no allUsers, no allAuthenticatedUsers."""
    for path, text in texts(resource.properties):
        if re.search(r"""(^|[:"])all(Authenticated)?Users($|")""", text):
            yield f"{path} lets everybody in"


@on_each("leave invokerIamDisabled false, and grant roles/run.invoker on the service")
def invoker_check_on(resource: Resource) -> Iterator[str]:
    """Cloud Run checks who calls."""
    if resource.properties.get("invokerIamDisabled") is True:
        yield "invokerIamDisabled switches the check of the caller off"


@on_each("name it by digest, NAME@sha256:..., as a build's repoDigest does")
def image_by_digest(resource: Resource) -> Iterator[str]:
    """What runs is what was deployed: a tag can come to mean another image."""
    for path, text in texts(resource.properties):
        if re.search(r"(^|\.)containers\[\d+\]\.image$", path) and "@sha256:" not in text:
            yield f"{path} = {text!r} is an image by tag"


@on_each("give it a service account of its own")
def no_default_account(resource: Resource) -> Iterator[str]:
    """Nothing runs as the default compute account, which may do nearly everything in the project."""
    for path, text in texts(resource.properties):
        if text.endswith("-compute@developer.gserviceaccount.com"):
            yield f"{path} is the default compute account"
    for path, value in parts(resource.properties):
        named = isinstance(value, Mapping) and (value.get("serviceAccount") or value.get("serviceAccountName"))
        if isinstance(value, Mapping) and "containers" in value and not named:
            yield f"{path} names no service account, so its containers run as the default compute account"


@on_each("grant it on the one service or account that it is needed for")
def no_wide_role(resource: Resource) -> Iterator[str]:
    """The right to invoke or to act as an account is never a whole project's."""
    if re.match(r"gcp:(projects|folder|organizations)/iAM", resource.type):
        for path, text in texts(resource.properties):
            for role in re.findall(r"roles/(?:run\.invoker|iam\.serviceAccountUser)\b", text):
                yield f"{path} grants {role} on everything at once"


@on_each("keep it in Secret Manager and refer to it with valueSource.secretKeyRef")
def no_plain_secret(resource: Resource) -> Iterator[str]:
    """A container's secrets come from Secret Manager: its variables can be read by every viewer of the project."""
    for path, value in parts(resource.properties):
        if re.search(r"\.envs\[\d+\]$", path) and isinstance(value, Mapping) and isinstance(value.get("value"), str):
            named = re.search(r"SECRET|PASSW|TOKEN|CREDENTIAL|API_?KEY|PRIVATE_?KEY", str(value.get("name")).upper())
            if value["value"] and (named or re.search(r"://[^/\s@]*:[^/\s@]+@", value["value"])):
                yield f"{path} has {value.get('name')} in plain text"


@on_each("write every rate and retry figure: one that is left out keeps the value that it last had")
def queue_limits_written(resource: Resource) -> Iterator[str]:
    """A queue's limits are the ones that its program states."""
    if resource.type == QUEUE:
        at = dict(parts(resource.properties))
        missing = [path for path in LIMITS if at.get(path) is None and at.get(path.partition(".")[0]) is not UNKNOWN]
        if missing:
            yield f"{at.get('name', 'the queue')} leaves out {', '.join(missing)}"


@on_all("lower rateLimits.maxConcurrentDispatches, or raise what the service takes")
def dispatches_fit_the_service(resources: Sequence[Resource]) -> Iterator[str]:
    """Queues never send more at once than services take: the rest is answered 429, which uses attempts up."""
    queues = [dict(parts(each.properties)) for each in resources if each.type == QUEUE]
    services = [dict(parts(each.properties)) for each in resources if each.type == SERVICE]
    sent = [at.get("rateLimits.maxConcurrentDispatches", UNKNOWN) for at in queues]
    taken = [
        at.get(figure, UNKNOWN)
        for at in services
        for figure in ("template.scaling.maxInstanceCount", "template.maxInstanceRequestConcurrency")
    ]
    if services and UNKNOWN not in sent + taken:
        most = sum(map(operator.mul, taken[::2], taken[1::2]))
        if sum(sent) > most:
            yield f"the queues send {sum(sent):.0f} at once and the services take {most:.0f}"


@on_all("set its desiredState to PAUSED")
def dead_letters_paused(resources: Sequence[Resource]) -> Iterator[str]:
    """The queue that a service stores dead letters in is paused, or each would be sent again and again."""
    services = [resource.properties for resource in resources if resource.type == SERVICE]
    variables = [part for service in services for _, part in parts(service) if isinstance(part, Mapping)]
    named = [part.get("value") for part in variables if part.get("name") == "DEAD_LETTER_QUEUE"]
    for resource in resources:
        if resource.type == QUEUE:
            place = resource.properties
            path = f"projects/{place.get('project')}/locations/{place.get('location')}/queues/{place.get('name')}"
            if path in named and place.get("desiredState") not in ("PAUSED", UNKNOWN):
                yield f"{path} is a service's own and is not paused"


def known(value: Any) -> Any:  # noqa: ANN401 - any property value
    """The value, with UNKNOWN in place of what the SDK refuses to show."""
    if isinstance(value, Mapping):
        return {key: _item(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_item(value, index) for index in range(len(value))]
    return value


def _item(container: Any, key: Any) -> Any:  # noqa: ANN401
    try:
        return known(container[key])
    except UnknownValueError:
        return UNKNOWN


def parts(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Every value inside, at any depth, with its path: `template.containers[0].image`."""
    yield path, value
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from parts(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from parts(item, f"{path}[{index}]")


def texts(value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Every text inside, with its path."""
    return ((path, text) for path, text in parts(value) if isinstance(text, str))


if __name__ == "__main__":
    PolicyPack("cloud-run-tasks", POLICIES, EnforcementLevel.MANDATORY)
