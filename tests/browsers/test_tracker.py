"""The tracker in a real browser, on a trading desk of another origin: each event stored once, none missing."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, BrowserContext, Error

from tests.demo import Demo
from tests.project.test_docs import DOCS, blocks
from tests.support import wait_until
from tests.support.browser import open_browser
from tests.support.clickhouse import free_port, query
from tests.support.metrics import scrape
from tests.support.service import EVENTS, WRITE, Service
from tests.support.tab import Scripted, Tab, stored, whole


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """The trading desk. What it is told of the service is set below."""
    demo = Demo({})
    yield demo
    demo.close()


@pytest.fixture(scope="module")
def dsn(clickhouse: Callable[[str], str]) -> Iterator[str]:
    database = f"test_{uuid4().hex[:12]}"
    yield clickhouse(database)
    query(clickhouse("default"), f"DROP DATABASE IF EXISTS {database}")


@pytest.fixture(scope="module")
def service(dsn: str, demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests, at the same port whenever it starts: each test knows its own sessions."""
    service = Service(
        tmp_path_factory.mktemp("tracker"),
        ANALYTICS_CLICKHOUSE_DSN=dsn,
        ANALYTICS_PORT=free_port(),
        ANALYTICS_CORS_ORIGINS=demo.origin,
    ).start()
    yield service
    service.end()


@pytest.fixture
def settings(service: Service, demo: Demo) -> dict[str, Any]:
    """The options of the tracker on the trading desk."""
    options: dict[str, Any] = {
        "url": f"http://127.0.0.1:{service.port}{EVENTS}",
        "token": WRITE,
        "clientId": "desk",
        "flushInterval": 200,
        "errors": True,
    }
    demo.settings["tracker"] = options
    return options


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


@pytest.mark.usefixtures("settings")
def test_a_day_at_the_desk_loses_nothing_and_stores_nothing_twice(
    context: BrowserContext, demo: Demo, service: Service, dsn: str
) -> None:
    tab = Tab(context.new_page(), demo).open()
    page = tab.page
    session = tab.status()["id"]

    page.get_by_role("button", name="GLOBEX").click()
    tab.order(1)
    page.get_by_role("link", name="Orders").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("link", name="Account").click()
    page.get_by_role("button", name="Throw an error").click()
    page.get_by_role("button", name="Throw an error").click()
    page.get_by_role("button", name="Reject a promise").click()
    page.go_back()
    page.get_by_role("link", name="Watchlist").click()
    tab.drained()

    # The service dies while orders are sent. The page is loaded anew meanwhile, and another one.
    for quantity in range(2, 8):
        tab.order(quantity)
        if quantity == 4:
            service.kill()
    assert tab.status()["queued"] >= 3
    page.reload()
    tab.order(8)
    tab.open("/about.html")
    page.get_by_role("link", name="Back").click()
    tab.order(9)
    assert tab.status()["id"] == session
    service.start()
    tab.drained()

    # The network is gone, and the page with it. Then both are back.
    context.set_offline(True)
    tab.order(10)
    with pytest.raises(Error, match="ERR_INTERNET_DISCONNECTED"):
        page.reload()
    context.set_offline(False)
    tab.open()
    assert tab.status()["id"] == session
    tab.drained()

    # The page is closed right after a click.
    for quantity in (11, 12):
        tab.order(quantity)
    tracked = tab.status()["sequence"]
    page.close()

    rows = whole(service, dsn, session, tracked)
    assert [row.properties["quantity"] for row in rows if row.name == "order_placed"] == list(range(1, 13))
    assert {row.client for row in rows} == {"desk"}
    views = [row.url.removeprefix(demo.origin) for row in rows if row.name == "page_view"]
    assert views == ["/", "/orders", "/account", "/orders", "/", "/", "/about.html", "/", "/"]
    assert Counter(row.name for row in rows if row.name not in ("page_view", "order_placed")) == {
        "symbol_viewed": 1,
        "order_cancelled": 1,
        "error": 2,
    }
    # Nothing reached the page but what the page itself threw.
    assert sorted(tab.errors) == sorted(2 * ["the account has no balance"] + ["the account did not load"])


def test_tabs_have_their_own_sessions_and_send_what_a_closed_one_left(
    context: BrowserContext, demo: Demo, service: Service, dsn: str, settings: dict[str, Any]
) -> None:
    url = settings["url"]
    settings["url"] = f"http://127.0.0.1:{free_port()}{EVENTS}"  # nobody is there
    one = Tab(context.new_page(), demo).open()
    with context.expect_page() as popup:
        one.page.evaluate("open('/orders')")  # a copy of the tab's sessionStorage goes with it
    other = Tab(popup.value, demo)
    wait_until(lambda: other.page.evaluate("window.tracker?.status()"))
    for number in range(150):
        one.track("from_one", properties={"number": number})
        other.track("from_other")
    sessions = [tab.status() for tab in (one, other)]
    assert sessions[0]["id"] != sessions[1]["id"]
    assert sessions[0]["queued"] == 151
    assert sessions[1]["queued"] in range(151, 155), "and what the browser measured of the page meanwhile"
    one.page.close()
    context.route(
        f"{settings['url']}/**", lambda route: route.continue_(url=route.request.url.replace(settings["url"], url))
    )
    third, fourth = (Tab(context.new_page(), demo).open() for _ in range(2))
    for tab in (other, third, fourth):
        tab.page.evaluate("dispatchEvent(new Event('online'))")
        tab.drained()
    for status in sessions:
        whole(service, dsn, status["id"], status["queued"])
    # One of the two new tabs sent what the closed one had left, and nobody what the living one had.
    sent = [
        [event["session_id"] for request in tab.requests for event in json.loads(request.post_data or "{}")["events"]]
        for tab in (third, fourth)
        if tab.requests
    ]
    counts = [Counter(ids) for ids in sent]
    assert sorted(count[sessions[0]["id"]] for count in counts) == [0, 151]
    assert [count[sessions[1]["id"]] for count in counts] == [0, 0]
    assert one.errors + other.errors + third.errors + fourth.errors == []


def test_a_page_that_closes_sends_what_may_outlive_it_and_the_next_page_the_rest(
    context: BrowserContext, demo: Demo, service: Service, dsn: str, settings: dict[str, Any]
) -> None:
    settings |= {"flushInterval": 60_000, "batchSize": 100}
    tab = Tab(context.new_page(), demo).open()
    session = tab.status()["id"]
    for _ in range(70):
        tab.track("large", properties={"text": "x" * 1500})
    tab.page.close()
    kept = wait_until(lambda: len(stored(dsn, session)))
    assert 25 < kept < 45  # of 2 kB each, 64 kB
    settings["flushInterval"] = 200
    Tab(context.new_page(), demo).open().drained()
    whole(service, dsn, session, 71)


@pytest.mark.usefixtures("settings")
def test_a_page_that_comes_back_from_the_cache_goes_on_with_the_session(
    context: BrowserContext, demo: Demo, service: Service, dsn: str
) -> None:
    tab = Tab(context.new_page(), demo).open("/account")
    session = tab.status()["id"]
    tab.page.evaluate("window.mark = 'the same page'")
    tab.track("before")
    tab.page.get_by_role("link", name="A page of its own").click()
    tab.page.wait_for_url("**/about.html")
    tab.track("between")
    tab.page.go_back(wait_until="commit")
    wait_until(lambda: tab.status()["id"] == session)  # handed back by the other page, a moment after it has gone
    assert tab.page.evaluate("window.mark") == "the same page"
    tab.track("after")
    tracked = tab.drained()["sequence"]
    rows = whole(service, dsn, session, tracked)
    assert [row.name for row in rows] == ["page_view", "before", "page_view", "between", "page_view", "after"]


def test_what_a_crashed_page_left_is_sent_by_the_next(
    context: BrowserContext, demo: Demo, service: Service, dsn: str, settings: dict[str, Any]
) -> None:
    settings["flushInterval"] = 60_000
    tab = Tab(context.new_page(), demo).open()
    tab.track("last")
    session = tab.status()["id"]
    with tab.page.expect_event("crash"), pytest.raises(Error, match=r"ERR_ABORTED|crashed"):
        tab.page.goto("chrome://crash")
    settings["flushInterval"] = 200
    after = Tab(context.new_page(), demo).open()
    assert after.drained()["id"] != session
    whole(service, dsn, session, 2)


@pytest.mark.usefixtures("settings")
def test_where_fetch_can_not_outlive_a_page_a_beacon_does(
    context: BrowserContext, demo: Demo, service: Service, dsn: str
) -> None:
    context.add_init_script("delete Request.prototype.keepalive")
    tab = Tab(context.new_page(), demo).open()
    session = tab.drained()["id"]
    tab.track("last")
    tab.page.close()
    whole(service, dsn, session, 2)
    assert scrape(service).get("analytics_http_requests_total", route=f"{EVENTS}/beacon", status="200") >= 1


@pytest.mark.usefixtures("settings")
def test_a_page_where_everything_is_forbidden_is_tracked_and_not_disturbed(
    context: BrowserContext, demo: Demo, service: Service, dsn: str
) -> None:
    context.add_init_script("""
        for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });
        Object.defineProperty(window, "crypto", { value: undefined });
        Object.defineProperty(navigator, "locks", { value: undefined });
        delete AbortSignal.timeout;
        delete window.PerformanceObserver;
    """)
    tab = Tab(context.new_page(), demo).open()
    tab.track("odd", properties={"ok": True}, timestamp="yesterday")
    tab.page.evaluate("""() => {
        const circle = {}; circle.self = circle;
        tracker.track("circle", { properties: circle });
        tracker.track(); tracker.track(null, null); tracker.track(Symbol("x"), { category: 1n });
        tracker.init(); tracker.init({ url: 1, token: 2 });
    }""")
    status = tab.drained()
    rows = wait_until(lambda: len(rows := stored(dsn, status["id"])) >= 3 and rows)
    assert [row.name for row in rows][:3] == ["page_view", "odd", "circle"]
    assert tab.errors == []


def test_retry_after_is_obeyed_also_by_the_next_page(
    context: BrowserContext, demo: Demo, settings: dict[str, Any]
) -> None:
    scripted = Scripted([(503, {"Retry-After": "1"}), (429, {"Retry-After": "1"}), (503, {"Retry-After": "2"})])
    settings["url"] = scripted.url
    tab = Tab(context.new_page(), demo).open()
    for number in range(4):
        wait_until(lambda number=number: len(scripted.requests) > number)
        tab.track("more", priority="critical")
        if number == 2:
            tab.page.reload()
    times = [at for at, _, _ in scripted.requests]
    assert [later - earlier >= pause for earlier, later, pause in zip(times, times[1:], (1, 1, 2), strict=False)] == [
        True
    ] * 3
    _, headers, body = scripted.requests[0]
    assert headers["Authorization"] == f"Bearer {WRITE}"
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["Prefer"] == "handling=lenient"
    assert body["client_id"] == "desk"
    assert body["sent_at"].endswith("Z")
    tab.drained()
    scripted.close()


def test_web_vitals_of_a_page_that_was_looked_at(
    context: BrowserContext, demo: Demo, service: Service, dsn: str, settings: dict[str, Any]
) -> None:
    settings["vitals"] = True
    tab = Tab(context.new_page(), demo).open()
    tab.page.get_by_role("button", name="ACME").click()
    session = tab.drained()["id"]
    tab.page.close()
    rows = whole(service, dsn, session, 3)
    assert rows[-1].name == "web_vitals"
    vitals = rows[-1].properties
    assert vitals["fcp"] >= vitals["ttfb"] >= 0
    assert vitals["lcp"] >= vitals["fcp"]
    assert 0 <= vitals["cls"] < 0.5


def test_the_first_page_of_the_documentation_sends_its_two_events(
    context: BrowserContext, demo: Demo, service: Service, dsn: str
) -> None:
    [html] = blocks(DOCS / "tracker.md", "html")
    html = html.replace("127.0.0.1:8080", f"127.0.0.1:{service.port}").replace('"WRITE"', f'"{WRITE}"')
    demo.pages["/first"] = html
    tab = Tab(context.new_page(), demo).open("/first")
    session = tab.drained()["id"]
    rows = whole(service, dsn, session, 2)
    assert [row.name for row in rows] == ["page_view", "hello"]
    assert rows[1].properties == {"from": "my page"}
    assert tab.errors == []
