"""What tests of exactly once have in common: other writers, what is in the table, and where a worker's rows are."""

from collections import Counter
from uuid import uuid4

from tests.machine import find
from tests.support import wait_until
from tests.support.clickhouse import query
from tests.support.service import Service, patched

#: ClickHouse then forgets a token after so few INSERTs of anybody.
SHORT_MEMORY = "ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 5"

#: Waits are shorter, and an INSERT without an answer ends sooner.
IMPATIENT = patched(
    "import service.pipeline.inserter as i, service.pipeline.lane as l; service.store.store.INSERT_TIMEOUT = 1.0;"
    " i.RUNS_AT_MOST = l.RUNS_AT_MOST = 1.5; l.BACKOFF_MAX = 0.3; l.BACKOFF_MAX_UNHEARD = 6.0"
)


def short_memory(dsn: str) -> None:
    """Let tokens be forgotten quickly. The table must be there."""
    query(dsn, SHORT_MEMORY)


def others_insert(dsn: str, count: int = 12) -> None:
    """Another writer pushes all our tokens out of a short memory."""
    for number in range(count):
        query(dsn, f"INSERT INTO events (event_name, session_id) VALUES ('of others', 'other-{number}')")


def stored(dsn: str) -> Counter[str]:
    """How often each of our events is in the table, by ``session_id``."""
    return Counter(name for (name,) in query(dsn, "SELECT session_id FROM events WHERE event_name != 'of others'"))


def wait_until_stored(service: Service, dsn: str, names: set[str], seconds: float = 20) -> None:
    """Wait until all of them are in the table; each of them once."""
    wait_until(lambda: names <= set(stored(dsn)), seconds, lambda: f"{stored(dsn)} {service.log()[-3000:]}")
    assert stored(dsn) == Counter(names)


def wrong_clock(days: int) -> dict[str, str]:
    """An environment in which the service's clock is off by so many days."""
    return {"LD_PRELOAD": find("libfaketime.so.1"), "FAKETIME": f"{days:+}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def events(*names: str, ids: str = "none") -> list[dict[str, str]]:
    """An event for each name. ``ids``: none of them have ids of the client, or all, or every other one."""
    made = [{"event_name": "e", "session_id": name} for name in names]
    if ids != "none":
        for event in made[:: 1 if ids == "all" else 2]:
            event["event_id"] = str(uuid4())
    return made


def names_of(count: int, start: int = 0) -> set[str]:
    return {f"s{number}" for number in range(start, start + count)}


def backlog(service: Service, batches: int, ids: str, size: int = 10) -> set[str]:
    """Post batches of which each is a segment; the names."""
    for number in range(batches):
        batch = sorted(names_of(size, number * size))
        assert service.post_batch(events(*batch, ids=ids)).status == 200
    return names_of(batches * size)
