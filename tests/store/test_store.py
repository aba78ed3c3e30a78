"""One suite for both kinds of ClickHouse: a real server, and the real engine embedded in this process."""

import asyncio
import re
import uuid
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, DataError, OperationalError

from schemas.events import SEQUENCE_MAX
from schemas.parse import ParsedBatch
from schemas.payload import EncodedRows, Header
from schemas.rows import CLOCK_SKEW_TOLERANCE, COLUMNS, CORRECTED_TIMESTAMP, CURRENT, SEGMENT, make_rows
from service.errors import Misconfigured, Rejected, Retryable, ViewFailed
from service.store.dsn import Target, parse_dsn
from service.store.failures import classify_failure
from service.store.migrations import shipped
from service.store.store import Store
from tests.support.clickhouse import ClickHouseServer, free_port
from tests.support.fastapi_peer import microseconds
from tests.support.rows import RECEIVED_AT, count, encoded, insert, rows_of

pytestmark = pytest.mark.quick


async def test_the_table_is_what_rows_says(store: Store) -> None:
    described = await store.query("DESCRIBE TABLE events")
    assert [(name, kind, comment) for name, kind, _, _, comment, *_ in described] == [
        *COLUMNS,
        CORRECTED_TIMESTAMP,
        SEGMENT,
    ]
    computed = {name: (how, expression) for name, _, how, expression, *_ in described if how}
    assert list(computed) == [CORRECTED_TIMESTAMP.name, SEGMENT.name], "a default may differ between two tries"
    assert computed[SEGMENT.name] == ("DEFAULT", "getSetting('insert_deduplication_token')"), "this one does not"
    how, expression = computed[CORRECTED_TIMESTAMP.name]
    assert how == "ALIAS"
    assert f" > {CLOCK_SKEW_TOLERANCE}" in expression
    assert f" {CLOCK_SKEW_TOLERANCE} ms" in CORRECTED_TIMESTAMP.comment


@pytest.mark.parametrize(
    ("timestamp", "sent_at", "corrected"),
    [
        ("2026-11-24T12:34:56.000001Z", None, "2026-11-24 12:34:56.000001"),
        ("2026-11-24T12:34:56.000001Z", CLOCK_SKEW_TOLERANCE, "2026-11-24 12:34:56.000001"),
        ("2026-11-24T12:34:56.000001Z", -CLOCK_SKEW_TOLERANCE, "2026-11-24 12:34:56.000001"),
        ("2026-11-24T12:34:56.000001Z", CLOCK_SKEW_TOLERANCE + 1, "2026-11-24 12:35:56.001001"),
        ("2026-11-24T12:34:56.000001Z", -CLOCK_SKEW_TOLERANCE - 1, "2026-11-24 12:33:55.999001"),
        (None, 3_600_000, "2026-11-24 20:35:04.123456"),
        ("1900-01-01T00:00:00Z", -5_000_000, "1900-01-01 00:00:00.000000"),
        ("2299-12-31T23:59:59.999999Z", 5_000_000, "2299-12-31 23:59:59.999999"),
    ],
)
async def test_a_time_is_corrected_where_the_clock_is_wrong_by_more_than_an_upload_takes(
    store: Store, timestamp: str | None, sent_at: int | None, corrected: str
) -> None:
    """``sent_at`` is how many ms before the receipt the client says that it sent."""
    said = None if sent_at is None else RECEIVED_AT // 1000 - sent_at
    await insert(store, rows_of({"event_name": "e", "timestamp": timestamp}, sent_at=said), "t")
    [found] = await store.query(
        "SELECT toString(corrected_timestamp), clock_skew, toUnixTimestamp64Micro(timestamp) FROM events"
        " WHERE corrected_timestamp > toDateTime64('1900-01-01 00:00:00', 6, 'UTC') - 1"
    )
    as_sent = microseconds(datetime.fromisoformat(timestamp)) if timestamp else RECEIVED_AT
    assert found == (corrected, None if timestamp is None else sent_at, as_sent)


@pytest.mark.parametrize(("last", "sequence"), [("id_origin", 0), ("clock_skew", 5)])
async def test_rows_from_before_a_column_have_its_default(store: Store, last: str, sequence: int) -> None:
    """A segment that an earlier version left on disk carries the columns of its time."""
    old = CURRENT.names.index(last) + 1
    rows = [row[:old] for row in rows_of({"event_name": "e", "sequence": 5, "user_id": "u"}, sent_at=1)]
    await store.insert(encoded(rows, Header(CURRENT.names[:old], CURRENT.types[:old])), "t")
    query = "SELECT sequence, clock_skew, corrected_timestamp = timestamp, user_id FROM events"
    assert await store.query(query) == [(sequence, None, True, "")]


async def test_what_is_inserted_comes_back_exactly(store: Store) -> None:
    odd = "\0 \t'\"\\ é 漢 🙂 {x:String} %s"
    rows = rows_of(
        {"event_name": odd, "session_id": odd, "page_url": odd, "referrer": odd, "user_agent": odd, "user_id": odd},
        {"event_name": "first", "timestamp": "1900-01-01T00:00:00Z", "category": "trading", "priority": "critical"},
        {"event_name": "last", "timestamp": "2299-12-31T23:59:59.999999Z", "sequence": SEQUENCE_MAX},
        {"event_name": "numbers", "properties": {"a": 0.1, "b": 2**63, "c": 10**30, "d": "x"}, "sequence": 1},
        sent_at="2299-12-31T23:59:59.999999Z",
    )
    await insert(store, rows, "t")
    back = await store.query(
        "SELECT toString(event_id), event_name, category, priority, properties, toUnixTimestamp64Micro(timestamp),"
        " toUnixTimestamp64Milli(received_at), session_id, page_url, referrer, user_agent, client_id, source,"
        " id_origin, sequence, clock_skew, user_id FROM events ORDER BY toString(event_id)"
    )
    assert back == sorted((str(uuid.UUID(bytes=row[0])), *row[1:]) for row in rows)


async def test_a_token_is_stored_once_however_often_it_is_sent(store: Store) -> None:
    rows = rows_of(*({"event_name": f"e{number}"} for number in range(50)))
    for _ in range(3):
        await insert(store, rows, "once")
    assert await count(store) == 50
    await insert(store, rows, "another")
    assert await count(store) == 100


async def test_the_same_token_sent_at_the_same_time_is_stored_once(store: Store) -> None:
    rows = rows_of({"event_name": "a"}, {"event_name": "b"})
    await asyncio.gather(*(insert(store, rows, "same") for _ in range(5)))
    assert await count(store) == 2


async def test_a_large_batch_over_hundreds_of_years_is_one_part_and_so_one_token(store: Store) -> None:
    """The driver would cut this batch into several blocks, and event-time partitions into hundreds of parts."""
    hundred = [{"event_name": "e", "timestamp": f"{1900 + 4 * number}-06-01T00:00:00Z"} for number in range(100)]
    rows = [row for _ in range(200) for row in rows_of(*hundred)]
    await insert(store, rows, "big")
    [[parts]] = await store.query(
        "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'events' AND active"
    )
    assert parts == 1
    await insert(store, rows, "big")
    assert await count(store) == 20_000


async def test_rows_that_the_table_refuses_are_rejected_and_nothing_of_them_is_stored(store: Store) -> None:
    await store.command("ALTER TABLE events ADD CONSTRAINT no_poison CHECK event_name != 'poison'")
    with pytest.raises(Rejected) as refused:
        await insert(store, rows_of({"event_name": "fine"}, {"event_name": "poison"}), "t")
    assert refused.value.code == 469
    assert await count(store) == 0


async def test_a_view_that_fails_behind_the_table_leaves_the_rows_in_it_and_can_be_passed(store: Store) -> None:
    """The rows are in the table by then: halving the batch would store them again, under other tokens."""
    await store.command(
        "CREATE MATERIALIZED VIEW view ENGINE = MergeTree ORDER BY n"
        " AS SELECT throwIf(session_id = 'poison') AS n FROM events"
    )
    rows = rows_of({"event_name": "fine"}, {"event_name": "e", "session_id": "poison"})
    await store.command(
        "CREATE MATERIALIZED VIEW other ENGINE = MergeTree ORDER BY n"
        " SETTINGS non_replicated_deduplication_window = 100 AS SELECT session_id AS n FROM events"
    )
    for _ in range(2):
        with pytest.raises(ViewFailed, match="while pushing to view"):
            await insert(store, rows, "t")
    assert await count(store) == 2
    for _ in range(2):
        await store.insert(encoded(rows), "t", past_views=True)
    assert await count(store) == 2
    assert await store.query("SELECT count() FROM other") == [(2,)]
    await store.command("DROP TABLE view")
    await insert(store, rows, "t")
    assert await count(store) == 2


async def test_a_view_whose_target_is_gone_can_be_passed(store: Store) -> None:
    """ClickHouse refuses such an INSERT before it stores anything."""
    await store.command("CREATE TABLE target (n String) ENGINE = MergeTree ORDER BY n")
    await store.command("CREATE MATERIALIZED VIEW view TO target AS SELECT session_id AS n FROM events")
    await store.command("DROP TABLE target")
    with pytest.raises(ViewFailed):
        await insert(store, rows_of({"event_name": "e"}), "t")
    await store.insert(encoded(rows_of({"event_name": "e"})), "t", past_views=True)
    assert await count(store) == 1


async def test_the_table_knows_which_insert_brought_which_rows(store: Store) -> None:
    november, december = 1_795_996_800_000, 1_796_083_200_000 + 4 * 86_400_000
    segment, other = "01a2100033a3-1295e1ac534ffe31", "01a2100033a4-1295e1ac534ffe32"
    await store.insert(encoded(rows_of({"event_name": "a"}, received_at=november * 1000)), f"{segment}-0-1")
    both = [rows_of({"event_name": "b"}, {"event_name": "c"}, received_at=at * 1000) for at in (november, december)]
    await store.insert(encoded([*both[0], *both[1]]), f"{segment}-1-5")
    await store.insert(encoded(rows_of({"event_name": "other"}, received_at=november * 1000)), other)
    assert sorted(await store.stored(segment, november, december)) == [
        (f"{segment}-0-1", 202611, 1),
        (f"{segment}-1-5", 202611, 2),
        (f"{segment}-1-5", 202612, 2),
    ]
    assert await store.stored(segment, december, december) == [(f"{segment}-1-5", 202612, 2)]
    assert await store.stored("01a2100033a5-1295e1ac534ffe33", 0, december) == []


async def test_ids_that_the_view_lost_are_remembered(store: Store) -> None:
    segment = "01a2100033a3-1295e1ac534ffe31"
    rows = rows_of({"event_name": "a", "event_id": str(UUID(int=7 << 76 | 2 << 62 | 5))}, {"event_name": "b"})
    await insert(store, rows, segment)
    [at] = {row[CURRENT.names.index("received_at")] for row in rows}
    await store.command("TRUNCATE TABLE client_ids")
    [client_id, _] = (int.from_bytes(row[0], "big") for row in rows)
    assert await store.known_ids([client_id], 60) == set()
    await store.remember_ids(segment, at, at)
    assert await store.known_ids([client_id, 5], 60) == {client_id}
    assert await store.query("SELECT count() FROM client_ids") == [(1,)], "ids that the service made are none"


async def test_a_missing_table_is_for_a_person_to_mend(store: Store) -> None:
    await store.command("RENAME TABLE events TO away")
    with pytest.raises(Misconfigured) as refused:
        await insert(store, rows_of({"event_name": "a"}), "t")
    assert refused.value.code == 60
    await store.command("RENAME TABLE away TO events")
    await insert(store, rows_of({"event_name": "a"}), "t")
    assert await count(store) == 1


async def test_parameters_are_bound_by_clickhouse_and_not_pasted(store: Store) -> None:
    hostile = "'; DROP TABLE events; --\\ {x}"
    assert await store.query("SELECT {text:String}, {n:Int64}", {"text": hostile, "n": -5}) == [(hostile, -5)]


async def test_preparing_again_changes_nothing_and_two_at_once_do_no_harm(store: Store, target: Target) -> None:
    others = [Store(target, migrating=True) for _ in range(3)]
    try:
        assert await asyncio.gather(*(other.prepare() for other in others)) == [[], [], []]
        await store.command("DROP TABLE events")
        await store.command("DROP TABLE migrations")
        await asyncio.gather(*(other.prepare() for other in others))
        recorded = await store.query("SELECT DISTINCT number, name FROM migrations ORDER BY number")
        assert recorded == [(one.number, one.name) for one in shipped()]
        assert await count(store) == 0
    finally:
        for other in others:
            await other.close()


async def test_deleting_events_keeps_the_statistics_true(store: Store) -> None:
    rows = rows_of(*({"event_name": f"e{number % 2}", "session_id": f"s{number}"} for number in range(10)))
    await insert(store, rows, "t")
    await store.command("DELETE FROM events WHERE event_name = 'e0'")
    hourly = "SELECT sum(n) FROM (SELECT category, count() AS n FROM events GROUP BY category)"
    assert await store.query(hourly) == [(5,)]
    await store.command("ALTER TABLE events DELETE WHERE session_id = 's1' SETTINGS mutations_sync = 2")
    assert await store.query(hourly) == [(4,)]


async def test_settings_that_the_promise_rests_on_are_missed_with_a_warning(
    store: Store, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    other = Store(target, migrating=False)
    await other.prepare()
    assert "should have the setting" not in caplog.text
    await store.command(
        "ALTER TABLE events MODIFY SETTING fsync_after_insert = 0, non_replicated_deduplication_window = 5"
    )
    await other.prepare()
    for name in ("fsync_after_insert = 1", "non_replicated_deduplication_window = 1000"):
        assert f"should have the setting {name}" in caplog.text
    assert "fsync_part_directory" not in caplog.text
    await other.close()


async def test_the_durability_settings_are_in_force(store: Store) -> None:
    [[engine]] = await store.query(
        "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'events'"
    )
    for setting in (
        "fsync_after_insert = 1",
        "fsync_part_directory = 1",
        "non_replicated_deduplication_window = 10000",
    ):
        assert setting in engine


def server_store(dsn: str) -> Store:
    return Store(parse_dsn(dsn, Path("unused")), migrating=True)


async def test_a_server_that_is_not_there_is_retryable_and_its_address_is_not_told() -> None:
    store = server_store(f"http://user:secret@127.0.0.1:{free_port()}/analytics")
    with pytest.raises(Retryable, match=r"^ClickHouse can't be reached: Connection refused$"):
        await store.prepare()
    await store.close()


@pytest.mark.starts
async def test_a_wrong_password_is_told_without_the_password(tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path / "server", with_users=True).start()
    try:
        store = server_store(server.dsn("analytics", "writer", "wrong"))
        with pytest.raises(Misconfigured, match="Authentication failed") as refused:
            await store.prepare()
        assert refused.value.code == 516
        assert "wrong" not in str(refused.value)
        await store.close()
        store = server_store(server.dsn("analytics", "writer", "right"))
        await store.prepare()
        await store.ping()
        await store.close()
    finally:
        server.stop()


async def answering(answer: bytes) -> tuple[asyncio.Server, str]:
    """A fake for what ClickHouse itself can't be made to do: answer with someone else's words."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/analytics"


@pytest.mark.parametrize("status", ["200 OK", "502 Bad Gateway", "301 Moved Permanently", "204 No Content"])
async def test_a_page_of_some_proxy_is_no_confirmation(status: str, store: Store, target: Target) -> None:
    if target.embedded:
        return
    page = b"<html>hello</html>"
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(page)}\r\nLocation: /\r\n\r\n"
    server, dsn = await answering(head.encode() + (b"" if status.startswith("204") else page))
    client = store._engine._client  # type: ignore[attr-defined]
    before, client._backend._base_url = client._backend._base_url, dsn.removesuffix("analytics")
    with pytest.raises(Retryable):
        await insert(store, rows_of({"event_name": "a"}), "t")
    client._backend._base_url = before
    server.close()
    await insert(store, rows_of({"event_name": "a"}), "t")
    assert await count(store) == 1


def test_an_empty_batch_is_never_made() -> None:
    assert make_rows(ParsedBatch([]), source="t", received_at=1) == EncodedRows(b"", 0)


#: Messages as servers word them, with what an operator must know and nobody else may.
SECRETIVE = [
    (516, "Code: 516. DB::Exception: secret_user: Authentication failed: password is incorrect, or there is no user"),
    (497, "Code: 497. DB::Exception: secret_user: Not enough privileges. To execute this query, it's necessary to have"
     " the grant INSERT(event_id) ON secret_base.events. (ACCESS_DENIED) (version 26.7.3.1)"),
    (192, "Code: 192. DB::Exception: There is no user `secret_user` in user directories"),
    (195, "Code: 195. DB::Exception: User secret_user is not allowed to connect from ::ffff:10.1.2.3"),
    (81, "Code: 81. DB::Exception: Database secret_base does not exist. (UNKNOWN_DATABASE)"),
    (60, "Code: 60. DB::Exception: Table secret_base.events does not exist. Maybe you meant secret_base.secret_table?"),
    (47, "Code: 47. DB::Exception: Unknown identifier `secret_column` in scope SELECT secret_column FROM events"),
    (164, "Code: 164. DB::Exception: secret_user: Cannot execute query in readonly mode. (READONLY)"),
    (115, "Code: 115. DB::Exception: Unknown setting 'secret_setting'"),
    (252, "Code: 252. DB::Exception: Too many parts (3000) in table 'secret_base.events (3d1f)'"),
    (243, "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space on /secret/disk/"),
    (241, "Code: 241. DB::Exception: (total) memory limit exceeded: while executing SELECT secret FROM secret_base"),
    (74, "Code: 74. DB::Exception: Cannot read from file /secret/store/data.bin, errno: 5"),
    (999, "Code: 999. Coordination::Exception: secret-keeper.example:9181: Session expired"),
    (395, "Code: 395. DB::Exception: secret value: while pushing to view secret_base.v"),
    (53, "Code: 53. DB::Exception: Cannot convert secret value to Int8"),
    (12345, "Code: 12345. DB::Exception: secret of a kind that nobody knows"),
    (0, "HTTPDriver for http://secret-host.example:8123 returned response code 404, <html>secret</html>"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "message"), SECRETIVE)
@pytest.mark.parametrize("kind", [DatabaseError, OperationalError, DataError, ValueError, OSError])
def test_what_everybody_may_see_of_a_failure_names_nothing_of_the_installation(
    kind: type[Exception], code: int, message: str
) -> None:
    error = kind(message)
    error.code = code  # type: ignore[attr-defined]
    failure = classify_failure(error)
    assert "DB::Exception" in str(failure) or "secret" in str(failure) or "can't be reached" in str(failure)
    assert "secret" not in failure.public
    assert not re.search(r"[/:`]|\d+\.|SELECT|Exception", failure.public.replace("no: ", "")), failure.public
    assert str(code) in failure.public or not code
