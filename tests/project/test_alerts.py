"""The alert rules: a real Prometheus watches a running service, and each condition is made for real.

What an alert has to last for is left out, so that it fires at once; ranges and limits are those of the file.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.telemetry.metrics import Metrics
from tests.machine import find
from tests.support import wait_until
from tests.support.clickhouse import free_port, query
from tests.support.disk import Disk
from tests.support.metrics import scrape
from tests.support.prometheus import Prometheus
from tests.support.proxy import Proxy
from tests.support.service import Service
from tests.support.workers import kill_worker, pids

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "docs" / "monitoring" / "dashboard.json"
MINUTES = 60_000
EVENT = {"event_name": "e", "session_id": "x" * 500}


class Watch:
    """Waits for alerts, and remembers which ones have fired."""

    def __init__(self, prometheus: Prometheus) -> None:
        self.prometheus = prometheus
        self.seen: set[str] = set()

    def until(self, *alerts: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until these fire, doing something again and again."""

        def fire() -> bool:
            meanwhile()
            return set(alerts) <= self._firing()

        wait_until(fire, 20, lambda: f"{alerts}, but {self._firing()} fire")

    def until_not(self, *alerts: str) -> None:
        """Wait until none of these fires."""
        wait_until(lambda: not set(alerts) & self._firing(), 20, lambda: f"not {alerts}, but {self._firing()} fire")

    def _firing(self) -> set[str]:
        firing = {name.removeprefix("Analytics") for name in self.prometheus.firing()}
        self.seen |= firing
        return firing


@pytest.fixture
def service(make_service: Callable[..., Service], server_dsn: str, proxy: Proxy) -> Service:
    """Not started yet."""
    settings = {"ANALYTICS_PORT": free_port(), "ANALYTICS_SPOOL_MAX_BYTES": 400_000}
    return make_service(proxy.dsn(server_dsn), **settings)


@pytest.fixture
def disk(make_disk: Callable[..., Disk], service: Service) -> Disk:
    return make_disk(service.data, "tmpfs", 24)


@pytest.fixture
def watch(service: Service, disk: Disk, tmp_path: Path) -> Iterator[Watch]:
    prometheus = Prometheus(tmp_path / "prometheus", service.start().port).start()
    yield Watch(prometheus)
    prometheus.stop()


def promtool(*arguments: str) -> None:
    """Run promtool; it must find nothing wrong."""
    done = subprocess.run([find("promtool"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def dashboard_queries() -> list[str]:
    """The queries of the dashboard, with its variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [one.replace("$__rate_interval", "5m").replace("$instance", ".*") for one in queries]


def test_the_configuration_is_valid_where_the_container_sees_it(tmp_path: Path) -> None:
    for source, target in re.findall(
        r"- (\./docs/\S+):(/etc/(?:prometheus/\S+|alerts\.yml)):ro", (ROOT / "compose.yaml").read_text()
    ):
        place = tmp_path / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, place)
    promtool("check", "config", str(tmp_path / "etc/prometheus/prometheus.yml"))


def test_the_configuration_is_valid_as_it_lies_there() -> None:
    promtool("check", "config", str(ROOT / "docs" / "monitoring" / "prometheus.yml"))


def test_the_dashboard_is_the_one_that_its_source_makes(tmp_path: Path) -> None:
    made = tmp_path / "made.json"
    subprocess.run([sys.executable, DASHBOARD.with_suffix(".py"), made], check=True)
    assert DASHBOARD.read_text() == made.read_text(), "run `make dashboard`"


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    known = {one.name for one in Metrics().all}
    for one in dashboard_queries():
        for name in re.findall(r"\b(?:analytics|process)_\w+", one):
            assert {name, re.sub(r"_(bucket|sum|count)$", "", name)} & known, one


@pytest.mark.timeout(180)
def test_each_alert_fires_when_it_should_and_none_before(
    service: Service, disk: Disk, watch: Watch, server_dsn: str, proxy: Proxy
) -> None:
    rules = {name.removeprefix("Analytics") for name in watch.prometheus.rules()}
    wait_until(lambda: watch.prometheus.query("up") == [1], 20)
    assert service.post(EVENT).status == 200
    wait_until(lambda: watch.prometheus.query("increase(analytics_events_flushed_total[5m]) > 0"), 20)
    assert not watch.prometheus.firing()

    for _ in range(20):
        assert service.post({"event_name": ""}).status == 422
    watch.until("RequestsInvalid")

    _poison(service, server_dsn)
    watch.until("QuarantineNotEmpty")

    query(server_dsn, "RENAME TABLE events TO events_renamed")
    assert service.post(EVENT).status == 200
    watch.until("ClickHouseMisconfigured", "ClickHouseAway")
    query(server_dsn, "RENAME TABLE events_renamed TO events")
    watch.until_not("ClickHouseAway")

    proxy.refuse()
    spool = ("SpoolFilling", "SpoolFullSoon", "EventsShed", "ServerErrors", "NotReady")
    watch.until("ClickHouseAway", *spool, meanwhile=lambda: [service.post(EVENT) for _ in range(50)])

    service.kill()
    watch.until("Down")
    first, *_, last = sorted((service.data / "spool").glob("*.sealed"))
    _make_older(first)
    service.start()
    watch.until("EventsGrowOld")
    last.unlink()
    proxy.open()
    watch.until("EventsLost")
    watch.until_not("ClickHouseAway", "SpoolFilling", "EventsGrowOld", "NotReady", "Down")

    assert service.process
    service.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: watch.prometheus.query("time() - max_over_time(timestamp(up == 1)[20s:200ms]) > 2"))
    service.process.send_signal(signal.SIGCONT)
    watch.until("EventLoopLag")

    disk.fill(leave=300_000)
    watch.until("DiskNearlyFull", "DiskTooSmallForSpool")
    disk.fill()
    watch.until("DiskRefuses", "NotReady")
    disk.clear()
    watch.until_not("DiskNearlyFull", "DiskTooSmallForSpool", "DiskRefuses", "NotReady")

    while "Restarts" not in watch.seen:
        service.kill()
        watch.until("Down")
        service.start()
        watch.until_not("Down")
    assert watch.seen == rules - {"WorkerMissing"}

    for one in dashboard_queries():
        assert watch.prometheus.query(one), one


@pytest.mark.timeout(120)
def test_a_worker_that_hangs_is_missed_and_one_that_dies_takes_no_counts_back(
    make_service: Callable[..., Service], server_dsn: str, tmp_path: Path
) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2).start()
    prometheus = Prometheus(tmp_path / "prometheus", service.port, "1s").start()
    try:
        watch = Watch(prometheus)
        wait_until(lambda: len(prometheus.query("analytics_workers")) == 2)
        for _ in range(40):
            assert service.post(EVENT).status == 200
        service.wait_for_total(40)
        wait_until(lambda: scrape(service).balance()["flushed"] == 40)
        page = scrape(service)
        assert page.balance()["accepted"] == 40
        workers = {labels["worker"]: count for labels, count in page.series("analytics_events_accepted_total")}
        assert set(workers) == {"0", "1"}
        assert all(workers.values())

        first, second = pids(service)
        os.kill(first, signal.SIGSTOP)
        watch.until("WorkerMissing")
        os.kill(first, signal.SIGCONT)
        watch.until_not("WorkerMissing")

        kill_worker(service, second)
        wait_until(lambda: prometheus.query("sum(changes(process_start_time_seconds[5m]))") == [1])
        [seen] = prometheus.query("sum(increase(analytics_events_accepted_total[5m]))")
        assert seen < 60, "a count that begins anew is not taken for events"
    finally:
        prometheus.stop()


def _poison(service: Service, dsn: str) -> None:
    query(dsn, "ALTER TABLE events ADD CONSTRAINT good CHECK event_name != 'poison'")
    assert service.post({"event_name": "poison"}).status == 200


def _make_older(segment: Path) -> None:
    """Make a segment ten minutes older, by its name."""
    token, rest = segment.name.split("-", 1)
    segment.rename(segment.with_name(f"{int(token, 16) - 10 * MINUTES:012x}-{rest}"))
