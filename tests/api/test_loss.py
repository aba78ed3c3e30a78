"""What got lost of a session, by its numbers: true for any set of them, and quick without the hour."""

import random
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from schemas.events import SEQUENCE_MAX
from service.api.loss import LOSS_SQL, merge_pending
from service.store.store import Store
from service.telemetry.peers import PeerAnswers
from tests.support import wait_until
from tests.support.clickhouse import query
from tests.support.rows import insert, rows_of
from tests.support.service import LOSS, WRITE, Service

NONE = (0, 0, 0, [])
ODD = "\0 \t'\"\\ \\N é 漢 🙂 {x:String} %s"


def event(session: str, number: int | None) -> dict[str, Any]:
    return {"event_name": "e", "session_id": session, "sequence": number, "timestamp": (number or 0) % 10**9}


async def loss(store: Store, session: str) -> tuple[Any, ...]:
    [found] = await store.query(LOSS_SQL, {"session_id": session})
    return found


def gaps(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The ranges that are missing below the highest."""
    ordered = sorted({0, *numbers})
    return [(low + 1, high - 1) for low, high in pairwise(ordered) if high > low + 1]


async def test_gaps_are_found_whatever_the_order_the_hours_and_the_repeats(store: Store) -> None:
    chance = random.Random(5)
    sessions = {f"s{size}-{most}": [chance.randint(1, most) for _ in range(size)]
                for size in (1, 2, 5, 30) for most in (1, 5, 40, SEQUENCE_MAX)}  # fmt: skip
    sessions |= {
        "whole": list(range(1, 200)),
        "last": [SEQUENCE_MAX],
        "begins late": [2, 3],
        "every second": list(range(2, 402, 2)),
        ODD: [1, 3],
    }
    events = [event(name, number) for name, numbers in sessions.items() for number in numbers]
    events += [event(name, None) for name in (*sessions, "without", "")]
    chance.shuffle(events)
    for half in (events[::2], events[1::2], events[:50]):  # the third is there already
        for start in range(0, len(half), 100):
            await insert(store, rows_of(*half[start : start + 100]), f"{len(half)}-{start}")
    for name, numbers in sessions.items():
        missing = gaps(numbers)
        expected = (max(numbers), len(set(numbers)), len(missing), missing[:100])
        assert await loss(store, name) == expected, name
    assert len(gaps(sessions["every second"])) > 100
    assert [await loss(store, name) for name in ("without", "", "unknown")] == [NONE, NONE, NONE]


async def test_a_session_is_looked_up_by_the_index(store: Store) -> None:
    await insert(store, rows_of(*(event(f"s{number}", 1) for number in range(100))), "t")
    plan = await store.query(f"EXPLAIN indexes = 1 {LOSS_SQL}", {"session_id": "unknown"})
    text = "\n".join(line for (line,) in plan)
    assert "by_session" in text
    assert "Granules: 0/1" in text


def test_pending_events_are_told_from_lost_ones(make_service: Callable[..., Service], server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=3600, ANALYTICS_BATCH_SIZE=4).start()
    path = f"{LOSS}?session_id={quote(ODD)}"
    assert service.post_batch([event(ODD, number) for number in (1, 2, 6)]).status == 200
    nothing = {"sent": 0, "stored": 0, "missing": 0, "missing_ranges": [], "missing_ranges_cut": False}
    assert service.get(path).json == {"session_id": ODD, **nothing, "events_pending": 3}
    assert service.post(event(ODD, 2)).status == 200
    wait_until(lambda: service.get(path).json["events_pending"] == 0)
    assert service.get(path).json == {
        "session_id": ODD,
        "sent": 6,
        "stored": 3,
        "missing": 3,
        "missing_ranges": [{"first": 3, "last": 5}],
        "missing_ranges_cut": False,
        "events_pending": 0,
    }


def test_what_a_silent_worker_has_is_unknown_and_not_none() -> None:
    assert merge_pending(PeerAnswers(0, {0: 3, 1: 4}, [])) == 7
    assert merge_pending(PeerAnswers(0, {0: 3}, [1])) is None


def test_a_session_must_be_named_by_who_may_read(service: Service, server_dsn: str) -> None:
    for asked, type in (("", "missing"), ("?session=a", "missing"), ("?session_id=", "string_too_short")):
        answer = service.get(LOSS + asked)
        assert answer.status == 422
        [fault] = answer.json["detail"]
        assert (fault["type"], fault["loc"]) == (type, ["query", "session_id"])
    path = f"{LOSS}?session_id=s"
    assert [service.get(path, token).status for token in (None, "unknown", WRITE)] == [401, 401, 403]
    query(server_dsn, "RENAME TABLE events TO away")
    refused = service.get(path)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
