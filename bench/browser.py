"""Chromium, driven by Playwright: for the benchmark of the operator's page, its screenshots and its tests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from bench.rows import MissingToolError, Tool

_NAMES = ("chromium", "google-chrome", "chromium-browser")
CHROMIUM = Tool("Chromium", ("chromium", "--version"), "apt-get install chromium")


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the browser. Raises MissingToolError."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise MissingToolError(f"Chromium is missing: {CHROMIUM.remedy}")
    with sync_playwright() as playwright:
        # As root, as in a container, Chromium refuses to start with its sandbox.
        started = playwright.chromium.launch(executable_path=found, chromium_sandbox=os.geteuid() != 0)
        yield started
        started.close()
