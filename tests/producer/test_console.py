"""The operator's page in a real browser: of a cloud that it knows through the API of Cloud Tasks alone, as Google's."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from bench.page import fill
from tests.browsing import find, letters, opened, press
from tests.local.running import LocalCloud, end, request, running, wait_for

DASHBOARD = "https://console.cloud.google.com/monitoring/dashboards/builder/1"


@pytest.fixture(scope="module")
def cloud() -> Iterator[LocalCloud]:
    with running() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def address(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address that `console` prints, started with a stack's outputs and nothing else."""
    outputs = {name: cloud.at[name] for name in ("queue", "dead_letter_queue", "tasks_grpc")}
    file = tmp_path_factory.mktemp("console") / "outputs"
    file.write_text(json.dumps({**outputs, "dashboard_url": f"{DASHBOARD}?project=local-project"}))
    console = subprocess.Popen(
        [sys.executable, "-m", "order_tasks", "console", "--port", "0", "--outputs", file],
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    with console:
        assert console.stdout is not None
        yield console.stdout.readline().strip()
        end(console)


@pytest.fixture
def page(chromium: Browser, address: str) -> Iterator[Page]:
    with opened(chromium, address) as page:
        yield page


def create(cloud: LocalCloud, queue: str, message: object, **headers: str) -> None:
    body = base64.b64encode(json.dumps(message).encode()).decode()
    task = {"httpRequest": {"url": f"{cloud.at['service_url']}/process-order", "body": body, "headers": headers}}
    status, text = request(f"{cloud.at['tasks_rest']}/v2/{cloud.at[queue]}/tasks", json.dumps({"task": task}).encode())
    assert status == 200, text


def queue_of(cloud: LocalCloud) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request(f"{cloud.at['tasks_rest']}/v2/{cloud.at['queue']}")[1])
    return found


def test_the_queue_is_paused_resumed_and_slowed_down_and_a_waiting_task_run(page: Page, cloud: LocalCloud) -> None:
    press(page, "Pause", surely=True)
    expect(page.locator("#health")).to_contain_text("The queue is PAUSED")
    create(cloud, "queue", {"orderId": "ORD-1", "action": "send_confirmation", "customerEmail": "ada@example.com"})
    expect(page.locator("#queues")).to_contain_text("1 waiting")
    press(find(page, "ORD-1"), "Run now")
    expect(page.locator("#output")).to_contain_text("1 started")
    expect(page.locator("#queues")).to_contain_text("0 waiting")
    press(page, "Resume")
    expect(page.locator("#queues")).to_contain_text("RUNNING")
    page.get_by_label("Rate per second").fill("12.5")
    expect(page.locator("#command")).to_have_text("$ python -m order_tasks rate 12.5")
    press(page, "Set")
    wait_for(lambda: queue_of(cloud)["rateLimits"]["maxDispatchesPerSecond"] == 12.5, lambda: str(queue_of(cloud)))


def test_dead_letters_are_replayed_and_dropped_alone_and_by_reason(page: Page, cloud: LocalCloud) -> None:
    for number in range(6):
        body = {"orderId": f"ORD-{number}", "action": "send_confirmation", "customerEmail": "ada@example.com"}
        headers = {"X-Dead-Letter-Reason": ("No mail server", "No stock")[number % 2], "X-Dead-Letter-Attempts": "5"}
        create(cloud, "dead_letter_queue", body, **headers)
    expect(page.locator("#health")).to_contain_text("6 dead letters wait")
    stock = page.locator("#letters details").filter(has_text="No stock")
    stock.locator("summary span").click()
    press(stock.get_by_role("row").filter(has_text="ORD-1"), "Drop", surely=True)
    expect(stock.locator("b")).to_have_text("2")
    press(stock.get_by_role("row").filter(has_text="ORD-3"), "Replay")
    expect(page.locator("#output")).to_contain_text("1 replayed")
    expect(stock.locator("b")).to_have_text("1")
    press(stock, "Drop all", surely=True)
    expect(page.locator("#output")).to_contain_text("$ python -m order_tasks drop --reason 'No stock' --yes")
    press(letters(page, 3), "Replay all")
    expect(page.locator("#letters")).to_have_text("There are none.")


def test_a_dead_letter_leads_to_its_log_and_dashboard(page: Page, cloud: LocalCloud) -> None:
    create(cloud, "dead_letter_queue", {"orderId": "ORD-5"}, **{"X-Dead-Letter-Task": "the-task"})
    expect(page.locator("#local")).to_be_hidden()
    row = page.locator("#letters").get_by_role("row").filter(has_text="ORD-5")
    expect(row.get_by_role("link")).to_have_count(2)
    log, dashboard = (str(link.get_attribute("href")) for link in row.get_by_role("link").all())
    assert "the-task" in log
    assert re.fullmatch(rf"{DASHBOARD};startTime=[^;]+;endTime=[^;]+\?project=local-project", dashboard)
    press(find(page, "ORD-5"), "Cancel the order", surely=True)
    expect(page.locator("#letters")).to_have_text("There are none.")


def test_nothing_of_a_task_becomes_markup_and_no_e_mail_is_shown(page: Page, cloud: LocalCloud) -> None:
    message = {"orderId": "<img src=x onerror=alert(1)>", "action": "<i>", "customerEmail": "eve@example.com"}
    headers = {"X-Dead-Letter-Reason": "<b>eve@example.com</b> is refused", "X-Dead-Letter-Task": "<script>"}
    create(cloud, "dead_letter_queue", message, **headers)
    expect(letters(page, 1)).to_contain_text(message["orderId"])
    expect(letters(page, 1)).to_contain_text("[e-mail]")
    assert "eve@" not in page.content()
    assert page.locator("img, main script, td i, summary span b").count() == 0
    press(page, "Drop all", surely=True)
    expect(page.locator("#letters")).to_have_text("There are none.")


def test_the_keyboard_is_enough_and_each_button_shows_its_command(page: Page, cloud: LocalCloud) -> None:
    def reach(name: str) -> None:
        for _ in range(50):
            page.keyboard.press("Tab")
            if page.locator(":focus").inner_text().startswith(name):
                return
        raise AssertionError(f"the tab key does not reach {name}")

    reach("Pause")
    expect(page.locator("#command")).to_have_text("$ python -m order_tasks pause")
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_text("Pause: sure?")
    page.keyboard.press("Enter")
    wait_for(lambda: queue_of(cloud)["state"] == "PAUSED", lambda: str(queue_of(cloud)))
    expect(page.locator(":focus")).to_have_text("Resume")
    page.keyboard.press("Enter")
    wait_for(lambda: queue_of(cloud)["state"] == "RUNNING", lambda: str(queue_of(cloud)))
    expect(find(page, "ORD-404")).to_contain_text("Nothing of this order is in the queues")
    page.keyboard.press("Escape")
    expect(page.locator("#output")).to_be_hidden()
    for button in page.locator("[data-run]:is(button)").all():
        assert str(button.get_attribute("title")).startswith("$ python -m order_tasks ")


CONTRAST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 10 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (node) => {
    const colour = parts(getComputedStyle(node).backgroundColor);
    return colour[3] === 0 ? ground(node.parentElement) : colour;
  };
  const isText = (child) => child.nodeType === Node.TEXT_NODE && child.data.trim();
  const isPoor = (node) => {
    const [low, high] = [light(parts(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05) < 4.5;
  };
  const shown = [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility());
  return shown.filter((node) => [...node.childNodes].some(isText) && isPoor(node)).map((node) => node.outerHTML);
}"""
"""The elements whose text has less contrast to its ground than 4.5, which WCAG's level AA asks."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_is_readable(chromium: Browser, address: str, cloud: LocalCloud, width: int, scheme: Any) -> None:  # noqa: ANN401
    create(cloud, "dead_letter_queue", {"orderId": "ORD-" + "9" * 100}, **{"X-Dead-Letter-Reason": "x" * 180})
    with opened(chromium, address, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        expect(page.locator("#letters")).to_contain_text("x" * 180)
        expect(find(page, "ORD-" + "9" * 100)).to_contain_text("1 dead")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST) == []
        press(page, "Drop all", surely=True)
        expect(page.locator("#letters")).to_have_text("There are none.")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("?token={}", {}, 200),
        ("?token={}", {"Host": "evil.example:8120"}, 403),
        ("?token={}", {"Origin": "https://evil.example"}, 403),
        ("", {}, 403),
        ("events", {}, 403),
        ("run", {}, 403),
        ("run?token={}", {}, 403),
        ("run", {"X-Token": "guessed"}, 403),
        ("console.js", {}, 200),
    ],
)
def test_only_its_own_page_may_call_the_server(
    address: str, cloud: LocalCloud, path: str, headers: dict[str, str], status: int
) -> None:
    root, token = address.split("?token=")
    body = b'["pause"]' if path.startswith("run") else None
    assert request(root + path.format(token), body, headers)[0] == status
    assert queue_of(cloud)["state"] == "RUNNING"


def test_ten_thousand_waiting_tasks(page: Page, cloud: LocalCloud) -> None:
    fill(cloud.at, "queue", 10_000)
    fill(cloud.at, "dead_letter_queue", 300)
    expect(page.locator("#queues")).to_contain_text("10,000 waiting")
    expect(page.locator("#letters")).to_contain_text("and 240 more")
    assert 60 < page.locator("tr").count() <= 200


def test_its_size() -> None:
    kept = [file for file in files("order_tasks.console").iterdir() if file.name.endswith((".html", ".css", ".js"))]
    assert len(kept) == 3
    assert sum(len(file.read_bytes()) for file in kept) < 60_000
