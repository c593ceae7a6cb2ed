import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from order_handler.dead_letters import MARGIN_SECONDS

from components.monitoring import ALERTS, RELAY_ALERTS
from tests.declared import EMAIL, PAGER, Declared, declare

TIMEOUT = 270
LOGS = {
    "A last attempt was taken": "jsonPayload.lastAttempt=true",
    "An effect was not recorded": "jsonPayload.unrecorded=true",
    "A dead letter was not stored": "severity>=ERROR jsonPayload.deadLetterTrouble:*",
    "Rows of the outbox wait": "jsonPayload.outboxLate>0",
    "A row of the outbox was refused": "jsonPayload.outboxRefused>0",
}
"""Alerts on the handler's log, and the field that each looks for."""


def monitored(emails: tuple[str, ...] = (EMAIL,), channels: tuple[str, ...] = (PAGER,)) -> Declared:
    return declare(
        queueName="orders",
        serviceName="order-handler",
        region="europe-west1",
        handlerTimeoutSeconds=str(TIMEOUT),
        alertEmails=json.dumps(emails),
        notificationChannels=json.dumps(channels),
    )


def policies(declared: Declared) -> dict[str, Mapping[str, Any]]:
    """The inputs of each alert policy by the alert's name."""
    policies = declared.of("AlertPolicy").values()
    return {policy["displayName"].removeprefix("orders: "): policy for policy in policies}


def prometheus(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The condition of a policy that watches metrics."""
    [condition] = policy["conditions"]
    found: dict[str, Any] = condition["conditionPrometheusQueryLanguage"]
    return found


def test_every_alert_goes_to_every_channel_and_that_of_a_metric_again_each_day() -> None:
    declared = monitored()
    [channel] = declared.of("NotificationChannel").values()
    assert (channel["type"], channel["labels"]) == ("email", {"email_address": EMAIL})
    channels = [f"monitoring-{EMAIL}_id", PAGER]
    daily = {"notificationChannelStrategies": [{"notificationChannelNames": channels, "renotifyInterval": "86400s"}]}
    found = policies(declared)
    assert found.keys() == {alert.name for alert in (*ALERTS, *RELAY_ALERTS)}
    for name, policy in found.items():
        assert policy["notificationChannels"] == channels
        assert policy["alertStrategy"] == ({"notificationRateLimit": {"period": "3600s"}} if name in LOGS else daily)


def test_without_a_channel_alerts_open_incidents_and_remind_nobody() -> None:
    for name, policy in policies(monitored((), ())).items():
        assert "notificationChannels" not in policy or policy["notificationChannels"] == []
        assert "alertStrategy" not in policy or name in LOGS


def test_every_alert_says_what_it_means_and_where_to_read_what_to_do() -> None:
    for name, policy in policies(monitored()).items():
        section = name.lower().replace(" ", "-")
        text = policy["documentation"]["content"]
        assert text.endswith(f".\n\nWhat to do: docs/operations.md#{section}")
        assert "$" not in text + json.dumps(policy["conditions"])


@pytest.mark.parametrize(("name", "field"), LOGS.items())
def test_an_alert_on_the_log_looks_for_a_field_of_the_handler(name: str, field: str) -> None:
    [condition] = policies(monitored())[name]["conditions"]
    assert condition["conditionMatchedLog"] == {
        "filter": 'resource.type="cloud_run_revision" resource.labels.location="europe-west1" '
        f'resource.labels.service_name="order-handler" {field}'
    }


def test_a_reserve_of_a_last_attempt_that_still_runs_alerts_nobody() -> None:
    duration = int(prometheus(policies(monitored())["Dead letters wait"])["duration"].rstrip("s"))
    assert duration >= TIMEOUT + MARGIN_SECONDS + 60
    assert duration % 60 == 0


QUEUE = 'monitored_resource="cloud_tasks_queue",location="europe-west1",queue_id="orders"'
DEAD_LETTERS = QUEUE.replace("orders", "orders-dead-letters")
SERVICE = 'monitored_resource="cloud_run_revision",location="europe-west1",service_name="order-handler"'
DEPTH, DEAD_DEPTH = (f"cloudtasks_googleapis_com:queue_depth{{{queue}}}" for queue in (QUEUE, DEAD_LETTERS))
PASSES = f"logging_googleapis_com:user_orders_relay_passes{{{SERVICE}}}"
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
        ({PASSES: "0+1x20 20x4 21+1x20"}, 25, []),
        ({PASSES: "0+1x20 20x40"}, 32, ["The relay does not run"]),
        ({PASSES: "_x40"}, 11, ["The relay does not run"]),
        ({PASSES.replace("orders", "orders_2", 1): "0+1x40"}, 11, ["The relay does not run"]),
        ({DEAD_DEPTH: "1x1500"}, 1500, ["A queue was not empty for a day", "Dead letters wait"]),
    ],
)
def test_what_is_wrong_alerts_and_what_is_not_does_not(
    tmp_path: Path, series: dict[str, str], minutes: int, alerts: list[str]
) -> None:
    """Prometheus itself evaluates the queries: the sums are Cloud Monitoring's, which speaks the same language."""
    if not shutil.which("promtool"):
        pytest.skip("no promtool on the path: apt-get install prometheus")
    usual = {} if "relay" in "".join(series) else {PASSES: "0+1x1500"}
    found = policies(monitored())
    watching = {name: prometheus(policy) for name, policy in found.items() if name not in LOGS}
    rules = [
        {"alert": name, "expr": f"count({rule['query']})", "for": rule["duration"]} for name, rule in watching.items()
    ]
    expected = [{"eval_time": f"{minutes}m", "alertname": name} for name in watching]
    for each in expected:
        each["exp_alerts"] = [{}] if each["alertname"] in alerts else []  # type: ignore[assignment]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in (usual | series).items()],
        "alert_rule_test": expected,
    }
    (tmp_path / "rules").write_text(json.dumps({"groups": [{"name": "alerts", "rules": rules}]}))
    (tmp_path / "test").write_text(json.dumps({"rule_files": ["rules"], "evaluation_interval": "1m", "tests": [test]}))
    run = subprocess.run(
        ["promtool", "test", "rules", "test"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
