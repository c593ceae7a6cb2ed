"""Chromium with the operator's page of a local cloud: for its benchmark, its screenshots and its tests."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

from bench.rows import MissingToolError, Tool
from tests.local.running import PATIENCE, running

_NAMES = ("chromium", "google-chrome", "chromium-browser")
CHROMIUM = Tool("Chromium", ("chromium", "--version"), "apt-get install chromium")


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the browser. Raises MissingToolError."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise MissingToolError(f"Chromium is missing: {CHROMIUM.remedy}")
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        # As root, as in a container, Chromium refuses to start with its sandbox.
        started = playwright.chromium.launch(executable_path=found, chromium_sandbox=os.geteuid() != 0)
        yield started
        started.close()


@contextmanager
def local_page(*options: str) -> Iterator[tuple[Page, Mapping[str, str]]]:
    """Run `local up` with these options, and open its page. Yields that and the cloud's addresses."""
    with running(*options) as cloud, browser() as chromium:
        page = chromium.new_context(viewport={"width": 1000, "height": 700}).new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(cloud.at["page"])
        yield page, cloud.at
