import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest
from order_handler.dead_letters import MARGIN_SECONDS

from components.monitoring import ALERTS, CHARTS, Monitoring
from local.program import Resource, evaluate
from tests.components.conftest import Computed, Declare, place

TIMEOUT = 270
PAGER = "projects/shop-project/notificationChannels/17"
EMAIL = "on-call@shop.example"
LOG = "A last attempt was taken"


def monitoring(emails: tuple[str, ...] = (EMAIL,), channels: tuple[str, ...] = (PAGER,)) -> Monitoring:
    return Monitoring(
        "monitoring",
        {
            **place("monitoring", "logging"),
            "queue_name": "orders",
            "dead_letter_queue": "projects/shop-project/locations/europe-west1/queues/lost-orders",
            "service_name": "order-handler",
            "handler_timeout_seconds": TIMEOUT,
            "alert_emails": emails,
            "notification_channels": channels,
        },
    )


def policies(declared: Mapping[str, Resource]) -> dict[str, dict[str, Any]]:
    """The inputs of each alert policy by the alert's name."""
    inputs = [dict(resource.inputs) for resource in declared.values() if resource.type.endswith(":AlertPolicy")]
    return {policy["displayName"].removeprefix("orders: "): policy for policy in inputs}


def prometheus(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The condition of a policy that watches metrics."""
    [condition] = policy["conditions"]
    found: dict[str, Any] = condition["conditionPrometheusQueryLanguage"]
    return found


def test_it_declares_a_policy_an_alert_a_channel_an_address_and_one_dashboard(declare: Declare) -> None:
    declared = declare(monitoring)
    component = declared["Monitoring monitoring"]
    assert component.type == "cloud-run-tasks:index:Monitoring"
    children = [child for child in declared.values() if child.parent == component.urn]
    assert sorted(child.type.rpartition(":")[2] for child in children) == [
        *["AlertPolicy"] * len(ALERTS),
        "Dashboard",
        "NotificationChannel",
    ]
    assert len(declared) == len(children) + 4
    apis = {declared["Service apis-monitoring"].urn, declared["Service apis-logging"].urn}
    assert all(apis <= child.depends_on for child in children)


def test_every_alert_goes_to_every_channel_and_that_of_a_metric_again_each_day(
    declare: Declare, computed: Computed
) -> None:
    declared = declare(monitoring)
    channel = declared[f"NotificationChannel monitoring-{EMAIL}"]
    assert channel.inputs == {
        "project": "shop-project",
        "displayName": f"orders: {EMAIL}",
        "type": "email",
        "labels": {"email_address": EMAIL},
    }
    channels = [computed(f"monitoring-{EMAIL}_id"), PAGER]
    daily = {"notificationChannelStrategies": [{"notificationChannelNames": channels, "renotifyInterval": "86400s"}]}
    found = policies(declared)
    assert found.keys() == {alert.name for alert in ALERTS}
    for name, policy in found.items():
        assert policy["notificationChannels"] == channels
        assert policy["alertStrategy"] == ({"notificationRateLimit": {"period": "3600s"}} if name == LOG else daily)


def test_without_a_channel_alerts_open_incidents_and_remind_nobody(declare: Declare) -> None:
    for name, policy in policies(declare(lambda: monitoring((), ()))).items():
        assert "notificationChannels" not in policy or policy["notificationChannels"] == []
        assert "alertStrategy" not in policy or name == LOG


def test_every_alert_says_what_it_means_and_where_to_read_what_to_do(declare: Declare) -> None:
    for name, policy in policies(declare(monitoring)).items():
        section = name.lower().replace(" ", "-")
        text = policy["documentation"]["content"]
        assert text.endswith(f".\n\nWhat to do: docs/operations.md#{section}")
        assert "$" not in text + json.dumps(policy["conditions"])


def test_a_metric_that_does_not_exist_before_the_first_task_is_no_obstacle(declare: Declare) -> None:
    found = policies(declare(monitoring))
    assert all(prometheus(policy)["disableMetricValidation"] for name, policy in found.items() if name != LOG)


def test_the_last_attempt_is_seen_in_the_handler_s_own_log(declare: Declare) -> None:
    assert policies(declare(monitoring))[LOG]["conditions"] == [
        {
            "displayName": LOG,
            "conditionMatchedLog": {
                "filter": 'resource.type="cloud_run_revision" resource.labels.location="europe-west1" '
                'resource.labels.service_name="order-handler" jsonPayload.lastAttempt=true'
            },
        }
    ]


def test_a_reserve_of_a_last_attempt_that_still_runs_alerts_nobody(declare: Declare) -> None:
    duration = int(prometheus(policies(declare(monitoring))["Dead letters wait"])["duration"].rstrip("s"))
    assert duration >= TIMEOUT + MARGIN_SECONDS + 60
    assert duration % 60 == 0


def test_the_dashboard_has_a_chart_a_row_and_its_address_is_handed_on(declare: Declare, preview: bool) -> None:
    dashboard = json.loads(declare(monitoring)["Dashboard monitoring"].inputs["dashboardJson"])
    assert dashboard["displayName"] == "orders"
    widgets = dashboard["gridLayout"]["widgets"]
    assert [widget["title"] for widget in widgets] == [title for title, _ in CHARTS]
    assert "$" not in json.dumps(widgets)
    exports = evaluate(lambda: pulumi.export("url", monitoring().dashboard_url), config={}, preview=preview).exports
    console = "https://console.cloud.google.com/monitoring/dashboards/builder"
    assert exports["url"] == (None if preview else f"{console}/monitoring_id?project=shop-project")


QUEUE = 'monitored_resource="cloud_tasks_queue",location="europe-west1",queue_id="orders"'
DEAD_LETTERS = QUEUE.replace("orders", "lost-orders")
SERVICE = 'monitored_resource="cloud_run_revision",location="europe-west1",service_name="order-handler"'
DEPTH, DEAD_DEPTH = (f"cloudtasks_googleapis_com:queue_depth{{{queue}}}" for queue in (QUEUE, DEAD_LETTERS))
OTHER_DEPTH = DEPTH.replace("orders", "orders-2")


def attempts(code: str) -> str:
    return f'cloudtasks_googleapis_com:queue_task_attempt_count{{{QUEUE},response_code="{code}"}}'


def requests(code: int) -> str:
    labels = f'response_code="{code}",response_code_class="{code // 100}xx"'
    return f"run_googleapis_com:request_count{{{SERVICE},{labels}}}"


def latency(milliseconds: str) -> str:
    return f'run_googleapis_com:request_latencies_bucket{{{SERVICE},le="{milliseconds}"}}'


@pytest.mark.parametrize(
    ("series", "minutes", "alerts"),
    [
        ({DEAD_DEPTH: "0x60"}, 60, []),
        ({DEAD_DEPTH: "0x9 1x5 0x45"}, 16, []),
        ({DEAD_DEPTH: "0x9 1x50"}, 16, []),
        ({DEAD_DEPTH: "0x9 1x50"}, 20, ["Dead letters wait"]),
        ({OTHER_DEPTH: "5x60"}, 60, []),
        ({attempts("ok"): "0+100x60", attempts("unavailable"): "0+20x60"}, 60, []),
        ({attempts("ok"): "0+100x60", attempts("unavailable"): "0+40x60"}, 60, ["Attempts fail"]),
        ({attempts("unavailable"): "0+40x60"}, 60, ["Attempts fail"]),
        ({attempts("ok"): "0x60", attempts("unavailable"): "0x20 1 2 3 4 5x40"}, 26, []),
        ({DEPTH: "100x120"}, 120, ["The queue does not fall"]),
        ({DEPTH: "0+10x120"}, 120, ["The queue does not fall"]),
        ({DEPTH: "5000-20x120"}, 120, []),
        ({DEPTH: "0x120"}, 120, []),
        ({DEPTH: " ".join(["0 3 1 4"] * 40)}, 120, []),
        ({DEPTH: " ".join(["0 _ _ 4"] * 40)}, 120, []),
        ({requests(200): "0+100x60", requests(500): "0+4x60"}, 60, []),
        ({requests(200): "0+100x60", requests(500): "0+9x60"}, 60, ["The service answers 5xx"]),
        ({requests(200): "0+100x60", requests(503): "0+9x60"}, 60, ["The service answers 5xx"]),
        ({requests(200): "0+1x60", requests(500): "0x50 1x10"}, 56, []),
        ({requests(200): "0+100x60", requests(429): "0x60"}, 60, []),
        ({requests(200): "0+100x60", requests(429): "0+2x60"}, 60, ["The service answers 429"]),
        ({latency("1000"): "0+100x60", latency("300000"): "0+100x60", latency("+Inf"): "0+100x60"}, 60, []),
        (
            {latency("1000"): "0+50x60", latency("300000"): "0+100x60", latency("+Inf"): "0+100x60"},
            60,
            ["The handler is slow"],
        ),
        ({DEPTH: " ".join(["1"] * 1000 + ["0"] + ["2 1"] * 400)}, 1500, []),
        ({DEPTH: " ".join(["2 1"] * 750)}, 1500, ["A queue was not empty for a day"]),
        ({DEAD_DEPTH: "1x1500"}, 1500, ["A queue was not empty for a day", "Dead letters wait"]),
    ],
)
def test_what_is_wrong_alerts_and_what_is_not_does_not(
    tmp_path: Path, series: dict[str, str], minutes: int, alerts: list[str]
) -> None:
    """Prometheus itself evaluates the queries: the sums are Cloud Monitoring's, which speaks the same language."""
    if not shutil.which("promtool"):
        pytest.skip("no promtool on the path: apt-get install prometheus")
    found = policies({r.urn: r for r in evaluate(monitoring, config={}).resources.values()})
    watching = {name: prometheus(policy) for name, policy in found.items() if name != LOG}
    rules = [
        {"alert": name, "expr": f"count({rule['query']})", "for": rule["duration"]} for name, rule in watching.items()
    ]
    expected = [{"eval_time": f"{minutes}m", "alertname": name} for name in watching]
    for each in expected:
        each["exp_alerts"] = [{}] if each["alertname"] in alerts else []  # type: ignore[assignment]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": expected,
    }
    (tmp_path / "rules").write_text(json.dumps({"groups": [{"name": "alerts", "rules": rules}]}))
    (tmp_path / "test").write_text(json.dumps({"rule_files": ["rules"], "evaluation_interval": "1m", "tests": [test]}))
    run = subprocess.run(
        ["promtool", "test", "rules", "test"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
