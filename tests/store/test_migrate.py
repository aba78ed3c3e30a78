"""Migrations on a real server: order, record, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.payload import Header
from schemas.rows import CURRENT
from service.api.loss import LOSS_SQL
from service.errors import Misconfigured
from service.store.dsn import parse_dsn
from service.store.migrations import Migration, migrate, shipped
from service.store.store import Store
from tests.support.rows import encoded, insert, rows_of

pytestmark = pytest.mark.quick

FIRST = Migration(1, "0001_first.sql", "CREATE TABLE IF NOT EXISTS one (n UInt8) ENGINE = MergeTree ORDER BY n")
SECOND = Migration(2, "0002_second.sql", "ALTER TABLE one ADD COLUMN IF NOT EXISTS m UInt8 DEFAULT 7")


@pytest.fixture
async def database(server_dsn: str) -> AsyncIterator[Store]:
    """A store with nothing in it; its own migrations are in it too, and are not of interest here."""
    store = Store(parse_dsn(server_dsn, Path("unused")), migrating=True)
    await store.prepare()
    await store.command("DROP TABLE migrations")
    yield store
    await store.close()


async def test_what_is_missing_is_applied_in_order_and_recorded(database: Store) -> None:
    assert await migrate(database, [FIRST]) == [FIRST]
    assert await migrate(database, [FIRST, SECOND]) == [SECOND]
    assert await migrate(database, [FIRST, SECOND]) == []
    await database.command("INSERT INTO one (n) VALUES (1)")
    assert await database.query("SELECT n, m FROM one") == [(1, 7)]
    assert await database.query("SELECT number, name, sha256 FROM migrations ORDER BY number") == [
        (one.number, one.name, one.sha256) for one in (FIRST, SECOND)
    ]


async def test_a_migration_that_was_edited_after_it_shipped_is_refused_by_name(database: Store) -> None:
    await migrate(database, [FIRST])
    with pytest.raises(Misconfigured, match=r"0001_first\.sql is not the one that was applied"):
        await migrate(database, [FIRST._replace(sql=FIRST.sql + " -- edited"), SECOND])
    assert await migrate(database, [FIRST]) == [], "and nothing after it was applied"


async def test_a_database_of_a_newer_version_is_refused(database: Store) -> None:
    await migrate(database, [FIRST, SECOND])
    with pytest.raises(Misconfigured, match=r"0002_second\.sql, which this version does not know"):
        await migrate(database, [FIRST])


async def test_a_crash_between_the_statement_and_its_record_is_mended_by_the_next_start(database: Store) -> None:
    await database.command(FIRST.sql)
    assert await migrate(database, [FIRST]) == [FIRST]


async def test_a_table_of_an_earlier_version_gets_what_is_new_and_keeps_its_rows(database: Store) -> None:
    await database.command("DROP TABLE client_ids_view, client_ids, events")
    await migrate(database, shipped()[:3])
    old = CURRENT.names.index("id_origin") + 1
    header = Header(CURRENT.names[:old], CURRENT.types[:old])
    rows = [row[:old] for row in rows_of({"event_name": "e", "session_id": "s", "sequence": 5}, sent_at=1)]
    await database.insert(encoded(rows, header), "before")
    assert await migrate(database) == shipped()[3:]
    await database.insert(encoded(rows, header), "left on disk by the earlier version")
    await insert(database, rows_of({"event_name": "e", "session_id": "s", "sequence": 2}), "after")
    query = "SELECT sequence, clock_skew, corrected_timestamp = timestamp FROM events ORDER BY sequence"
    assert await database.query(query) == [(0, None, True), (0, None, True), (2, None, True)]
    assert await database.query(LOSS_SQL, {"session_id": "s"}) == [(2, 1, 1, [(1, 1)])]


async def test_eight_workers_that_migrate_at_once_do_no_harm(server_dsn: str) -> None:
    stores = [Store(parse_dsn(server_dsn, Path("unused")), migrating=True) for _ in range(8)]
    await asyncio.gather(*(store.prepare() for store in stores))
    assert await migrate(stores[0]) == []
    for store in stores:
        await store.close()


def test_shipped_migrations_are_numbered_without_gaps() -> None:
    assert [one.number for one in shipped()] == list(range(1, len(shipped()) + 1))


def test_shipped_migrations_are_never_edited() -> None:
    """Add a line for each new file. A line that has shipped does not change: databases have its hash."""
    assert {one.name: one.sha256 for one in shipped()} == {
        "0001_events.sql": "0d751c9f96d5e9c23e48cdaa926b588137edbc1d4b3971e2b71fb2f6a3c9ee29",
        "0002_client_ids.sql": "68e5a59cbb6eef74bbbb3c9b4899236a12e08274493d6930b762fcbe20fa90f3",
        "0003_client_ids_view.sql": "58d19876940b59657708a51d3d34cc1235eae8cb47a3d2d210943d9aa69334e6",
        "0004_sequence_and_clock_skew.sql": "d24332f79e1ab6c79621796c511c858edc3e638965d324b6937b2a2092e8a0e0",
        "0005_session_index.sql": "eab367e2abdf637c592d58eff800ae71ec11545cd5062b32a93707320440f10e",
        "0006_segment.sql": "3b7709240287e59e186c95f616472b737600a62fa7fcf416876518ac3ca7c1ae",
        "0007_client_ids_view_at_insert.sql": "087665c0577d37ddaf3c08434f981b0416bec75eb65f8176efe93ea4c199b0b0",
        "0008_client_ids_stored_at.sql": "b2d0a89fdb6169cfc782a007be17747b4b0d7d99f5af5baf54537ebaacfa7553",
        "0009_client_ids_small_blocks.sql": "27be1b88a4f686169d29940538af0771809f7bc46a6a80d522c10097f01735bf",
        "0010_start_after_power_cut.sql": "99962c0de0635cf7ec151a3b087d30df060a76f1f3d7a1fb69dadae29341489e",
        "0011_start_after_power_cut_ids.sql": "70cdef6d3f80d0e2668a1a59739057966b7ee144abbe175147f931eb1f4e564b",
        "0012_user_id.sql": "215b57c2639ef1ad0764915a5078e0fdac12d037abc529f9c7bdb3bee09c32b3",
    }
