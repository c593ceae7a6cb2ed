"""The caller of the relay: each minute the handler sends the outbox rows that a web app did not send itself.

Contains a job of Cloud Scheduler, the handler's right to add to the main queue, and a metric of the passes that
succeeded, so that an alert can tell when there are none.
"""

import pulumi
from pulumi_gcp import cloudscheduler, cloudtasks, logging

from components.apis import HandlerAccess, Scope

PASS_DEADLINE_SECONDS = 60
"""A pass reads no more rows after 40 s."""


class RelayArgs(Scope, HandlerAccess):
    queue: pulumi.Input[str]
    """Name of the main queue; known when the queue can be used."""


class Relay(pulumi.ComponentResource):
    """cloud-run-tasks:index:Relay. Produces: QueueIamMember `<name>-enqueuer`, Metric `<name>-passes`, Job `<name>`."""

    def __init__(self, name: str, args: RelayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cloud-run-tasks:index:Relay", name, None, opts)
        project, location = args["project"], args["location"]
        grant = cloudtasks.QueueIamMember(
            f"{name}-enqueuer",
            project=project,
            location=location,
            name=args["queue"],
            role="roles/cloudtasks.enqueuer",
            member=args["handler_member"],
            opts=pulumi.ResourceOptions(parent=self),
        )
        passes = logging.Metric(
            f"{name}-passes",
            project=project,
            name=f"{args['queue_name']}-relay-passes",
            description="Passes of the relay that succeeded",
            filter=f'resource.type="cloud_run_revision" resource.labels.location="{location}" '
            f'resource.labels.service_name="{args["service_name"]}" jsonPayload.relayed=true',
            metric_descriptor={"metric_kind": "DELTA", "value_type": "INT64", "unit": "1"},
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["logging"]]),
        )
        cloudscheduler.Job(
            name,
            project=project,
            region=location,
            name=f"{args['queue_name']}-relay",
            description="Sends the outbox rows that the web app did not send",
            schedule="* * * * *",
            time_zone="Etc/UTC",
            attempt_deadline=f"{PASS_DEADLINE_SECONDS}s",
            # The next run is a minute away.
            retry_config={"retry_count": 0},
            http_target={
                "uri": pulumi.Output.concat(args["service_url"], "/relay"),
                "http_method": "POST",
                "oidc_token": {"service_account_email": args["invoker_email"], "audience": args["audience"]},
            },
            # The first run must be able to send, and to be counted.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["cloudscheduler"], grant, passes]),
        )
        self.register_outputs({})
