"""What no deployment of this project may contain, whatever its program and settings say.

Each policy is a function that yields what it refuses, in one resource or in all that a stack declares. It knows
Google's resources, not our components. A value that a preview does not know yet is judged by `pulumi up`.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
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
SERVICE_GRANT = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
ACCOUNT = "gcp:serviceaccount/account:Account"
_ACCOUNTS = r"serviceAccount:[^\s:]+"
_PRODUCERS = r"(serviceAccount|user|group):[^\s:]+|principal://\S+|principalSet://\S+[^\s*]"
GRANTS = {
    SERVICE_GRANT: (("roles/run.invoker",), _ACCOUNTS),
    "gcp:cloudtasks/queueIamMember:QueueIamMember": (
        ("roles/cloudtasks.enqueuer", "roles/cloudtasks.taskDeleter", "roles/cloudtasks.viewer"),
        _PRODUCERS,
    ),
    "gcp:secretmanager/secretIamMember:SecretIamMember": (("roles/secretmanager.secretAccessor",), _ACCOUNTS),
    "gcp:serviceaccount/iAMMember:IAMMember": (("roles/iam.serviceAccountUser",), _PRODUCERS),
    "gcp:projects/iAMMember:IAMMember": (
        ("roles/cloudsql.client", "roles/cloudtrace.agent", "roles/logging.logWriter", "roles/monitoring.metricWriter"),
        _ACCOUNTS,
    ),
}
"""Every kind of grant that a deployment may contain: its roles and its members. No whole domain, no whole pool."""
SECRET_NAME = re.compile(
    r"secret|passw|passphrase|(^|[_-])(pass|pwd|dsn)($|[_-])|token|credential|authorization|cookie"
    r"|(api|access|private|signing|encryption)[_-]?key",
    re.IGNORECASE,
)
SECRET_TEXT = re.compile(
    r"://[^/\s@]*:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(^|[?&;\s\"'])(ssl)?(password|passwd|pwd|secret|token|api_?key|access_?key|private_?key|sig(nature)?)"
    r"[\"']?\s*[=:]\s*[\"']?[^&\s\"']",
    re.IGNORECASE,
)
"""A password in a URL, a connection string or JSON; or a private key."""
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
    """camelCase keys; UNKNOWN for values that are not known yet."""


OfResource = Callable[[Resource], Iterator[str]]
OfStack = Callable[[Sequence[Resource]], Iterator[str]]
POLICIES: list[Policy] = []


def on_each(remedy: str) -> Callable[[OfResource], OfResource]:
    """A policy on each resource, named like the function and described by its docstring; `remedy` says what to do."""

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
    """Nobody has access without a grant of their own: no allUsers, no allAuthenticatedUsers."""
    for path, text in texts(resource.properties):
        if re.search(r"""(^|[:"])all(Authenticated)?Users($|")""", text):
            yield f"{path} grants access to everybody"


@on_each("leave it off, and grant roles/run.invoker on the service")
def invoker_check_on(resource: Resource) -> Iterator[str]:
    """Cloud Run checks every caller. The older API switches the check off by an annotation."""
    for path, value in parts(resource.properties):
        switch = re.search(r"(^|\.)(invokerIamDisabled|run\.googleapis\.com/invoker-iam-disabled)$", path)
        if switch and value is not UNKNOWN and str(value).lower() not in ("false", "none"):
            yield f"{path} switches the check of the caller off"


@on_each("grant a listed role on the one resource that it is needed for; GRANTS in policy/__main__.py is the list")
def grants_by_list(resource: Resource) -> Iterator[str]:
    """Grants are listed memberships on one resource. Authoritative ones would remove others' grants."""
    kind = resource.type.rpartition(":")[2]
    if not re.search(r"I(AM|am)(Member|Binding|Policy)$", kind):
        return
    if resource.type not in GRANTS:
        yield f"{kind} is not a listed kind of grant"
        return
    roles, members = GRANTS[resource.type]
    role, member = resource.properties.get("role", UNKNOWN), resource.properties.get("member", UNKNOWN)
    if role not in (*roles, UNKNOWN):
        yield f"{kind} grants {role}, which is not listed for it"
    at = dict(parts(resource.properties))
    condition = at.get("condition.expression", at.get("condition"))
    if role == "roles/cloudsql.client" and condition is not UNKNOWN and "/instances/" not in str(condition):
        yield f"{kind} grants {role} on every instance of a project, without a condition that names one"
    if member is not UNKNOWN and not re.fullmatch(members, str(member)):
        yield f"{kind} grants {role} to {member}, which is not a listed kind of member"


@on_all("grant roles/run.invoker to one account that the same stack declares")
def one_invoker(resources: Sequence[Resource]) -> Iterator[str]:
    """Only one account may call a service, and the stack declares it."""
    accounts = {
        f"serviceAccount:{each.properties.get('accountId')}@{each.properties.get('project')}.iam.gserviceaccount.com"
        for each in resources
        if each.type == ACCOUNT
    }
    invokers: dict[Any, set[Any]] = {}
    for each in resources:
        if each.type == SERVICE_GRANT:
            service, member = (each.properties.get(key, UNKNOWN) for key in ("name", "member"))
            members = invokers.setdefault(id(each) if service is UNKNOWN else service, set())
            members.add(id(each) if member is UNKNOWN else member)
            if member is not UNKNOWN and member not in accounts:
                yield f"{member}, who may call {service}, is not an account of this stack"
    for service, members in invokers.items():
        if len(members) > 1:
            yield f"{len(members)} members may call {service}"


@on_each("let what needs the account run as it")
def no_account_key(resource: Resource) -> Iterator[str]:
    """No service account has a key, because a key does not expire and works everywhere."""
    if re.search(r"^gcp:(serviceaccount/key:Key|storage/hmacKey:HmacKey)$", resource.type):
        yield "a key of a service account is created"


@on_each("name it by digest, NAME@sha256:..., as a build's repoDigest does")
def image_by_digest(resource: Resource) -> Iterator[str]:
    """The image that was deployed is the one that runs: a tag can move to another image."""
    for path, text in texts(resource.properties):
        if re.search(r"(^|\.)(initC|c)ontainers\[\d+\]\.image$", path) and "@sha256:" not in text:
            yield f"{path} = {text!r} is an image by tag"


@on_each("give it a service account of its own")
def no_default_account(resource: Resource) -> Iterator[str]:
    """Nothing runs as a default account, which has the role of an editor in many projects."""
    for path, text in texts(resource.properties):
        if re.search(r"(-compute@developer|@appspot|@cloudbuild)\.gserviceaccount\.com$", text):
            yield f"{path} is a default account"
    for path, value in parts(resource.properties):
        named = isinstance(value, Mapping) and (value.get("serviceAccount") or value.get("serviceAccountName"))
        if isinstance(value, Mapping) and "containers" in value and not named:
            yield f"{path} names no service account, so its containers run as the default compute account"


@on_each("keep it in Secret Manager and refer to it with valueSource.secretKeyRef")
def no_plain_secret(resource: Resource) -> Iterator[str]:
    """Secrets come from Secret Manager: every viewer of the project can read variables, arguments and headers."""
    for path, value in parts(resource.properties):
        named: list[tuple[object, object]] = []
        if isinstance(value, Mapping):
            named = [(value.get("name", value.get("key")), value.get("value"))]
        elif isinstance(value, list) and re.search(r"\.(args|commands?)$", path):
            named = [(flag, text) for flag, text in pairwise(value) if str(flag)[:1] == "-" != str(text)[:1]]
        elif isinstance(value, str) and re.search(r"\.(args|commands?)\[|\.headers?\.", path):
            assigned = re.search(r"^-{0,2}([\w-]+)[=:](\S+)", value)
            named = [(path.rpartition(".")[2], value), *([(assigned[1], assigned[2])] if assigned else [])]
        has_secret = any(
            isinstance(name, str) and isinstance(text, str) and _secret(name, text) for name, text in named
        )
        is_read = isinstance(value, str) and re.search(r"\.(envs|args|commands?)\[", path)
        if has_secret or (is_read and SECRET_TEXT.search(value)):
            yield f"{path} has a secret in plain text"


def _secret(name: str, text: str) -> bool:
    """Whether a variable, flag or header of this name holds a secret, and not the path of one."""
    is_path = text.startswith("/") and re.search(r"(file|path)$", name, re.IGNORECASE)
    return bool(text and SECRET_NAME.search(name) and not is_path)


@on_each("write every rate and retry figure: one that is left out keeps the value that it last had")
def queue_limits_written(resource: Resource) -> Iterator[str]:
    """A queue has the limits that its program states."""
    if resource.type == QUEUE:
        at = dict(parts(resource.properties))
        missing = [path for path in LIMITS if at.get(path) is None and at.get(path.partition(".")[0]) is not UNKNOWN]
        if missing:
            yield f"{at.get('name', 'the queue')} leaves out {', '.join(missing)}"


@on_all("lower rateLimits.maxConcurrentDispatches, or raise what the service takes")
def dispatches_fit_the_service(resources: Sequence[Resource]) -> Iterator[str]:
    """Queues never send more at once than services take: the rest is answered 429, which uses up attempts."""
    queues = [dict(parts(each.properties)) for each in resources if each.type == QUEUE]
    services = [dict(parts(each.properties)) for each in resources if each.type == SERVICE]
    sent = [at.get("rateLimits.maxConcurrentDispatches", UNKNOWN) for at in queues]
    instances = [
        at.get("scaling.maxInstanceCount", at.get("template.scaling.maxInstanceCount", UNKNOWN)) for at in services
    ]
    requests = [at.get("template.maxInstanceRequestConcurrency", UNKNOWN) for at in services]
    if services and UNKNOWN not in (*sent, *instances, *requests):
        most = sum(map(operator.mul, instances, requests))
        if sum(sent) > most:
            yield f"the queues send {sum(sent):.0f} at once and the services take {most:.0f}"


@on_all("set its desiredState to PAUSED")
def dead_letters_paused(resources: Sequence[Resource]) -> Iterator[str]:
    """The queue that a service stores dead letters in is paused, or each would be retried for ever."""
    services = [resource.properties for resource in resources if resource.type == SERVICE]
    variables = [part for service in services for _, part in parts(service) if isinstance(part, Mapping)]
    named = [part.get("value") for part in variables if part.get("name") == "DEAD_LETTER_QUEUE"]
    for resource in resources:
        if resource.type == QUEUE:
            place = resource.properties
            path = f"projects/{place.get('project')}/locations/{place.get('location')}/queues/{place.get('name')}"
            if path in named and place.get("desiredState") not in ("PAUSED", UNKNOWN):
                yield f"{path} is named in a service and is not paused"


def known(value: Any) -> Any:  # noqa: ANN401 - any property value
    """The value, with UNKNOWN for what the SDK does not know yet."""
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
