"""The Google APIs that the other components call, and the scope that every component gets.

Enables them, and leaves them enabled when the stack is destroyed: something else in the project may use them.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import TypedDict

import pulumi
from pulumi_gcp import projects

APIS = ("run", "cloudtasks", "artifactregistry", "iam", "secretmanager", "monitoring", "logging")
"""Short names of the APIs that the components call: `run` for run.googleapis.com."""
FIRST_APIS = ("cloudresourcemanager", "serviceusage")
"""APIs that enable the others, so they must be on before the first run."""


class Apis(pulumi.ComponentResource):
    """cloud-run-tasks:index:Apis. Produces: one projects.Service `<name>-<api>` per API."""

    def __init__(
        self,
        name: str,
        project: pulumi.Input[str],
        apis: Iterable[str] = APIS,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("cloud-run-tasks:index:Apis", name, None, opts)
        say_once = functools.cache(pulumi.log.error)

        def name_the_first_apis(failure: pulumi.ErrorHookArgs) -> bool:
            """Called by the engine for each API that could not be enabled. Returns False: do not try again."""
            if any("SERVICE_DISABLED" in error or "has not been used in project" in error for error in failure.errors):
                first = " ".join(f"{api}.googleapis.com" for api in FIRST_APIS)
                place = f"--project={(failure.new_inputs or {})['project']}"
                say_once(
                    f"Two APIs must be on before the program can enable others: gcloud services enable {first} {place}"
                )
            return False

        refused = pulumi.ErrorHook(f"{name}-refused", name_the_first_apis)
        self._enabled = {
            api: projects.Service(
                f"{name}-{api}",
                project=project,
                service=f"{api}.googleapis.com",
                disable_on_destroy=False,
                opts=pulumi.ResourceOptions(parent=self, hooks=pulumi.ResourceHookBinding(on_error=[refused])),
            )
            for api in apis
        }
        self.register_outputs({})

    def __getitem__(self, api: str) -> pulumi.Resource:
        """The enabled API, for a resource's `depends_on`. A component's `depends_on` does not reach its children."""
        return self._enabled[api]


class Scope(TypedDict):
    """What every component gets."""

    apis: Apis
    """Each resource depends on the API that creates it."""
    project: str
    location: str
    """Region of queues, image and service."""
    labels: Mapping[str, str]
    """Labels of everything that takes labels."""
    queue_name: str
    dead_letter_queue: str
    """Full path as text, because the service is declared before the queue."""
    service_name: str
    handler_timeout_seconds: int
    has_outbox: bool
    """Whether the handler relays the outbox."""
    audience: str
    """Audience of the tokens. Cloud Tasks puts a token into a task when it is created, so it must not change."""


class HandlerAccess(TypedDict):
    """How Google's services reach the handler, and who the handler is to them."""

    service_url: pulumi.Input[str]
    """Root URL of the service."""
    invoker_email: pulumi.Input[str]
    """The account whose token the service accepts."""
    handler_member: pulumi.Input[str]
    """The account of the handler, `serviceAccount:EMAIL`."""


def after(value: pulumi.Output[str], resources: Iterable[pulumi.CustomResource]) -> pulumi.Output[str]:
    """The value, known when these resources exist."""
    return pulumi.Output.all(value, *(each.id for each in resources)).apply(lambda resolved: str(resolved[0]))
