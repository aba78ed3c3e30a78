"""A real browser for tests of pages: Chromium as the distribution has it, driven by Playwright."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.machine import find

_ARGUMENTS = [
    "--no-sandbox",  # which Chromium asks for where root runs it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser without a window. Its contexts share nothing with each other."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find("chromium"),
            headless=True,
            args=_ARGUMENTS,
            ignore_default_args=["--disable-back-forward-cache"],  # people have it
        )
        yield browser
        browser.close()
