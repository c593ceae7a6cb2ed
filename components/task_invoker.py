"""The service account whose token Cloud Tasks sends to the handler.

Owns the account, its right to invoke the service, and who may act as it. Grants are memberships, so other bindings in a
shared project stay.
"""

from collections.abc import Sequence

import pulumi
from pulumi_gcp import cloudrunv2, serviceaccount

from components.apis import Scope, after


class TaskInvokerArgs(Scope):
    invoker_account: str
    invoker_display_name: str
    service: pulumi.Input[str]
    """The Cloud Run service that the account may invoke."""
    producers: Sequence[str]
    producers_act_as_invoker: bool


class TaskInvoker(pulumi.ComponentResource):
    """cloud-run-tasks:index:TaskInvoker. Produces: Account `<name>`, ServiceIamMember `<name>-run`, and if producers
    act as the invoker one serviceaccount.IAMMember `<name>-user-<member>` per producer."""

    email: pulumi.Output[str]
    """The account's e-mail; known when the account may invoke the service."""
    producers_email: pulumi.Output[str]
    """The e-mail; known when the producers have their rights on the account.

    Separate from `email`, so that a new producer does not change the queues."""

    def __init__(self, name: str, args: TaskInvokerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cloud-run-tasks:index:TaskInvoker", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        account = serviceaccount.Account(
            name,
            project=args["project"],
            account_id=args["invoker_account"],
            display_name=args["invoker_display_name"],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["iam"]]),
        )
        binding = cloudrunv2.ServiceIamMember(
            f"{name}-run",
            project=args["project"],
            location=args["location"],
            name=args["service"],
            role="roles/run.invoker",
            member=account.member,
            opts=child,
        )
        users = [
            serviceaccount.IAMMember(
                f"{name}-user-{member}",
                service_account_id=account.name,
                role="roles/iam.serviceAccountUser",
                member=member,
                opts=child,
            )
            for member in args["producers"]
            if args["producers_act_as_invoker"]
        ]
        self.email = after(account.email, [binding])
        self.producers_email = after(self.email, users)
        self.register_outputs({"email": self.email, "producers_email": self.producers_email})
