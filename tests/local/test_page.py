"""The operator's page that `local up` serves: what it shows beside Cloud Tasks, and what its switches break."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsing import find, letters, opened, press
from tests.local.running import LocalCloud, running

FAST = ("maxAttempts=2", "minBackoffSeconds=1", "maxBackoffSeconds=1", "retryUntilHandled=true")


@pytest.fixture(scope="module")
def cloud() -> Iterator[LocalCloud]:
    with running(*(f"--config={setting}" for setting in FAST)) as cloud:
        yield cloud


@pytest.fixture
def page(chromium: Browser, cloud: LocalCloud) -> Iterator[Page]:
    with opened(chromium, cloud.at["page"]) as page:
        yield page


def place(page: Page, *orders: str) -> None:
    for order in orders:
        page.get_by_label("New order's id").fill(order)
        page.get_by_label("E-mail").fill("ada@example.com")
        press(page, "Place")
        words = f"$ python -m order_tasks send --order-id={order} --email=ada@example.com"
        expect(page.locator("#output")).to_have_text(re.compile(f"{re.escape(words)}.*done", re.DOTALL))


def switch(page: Page, name: str, *, broken: bool) -> None:
    page.get_by_role("switch", name=name).click()
    expect(page.get_by_role("switch", name=name, checked=broken)).to_be_visible()


def test_its_address_is_printed_first(cloud: LocalCloud) -> None:
    assert next(line for line in cloud.log if "http" in line).endswith(f"What is going on: {cloud.at['page']}")


def test_an_order_is_placed_and_followed_to_its_effects(page: Page) -> None:
    place(page, "ORD-1")
    story = find(page, "ORD-1")
    for action in ("send_confirmation", "update_inventory", "notify_warehouse"):
        attempt = story.get_by_role("row").filter(has_text=action).filter(has_text="attempt 1 of 2")
        expect(attempt.locator("td").last).to_have_text("200")
        expect(story.get_by_role("row").filter(has_text=action).filter(has_text="done")).to_be_visible()
    for received in ("mail", "warehouse"):
        expect(story.get_by_role("cell", name=received, exact=True)).to_be_visible()
    page.locator("#mails summary", has_text="Your order ORD-1").click()
    expect(page.locator("#mails [open] pre")).to_contain_text("We received your order ORD-1")
    expect(page.locator("#calls").get_by_role("row").filter(has_text="ORD-1")).to_be_visible()
    expect(page.locator("#log")).to_contain_text("Warehouse notified of ORD-1")
    find(page, "ORD-404")
    expect(page.locator("#log")).to_be_empty()
    assert "ada@example.com" not in page.inner_text("main")


def test_a_failure_names_its_cause_and_ends_when_that_is_mended(page: Page) -> None:
    switch(page, "mail", broken=True)
    place(page, "ORD-10", "ORD-11", "ORD-12")
    expect(letters(page, 3)).to_contain_text("The mail server refused the message: 451")
    press(letters(page, 3).get_by_role("row").filter(has_text="ORD-11"), "Replay")
    expect(page.locator("#output")).to_have_text(
        re.compile("The mail server refused the message: 451.*exit code 1", re.DOTALL)
    )
    switch(page, "mail", broken=False)
    press(letters(page, 3), "Replay all")
    expect(page.locator("#letters")).to_have_text("There are none.")
    expect(page.locator("#health")).to_contain_text("All is well")
    expect(find(page, "ORD-11").get_by_role("row").filter(has_text="Last attempt")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "cause"),
    [("warehouse", "warehouse answered 500"), ("handler", "the handler is broken"), ("database", "database")],
)
def test_what_is_broken_is_named(page: Page, name: str, cause: str) -> None:
    press(page, "Pause", surely=True)
    place(page, f"ORD-{name}")  # before the database is broken: the shop needs it too
    switch(page, name, broken=True)
    press(page, "Resume")
    expect(page.locator("#health")).to_contain_text(re.compile(cause, re.IGNORECASE))
    switch(page, name, broken=False)
