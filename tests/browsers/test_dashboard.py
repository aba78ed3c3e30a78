"""``/dashboard`` in a real browser: it shows what the table and the service have, and says what it can't find out."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from service.api.web.assets import STATIC
from tests.cli.test_start import NOWHERE
from tests.support import wait_until
from tests.support.browser import open_browser
from tests.support.checks import wait_for_health
from tests.support.clickhouse import free_port, query
from tests.support.dashboard import (
    COLOURS_DRAWN,
    DESKTOP,
    DIM_COLOURS,
    LOW_CONTRAST,
    NAMES,
    PHONE,
    open_page,
    post_a_day,
    sign_in,
)
from tests.support.proxy import Proxy
from tests.support.service import ACTIVITY, PIPELINE, READ, WRITE, Service

ROOT = Path(__file__).parents[2]
OF_LATE = "FROM events WHERE timestamp >= now() - INTERVAL 2 HOUR GROUP BY 1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on another path, without ClickHouse."""
    service = Service(
        tmp_path_factory.mktemp("dashboard"), ANALYTICS_CLICKHOUSE_DSN=NOWHERE, ANALYTICS_PATH_PREFIX="/in"
    ).start()
    yield service
    service.end()


def shows(page: Page, tile: str, text: str | re.Pattern[str]) -> None:
    expect(page.locator(f"#tile-{tile} .value")).to_have_text(text, timeout=20_000)


def ask_now(page: Page) -> None:
    """Let the page ask at once, as it does when the browser is online again."""
    page.evaluate("dispatchEvent(new Event('online'))")


def test_it_follows_the_service_from_the_first_event_through_outages(  # noqa: PLR0915 - one page, kept open
    browser: Browser, make_service: Callable[..., Service], server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_PORT=free_port()).start()
    complaints: list[str] = []
    with open_page(browser, service, complaints) as page:
        fault = page.locator("#token-fault")
        for token, words in {
            "one of öther signs": "only ASCII letters, digits and signs",
            "wrong": "The token is not known",
            WRITE: "The token lacks the scope read",
        }.items():
            page.get_by_label("Access token").fill(token)
            page.keyboard.press("Enter")
            expect(fault).to_contain_text(words)
            assert page.evaluate("sessionStorage.length") == 0
        complaints[:] = [one for one in complaints if "401" not in one and "403" not in one]  # the browser tells them

        sign_in(page)
        expect(fault).to_be_empty()
        expect(page.locator("#empty")).to_contain_text(f"http://127.0.0.1:{service.port}/api/v1/analytics")
        shows(page, "events", "0")
        shows(page, "flush", "never")

        post_a_day(service, datetime.now(UTC), an_hour=100, a_day=100)
        shows(page, "events", "100")
        shows(page, "latency", re.compile(r"^[\d.]+ m?s$"))
        expect(page.locator("#empty")).to_be_hidden()
        expect(page.locator("#health-pill")).to_have_text("ok")
        for table, column in (("names", "event_name"), ("categories", "replaceAll(category, '_', ' ')")):
            rows = query(server_dsn, f"SELECT {column}, toString(count()) {OF_LATE} ORDER BY count() DESC, 1 LIMIT 10")
            shown = page.locator(f"#{table} tbody tr").evaluate_all(
                "rows => rows.map((row) => [row.querySelector('.name').textContent, row.cells[2].textContent])"
            )
            assert sorted(shown) == sorted(rows)
        refused = page.locator("#refusals li").filter(has_text="body.events.*.category: Input should be")
        expect(refused).to_contain_text("POST /api/v1/analytics/batch · token env-")
        expect(refused).to_contain_text("4 times")
        page.reload()  # the token is still there
        shows(page, "events", "100")
        assert complaints == []

        proxy.refuse()
        assert service.post({"event_name": "later"}).status == 200
        wait_for_health(service, "degraded")
        wait_until(lambda: service.get(ACTIVITY).status == 503)  # what was found last is kept for a while
        ask_now(page)
        expect(page.locator("#health-pill")).to_have_text("degraded", timeout=20_000)
        expect(page.locator("#health")).to_contain_text("ClickHouse can't be reached")
        expect(page.locator("#notice")).to_contain_text("ClickHouse can't answer now")
        shows(page, "pending", "1")
        shows(page, "events", "100")
        expect(page.locator("#notice")).to_contain_text("what is shown is older")
        page.get_by_label("24 hours").check(force=True)  # of which nothing is known
        expect(page.locator("#unavailable")).to_contain_text("Can't be shown")
        expect(page.locator("#chart")).to_be_hidden()
        shows(page, "events", "–")
        page.get_by_label("1 hour").check(force=True)
        proxy.open()
        service.wait_for_total(101)
        ask_now(page)
        shows(page, "events", "101")
        expect(page.locator("#chart")).to_be_visible()
        expect(page.locator("#unavailable")).to_be_hidden()
        expect(page.locator("#notice")).to_be_empty()

        service.kill()
        ask_now(page)
        expect(page.locator("#notice")).to_contain_text("The service does not answer", timeout=20_000)
        expect(page.locator("#updated")).to_contain_text("next try in")
        expect(page.locator("#health-pill")).to_have_text("unknown")
        assert "no answer" in page.title()
        shows(page, "events", "101")
        service.start()
        expect(page.locator("#notice")).to_be_empty(timeout=40_000)
        expect(page.locator("#health-pill")).to_have_text("ok")
        shows(page, "events", "101")

        service.environment["ANALYTICS_READ_TOKENS"] = "another"
        service.stop()
        service.start()
        ask_now(page)
        expect(fault).to_contain_text("The token is not known", timeout=40_000)
        assert page.evaluate("sessionStorage.length") == 0


def test_it_reads_well_on_a_desk_on_a_phone_in_the_light_and_in_the_dark(
    browser: Browser, make_service: Callable[..., Service], server_dsn: str, tmp_path: Path
) -> None:
    service = make_service(server_dsn).start()
    post_a_day(service, datetime.now(UTC), an_hour=200, a_day=500)
    service.post({"event_name": "n" * 100, "category": "error"})
    wait_until(lambda: service.get(PIPELINE).json["events_pending"] == 0)
    categories = sorted({category for category, _ in NAMES.values()})
    for number, (viewport, scheme) in enumerate([(DESKTOP, "light"), (PHONE, "light"), (PHONE, "dark")]):
        complaints: list[str] = []
        with open_page(browser, service, complaints, viewport=viewport, color_scheme=scheme) as page:
            assert page.evaluate(LOW_CONTRAST) == []
            sign_in(page)
            shows(page, "events", "201")
            wait_until(lambda page=page: page.evaluate(COLOURS_DRAWN) > 0)  # type: ignore[misc]  # all is in its place
            page.evaluate(
                # A notice that the service did not answer in time, on a machine under load, may move what is below it.
                "window.moved = 0; const notice = document.getElementById('notice');"
                " new PerformanceObserver((list) => list.getEntries().forEach((one) => {"
                " window.noticed ||= notice.textContent;"
                " window.moved += window.noticed ? 0 : one.value; })).observe({type: 'layout-shift'})"
            )
            if viewport is DESKTOP:
                page.get_by_text("24 hours").click()
                shows(page, "events", "501")
                expect(page.locator("#chart-title")).to_have_text("Events per 15 minutes")
            page.screenshot(path=tmp_path / f"{number}.png", full_page=True)
            assert page.evaluate(LOW_CONTRAST) == []
            assert page.evaluate(DIM_COLOURS, categories) == []
            assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
            assert page.evaluate(COLOURS_DRAWN) >= len(categories)
            assert page.evaluate("window.moved") < 0.02
            assert complaints == []


def test_it_works_by_keyboard_alone(browser: Browser, make_service: Callable[..., Service], server_dsn: str) -> None:
    service = make_service(server_dsn).start()
    post_a_day(service, datetime.now(UTC), an_hour=100, a_day=300)
    wait_until(lambda: service.get(PIPELINE).json["events_pending"] == 0)
    with open_page(browser, service) as page:
        page.keyboard.type(READ)  # the field has the focus
        page.keyboard.press("Enter")
        shows(page, "events", "100")

        def tab(*, expecting: str) -> None:
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.matches(':focus-visible')")
            assert page.evaluate("(selector) => document.activeElement.matches(selector)", expecting), expecting

        tab(expecting="[name=span][value='1h']")
        page.keyboard.press("ArrowRight")
        shows(page, "events", "300")
        tab(expecting="#sign-out")
        tab(expecting="#chart")
        chart, readout = page.locator("#chart"), page.locator("#readout")
        expect(readout).to_contain_text("300 events, most at")
        page.keyboard.press("End")
        expect(chart).to_have_attribute("aria-valuenow", "96")
        page.keyboard.press("ArrowLeft")
        expect(chart).to_have_attribute("aria-valuenow", "95")
        expect(readout).to_have_text(re.compile(r"\d\d:\d\d: \d+ events?( – .*)?$"))
        expect(chart).to_have_attribute("aria-valuetext", readout.inner_text())
        tab(expecting="summary")
        page.keyboard.press("Enter")
        cells = page.locator("#chart-table tbody tr td:nth-child(2)")
        expect(cells).to_have_count(96)
        assert sum(int(one) for one in cells.all_inner_texts()) == 300
        tab(expecting=".scroll")
        for _ in range(3):
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Access token")).to_be_focused()
        assert page.evaluate("sessionStorage.length") == 0


def test_it_finds_the_routes_of_another_path_and_rests_while_nobody_looks(browser: Browser, nowhere: Service) -> None:
    complaints: list[str] = []
    with open_page(browser, nowhere, complaints) as page:
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url))
        page.clock.install()
        sign_in(page)
        expect(page.locator("#health-pill")).to_have_text("degraded")
        expect(page.locator("#notice")).to_contain_text("ClickHouse can't answer now")
        expect(page.locator("#notice")).to_contain_text("events can't be shown until it does")
        for place in ("#unavailable", "#categories", "#names", "#tile-events"):
            expect(page.locator(place)).to_contain_text("Can't be shown: ClickHouse can't answer now.")
        for place in ("#chart", "#empty", "#chart-table"):
            expect(page.locator(place)).to_be_hidden()
        shows(page, "events", "–")
        assert {url.partition(f":{nowhere.port}")[2] for url in asked} == {
            "/in/pipeline", "/in/health", "/in/refusals", "/in/activity?span=1h",
        }  # fmt: skip
        hide = "(hidden) => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        hide += " document.dispatchEvent(new Event('visibilitychange')); }"
        page.evaluate(hide, True)
        asked.clear()
        page.clock.run_for(600_000)
        assert asked == []
        page.evaluate(hide, False)
        expect(page.locator("#notice")).to_contain_text("ClickHouse can't answer now")
        wait_until(lambda: page.evaluate("1") and len(asked) == 4)
        assert [one for one in complaints if "503" not in one] == []


def test_values_are_written_as_people_read_them(browser: Browser, nowhere: Service) -> None:
    with open_page(browser, nowhere) as page:
        assert page.evaluate(
            """async () => {
                const { age, bytes, count, counted, duration, percent, time } = await import("/dashboard/format.js");
                return [
                    ...[0, 1234, 12_345_678].map(count), counted(1, "event"), counted(2, "batch", "batches"),
                    ...[0, 0.0001, 0.054, 0.5, 1].map(percent), ...[0, 999, 12_345, 10_737_418_240].map(bytes),
                    ...[0.0123, 1.26, 61.5].map(duration), ...[-1, 59.9, 3600, 200_000].map(age),
                    time(new Date().setHours(9, 5, 7)), time(new Date(2020, 0, 2, 3, 4), false),
                ];
            }"""
        ) == [
            *("0", "1,234", "12.3M", "1 event", "2 batches"),
            *("0 %", "< 0.1 %", "5.4 %", "50 %", "100 %"),
            *("0 bytes", "999 bytes", "12.3 kB", "10.7 GB"),
            *("12 ms", "1.3 s", "1 min 1 s"),
            *("0 s", "59 s", "1 h 0 min", "2 d 7 h"),
            *("09:05:07", "Jan 2 03:04"),
        ]


def test_the_page_may_load_nothing_from_elsewhere_and_is_asked_for_anew(nowhere: Service) -> None:
    page = nowhere.get("/dashboard", token=None)
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-cache"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    again = nowhere.send("GET", "/dashboard", If_None_Match=page.headers["Etag"])
    assert (again.status, again.body) == (304, b"")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    for path in [one for one in loaded if one.startswith("/dashboard/")]:
        assert nowhere.get(path, token=None).status == 200
    assert all(one.startswith(("/dashboard/", "/docs", "data:")) for one in loaded)


def test_the_chart_library_is_that_of_its_package() -> None:
    packages = sorted(ROOT.glob(".tools/uplot-*/package.json"))
    if not packages:
        pytest.fail("no uPlot to compare with: run `make test`, which fetches it")
    package = packages[-1].parent
    vendored = {name: f"dist/{name}" for name in ("uPlot.iife.min.js", "uPlot.min.css")} | {"uPlot.LICENSE": "LICENSE"}
    assert {path.name for path in (STATIC / "vendor").iterdir()} == set(vendored)
    for name, original in vendored.items():
        assert (STATIC / "vendor" / name).read_bytes() == (package / original).read_bytes(), name
