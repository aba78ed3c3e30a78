"""``/docs`` in a real browser: it renders, needs nothing from elsewhere, and its buttons work."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from service import __version__
from tests.support.browser import open_browser
from tests.support.service import WRITE, Service


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a fresh browser."""
    with open_browser() as browser:
        yield browser.new_page()


def test_the_reference_works_offline_and_posts_an_event(page: Page, service: Service) -> None:
    home = f"http://127.0.0.1:{service.port}"
    requested, complaints = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    page.goto(f"{home}/")
    assert page.url == f"{home}/docs"
    expect(page.get_by_role("heading", level=1)).to_contain_text(__version__)
    for path in ("/api/v1/analytics", "/api/v1/analytics/batch", "/api/v1/analytics/stats", "/livez"):
        expect(page.locator(f'[data-path="{path}"]')).to_be_visible()

    page.get_by_role("button", name="Authorize").first.click()
    bearer = page.locator(".auth-container").filter(has=page.locator("#auth-bearer-value"))
    bearer.get_by_role("textbox").fill(WRITE)
    bearer.locator(".authorize").click()
    page.locator(".auth-btn-wrapper .btn-done").first.click()
    page.locator('[data-path="/api/v1/analytics"]').click()
    page.get_by_role("button", name="Try it out").click()
    page.locator("textarea").fill('{"event_name": "from_the_docs"}')
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
    expect(page.locator(".live-responses-table")).to_contain_text("event_id")

    assert complaints == []
    assert {url for url in requested if not url.startswith((home, "data:"))} == set()
    service.wait_for_total(1)
