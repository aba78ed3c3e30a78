"""The recent activity on each kind of ClickHouse: what the table has, by event time, at a low cost."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.activity import ACTIVITY_SQL, SPANS, TOP_NAMES_SQL, activity
from service.store.store import Store
from tests.support import wait_until
from tests.support.proxy import Proxy
from tests.support.rows import insert, rows_of
from tests.support.service import ACTIVITY, READ, WRITE, Service

NOW = datetime(2026, 11, 24, 13, 40, 30, tzinfo=UTC)


def at(moment: datetime, category: str = "trading", name: str = "e") -> dict[str, Any]:
    return {"event_name": name, "category": category, "timestamp": moment.isoformat()}


def microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


async def found(store: Store, span: str = "1h", now: datetime = NOW) -> dict[str, Any]:
    return await activity(store, span, microseconds(now))


async def test_an_empty_table_has_no_activity(store: Store) -> None:
    assert await found(store) == {
        "as_of": "2026-11-24T13:40:30.000Z",
        "span": "1h",
        "start": "2026-11-24T12:41:00.000Z",
        "bucket_seconds": 60,
        "total_events": 0,
        "events_by_category": {},
        "top_names": [],
    }


async def test_buckets_are_whole_minutes_by_event_time_and_end_now(store: Store) -> None:
    first = NOW.replace(hour=12, minute=41, second=0)
    moments = {
        first - timedelta(microseconds=1): None,
        first: 0,
        first + timedelta(microseconds=59_999_999): 0,
        first + timedelta(seconds=60): 1,
        NOW.replace(second=0) - timedelta(microseconds=1): 58,
        NOW.replace(second=0): 59,
        NOW: 59,
        NOW + timedelta(microseconds=1): None,
        datetime(1900, 1, 1, tzinfo=UTC): None,
        datetime(2299, 12, 31, 23, 59, 59, tzinfo=UTC): None,
        NOW + timedelta(seconds=2**32): None,
    }
    await insert(store, rows_of(*(at(moment) for moment in moments)), "t")
    counts = [0] * 60
    for bucket in moments.values():
        if bucket is not None:
            counts[bucket] += 1
    answer = await found(store)
    assert answer["events_by_category"] == {"trading": counts}
    assert answer["total_events"] == sum(counts)


async def test_a_day_is_in_quarters_of_hours(store: Store) -> None:
    await insert(store, rows_of(at(NOW), at(NOW - timedelta(hours=23, minutes=40)), at(NOW - timedelta(days=1))), "t")
    answer = await found(store, "24h")
    assert (answer["start"], answer["bucket_seconds"]) == ("2026-11-23T13:45:00.000Z", 900)
    [counts] = answer["events_by_category"].values()
    assert {bucket: count for bucket, count in enumerate(counts) if count} == {1: 1, 95: 1}
    assert len(counts) == 96


async def test_categories_and_names_are_counted_apart(store: Store) -> None:
    events = [
        at(NOW - timedelta(seconds=number), ("trading", "auth")[number % 2], f"name_{number % 13 * (number % 7)}")
        for number in range(600)
    ]
    for start in range(0, 600, 100):
        await insert(store, rows_of(*events[start : start + 100]), f"t{start}")
    answer = await found(store)
    assert {name: sum(counts) for name, counts in answer["events_by_category"].items()} == {"trading": 300, "auth": 300}
    names = Counter(event["event_name"] for event in events)
    top = sorted(names.items(), key=lambda item: (-item[1], item[0]))[:10]
    assert [(one["event_name"], one["events"]) for one in answer["top_names"]] == top


@given(now=st.integers(0, 4_102_444_800_000_000), span=st.sampled_from(sorted(SPANS)))
async def test_the_last_bucket_is_the_one_of_now(now: int, span: str) -> None:
    class Nothing:
        async def query(self, sql: str, parameters: dict[str, int]) -> list[tuple[Any, ...]]:
            if "bucket_us" in parameters:
                seconds, bucket_seconds = SPANS[span]
                last = (parameters["now_us"] - parameters["start_us"]) // parameters["bucket_us"]
                assert last == seconds // bucket_seconds - 1
                assert parameters["start_us"] % parameters["bucket_us"] == 0
            return []

    await activity(Nothing(), span, now)  # type: ignore[arg-type]


async def test_only_the_span_is_read_of_a_large_table(store: Store) -> None:
    """Two million rows of a month: of the table, an hour costs a hundredth at most."""
    await store.command(
        "INSERT INTO events (event_id, event_name, category, timestamp, received_at, session_id)"
        " SELECT generateUUIDv7(), concat('n', toString(number % 5000)), ['trading', 'auth'][1 + number % 2],"
        " fromUnixTimestamp64Micro({now_us:Int64} - toInt64(number) * 1296000, 'UTC'),"
        " fromUnixTimestamp64Milli(intDiv({now_us:Int64}, 1000), 'UTC'), toString(number % 1000)"
        " FROM numbers(2000000)",
        {"now_us": microseconds(NOW)},
    )
    parameters = {"start_us": microseconds(NOW - timedelta(hours=1)), "now_us": microseconds(NOW)}
    for sql, more in ((ACTIVITY_SQL, {"bucket_us": 60_000_000}), (TOP_NAMES_SQL, {})):
        estimate = await store.query(f"EXPLAIN ESTIMATE {sql}", parameters | more)
        assert sum(rows for _, _, _, rows, _ in estimate) <= 20_000 + 8192
    answer = await found(store)
    [[raw]] = await store.query(
        "SELECT countIf(timestamp >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')) FROM events",
        {"start_us": microseconds(datetime.fromisoformat(answer["start"]))},
    )
    assert answer["total_events"] == raw


# -- the running service -------------------------------------------------------------------------


def test_the_route_answers_for_a_read_token_and_says_what_is_wrong_with_a_span(service: Service) -> None:
    assert service.get(ACTIVITY, token=None).status == 401
    assert service.get(ACTIVITY, token=WRITE).status == 403
    refused = service.get(f"{ACTIVITY}?span=2h")
    assert refused.status == 422
    assert refused.json["detail"] == [
        {
            "type": "literal_error",
            "msg": "Input should be '1h' or '24h'",
            "loc": ["query", "span"],
            "input": "2h",
            "ctx": {"expected": "'1h' or '24h'"},
        }
    ]
    service.post_batch([{"event_name": "seen", "category": "auth"}] * 3)
    for span in ("1h", "24h"):
        wait_until(lambda span=span: service.get(f"{ACTIVITY}?span={span}").json["total_events"] == 3)  # type: ignore[misc]
    answer = service.get(ACTIVITY, token=READ).json
    assert sum(answer["events_by_category"]["auth"]) == 3
    assert answer["top_names"] == [{"event_name": "seen", "events": 3}]


@pytest.mark.parametrize("span", SPANS)
def test_without_clickhouse_it_says_so(make_service: Any, server_dsn: str, proxy: Proxy, span: str) -> None:
    service = make_service(proxy.dsn(server_dsn)).start()
    proxy.refuse()
    answer = wait_until(lambda: (one := service.get(f"{ACTIVITY}?span={span}")).status == 503 and one)
    assert answer.headers["Retry-After"]
    proxy.open()
    wait_until(lambda: service.get(f"{ACTIVITY}?span={span}").status == 200)
