"""The alerts and the dashboard.

Owns the alert policies, the e-mail channels and one dashboard. They use Google's own metrics and the handler's log.
Each alert has a section in the runbook that says what to do.
"""

import json
from collections.abc import Sequence
from string import Template
from typing import NamedTuple

import pulumi
from pulumi_gcp import monitoring

from components.apis import Scope

RUNBOOK = "docs/operations.md"


class Alert(NamedTuple):
    """One alert policy; `_names` defines the $names in it."""

    name: str
    """Heading of the alert's section in the runbook."""
    query: str
    """PromQL that returns a result while the alert's condition holds, or a log filter if `seconds` is empty."""
    seconds: str
    """How long the condition must hold; empty for an alert on the log."""
    meaning: str


DEPTH = "cloudtasks_googleapis_com:queue_depth"
ATTEMPTS = "cloudtasks_googleapis_com:queue_task_attempt_count"
DELAYS = "cloudtasks_googleapis_com:queue_task_attempt_delays_bucket"
REQUESTS = "run_googleapis_com:request_count"
LATENCIES = "run_googleapis_com:request_latencies_bucket"
INSTANCES = "run_googleapis_com:container_instance_count"


def _share(metric: str, selector: str, bad: str, share: float) -> str:
    """PromQL: more than this share of the last ten minutes' events are bad, and more than ten are."""
    some, every = f"sum(increase({metric}{{{selector},{bad}}}[10m]))", f"sum(increase({metric}{{{selector}}}[10m]))"
    return f"{some} / {every} > {share} and {some} > 10"


_SERVICE_LOG = (
    'resource.type="cloud_run_revision" resource.labels.location="$location" '
    'resource.labels.service_name="$service_name"'
)

ALERTS = (
    Alert(
        "Dead letters wait",
        f"{DEPTH}{{$dead_letters}} > 0",
        "${reserved}",
        "Orders failed permanently or on their last attempt. They wait until somebody replays them.",
    ),
    Alert(
        "A last attempt was taken",
        f"{_SERVICE_LOG} jsonPayload.lastAttempt=true",
        "",
        "An order's last attempt began, because all earlier ones failed. If it fails too, the order is a dead letter.",
    ),
    Alert(
        "An effect was not recorded",
        f"{_SERVICE_LOG} jsonPayload.unrecorded=true",
        "",
        "An effect happened, but the ledger could not record it: a replay or a second task could repeat it.",
    ),
    Alert(
        "A dead letter was not stored",
        f"{_SERVICE_LOG} severity>=ERROR jsonPayload.deadLetterTrouble:*",
        "",
        "A task failed, and the dead-letter queue did not take it. It is in the main queue as long as that retries.",
    ),
    Alert(
        "Attempts fail",
        _share(ATTEMPTS, "$queue", 'response_code!="ok"', 0.2),
        "300",
        "Over a fifth of the attempts end without a 2xx answer.",
    ),
    Alert(
        "The queue does not fall",
        f"{DEPTH}{{$queue}} >= max_over_time({DEPTH}{{$queue}}[30m] offset 30m) > 0",
        "1800",
        "For half an hour the queue was never shorter than its longest in the half hour before: it is paused, "
        "blocked or too slow.",
    ),
    Alert(
        "The service answers 5xx",
        _share(REQUESTS, "$service", 'response_code_class="5xx"', 0.05),
        "300",
        "Over a twentieth of the requests fail, in the handler or before it.",
    ),
    Alert(
        "The service answers 429",
        f'sum(increase({REQUESTS}{{$service,response_code="429"}}[10m])) > 10',
        "0",
        "No instance is free: attempts are used up without reaching the handler.",
    ),
    Alert(
        "The handler is slow",
        f"histogram_quantile(0.95, sum by (le) (rate({LATENCIES}{{$service}}[10m]))) > $slow_milliseconds",
        "300",
        "One request in twenty takes over four fifths of the timeout. After the timeout, Cloud Tasks sends the task "
        "again, although the first run may continue.",
    ),
    Alert(
        "A queue was not empty for a day",
        f"{DEPTH}{{$queues}} > 0",
        "82800",  # an alert can look back one day at most
        "Cloud Tasks deletes a task 31 days after its creation. No metric shows a task's age; this comes closest.",
    ),
)

RELAY_ALERTS = (
    Alert(
        "The relay does not run",
        "(sum(increase($relay_passes{$service}[5m])) or vector(0)) < 1",
        "300",
        "No pass of the relay succeeded for ten minutes. Tasks that the web app could not send itself wait.",
    ),
    Alert(
        "Rows of the outbox wait",
        f"{_SERVICE_LOG} jsonPayload.outboxLate>0",
        "",
        "Tasks of committed orders are not in the queue after five minutes, although the relay tries.",
    ),
    Alert(
        "A row of the outbox was refused",
        f"{_SERVICE_LOG} jsonPayload.outboxRefused>0",
        "",
        "A committed row can never become a task. The relay skips it until somebody asks for it again.",
    ),
)
"""Declared if there is an outbox."""

CHARTS = (
    ("Tasks in the queues", f"sum by (queue_id) ({DEPTH}{{$queues}})"),
    ("Attempts a second, by code", f"sum by (queue_id, response_code) (rate({ATTEMPTS}{{$queues}}[5m]))"),
    (
        "Delay of an attempt, p95 (ms)",
        f"histogram_quantile(0.95, sum by (le, queue_id) (rate({DELAYS}{{$queues}}[5m])))",
    ),
    ("Instances, by state", f"sum by (state) ({INSTANCES}{{$service}})"),
    ("Requests a second, by code", f"sum by (response_code) (rate({REQUESTS}{{$service}}[5m]))"),
    ("Latency, p95 (ms)", f"histogram_quantile(0.95, sum by (le) (rate({LATENCIES}{{$service}}[5m])))"),
)
"""Title and PromQL of each chart of the dashboard."""


class MonitoringArgs(Scope):
    alert_emails: Sequence[str]
    notification_channels: Sequence[str]
    """Other channels to notify, `projects/P/notificationChannels/N`."""


class Monitoring(pulumi.ComponentResource):
    """cloud-run-tasks:index:Monitoring. Produces: one NotificationChannel `<name>-<e-mail>` per address, one
    AlertPolicy `<name>-<alert>` per alert, Dashboard `<name>`. Their titles begin with the queue's name."""

    dashboard_url: pulumi.Output[str]
    """The dashboard in the Google Cloud console."""

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cloud-run-tasks:index:Monitoring", name, None, opts)
        project, title = args["project"], args["queue_name"]
        after_apis = pulumi.ResourceOptions(
            parent=self, depends_on=[args["apis"]["monitoring"], args["apis"]["logging"]]
        )
        emails = [
            monitoring.NotificationChannel(
                f"{name}-{email}",
                project=project,
                display_name=f"{title}: {email}",
                type="email",
                labels={"email_address": email},
                user_labels=args["labels"],
                opts=after_apis,
            )
            for email in args["alert_emails"]
        ]
        channels: list[pulumi.Input[str]] = [*(email.id for email in emails), *args["notification_channels"]]
        names = _names(args)
        for alert in (*ALERTS, *RELAY_ALERTS) if args["has_outbox"] else ALERTS:
            section = alert.name.lower().replace(" ", "-")
            query = Template(alert.query).substitute(names)
            condition: monitoring.AlertPolicyConditionArgsDict = {"display_name": alert.name}
            strategy: monitoring.AlertPolicyAlertStrategyArgsDict | None = None
            if not alert.seconds:
                condition["condition_matched_log"] = {"filter": query}
                strategy = {"notification_rate_limit": {"period": "3600s"}}
            else:
                condition["condition_prometheus_query_language"] = {
                    "query": query,
                    "duration": Template(f"{alert.seconds}s").substitute(names),
                    "evaluation_interval": "60s",
                    # a metric does not exist before the first task
                    "disable_metric_validation": True,
                }
                if channels:
                    strategy = {
                        "notification_channel_strategies": [
                            {"notification_channel_names": channels, "renotify_interval": "86400s"}
                        ]
                    }
            monitoring.AlertPolicy(
                f"{name}-{section}",
                project=project,
                display_name=f"{title}: {alert.name}",
                combiner="OR",
                conditions=[condition],
                documentation={
                    "content": f"{alert.meaning}\n\nWhat to do: {RUNBOOK}#{section}",
                    "mime_type": "text/markdown",
                },
                notification_channels=channels,
                alert_strategy=strategy,
                user_labels=args["labels"],
                opts=after_apis,
            )
        charts = {chart: {"prometheusQuery": Template(query).substitute(names)} for chart, query in CHARTS}
        widgets = [
            {"title": chart, "xyChart": {"dataSets": [{"timeSeriesQuery": query, "plotType": "LINE"}]}}
            for chart, query in charts.items()
        ]
        grid = {"columns": "2", "widgets": widgets}  # a number as text, as the API returns it
        dashboard = monitoring.Dashboard(
            name,
            project=project,
            dashboard_json=json.dumps({"labels": dict(args["labels"]), "displayName": title, "gridLayout": grid}),
            opts=after_apis,
        )
        address = "https://console.cloud.google.com/monitoring/dashboards/builder"
        self.dashboard_url = dashboard.id.apply(lambda path: f"{address}/{path.rpartition('/')[2]}?project={project}")
        self.register_outputs({"dashboard_url": self.dashboard_url})


def _names(args: MonitoringArgs) -> dict[str, str]:
    """The values of $names in queries: selectors of queues and service, and figures from the settings."""
    queue, service = args["queue_name"], args["service_name"]
    dead_letters = args["dead_letter_queue"].rpartition("/")[2]
    queues = f'monitored_resource="cloud_tasks_queue",location="{args["location"]}"'
    revisions = f'monitored_resource="cloud_run_revision",location="{args["location"]}"'
    # a reserved dead letter is due after the timeout and a minute; in whole minutes, plus two
    reserved = 60 * (-(-args["handler_timeout_seconds"] // 60) + 3)
    return {
        "queue": f'{queues},queue_id="{queue}"',
        "dead_letters": f'{queues},queue_id="{dead_letters}"',
        "queues": f'{queues},queue_id=~"{queue}|{dead_letters}"',
        "service": f'{revisions},service_name="{service}"',
        "service_name": service,
        "relay_passes": f"logging_googleapis_com:user_{queue.replace('-', '_')}_relay_passes",
        "location": args["location"],
        "reserved": str(reserved),
        "slow_milliseconds": str(args["handler_timeout_seconds"] * 800),
    }
