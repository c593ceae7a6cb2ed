"""`python -m docs.pages.screenshots` draws the operator's page in five states, of a local cloud that it breaks."""

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from bench.browser import local_page

FOLDER = Path(__file__).parents[1] / "images"
_SETTINGS = ("maxAttempts=3", "minBackoffSeconds=4", "retryUntilHandled=true")
_ORDERS = [f"ORD-2026-1080{digit}" for digit in range(1, 8)]


def _draw(page: Page) -> None:
    health, output = page.locator("#health"), page.locator("#output")
    expect(health).to_contain_text(re.compile(r"All is well: 0 tasks in the queue, [1-9]"))
    expect(page.locator("#mails details")).to_have_count(8)
    _shoot(page, "well")
    page.get_by_role("switch", name="mail").click()
    for order in _ORDERS:
        page.get_by_label("New order's id").fill(order)
        page.get_by_label("E-mail").fill("ada@example.com")
        page.get_by_role("button", name="Place").click()
        expect(output).to_have_text(re.compile(f"{order}.*done", re.DOTALL))
    page.keyboard.press("Escape")
    expect(page.locator("#failures table")).to_be_visible()
    _shoot(page, "failing")
    expect(health).to_contain_text(f"{len(_ORDERS)} dead letters wait")
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Replay", exact=True).first.click()
    expect(output).to_contain_text("exit code")
    _shoot(page, "dead-letters")
    page.keyboard.press("Escape")
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name=_ORDERS[0]).first.click()
    expect(page.locator("#story tr").last).to_be_visible()
    _shoot(page, "order", "#story")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Pause: sure?").click()
    expect(health).to_contain_text("PAUSED")
    page.set_viewport_size({"width": 360, "height": 700})
    page.emulate_media(color_scheme="dark")
    _shoot(page, "paused-narrow")


def _shoot(page: Page, name: str, top: str = "header") -> None:
    page.locator(top).evaluate("top => top.scrollIntoView()")
    page.screenshot(path=FOLDER / f"{name}.png")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with local_page("--orders", "examples/orders.jsonl", *(f"--config={setting}" for setting in _SETTINGS)) as (
        page,
        _,
    ):
        _draw(page)
