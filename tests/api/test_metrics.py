"""``/metrics``: what is counted is what happened, and several processes add up."""

import json
from collections.abc import Callable
from itertools import chain
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from service.telemetry.exposition import OPENMETRICS, render
from service.telemetry.metrics import REQUEST_SECONDS, Metrics
from service.telemetry.recent import Recent, quantile
from tests.support import wait_until
from tests.support.clickhouse import query
from tests.support.metrics import Page, scrape
from tests.support.proxy import Proxy
from tests.support.service import BATCH, EVENTS, READ, WRITE, Service, compressed
from tests.support.wire import connect, exchange, head, statuses

pytestmark = pytest.mark.quick

TOKEN = "metrics-token-of-tests"


# -- numbers to a page ---------------------------------------------------------------------------


def page_of(workers: dict[int, Metrics], **options: bool) -> Page:
    snapshots = {number: json.loads(orjson.dumps(metrics.snapshot())) for number, metrics in workers.items()}
    return Page(render(Metrics().all, snapshots, **options)[0].decode())


@given(st.lists(st.lists(st.floats(0, 20), max_size=20), min_size=1, max_size=4))
def test_requests_of_several_workers_are_told_apart_and_add_up_bucket_by_bucket(workers: list[list[float]]) -> None:
    counted = [Metrics() for _ in workers]
    for metrics, values in zip(counted, workers, strict=True):
        for value in values:
            metrics.requests("POST", "/x").observe(200 if value < 10 else 503, value)
    page = page_of(dict(enumerate(counted)), name_workers=len(workers) > 1)
    name = "analytics_http_request_duration_seconds"
    for labels, values in [({}, list(chain(*workers))), *(({"worker": str(n)}, own) for n, own in enumerate(workers))]:
        if len(workers) == 1 and labels:
            continue
        for bound in REQUEST_SECONDS:
            found = page.get(f"{name}_bucket", default=0, method="POST", route="/x", le=str(bound), **labels)
            assert found == sum(value <= bound for value in values)
        assert page.get(f"{name}_sum", default=0, **labels) == pytest.approx(sum(values))
        assert page.get(f"{name}_count", default=0, **labels) == len(values)
        refused = page.get("analytics_http_requests_total", default=0, status="503", **labels)
        assert refused == sum(value >= 10 for value in values)


def test_what_is_not_known_is_not_told() -> None:
    metrics = Metrics()
    metrics.oldest_pending.read = lambda: 3.5
    metrics.disk_free.read = lambda: None
    page = page_of({0: metrics})
    assert page.get("analytics_oldest_pending_event_age_seconds") == 3.5
    assert page.get("analytics_disk_free_bytes", default=-1) == -1


def test_recent_values_are_forgotten_in_time_and_number() -> None:
    now = [0.0]
    recent = Recent(10, 3, clock=lambda: now[0])
    for value in (1.0, 2.0, 3.0, 4.0):
        recent.add(value)
        now[0] += 2
    assert recent.values() == [2, 3, 4]
    now[0] = 15
    assert recent.values() == [4]
    assert quantile(recent.values(), 0.99) == quantile([4.0], 0) == 4
    assert [quantile([3.0, 1.0, 2.0, 4.0], share) for share in (0, 0.5, 0.75, 0.99, 1)] == [1, 2, 3, 4, 4]
    assert quantile([], 0.5) is None


# -- the running service -------------------------------------------------------------------------


def test_the_page_is_valid_in_both_formats_whatever_the_scraper_says_it_takes(service: Service) -> None:
    service.post({"event_name": "e"})
    known = {one.name for one in Metrics().all}
    for accept in ("", "*/*", "text/plain;version=0.0.4", "text/plain;version=abc", "text/plain;version=2.\u00e9"):
        answer = service.send("GET", "/metrics", Accept=accept)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        families = list(parse_text(answer.body.decode()))
        names = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
        assert names == known
    for accept in (OPENMETRICS, f"{OPENMETRICS};version=1.0.0,*/*;q=0.1", f"{OPENMETRICS};version=\u00e9"):
        answer = service.send("GET", "/metrics", Accept=accept)
        assert answer.headers["Content-Type"].startswith(f"{OPENMETRICS}; version=1.0.0")
        assert len(list(parse_openmetrics(answer.body.decode()))) == len(known)


def test_metrics_agree_with_what_was_sent_and_stored(make_service: Callable[..., Service], server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=0.05).start()
    again = {"event_name": "again", "event_id": str(uuid4())}
    for _ in range(3):
        assert service.post(again).status == 200
        service.wait_for_total(1)
    query(server_dsn, "ALTER TABLE events ADD CONSTRAINT good CHECK event_name != 'poison'")
    assert service.post_batch([{"event_name": name} for name in ("poison", "b", "c", "d", "poison")]).status == 200
    assert service.post_batch([{"event_name": "x"}] * 100).status == 200
    service.wait_for_total(104)
    page = wait_until(lambda: (one := scrape(service)).get("analytics_pending_events") == 0 and one)
    assert page.balance() == {
        "accepted": 108, "recovered": 0, "flushed": 104, "duplicate": 2, "quarantined": 2, "lost": 0, "pending": 0,
    }  # fmt: skip
    wait_until(lambda: scrape(service).get("analytics_quarantine_events") == 2)
    assert page.get("analytics_clickhouse_errors_total", **{"class": "rejected", "code": "469"}) > 0
    assert page.get("analytics_clickhouse_up") == page.get("analytics_spool_up") == page.get("analytics_ready") == 1
    assert page.get("analytics_spool_bytes") == page.get("analytics_oldest_pending_event_age_seconds") == 0
    for name in ("flush", "group_commit"):
        assert page.get(f"analytics_{name}_events_sum") == 108
        assert page.get(f"analytics_{name}_events_count") == page.get(f"analytics_{name}_duration_seconds_count")
    assert page.get("analytics_acknowledged_to_visible_seconds_sum") >= page.get("analytics_flush_duration_seconds_sum")
    assert page.get("analytics_fsync_duration_seconds_sum") < page.get("analytics_group_commit_duration_seconds_sum")
    assert 0 < page.get("analytics_disk_free_bytes") < page.get("analytics_disk_size_bytes")
    assert 10e6 < page.get("process_resident_memory_bytes") < 1e9


def test_each_answer_is_counted_once_by_route_and_status_and_each_refusal_by_its_reason(
    make_service: Callable[..., Service], server_dsn: str
) -> None:
    service = make_service(
        server_dsn, ANALYTICS_MAX_BODY_BYTES=5000, ANALYTICS_BODY_TIMEOUT=0.2, ANALYTICS_MAX_CONNECTIONS=2
    ).start()
    event = {"event_name": "e"}
    for _ in range(3):
        assert service.post(event).status == 200  # past aiohttp
    assert service.send("POST", EVENTS, compressed(event), WRITE, Content_Encoding="gzip").status == 200
    assert service.post({"event_name": ""}).status == 422
    assert service.post(event, token="wrong").status == 401
    assert service.post(event, token=READ).status == 403
    assert service.post(b" " * 5001).status == 413
    assert service.send("POST", EVENTS, b"x", WRITE, Content_Encoding="gzip").status == 400
    assert service.send("POST", EVENTS, b"x", WRITE, Content_Encoding="br").status == 415
    lenient = service.post_batch([event, {}, {"event_name": ""}, event], Prefer="handling=lenient")
    assert lenient.json["events_failed"] == 2
    assert service.send("GET", "/nowhere/1").status == service.send("GET", "/nowhere/2").status == 404
    assert service.send("PURGE", EVENTS).status == 405
    assert statuses(exchange(service, [head("Content-Length: 9"), b"{"])) == [408]
    assert statuses(exchange(service, [b"GET / HTTP/1.1\r\nno header\r\n\r\n"])) == [400]
    with connect(service), connect(service):
        wait_until(lambda: statuses(exchange(service, [b"GET"])) == [503])
    wait_until(lambda: service.send("GET", "/livez").status == 200)
    page = scrape(service)

    answered = {
        (labels["method"], labels["route"], int(labels["status"])): count
        for labels, count in page.series("analytics_http_requests_total")
    }
    by_status = {200: 4, 400: 1, 401: 1, 403: 1, 408: 1, 413: 1, 415: 1, 422: 1}
    assert answered == {("POST", EVENTS, status): count for status, count in by_status.items()} | {
        ("POST", BATCH, 200): 1, ("GET", "unknown", 404): 2, ("unknown", "unknown", 405): 1, ("GET", "/livez", 200): 1,
    }  # fmt: skip
    assert page.get("analytics_http_request_duration_seconds_count") == sum(answered.values())
    refused = {one["reason"]: count for one, count in page.series("analytics_requests_refused_total") if count}
    assert refused == {
        "bad_request": 1, "unauthorized": 1, "forbidden": 1, "body_timeout": 1, "body_too_large": 1,
        "unsupported_encoding": 1, "invalid": 1,
    }  # fmt: skip
    assert page.get("analytics_events_refused_total", reason="invalid") == 2
    assert page.get("analytics_events_accepted_total") == 6
    assert page.get("analytics_connections_closed_total", reason="not_http") == 1
    assert page.get("analytics_connections_closed_total", reason="too_many") >= 1
    assert page.get("analytics_connections") == 1
    assert page.get("analytics_inflight_bytes") == 0


def test_without_clickhouse_the_page_says_so_and_after_a_restart_where_its_events_are(
    make_service: Callable[..., Service], server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_METRICS_TOKEN=TOKEN, ANALYTICS_SHUTDOWN_TIMEOUT=0.2).start()
    for token in (None, READ, "wrong"):
        assert service.send("GET", "/metrics", token=token).status == 401
    proxy.refuse()
    assert service.post_batch([{"event_name": "e"}] * 7).status == 200
    page = wait_until(lambda: (one := scrape(service, TOKEN)).get("analytics_clickhouse_up") == 0 and one)
    assert page.get("analytics_clickhouse_errors_total", **{"class": "retryable", "code": "network"}) > 0
    assert page.get("analytics_spool_bytes") > 0
    assert service.stop() == 0
    service.start()
    page = scrape(service, TOKEN)
    assert page.get("analytics_oldest_pending_event_age_seconds") > 0
    assert page.balance() == dict.fromkeys(page.balance(), 0) | {"recovered": 7, "pending": 7}
    [segment] = (service.data / "spool").glob("*.sealed")
    segment.unlink()
    proxy.open()
    page = wait_until(lambda: (one := scrape(service, TOKEN)).get("analytics_pending_events") == 0 and one)
    assert page.balance() == dict.fromkeys(page.balance(), 0) | {"recovered": 7, "lost": 7}
    assert page.get("analytics_clickhouse_up") == 1
