"""The operator's page while 10,000 tasks wait and 1,000 dead letters lie: whether it stays smooth.

Each run times the frames of ten seconds, in which the page gets and draws five events; in turn those
of an empty page. Threats to validity: a hidden page, whose frames are not drawn.
"""

import json
import urllib.request
from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import quantiles

from playwright.sync_api import Page, expect

from bench.browser import CHROMIUM, local_page
from bench.rows import ROOT, Row, in_turn

TOOLS = (CHROMIUM,)
WAITING, DEAD = 10_000, 1000
_FRAMES = """() => new Promise((resolve) => {
  const times = [];
  const frame = (time) => (times.push(time) && time - times[0] < 10000 ? requestAnimationFrame(frame) : resolve(times));
  requestAnimationFrame(frame);
})"""


def main() -> Iterator[Row]:
    files = (ROOT / "producer/order_tasks/console").glob("*.[hcj]*")
    yield Row("page: its three files", "kB", "≤", 60, [sum(file.stat().st_size for file in files) / 1000])
    with local_page() as (page, at):
        empty = page.context.new_page()
        fill(at, "queue", WAITING)
        fill(at, "dead_letter_queue", DEAD)
        expect(page.locator("#queues")).to_contain_text(f"{WAITING:,} waiting")
        ours, theirs = in_turn(lambda: _worst(page), lambda: _worst(empty))
        rows = page.locator("tr").count()
    yield Row(f"page: rows while {WAITING:,} tasks wait", "", "≤", 200, [rows])
    yield Row("page: 99th percentile of frames, and of an empty page", "ms", "≤", 1.5, ours, theirs)


def _worst(page: Page) -> float:
    page.bring_to_front()
    times: list[float] = page.evaluate(_FRAMES)
    return quantiles([after - before for before, after in pairwise(times)], n=100)[-1]


def fill(at: Mapping[str, str], queue: str, count: int) -> None:
    """Pause a queue of a local cloud, and create many tasks in it. `at`: the cloud's addresses."""
    task = {"httpRequest": {"url": f"{at['service_url']}/process-order", "body": "e30="}}
    batch = {"requests": [{"parent": at[queue], "task": task}] * 100}
    for call, body in (":pause", {}), *[("/tasks:batchCreate", batch)] * (count // 100):
        request = urllib.request.Request(
            f"{at['tasks_rest']}/v2/{at[queue]}{call}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=60).close()
