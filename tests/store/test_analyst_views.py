"""The views for analysts give known answers about generated events, and read no more than the time asked for."""

import hashlib
import random
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from statistics import quantiles
from typing import Any

import pytest

from service.store.columns import add_column
from service.store.store import Store
from service.store.views import View, make_views, shipped_views
from tests.support.rows import insert, rows_of

#: A Monday.
START = datetime(2026, 3, 2, tzinfo=UTC)
WEEK = "since = '2026-03-02', until = '2026-03-09'"


def event(name: str, seconds: float, /, **fields: Any) -> dict[str, Any]:
    """An event so many seconds after START."""
    return {"event_name": name, "timestamp": (START + timedelta(seconds=seconds)).isoformat(), **fields}


async def tell(store: Store, events: list[dict[str, Any]]) -> None:
    """Insert the events in any order."""
    random.Random(7).shuffle(events)
    rows = [row for start in range(0, len(events), 100) for row in rows_of(*events[start : start + 100])]
    await insert(store, rows, "story")


async def ask(store: Store, view: str, arguments: str = WEEK, columns: str = "*") -> list[tuple[Any, ...]]:
    """All rows of a view, sorted; the driver's times are in UTC and don't say so."""
    found = await store.query(f"SELECT {columns} FROM {view}({arguments})")
    rows = [tuple(one.replace(tzinfo=UTC) if isinstance(one, datetime) else one for one in row) for row in found]
    return sorted(rows, key=by_text)


def by_text(row: tuple[Any, ...]) -> list[str]:
    """By which rows of mixed types can be sorted."""
    return list(map(str, row))


async def test_sessions_and_funnels(store: Store) -> None:
    seed = random.Random(3)
    events: list[dict[str, Any]] = [event("no session", 5), event("order_filled", 5)]
    expected, reached = [], defaultdict(int)
    steps = ["page_view", "order_submitted", "order_filled"]
    for number in range(60):
        began = seed.choice([-3600, -1, 0, 7 * 86400 - 1, 7 * 86400]) if number < 10 else seed.randrange(7 * 86400)
        name, user = f"s-{number}", seed.choice(["", f"u-{number % 7}"])
        offsets = sorted({0, *(seed.randrange(1, 7200) for _ in range(seed.randrange(6)))})
        own = [
            event(
                steps[min(index, 2)] if seed.random() < 0.8 else "other",
                began + offset,
                session_id=name,
                user_id=user if index else None,
                category=seed.choice(["page_view", "error", "trading"]),
                page_url=seed.choice(["", f"/p{index}"]),
                sequence=index + 1,
            )
            for index, offset in enumerate(offsets)
        ]
        events += own
        pages = [one["page_url"] for one in own if one["page_url"]]
        if 0 <= began < 7 * 86400:
            expected.append(
                (
                    *(name, user if len(own) > 1 else ""),
                    *(START + timedelta(seconds=began), START + timedelta(seconds=began + offsets[-1])),
                    *(float(offsets[-1]), len(own)),
                    *(sum(one["category"] == kind for one in own) for kind in ("page_view", "error")),
                    *((pages[0], pages[-1]) if pages else ("", "")),
                )
            )
        level = 0
        inside = [one for one in own if "2026-03-02" <= one["timestamp"] < "2026-03-09"]
        for one in inside:
            level += level < 3 and one["event_name"] == steps[level]
        reached[level] += 1
    await tell(store, events)
    assert await ask(store, "sessions") == sorted(expected, key=by_text)
    funnel = await ask(store, "funnel", f"{WEEK}, steps = {steps}, seconds = 7200")
    counts = [sum(reached[level] for level in range(step, 4)) for step in (1, 2, 3)]
    shares = [(count / counts[0], count / counts[max(0, step - 1)]) for step, count in enumerate(counts)]
    assert funnel == [(n + 1, steps[n], counts[n], *(pytest.approx(share) for share in shares[n])) for n in range(3)]
    nothing = "since = '2025-01-01', until = '2025-01-02', steps = ['a', 'b'], seconds = 60"
    assert await ask(store, "funnel", nothing) == [(1, "a", 0, 0.0, 0.0), (2, "b", 0, 0.0, 0.0)]


async def test_lives_of_orders_and_their_fills(store: Store) -> None:
    seed = random.Random(5)
    events = [event("order_filled", 9, properties={"symbol": "ACME", "quantity": "7"})]
    lives: list[tuple[Any, ...]] = []
    totals: dict[tuple[str, str, str], list[Any]] = defaultdict(lambda: [0, set(), Decimal(0), Decimal(0)])
    totals["ACME", "filled", ""] = [1, {""}, Decimal(7), Decimal(0)]
    for number in range(80):
        began = seed.choice([-1, 7 * 86400]) if number < 4 else 3600 * number
        order, symbol, reason = f"o-{number}", seed.choice(["ACME", "XYZ"]), f"r-{number % 3}"
        end = seed.choice(["filled", "cancelled", "rejected", ""])
        price, whole = Decimal(seed.randrange(1, 10**7)) / 10**4, Decimal(seed.randrange(2, 1000))
        parts = [whole - 1] * (end == "filled" or (end != "rejected" and seed.random() < 0.3))
        story: list[tuple[str, float, dict[str, Any]]] = [
            ("submitted", 0, {"type": "limit", "quantity": str(whole), "price": float(price)}),
            *([("acknowledged", 1.5, {})] if end != "rejected" else []),
            *[("partially_filled", 2, {"quantity": str(part), "price": str(price)}) for part in parts],
            *([("filled", 2.25025, {"quantity": 1, "price": str(price)})] if end == "filled" else []),
            *([(end, 2.25025, {"reason": reason})] if end in ("cancelled", "rejected") else []),
        ]
        for what, after, more in story:
            about = {"order_id": order, "symbol": symbol, "side": "buy", **more}
            ids = {"session_id": f"s-{number}", "user_id": f"u-{number}"}
            events.append(event(f"order_{what}", began + after, properties=about, category="trading", **ids))
            if what not in ("submitted", "acknowledged") and 0 <= began + after < 7 * 86400:
                executed = Decimal(str(more.get("quantity", 0)))
                total = totals[symbol, what, more.get("reason", "")]
                total[0], total[2], total[3] = total[0] + 1, total[2] + executed, total[3] + executed * price
                total[1].add(order)
        if 0 <= began < 7 * 86400:
            status = end or ("partially_filled" if parts else "acknowledged")
            why = reason if end in ("cancelled", "rejected") else ""
            fills = [*parts, Decimal(1)] if end == "filled" else parts
            times = [2250.25 if end == one else None for one in ("filled", "cancelled", "rejected")]
            rest = (f"u-{number}", f"s-{number}", whole, price, status, why, len(fills), sum(fills))
            lives.append((order, symbol, "buy", "limit", *rest, None if end == "rejected" else 1500.0, *times))
    await tell(store, events)
    columns = "symbol, side, type, user_id, session_id, quantity, price, status, reason, fills, filled_quantity"
    columns = f"order_id, {columns}, ms_to_acknowledged, ms_to_filled, ms_to_cancelled, ms_to_rejected"
    found = await ask(store, "orders", columns=columns)
    assert sorted(found, key=itemgetter(0)) == sorted(lives, key=itemgetter(0))
    assert {tuple(row[:3]): list(row[3:]) for row in await ask(store, "fills_and_rejections")} == {
        key: [count, len(orders), quantity, notional] for key, (count, orders, quantity, notional) in totals.items()
    }


async def test_active_users_and_cohorts(store: Store) -> None:
    seed = random.Random(11)
    days: dict[str, set[int]] = defaultdict(set)
    for number in range(40):
        days[f"u-{number}"] = {seed.randrange(-35, 28) for _ in range(seed.randrange(1, 9))}
    events = [event("e", 86400 * day + 60, user_id=user) for user, own in days.items() for day in own]
    await tell(store, [*events, event("nobody", 60)])
    four_weeks = "since = '2026-03-02', until = '2026-03-30'"

    def active(day: int, length: int) -> int:
        return sum(any(day - length < one <= day for one in own) for own in days.values())

    first = date(2026, 3, 2)
    assert await ask(store, "active_users", four_weeks) == [
        (first + timedelta(days=day), active(day, 1), active(day, 7), active(day, 30)) for day in range(28)
    ]
    cohorts: dict[tuple[int, int], int] = defaultdict(int)
    for own in days.values():
        weeks = {day // 7 for day in own if day >= 0}
        for week in weeks:
            cohorts[min(weeks), week - min(weeks)] += 1
    assert await ask(store, "retention", four_weeks) == [
        (first + timedelta(weeks=cohort), week, users, cohorts[cohort, 0], users / cohorts[cohort, 0])
        for (cohort, week), users in sorted(cohorts.items())
    ]


async def test_pages_errors_and_latency(store: Store) -> None:
    page = "https://trade.example/orders"
    slow = [100 * number for number in range(1, 42)]
    events = [
        event("web_vitals", number, page_url=f"{page}?a={number}", properties={"lcp": lcp, "cls": 0.3, "inp": None})
        for number, lcp in enumerate(slow)
    ]
    for number in range(12):
        about = {"message": "é" * 300, "release": f"1.{number % 2}"}
        who = {"session_id": f"s-{number % 3}", "user_id": ("", "u")[number % 2]}
        events.append(event("error", 3600 + number, category="error", page_url=f"{page}#x", properties=about, **who))
    events += [
        event("order_acknowledged", 7000 + number * 20, properties={"symbol": "ACME", "latency_ms": latency})
        for number, latency in enumerate(slow)
    ]
    events.append(event("order_acknowledged", 7000, properties={"symbol": "ACME", "latency_ms": "soon"}))
    await tell(store, events)
    p = quantiles(slow, n=100, method="inclusive")
    assert await ask(store, "web_vitals") == [
        (page, "cls", 41, 0.3, 0.3, 0.3, "poor"),
        (page, "lcp", 41, p[49], p[74], p[94], "fair"),
    ]
    assert await ask(store, "errors") == [
        (page, "1.0", "error", "é" * 200, 6, 3, 0, START + timedelta(hours=1), START + timedelta(hours=1, seconds=10)),
        (page, "1.1", "error", "é" * 200, 6, 3, 1, *(START + timedelta(hours=1, seconds=one) for one in (1, 11))),
    ]
    early, late = slow[:10], slow[10:]
    found = [
        (START + timedelta(hours=hour), "ACME", "order_acknowledged", len(part), *(cut[at] for at in (49, 89, 98)))
        for hour, part in ((1, early), (2, late))
        for cut in [quantiles(part, n=100, method="inclusive")]
    ]
    latency = await ask(store, "latency")
    assert [row[:-1] for row in latency] == [(*row[:4], *map(pytest.approx, row[4:])) for row in found]
    assert [row[-1] for row in latency] == [early[-1], late[-1]]


ARGUMENTS = {"funnel": ", steps = ['a', 'b'], seconds = 60"}


#: Days that a view looks around the time that it is asked for.
AROUND = {"sessions": 2, "orders": 7, "active_users": 29}


async def test_a_view_reads_the_time_that_it_is_asked_for_and_what_it_looks_around(store: Store) -> None:
    """A row a minute, of 200 days."""
    await store.command(
        "INSERT INTO events (event_name, category, timestamp, received_at, session_id, user_id)"
        " SELECT 'a', 'error', toDateTime64('2026-01-01', 6, 'UTC') + toIntervalMinute(number), now64(3), 's', 'u'"
        " FROM numbers(288000)"
    )
    for view in shipped_views():
        sql = f"SELECT * FROM {view.name}(since = '2026-03-02', until = '2026-03-03'{ARGUMENTS.get(view.name, '')})"
        [(*_, rows, _)] = await store.query(f"EXPLAIN ESTIMATE {sql}")
        assert 0 < rows <= 1440 * (1 + AROUND.get(view.name, 0)) + 2 * 8192, view.name


async def test_columns_out_of_properties_do_not_change_what_views_say(store: Store) -> None:
    about = {"order_id": "o", "symbol": "ACME", "quantity": "1", "price": "2", "reason": "no", "latency_ms": 5}
    story = [event(name, 60, properties=about) for name in ("order_submitted", "order_rejected", "order_filled")]
    await tell(store, story)
    before = {view.name: await ask(store, view.name, WEEK + ARGUMENTS.get(view.name, "")) for view in shipped_views()}
    for name, kind in (("symbol", "String"), ("reason", "String"), ("price", "Decimal(9,2)"), ("order_id", "String")):
        await add_column(store, name, kind)
    for name in before:
        assert await ask(store, name, WEEK + ARGUMENTS.get(name, "")) == before[name]


async def test_views_are_made_replaced_by_newer_ones_and_nothing_else(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = View("one", 2, "What's in it\nn: 1", "SELECT 1 AS n"), View("two", 1, "m: 2", "SELECT 2 AS m")
    assert await make_views(store, [one, two]) == [one, two]
    assert await make_views(store, [one, two]) == []
    assert await store.query("SELECT * FROM one, two") == [(1, 2)]
    in_system = "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = 'one'"
    assert await store.query(in_system) == [(one.comment,)]
    older, newer = one._replace(version=1, query="SELECT 0 AS n"), one._replace(version=3, query="SELECT 3 AS n")
    assert await make_views(store, [older]) == []
    assert await make_views(store, [newer]) == [newer]
    assert await make_views(store, [one]) == []
    assert await store.query("SELECT * FROM one") == [(3,)]
    await store.command("DROP VIEW two")
    await store.command("CREATE TABLE two (m UInt8) ENGINE = MergeTree ORDER BY m")
    await store.command("CREATE VIEW three AS SELECT 3 AS n COMMENT 'mine'")
    broken = View("broken", 1, "about", "SELECT no_function(1)")
    assert await make_views(store, [two, View("three", 9, "about", "SELECT 9 AS n"), broken]) == []
    assert await store.query("SELECT * FROM three") == [(3,)]
    assert [text.partition(":")[0] for text in caplog.messages if text.startswith("the view")] == [
        "the view two is not made",
        "the view three is not made",
        "the view broken is not made",
    ]


def test_a_view_that_changes_gets_a_new_version() -> None:
    """A line changes only together with its version: else databases keep the view that they have."""
    texts = {view.name: (view.version, view.about + view.query) for view in shipped_views()}
    assert {
        name: (version, hashlib.sha256(text.encode()).hexdigest()[:16]) for name, (version, text) in texts.items()
    } == {
        "active_users": (1, "0b342d128099e187"),
        "errors": (1, "c3c4a43c008253b9"),
        "fills_and_rejections": (1, "044f5d648297252f"),
        "funnel": (1, "df07ce5c5760fd32"),
        "latency": (1, "9aedc3d48f08805e"),
        "orders": (1, "c75169330e6e9cfa"),
        "retention": (1, "18a4c73c2d2dd832"),
        "sessions": (1, "b5383ff523029aed"),
        "web_vitals": (1, "be6bc297820a47b9"),
    }
