"""What bends inserts or answers without a word is found at a start and while the service runs, and told."""

import logging
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import Misconfigured, Rejected, Retryable
from service.store.dsn import Target, parse_dsn
from service.store.store import Store
from tests.support import wait_until
from tests.support.clickhouse import USERS, ClickHouseServer, query
from tests.support.rows import count, insert, rows_of
from tests.support.service import HEALTH, READ, WRITE, Service, patched

EAGER = patched("service.store.store.CHECKED_EVERY = 0.2")


async def warnings_after(target: Target, *changes: str) -> tuple[str, ...]:
    """What a start finds after these statements."""
    store = Store(target, migrating=False)
    await store.prepare()
    for change in changes:
        await store.command(change)
    await store.prepare()
    await store.close()
    return store.warnings


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ([], []),
        (
            ["ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 5"],
            ["the table events should have the setting non_replicated_deduplication_window = 1000"],
        ),
        (
            ["ALTER TABLE client_ids MODIFY SETTING non_replicated_deduplication_window = 5, fsync_after_insert = 0"],
            [
                "the table client_ids should have the setting non_replicated_deduplication_window = 1000",
                "the table client_ids should have the setting fsync_after_insert = 1",
            ],
        ),
        (["DROP TABLE client_ids_view"], ["the table events has no view client_ids_view"]),
        (
            [
                "DROP TABLE client_ids_view",
                "CREATE TABLE elsewhere AS client_ids",
                "CREATE MATERIALIZED VIEW client_ids_view TO elsewhere AS SELECT toUInt128(event_id) AS id, received_at"
                " FROM events WHERE id_origin = 'client'",
            ],
            ["the view client_ids_view does not fill the table client_ids"],
        ),
    ],
    ids=["as it was made", "window of events", "settings of ids", "no view", "a view that points elsewhere"],
)
async def test_what_the_tables_lost_is_warned_of(
    store: Store, target: Target, changes: list[str], warned: list[str]
) -> None:
    found = await warnings_after(target, *changes)
    assert [one[: len(start)] for one, start in zip(found, warned, strict=True)] == warned


async def test_a_row_policy_is_warned_of_by_the_table_whose_rows_it_hides(own_server: ClickHouseServer) -> None:
    store = Store(parse_dsn(own_server.dsn("analytics"), Path("unused")), migrating=True)
    await store.prepare()
    await insert(store, rows_of({"event_name": "e", "event_id": str(uuid.uuid4())}), "t")
    await store.close()
    own_server.stop()
    policy = "<databases><analytics><{0}><filter>{1}</filter></{0}></analytics></databases>"
    name = "<{0}><password/><networks><ip>::/0</ip></networks><profile>default</profile>{1}</{0}>"
    grants = "<grants><query>GRANT SELECT, INSERT ON analytics.*</query></grants>"
    own_server.users = USERS.replace(
        "</users>",
        name.format("events_hidden", policy.format("events", "category = 'auth'") + grants)
        + name.format("ids_hidden", policy.format("client_ids", "id % 2 = 0"))
        + "</users>",
    )
    own_server.start()
    for user, table in (("events_hidden", "events"), ("ids_hidden", "client_ids")):
        store = Store(parse_dsn(own_server.dsn("analytics", user), Path("unused")), migrating=False)
        await store.prepare()
        [warning] = store.warnings
        assert warning.startswith(f"a row policy hides rows of the table {table} from the service")
        await store.close()


def test_warnings_are_in_the_log_once_and_in_the_health_of_those_who_may_read(
    make_service: Callable[..., Service], server_dsn: str
) -> None:
    service = make_service(server_dsn).start(prefix=EAGER)
    assert "warnings" not in service.get(HEALTH).json
    query(server_dsn, "ALTER TABLE client_ids MODIFY SETTING non_replicated_deduplication_window = 7")
    [warning] = wait_until(lambda: service.get(HEALTH, READ).json.get("warnings"))
    assert "client_ids" in warning
    health = service.get(HEALTH, READ).json
    assert (health["status"], health["clickhouse"]["ok"]) == ("ok", True)
    for token in (None, WRITE, "unknown"):
        answer = service.get(HEALTH, token)
        assert (answer.status, answer.json.get("warnings")) == (200, None)
    query(server_dsn, "ALTER TABLE client_ids MODIFY SETTING non_replicated_deduplication_window = 10000")
    wait_until(lambda: "warnings" not in service.get(HEALTH, READ).json)
    assert service.log().count(warning) == 1


async def test_a_check_that_cannot_be_made_is_no_reason_not_to_start(
    store: Store, target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As by an older server, or one that shows its tables to nobody."""
    monkeypatch.setattr("service.store.checks._TABLES_SQL", "SELECT nonsense FROM system.tables")
    monkeypatch.setattr("service.store.checks._TRIAL", "INSERT INTO events (no_column) SELECT 1")
    monkeypatch.setattr("service.store.checks._READS", {"events": "EXPLAIN no_setting = 1 SELECT 1"})
    with caplog.at_level(logging.WARNING):
        found = await warnings_after(target)
    assert len(found) == (1 if target.embedded else 2)
    for warning in found:
        assert warning.startswith("a check whether ClickHouse takes and finds events failed: ")
        assert caplog.text.count(warning) == 1
    await insert(store, rows_of({"event_name": "e"}), "t")
    assert await count(store) == 1


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT toUInt8('x')", 6),
        ("SELECT throwIf(1)", 395),
        ("SELECT intDiv(1, 0)", 153),
        ("SELECT toUUID('x')", 376),
        ("SELECT CAST('y', 'Enum8(\\'x\\' = 1)')", 691),
    ],
)
async def test_a_query_that_fails_rejects_no_rows(store: Store, sql: str, code: int) -> None:
    """These codes are rejections when an INSERT gives them."""
    with pytest.raises(Retryable) as failed:
        await store.query(sql)
    assert failed.value.code == code


async def test_a_damaged_part_of_the_ids_is_no_rejection(own_server: ClickHouseServer) -> None:
    """What ClickHouse says of a part that it can't read is what it says of rows that it can't parse."""
    store = Store(parse_dsn(own_server.dsn("analytics"), Path("unused")), migrating=True)
    await store.prepare()
    await insert(store, rows_of(*({"event_name": "e", "event_id": str(uuid.uuid4())} for _ in range(100))), "t")
    [[part]] = own_server.query("SELECT path FROM system.parts WHERE table = 'client_ids' AND active")
    for file in Path(str(part)).glob("*.bin"):
        file.write_bytes(file.read_bytes()[:40])
    own_server.query("SYSTEM DROP MARK CACHE")
    own_server.query("SYSTEM DROP UNCOMPRESSED CACHE")
    with pytest.raises(Retryable) as failed:
        await store.query("SELECT id FROM client_ids WHERE received_at > 0 ORDER BY id")
    assert failed.value.code
    assert not isinstance(failed.value, Rejected)
    await store.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("ADD COLUMN a IPv4 MATERIALIZED toIPv4(page_url)", 675),
        ("ADD COLUMN a IPv6 MATERIALIZED toIPv6(page_url)", 676),
        ("ADD COLUMN a Bool MATERIALIZED page_url::Bool", 467),
        ("ADD COLUMN a UInt8 MATERIALIZED throwIf(page_url = 'bad')", 395),
        ("ADD COLUMN a Int64 MATERIALIZED intDiv(1, page_url != 'bad')", 153),
        ("ADD COLUMN a Array(UInt8) MATERIALIZED page_url::Array(UInt8)", 130),
    ],
)
async def test_a_row_of_which_a_column_of_the_operator_can_not_be_made_is_rejected(
    store: Store, change: str, code: int
) -> None:
    await store.command(f"ALTER TABLE events {change}")
    with pytest.raises(Rejected) as refused:
        await insert(store, rows_of({"event_name": "e", "page_url": "bad"}), "t")
    assert refused.value.code == code
    assert await count(store) == 0


async def test_a_read_only_user_is_told_so_at_the_start_without_its_name(own_server: ClickHouseServer) -> None:
    store = Store(parse_dsn(own_server.dsn("analytics"), Path("unused")), migrating=True)
    await store.prepare()
    await store.close()
    own_server.stop()
    for value in (1, 2):
        own_server.users = USERS.replace(
            "<default/></profiles>", f"<default/><p><readonly>{value}</readonly></p></profiles>"
        )
        own_server.users = own_server.users.replace(
            "<profile>default</profile></writer>", "<profile>p</profile></writer>"
        )
        own_server.start()
        store = Store(parse_dsn(own_server.dsn("analytics", "writer", "right"), Path("unused")), migrating=False)
        with pytest.raises(Misconfigured, match="readonly mode") as refused:
            await store.prepare()
        assert "writer" not in str(refused.value)
        await store.close()
        own_server.stop()
