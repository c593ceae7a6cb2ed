"""What the program declares with some settings, as the tests ask for it."""

import functools
from collections.abc import Mapping
from typing import Any

from pulumi.output import Unknown

from local.program import PROJECT, ROOT, SERVICE_URL, Resource, evaluate, stack_configuration
from tests.accepted import SECRETS

STACKS = sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in ROOT.glob("Pulumi.*.yaml"))
WEB = "serviceAccount:web@shop-project.iam.gserviceaccount.com"
DEVELOPERS = "group:shop-developers@example.com"
EMAIL = "on-call@shop.example"
PAGER = "projects/shop-project/notificationChannels/17"
SECRET_TEXTS = {f"{PROJECT}:{key}": text for key, text in SECRETS.items()}


class Declared:
    """One evaluation; resources go by type and name, such as `Queue queue`."""

    def __init__(self, resources: Mapping[str, Resource], exports: Mapping[str, Any]) -> None:
        self.exports = exports
        self.by_urn = resources
        self.resources = {self.name(urn): resource for urn, resource in resources.items()}
        assert len(self.resources) == len(resources)

    def name(self, urn: str) -> str:
        return f"{self.by_urn[urn].type.rpartition(':')[2]} {self.by_urn[urn].name}"

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        """Inputs of a resource."""
        return self.resources[name].inputs

    def of(self, kind: str) -> dict[str, Mapping[str, Any]]:
        """Inputs of the resources of a type."""
        return {name: self[name] for name in self.resources if name.startswith(f"{kind} ")}

    def after(self, name: str) -> set[str]:
        """What a resource waits for itself."""
        return set(map(self.name, self.resources[name].depends_on))

    def long_after(self, name: str) -> set[str]:
        """All that a resource waits for, at any distance."""
        return self.after(name).union(*map(self.long_after, self.after(name)))

    @property
    def protected(self) -> set[str]:
        return {name for name, resource in self.resources.items() if resource.options.protect}

    @property
    def container(self) -> Mapping[str, Any]:
        [container] = self["Service handler"]["template"]["containers"]
        return dict(container)

    @property
    def environment(self) -> dict[str, Any]:
        return {env["name"]: env.get("value") or env.get("valueSource") for env in self.container["envs"]}


def configuration(stack: str = "prod", **settings: str) -> dict[str, str]:
    """A project, two producers, the stack's file and these settings."""
    return {
        f"{PROJECT}:producers": f'["{WEB}", "{DEVELOPERS}"]',
        **stack_configuration(stack),
        "gcp:project": "shop-project",
        **{f"{PROJECT}:{key}": text for key, text in settings.items()},
    }


@functools.cache
def declare(stack: str = "prod", preview: bool = False, service_url: str = SERVICE_URL, **settings: str) -> Declared:
    """The program with its secrets set. `preview`: as before anything exists."""
    evaluation = evaluate(
        stack=stack,
        config=configuration(stack, **settings),
        secrets=SECRET_TEXTS,
        preview=preview,
        service_url=service_url,
    )
    return Declared(evaluation.resources, evaluation.exports)


def unknown(value: object, path: str = "") -> set[str]:
    """Paths of what is not known yet."""
    if isinstance(value, Unknown):
        return {path}
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return set[str]().union(*(unknown(item, f"{path}.{key}".lstrip(".")) for key, item in items))
