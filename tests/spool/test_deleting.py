"""Events that are deleted in ClickHouse as the docs say come in again when they are sent again."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.clickhouse import query
from tests.support.service import Service

DOCS = Path(__file__).parents[2] / "docs" / "table.md"
#: Another program on the folder of the embedded engine, while the service is stopped.
_EMBEDDED = (
    "import sys; from chdb.session import Session; session = Session(sys.argv[1]); session.query('USE analytics');"
    "[session.query(one) for one in sys.argv[2:]]; session.close()"
)


def documented(word: str) -> list[str]:
    """The statements for one way to delete, in the order of the docs."""
    section = DOCS.read_text("utf-8").split("## Keeping less")[1]
    statements = re.findall(r"```sql\n(.*?)```", section, re.DOTALL) + re.findall(r"`(TRUNCATE [^`]+)`", section)
    return [one for one in statements if word in one]


def run(service: Service, dsn: str, statements: list[str]) -> None:
    if not dsn.startswith("chdb"):
        for one in statements:
            query(dsn, one)
        return
    assert service.stop() == 0
    subprocess.run([sys.executable, "-c", _EMBEDDED, service.data / "clickhouse", *statements], check=True, timeout=60)
    service.start()


def month_of_now(statement: str, dsn: str) -> str:
    """The docs name a month in which no test runs."""
    now = "toYYYYMM(now('UTC'))"
    return statement.replace("PARTITION 202501", f"PARTITION tuple({now})").replace("202501", now)


@pytest.mark.parametrize(("word", "statements", "deleted"), [("s-17", 2, 20), ("202501", 2, 30), ("TRUNCATE", 2, 30)])
def test_events_deleted_as_the_docs_say_come_in_again(
    make_service: Callable[..., Service], dsn: str, word: str, statements: int, deleted: int
) -> None:
    service = make_service(dsn).start()
    events = [
        {"event_name": "e", "session_id": "s-17" if number < 20 else "s-18", "event_id": str(uuid4())}
        for number in range(30)
    ]
    for _ in range(2):
        assert service.post_batch(events).status == 200
        service.wait_for_total(30)
    found = documented(word)
    assert len(found) == statements
    run(service, dsn, [month_of_now(one, dsn) for one in found])
    service.wait_for_total(30 - deleted)
    for _ in range(2):
        assert service.post_batch(events).status == 200
        service.wait_for_total(30)
    assert service.stop() == 0


def test_events_deleted_without_their_ids_are_known_still(
    make_service: Callable[..., Service], server_dsn: str
) -> None:
    """What the docs warn of."""
    service = make_service(server_dsn).start()
    event = {"event_name": "e", "session_id": "s-17", "event_id": str(uuid4())}
    assert service.post(event).status == 200
    service.wait_for_total(1)
    query(server_dsn, documented("s-17")[1])
    assert service.post(event).status == 200
    assert service.post({"event_name": "another"}).status == 200
    stats = service.wait_for_total(1)
    assert stats["events_by_category"] == service.stats()["events_by_category"]
    assert query(server_dsn, "SELECT event_name FROM events") == [["another"]]
