"""Views behind the table that fail: events are stored all the same, and the view gets its rows when it is mended."""

import uuid
from collections import Counter
from collections.abc import Callable

import pytest

from tests.support import wait_until
from tests.support.checks import drained
from tests.support.clickhouse import query
from tests.support.faults import others_insert, short_memory, stored
from tests.support.service import Service, patched

Make = Callable[..., Service]
EAGER = patched("import service.pipeline.view_filler as f; f.BACKOFF_MAX = 0.3")
TARGET = "CREATE TABLE target (name String) ENGINE = MergeTree ORDER BY name"
THROWS = {
    "on one row": "throwIf(session_id = 's7') = 0",
    "on all": "throwIf(1) = 0",
}


def view(condition: str) -> str:
    return f"CREATE MATERIALIZED VIEW view TO target AS SELECT session_id AS name FROM events WHERE {condition}"


def in_view(dsn: str) -> Counter[str]:
    return Counter(name for (name,) in query(dsn, "SELECT name FROM target WHERE NOT startsWith(name, 'other')"))


def post(service: Service, count: int, start: int = 0, *, ids: bool = False) -> Counter[str]:
    names = [f"s{number}" for number in range(start, start + count)]
    events = [{"event_name": "e", "session_id": name} for name in names]
    for event in events if ids else []:
        event["event_id"] = str(uuid.uuid4())
    assert service.post_batch(events).status == 200
    return Counter(names)


@pytest.mark.parametrize("throws", THROWS)
@pytest.mark.parametrize("ids", [False, True], ids=["without ids", "with ids"])
def test_what_a_view_missed_comes_once_when_it_is_mended(
    make_service: Make, server_dsn: str, throws: str, ids: bool
) -> None:
    service = make_service(server_dsn).start(prefix=EAGER)
    query(server_dsn, TARGET)
    query(server_dsn, view(THROWS[throws]))
    names = post(service, 20, ids=ids)
    drained(service)
    names += post(service, 20, 20, ids=ids)
    drained(service)
    assert stored(server_dsn) == names
    query(server_dsn, "ALTER TABLE view MODIFY QUERY SELECT session_id AS name FROM events")
    wait_until(lambda: set(in_view(server_dsn)) == set(names), 20, lambda: service.log()[-3000:])
    names += post(service, 5, 40, ids=ids)
    drained(service)
    assert stored(server_dsn) == names
    assert in_view(server_dsn) == names


def test_a_view_whose_target_was_dropped_gets_its_rows_when_that_is_there_again(
    make_service: Make, server_dsn: str
) -> None:
    service = make_service(server_dsn).start(prefix=EAGER)
    query(server_dsn, TARGET)
    query(server_dsn, view("1"))
    query(server_dsn, "DROP TABLE target SYNC")
    names = post(service, 20, ids=True)
    drained(service)
    query(server_dsn, TARGET)
    wait_until(lambda: in_view(server_dsn) == names, 20, lambda: service.log()[-3000:])
    assert stored(server_dsn) == names


@pytest.mark.parametrize("ids", [False, True], ids=["without ids", "with ids"])
def test_a_view_that_fails_while_others_insert_makes_no_event_come_twice_and_what_it_lacks_is_told(
    make_service: Make, server_dsn: str, ids: bool
) -> None:
    """ClickHouse has forgotten the token by then: the rows can't be sent to the view again."""
    service = make_service(server_dsn).start(prefix=EAGER)
    short_memory(server_dsn)
    query(server_dsn, TARGET)
    query(server_dsn, view(THROWS["on one row"]))
    names = post(service, 20, ids=ids)
    drained(service)
    others_insert(server_dsn)
    wait_until(lambda: "a view lacks the rows of segment" in service.log())
    wait_until(lambda: "may have forgotten the INSERT" in service.log())
    query(server_dsn, "DROP TABLE view")
    names += post(service, 5, 20, ids=ids)
    drained(service)
    assert stored(server_dsn) == names


def test_rows_that_a_view_lacks_when_the_service_ends_are_told(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn).start()
    query(server_dsn, TARGET)
    query(server_dsn, view(THROWS["on all"]))
    names = post(service, 3)
    drained(service)
    assert service.stop() == 0
    assert "the service stops" in service.log()
    assert stored(server_dsn) == names
