"""The dashboard in a browser: signing in, a day of events to look at, and what is measured of the page."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.support.service import READ, Service

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
#: Names, their categories, and how often they come.
NAMES = {
    "page_opened": ("page_view", 30),
    "chart_zoomed": ("user_action", 18),
    "order_placed": ("trading", 14),
    "price_alert_set": ("user_action", 7),
    "web_vitals": ("performance", 6),
    "signed_in": ("auth", 5),
    "order_cancelled": ("trading", 5),
    "watchlist_used": ("feature", 4),
    "search_used": ("feature", 3),
    "heartbeat": ("system", 3),
    "quote_missing": ("error", 2),
}


def post_a_day(service: Service, now: datetime, *, an_hour: int = 600, a_day: int = 2400, seed: int = 1) -> None:
    """Post so many events of the last hour and of the last 24, and some requests that are refused."""
    chance = random.Random(seed)
    ages = [chance.triangular(30, 3500, 1200) for _ in range(an_hour)]
    ages += [chance.uniform(3600, 23.5 * 3600) for _ in range(a_day - an_hour)]
    drawn = chance.choices(list(NAMES), [often for _, often in NAMES.values()], k=a_day)
    events = [
        {"event_name": name, "category": NAMES[name][0], "timestamp": (now - timedelta(seconds=age)).isoformat()}
        for name, age in zip(drawn, ages, strict=True)
    ]
    for start in range(0, a_day, 100):
        assert service.post_batch(events[start : start + 100]).status == 200
    for _ in range(4):
        assert service.post_batch([{"event_name": "fine"}, {"event_name": "wrong", "category": "trade"}]).status == 422
    assert service.post({"event_name": ""}).status == 422
    assert service.post({"event_name": "x"}, token="one-that-is-revoked").status == 401


@contextmanager
def open_page(
    browser: Browser, service: Service, complaints: list[str] | None = None, **options: Any
) -> Iterator[Page]:
    """The page before a token was given, in a context of its own. ``complaints`` collects what must not be."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    page = context.new_page()
    home = f"http://127.0.0.1:{service.port}/"
    if complaints is not None:
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith((home, "data:")) else complaints.append(one.url))
    page.goto(f"{home}dashboard")
    yield page
    context.close()


def sign_in(page: Page, token: str = READ) -> None:
    """Give a token, and wait for the figures."""
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Show the dashboard").click()
    expect(page.locator("#dashboard")).to_be_visible()
    expect(page.locator("#updated")).to_contain_text("As of")


#: Relative luminance of a colour, by WCAG.
_LUMINANCE = """const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => {
        const linear = (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = parse(colour).map((one) => linear(one / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (...colours) => {
        const [high, low] = colours.map(luminance).sort((a, b) => b - a);
        return (high + 0.05) / (low + 0.05);
    };"""
#: The texts whose contrast with what is behind them is below 4.5 (WCAG AA), each with its ratio.
LOW_CONTRAST = f"""() => {{
    {_LUMINANCE}
    const behind = (node) => {{
        for (; node; node = node.parentElement) {{
            const colour = getComputedStyle(node).backgroundColor;
            if ((parse(colour)[3] ?? 1) === 1) return colour;
        }}
    }};
    return [...document.querySelectorAll("body *")].flatMap((node) => {{
        const text = [...node.childNodes].find((one) => one.nodeType === 3 && one.textContent.trim());
        if (!text || !node.checkVisibility()) return [];
        const ratio = contrast(getComputedStyle(node).color, behind(node));
        return ratio < 4.5 ? [`${{text.textContent.trim()}}: ${{ratio.toFixed(2)}}`] : [];
    }});
}}"""
#: The categories whose colour has a contrast with the card below 3 (WCAG AA for graphics).
DIM_COLOURS = f"""(categories) => {{
    {_LUMINANCE}
    const probe = document.body.appendChild(document.createElement("i"));
    const colour = (name) => {{
        probe.style.color = `var(--${{name}})`;
        return getComputedStyle(probe).color;
    }};
    return categories.filter((one) => contrast(colour(one), colour("card")) < 3);
}}"""
#: How many colours a chart has.
COLOURS_DRAWN = """() => {
    const canvas = document.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const pixels = Array.from({ length: data.length / 4 }, (_, index) => data.slice(4 * index, 4 * index + 4));
    return new Set(pixels.filter((pixel) => pixel[3] === 255).map(String)).size;
}"""
