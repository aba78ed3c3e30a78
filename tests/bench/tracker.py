"""What tracking costs a page: ``make bench-tracker``.

Chromium shows the trading desk of ``tests/demo``. The time in ``track`` is that of a loop of calls, in turn with a loop
that only makes the same event's JSON and stores it: the least that an event costs which is to survive the page. A
session is a walk over the desk; what goes over the wire is counted by the browser.
"""

import argparse
import gzip
import statistics
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Request

from tests.bench.targets import markdown
from tests.demo import SCRIPT, Demo
from tests.support import wait_until
from tests.support.browser import open_browser
from tests.support.clickhouse import ClickHouseServer, free_port
from tests.support.metrics import scrape
from tests.support.service import EVENTS, WRITE, Service

CALLS = 200
_ORDER = '{ category: "trading", properties: { symbol: "ACME", side: "buy", quantity: 10 } }'
_TRACK = f"for (let call = 0; call < {CALLS}; call++) tracker.track('order_placed', {_ORDER});"
_LEAST = f"""for (let call = 0; call < {CALLS}; call++) localStorage.setItem("least " + call, JSON.stringify({{
    event_name: "order_placed", session_id: tracker.status().id, page_url: location.href,
    user_agent: navigator.userAgent, timestamp: new Date(), ...{_ORDER} }}));"""


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    demo = Demo({})
    with tempfile.TemporaryDirectory(prefix="bench-") as name, open_browser() as browser:
        clickhouse = ClickHouseServer(Path(name) / "clickhouse").start()
        dsn = clickhouse.dsn("bench")
        service = Service(Path(name) / "service", ANALYTICS_CLICKHOUSE_DSN=dsn, ANALYTICS_CORS_ORIGINS=demo.origin)
        try:
            service.start()
            address = f"http://127.0.0.1:{service.port}{EVENTS}"
            packed = len(gzip.compress(SCRIPT.read_bytes(), 9))
            rows = [("the script", f"{SCRIPT.stat().st_size:,} B, gzipped {packed:,} B")]
            rows += [*calls(browser, demo, address, args.rounds), *session(browser, demo, service, address)]
            print(markdown(["what", "measured"], rows))
        finally:
            service.end()
            clickhouse.stop()
            demo.close()


def calls(browser: Browser, demo: Demo, address: str, rounds: int) -> list[tuple[str, str]]:
    """The time of a call: while the service answers, and while it is away and the queue is long."""
    rows = []
    away = f"http://127.0.0.1:{free_port()}{EVENTS}"
    for what, url, waiting in (("the service answers", address, 0), ("it is away, 2000 events wait", away, 2000)):
        page = open_desk(browser, demo, url=url, queueBytes=4_000_000)
        page.evaluate(f"for (let call = 0; call < {waiting}; call++) tracker.track('before', {_ORDER})")
        track, least = [], []
        for _ in range(rounds):
            track.append(time_of(page, _TRACK))
            least.append(time_of(page, _LEAST))
            if not waiting:
                wait_until(lambda page=page: page.evaluate("tracker.status().queued") == 0)  # type: ignore[misc]
        median = statistics.median(track)
        ratio = median / statistics.median(least)
        rows.append((f"`track`, {what}", f"{median:.0f} µs, {ratio:.1f} times the least"))
        page.context.close()
    return rows


def time_of(page: Page, script: str) -> float:
    """µs of one of the script's calls."""
    timed = f"const start = performance.now(); {script} return performance.now() - start;"
    milliseconds: float = page.evaluate(f"() => {{ {timed} }}")
    return milliseconds * 1000 / CALLS


def session(browser: Browser, demo: Demo, service: Service, address: str) -> list[tuple[str, str]]:
    """What a walk over the desk sends, and how much of it is events."""
    preflights = options(service)
    page = open_desk(browser, demo, url=address, errors=True, vitals=True)
    requests: list[Request] = []
    page.on("requestfinished", lambda request: requests.append(request) if EVENTS in request.url else None)
    for step in range(10):
        page.get_by_role("link", name="Watchlist").click()
        page.get_by_role("button", name=("ACME", "HOOLI")[step % 2]).click()
        page.get_by_role("button", name="Place order").click()
        page.wait_for_timeout(700)
        page.get_by_role("link", name="Orders").click()
        page.get_by_role("button", name="Cancel").first.click()
        page.wait_for_timeout(700)
    wait_until(lambda: page.evaluate("tracker.status().queued") == 0)
    events = page.evaluate("tracker.status().sequence")
    sizes = [request.sizes() for request in requests]
    bodies = sum(size["requestBodySize"] for size in sizes)
    heads = sum(size["requestHeadersSize"] for size in sizes)
    asked = options(service) - preflights
    page.context.close()
    return [
        (f"a session of {events} events", f"{len(requests)} requests and {asked:.0f} preflights"),
        ("its bytes", f"{bodies:,} of events, {heads:,} of heads: {(bodies + heads) / events:,.0f} an event"),
    ]


def options(service: Service) -> float:
    return scrape(service).get("analytics_http_requests_total", method="OPTIONS", default=0)


def open_desk(browser: Browser, demo: Demo, **options: Any) -> Page:
    demo.settings["tracker"] = {"token": WRITE, **options}
    page = browser.new_context().new_page()
    page.goto(demo.origin)
    return page


if __name__ == "__main__":
    main()
