"""ClickHouse that was changed under load: rights, passwords, profiles, the table; and clocks that jump."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.machine import find
from tests.support import wait_until
from tests.support.checks import check, drained, sessions, wait_for_health
from tests.support.clickhouse import USERS, ClickHouseServer, query
from tests.support.load import Load
from tests.support.proxy import Proxy
from tests.support.service import HEALTH, STATS, Service, patched

Make = Callable[..., Service]
#: Backoff for what a person must mend is 15 s: here they mend it at once.
EAGER = patched("service.pipeline.lane.BACKOFF_MAX_MISCONFIGURED = service.pipeline.lane.BACKOFF_MAX = 0.5")
READ_ONLY = USERS.replace(
    "<default/></profiles>", "<default/><reader><readonly>1</readonly></reader></profiles>"
).replace("<profile>default</profile></writer>", "<profile>reader</profile></writer>")


def restart_with(server: ClickHouseServer, users: str) -> None:
    server.stop()
    server.users = users
    server.start()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(READ_ONLY, "the user may only read"), (USERS.replace("right", "other"), "password is refused")],
    ids=["a user without rights", "another password"],
)
def test_a_user_that_may_not_insert_any_more_keeps_events_until_it_may_again(
    make_service: Make, own_server: ClickHouseServer, broken: str, reason: str
) -> None:
    dsn = own_server.dsn("analytics", "writer", "right")
    service = make_service(dsn).start(prefix=EAGER)
    with Load(service, pause=0.01) as load:
        load.wait_for_more(100)
        restart_with(own_server, broken)
        wait_until(lambda: reason in str(wait_for_health(service, "degraded")["clickhouse"]))
        for path in (HEALTH, "/readyz", "/livez", "/metrics", "/no-such-path", STATS):
            answer = service.send("GET", path).body.decode()
            assert not re.search(r"writer|right|INSERT INTO|Authentication|/tmp", answer), answer
        wait_until(lambda: "Authentication failed" in service.log() or "readonly" in service.log())
        load.wait_for_more(100)
        restart_with(own_server, USERS)
        wait_for_health(service, "ok")
    check(service, load, dsn)
    assert not load.refused
    assert "right" not in service.log()


PROFILES = {
    "deduplicate_insert off": "<deduplicate_insert>disable</deduplicate_insert>",
    "insert_deduplicate off": "<insert_deduplicate>0</insert_deduplicate>",
    "async_insert on": "<async_insert>1</async_insert><wait_for_async_insert>0</wait_for_async_insert>",
    "small blocks": "<max_insert_block_size>7</max_insert_block_size><max_block_size>7</max_block_size>"
    "<min_insert_block_size_rows>1</min_insert_block_size_rows><max_insert_threads>4</max_insert_threads>",
}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_what_the_users_profile_says_makes_no_event_come_twice(
    make_service: Make, own_server: ClickHouseServer, profile: str
) -> None:
    restart_with(own_server, USERS.replace("<default/></profiles>", f"<default>{profile}</default></profiles>"))
    proxy = Proxy(own_server.port).open()
    dsn = own_server.dsn("analytics", "writer", "right")
    service = make_service(proxy.dsn(dsn)).start(prefix=EAGER)
    try:
        with Load(service, batch=20) as load:
            for _ in range(3):
                proxy.fates.append("cut-answer")
                wait_until(lambda: not proxy.fates)
                load.wait_for_more(100)
        check(service, load, dsn)
    finally:
        proxy.close()


def test_a_column_that_is_dropped_and_added_again_under_load_costs_no_event(
    make_service: Make, server_dsn: str
) -> None:
    service = make_service(server_dsn).start(prefix=EAGER)
    with Load(service, pause=0.01) as load:
        load.wait_for_more(100)
        query(server_dsn, "ALTER TABLE events DROP COLUMN user_agent")
        wait_until(lambda: "a column is missing" in str(wait_for_health(service, "degraded")["clickhouse"]))
        assert "user_agent" in service.log()
        load.wait_for_more(100)
        query(server_dsn, "ALTER TABLE events ADD COLUMN user_agent String")
        wait_for_health(service, "ok")
        query(server_dsn, "ALTER TABLE events ADD COLUMN note String DEFAULT 'none'")
        query(server_dsn, "ALTER TABLE events ADD INDEX by_page page_url TYPE bloom_filter")
        load.wait_for_more(200)
    check(service, load, server_dsn)
    assert query(server_dsn, "SELECT DISTINCT note FROM events") == [["none"]]
    assert not load.refused


def test_a_column_whose_type_no_longer_fits_sends_rows_to_the_quarantine_and_loses_none(
    make_service: Make, server_dsn: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_BATCH_SIZE=20, ANALYTICS_FLUSH_INTERVAL=600).start(prefix=EAGER)
    query(server_dsn, "ALTER TABLE events MODIFY COLUMN page_url UInt32")
    events = [{"event_name": "e", "session_id": f"s{n}", "page_url": str(n) if n % 4 else "text"} for n in range(40)]
    for start in range(0, 40, 20):
        assert service.post_batch(events[start : start + 20]).status == 200
    drained(service)
    aside = [json.loads(path.read_bytes())["values"]["session_id"] for path in (service.data / "quarantine").iterdir()]
    assert sorted(sessions(server_dsn) + aside) == sorted(one["session_id"] for one in events)
    assert set(aside) >= {one["session_id"] for one in events if one["page_url"] == "text"}
    query(server_dsn, "ALTER TABLE events MODIFY COLUMN page_url String")
    assert service.post_batch([{"event_name": "e", "page_url": "text"}] * 20).status == 200
    drained(service)
    assert len(sessions(server_dsn)) + len(aside) == 60


def test_events_of_two_hundred_years_in_one_batch_are_stored(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_BATCH_SIZE=200, ANALYTICS_FLUSH_INTERVAL=600).start()
    for start in (1900, 2000):
        years = range(start, start + 100)
        events = [
            {"event_name": "e", "session_id": str(year), "timestamp": f"{year}-03-01T00:00:00Z"} for year in years
        ]
        assert service.post_batch(events).status == 200
    service.wait_for_total(200)
    assert query(
        server_dsn, "SELECT uniq(toYYYYMM(timestamp)) FROM events WHERE toString(toYear(timestamp)) = session_id"
    ) == [[200]]


def told(service: Service) -> str:
    """By how many days the service's clock is wrong, as libfaketime wants it."""
    answer = service.post({"event_name": "clock", "session_id": "clock"})
    ahead = datetime.fromisoformat(answer.json["timestamp"]) - datetime.now(UTC)
    days = round(ahead.total_seconds() / 86_400)
    return f"{days:+}d" if days else "+0"


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_a_day_stalls_nothing_and_loses_nothing(
    make_service: Make, server_dsn: str, tmp_path: Path, days: int
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {
        "LD_PRELOAD": find("libfaketime.so.1"),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    service = make_service(server_dsn, ANALYTICS_BATCH_SIZE=200, **faked).start()
    with Load(service) as load:
        for offset in (f"{days:+}d", "+0", f"{days:+}d"):
            load.wait_for_more(300)
            clock.write_text(offset)
            wait_until(lambda offset=offset: told(service) == offset)
        service.kill()
        service.start()  # names of the segments sort by age across the jump
        load.wait_for_more(300)
    drained(service)
    load.check(name for name in sessions(server_dsn) if name != "clock")
    jumped = "SELECT countIf(abs(dateDiff('hour', received_at, now())) > 20), count() FROM events"
    [[away, stored]] = query(server_dsn, jumped)
    assert 0 < away < stored == service.stats()["buffer_status"]["events_flushed_total"]
