"""Each component is evaluated alone, twice: with what the servers answer, and as in a first preview.

Mocks decide which inputs are declared and what waits for what; whether the services accept them shows only against
the real engine.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import pytest
from pulumi.output import Unknown

from components.apis import Apis, ProjectArgs
from local.program import Resource, evaluate


class _Unknown:
    """Equals a value that Pulumi does not know yet."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unknown)

    def __repr__(self) -> str:
        return "UNKNOWN"


def place(*apis: str) -> ProjectArgs:
    """A place in which these APIs are enabled and no other can be waited for."""
    return {"apis": Apis("apis", "shop-project", apis), "project": "shop-project", "location": "europe-west1"}


class Computed(Protocol):
    def __call__(self, value: str) -> object:
        """A value that a server computes: unknown in a preview."""


class Declare(Protocol):
    def __call__(self, program: Callable[[], object]) -> Mapping[str, Resource]:
        """What the program declares, by type and name: `Queue orders`."""


@pytest.fixture(params=[False, True], ids=["known", "preview"])
def preview(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def computed(preview: bool) -> Computed:
    return lambda value: _Unknown() if preview else value


@pytest.fixture
def declare(preview: bool) -> Declare:
    def declare(program: Callable[[], object]) -> Mapping[str, Resource]:
        resources = evaluate(program, config={}, preview=preview).resources.values()
        declared = {f"{resource.type.rpartition(':')[2]} {resource.name}": resource for resource in resources}
        assert len(declared) == len(resources)
        return declared

    return declare
