"""Back pressure: the important events last longest, and no token takes all."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import RateLimited
from service.pipeline.rate_limit import RateLimit
from tests.support import wait_until
from tests.support.clickhouse import ClickHouseServer
from tests.support.service import BATCH, HEALTH, Service
from tests.support.wire import exchange, head, statuses

PRIORITIES = ["low", "medium", "high", "critical"]
NOWHERE = "http://127.0.0.1:1/analytics"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    server = ClickHouseServer(tmp_path / "server")
    yield server
    server.stop()


def one(priority: str) -> dict[str, Any]:
    return {"event_name": "e", "priority": priority, "session_id": "x" * 500}


def fill_until_refused(service: Service, priority: str) -> int:
    """Post single events until one is refused; how many were taken."""
    for taken in range(3000):
        answer = service.post(one(priority))
        if answer.status != 200:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
            return taken
    raise AssertionError("never refused")


def test_what_a_full_spool_refuses_is_charged_to_nobody_on_either_way(make_service: Callable[..., Service]) -> None:
    service = make_service(NOWHERE, ANALYTICS_SPOOL_MAX_BYTES=65_536, ANALYTICS_RATE_LIMIT=0.000001).start()
    event = one("critical") | {"session_id": "x" * 5000}
    while service.post(event).status == 200:
        pass
    for _ in range(20):  # 840 events, where 100 are let in
        for more in ({}, {"Content_Encoding": "identity"}):
            assert service.post(event, **more).status == 503
            assert service.post({"events": [event] * 20}, BATCH, **more).status == 503
    for body in (b"{}", b" " * 5_000_000):  # nor is what is wrong
        for more in ({}, {"Content_Encoding": "identity"}):
            assert service.post(body, **more).status in (422, 413)


def test_priorities_are_refused_one_after_the_other_as_the_spool_fills(
    make_service: Callable[..., Service], server: ClickHouseServer
) -> None:
    service = make_service(server.dsn("analytics"), ANALYTICS_SPOOL_MAX_BYTES=400_000).start()
    kept = 0
    for index, priority in enumerate(PRIORITIES):
        kept += fill_until_refused(service, priority)
        assert service.post(one(PRIORITIES[0])).status == 503
        health = service.get(HEALTH)
        assert (health.status, health.json["status"]) == ((200, "degraded") if index == 0 else (503, "failing"))
        if index < 3:
            assert service.post(one(PRIORITIES[index + 1])).status == 200
            kept += 1
    assert "full" in service.get(HEALTH).json["spool"]["reason"]
    server.start()
    service.wait_for_total(kept)
    wait_until(lambda: service.get(HEALTH).json["status"] == "ok")
    assert service.post(one("low")).status == 200


def test_of_a_batch_the_important_events_are_kept_and_the_others_listed(
    make_service: Callable[..., Service], server: ClickHouseServer
) -> None:
    service = make_service(server.dsn("analytics"), ANALYTICS_SPOOL_MAX_BYTES=400_000).start()
    kept = fill_until_refused(service, "low") + fill_until_refused(service, "medium")
    answer = service.post_batch([one("critical"), one("low"), one("high"), one("medium")])
    ack = answer.json
    assert answer.status == 200
    assert int(answer.headers["Retry-After"]) >= 1
    assert (ack["success"], ack["events_received"], ack["events_queued"], ack["events_failed"]) == (True, 4, 2, 2)
    assert [(fault["loc"], fault["type"], fault["input"]) for fault in ack["errors"]] == [
        (["body", "events", 1], "shed", "low"),
        (["body", "events", 3], "shed", "medium"),
    ]
    ack = service.post_batch([{"event_name": ""}, one("low"), one("high")], Prefer="handling=lenient").json
    assert (ack["events_queued"], ack["events_failed"]) == (1, 2)
    assert [fault["loc"][2] for fault in ack["errors"]] == [0, 1]
    assert service.post_batch([one("low"), one("medium")]).status == 503
    server.start()
    service.wait_for_total(kept + 3)


def test_a_token_beyond_its_rate_waits_and_others_do_not(make_service: Callable[..., Service]) -> None:
    service = make_service(NOWHERE, ANALYTICS_RATE_LIMIT=1, ANALYTICS_WRITE_TOKENS="greedy,modest").start()

    body = json.dumps({"events": [{"event_name": "e"}] * 100}).encode()

    def greedy(requests: int) -> bytes:
        """The answers to requests that come at one moment."""
        length = f"Content-Length: {len(body)}"
        first, last = (head(length, *more, path=BATCH, token="greedy") + body for more in ((), ("Connection: close",)))
        return exchange(service, [first * (requests - 1) + last])

    answers = greedy(2)
    assert statuses(answers) == [200, 429]
    refused, _, detail = answers.partition(b" 429 ")[2].partition(b"\r\n\r\n")
    [seconds] = re.findall(rb"Retry-After: (\d+)", refused)
    assert int(seconds) >= 1
    assert isinstance(json.loads(detail)["detail"], str)
    assert service.post({"event_name": "e"}, token="modest").status == 200
    wait_until(lambda: statuses(greedy(1)) == [200])


def test_the_rate_holds_over_time_whatever_the_size_of_the_requests() -> None:
    now = 0.0
    limit = RateLimit(10, clock=lambda: now)
    sent = 0
    while now < 1000:
        try:
            limit.check("web")
        except RateLimited as refused:
            now += float(refused.headers["Retry-After"])
            continue
        size = 1 + sent * 7 % 100
        limit.take("web", size)
        sent += size
    assert 0.9 * 10 * 1000 <= sent <= 10 * 1000 + 200
