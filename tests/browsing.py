"""The operator's page in a real browser, and what tests do on it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, Request, expect

from tests.local.running import PATIENCE


@contextmanager
def opened(chromium: Browser, address: str, **options: Any) -> Iterator[Page]:  # noqa: ANN401
    """The page at an address. It must write no error to its console, and send no request elsewhere."""
    wrong: list[str] = []

    def check(sent: Request) -> None:
        if urlsplit(sent.url)[:2] != urlsplit(address)[:2] and not sent.url.startswith("data:"):
            wrong.append(sent.url)

    with closing(chromium.new_context(**options)) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", check)
        page.goto(address)
        expect(page.locator("#queues .card")).to_have_count(2)
        yield page
        assert wrong == []


def press(place: Page | Locator, name: str, *, surely: bool = False) -> None:
    """Press a button; one that asks is pressed again."""
    place.get_by_role("button", name=name, exact=True).first.click()
    if surely:
        place.get_by_role("button", name=f"{name}: sure?").click()


def find(page: Page, order: str) -> Locator:
    page.keyboard.press("/")
    page.keyboard.insert_text(order)
    page.keyboard.press("Enter")
    return page.locator("#story")


def letters(page: Page, count: int) -> Locator:
    """The group of dead letters that has so many."""
    number = page.locator("summary b").get_by_text(str(count), exact=True)
    found = page.locator("#letters details").filter(has=number)
    expect(found).to_be_visible()
    return found
