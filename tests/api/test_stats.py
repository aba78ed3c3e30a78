"""The statistics on each kind of ClickHouse: true at every edge, and cheap when the table is large."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.api.stats import STATS_SQL
from service.store.store import Store
from tests.support.checks import check, drained
from tests.support.load import Load
from tests.support.rows import insert, rows_of
from tests.support.service import Service

NOW = datetime(2026, 11, 24, 13, 40, 0, tzinfo=UTC)
#: What the statistics mean, said over the whole table without any help.
RAW = """SELECT category, count(), countIf(timestamp >= toStartOfDay(now_) AND timestamp <= now_),
    countIf(timestamp >= toStartOfInterval(now_, INTERVAL 3600 SECOND) AND timestamp <= now_)
    FROM (SELECT category, timestamp, fromUnixTimestamp64Micro({now_us:Int64}, 'UTC') AS now_ FROM events)
    GROUP BY category ORDER BY category SETTINGS optimize_use_projections = 0"""


def at(moment: datetime, category: str = "trading") -> dict[str, Any]:
    return {"event_name": "e", "category": category, "timestamp": moment.isoformat()}


def microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


async def stats(store: Store, now: datetime = NOW) -> list[tuple[Any, ...]]:
    return await store.query(STATS_SQL, {"now_us": microseconds(now)})


async def test_an_empty_table_has_no_counts(store: Store) -> None:
    assert await stats(store) == []


@pytest.mark.parametrize(
    ("moment", "today", "hour"),
    [
        (NOW, 1, 1),
        (NOW - timedelta(microseconds=1), 1, 1),
        (NOW + timedelta(microseconds=1), 0, 0),
        (NOW + timedelta(minutes=10), 0, 0),
        (NOW + timedelta(hours=2), 0, 0),
        (NOW + timedelta(days=1), 0, 0),
        (NOW + timedelta(seconds=2**32), 0, 0),
        (NOW.replace(minute=0), 1, 1),
        (NOW.replace(minute=0) - timedelta(microseconds=1), 1, 0),
        (NOW.replace(hour=0, minute=0), 1, 0),
        (NOW.replace(hour=0, minute=0) - timedelta(microseconds=1), 0, 0),
        (datetime(1900, 1, 1, tzinfo=UTC), 0, 0),
        (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), 0, 0),
        (datetime(2299, 12, 31, 23, 59, 59, tzinfo=UTC), 0, 0),
    ],
)
async def test_today_and_this_hour_are_by_event_time_in_utc_and_end_now(
    store: Store, moment: datetime, today: int, hour: int
) -> None:
    await insert(store, rows_of(at(moment)), "t")
    assert await stats(store) == [("trading", 1, today, hour)]


async def test_categories_are_counted_apart_and_agree_with_the_table(store: Store) -> None:
    offsets = [timedelta(minutes=-minute) for minute in range(-90, 3000, 7)]
    categories = ["trading", "auth", "error"]
    events = [at(NOW + offset, categories[number % 3]) for number, offset in enumerate(offsets)]
    for start in range(0, len(events), 100):
        await insert(store, rows_of(*events[start : start + 100]), f"t{start}")
    counted = await stats(store)
    assert counted == await store.query(RAW, {"now_us": microseconds(NOW)})
    assert sum(total for _, total, _, _ in counted) == len(events)


async def test_the_projection_answers_and_the_table_is_not_read(store: Store) -> None:
    """A million rows over a month: nearly none of them are read."""
    await store.command(
        "INSERT INTO events (event_id, event_name, category, timestamp, received_at, session_id)"
        " SELECT generateUUIDv7(), concat('n', toString(number % 5000)), ['trading', 'auth'][1 + number % 2],"
        " fromUnixTimestamp64Micro({now_us:Int64} - toInt64(number) * 2592000, 'UTC'),"
        " fromUnixTimestamp64Milli(intDiv({now_us:Int64}, 1000), 'UTC'), toString(number % 1000)"
        " FROM numbers(1000000)",
        {"now_us": microseconds(NOW)},
    )
    plan = "\n".join(line for (line,) in await store.query(f"EXPLAIN {STATS_SQL}", {"now_us": microseconds(NOW)}))
    assert "ReadFromMergeTree (by_hour)" in plan
    estimate = await store.query(f"EXPLAIN ESTIMATE {STATS_SQL}", {"now_us": microseconds(NOW)})
    read = sum(rows for _, _, _, rows, _ in estimate)
    raw = f"EXPLAIN ESTIMATE {STATS_SQL} SETTINGS optimize_use_projections = 0"
    without = sum(rows for _, _, _, rows, _ in await store.query(raw, {"now_us": microseconds(NOW)}))
    assert without >= 1_000_000
    assert read < without / 10
    assert await stats(store) == await store.query(RAW, {"now_us": microseconds(NOW)})


@pytest.mark.parametrize("workers", [1, 2])
def test_an_acknowledged_event_is_pending_or_counted_in_each_answer(
    make_service: Callable[..., Service], server_dsn: str, workers: int
) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=workers, ANALYTICS_FLUSH_INTERVAL=0.1).start()
    too_few = []
    with Load(service, clients=2, batch=2, pause=0.01) as load:
        load.wait_for_more(50)
        for _ in range(100):
            acknowledged = len(load.acknowledged)
            stats = service.stats()
            known = stats["total_events"] + stats["buffer_status"]["events_pending"]
            if known < acknowledged:
                too_few.append((acknowledged, known))
    assert not too_few
    drained(service, 90)  # a segment of each tenth of a second
    check(service, load, server_dsn)
