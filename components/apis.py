"""The Google APIs that the other components call.

Owns that they are enabled. Leaves them enabled when the stack goes: others in the project may use them.
"""

from collections.abc import Iterable
from typing import TypedDict

import pulumi
from pulumi_gcp import projects


class Apis(pulumi.ComponentResource):
    """cloud-run-tasks:index:Apis. Produces: one projects.Service `<name>-<api>` an API."""

    def __init__(
        self, name: str, project: pulumi.Input[str], apis: Iterable[str], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        """`apis`: short names, `run` for run.googleapis.com."""
        super().__init__("cloud-run-tasks:index:Apis", name, None, opts)
        self._enabled = {
            api: projects.Service(
                f"{name}-{api}",
                project=project,
                service=f"{api}.googleapis.com",
                disable_on_destroy=False,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for api in apis
        }
        self.register_outputs({})

    def __getitem__(self, api: str) -> pulumi.Resource:
        """The enabled API, for `depends_on`: a component's own `depends_on` would not reach its children."""
        return self._enabled[api]


class ProjectArgs(TypedDict):
    """Where every component declares its resources."""

    apis: Apis
    """Each resource depends on the API that it is made through."""
    project: str
    location: str
    """Region of queue, image and service alike."""
