"""What an insert must be: the bytes of the spool, in one block, with the meaning that their types gave them."""

import asyncio
import json
import urllib.parse
import uuid
from pathlib import Path

import pytest

from schemas.parse import parse_batch
from schemas.payload import EncodedRows, Rows
from schemas.rows import CURRENT, make_rows
from service.errors import Misconfigured, Rejected, Retryable
from service.store import engines
from service.store.dsn import parse_dsn
from service.store.engines import InsertOptions
from service.store.store import Store
from tests.support.clickhouse import USERS, ClickHouseServer, query
from tests.support.proxy import Proxy
from tests.support.rows import RECEIVED_AT, count, encoded, insert, rows_of

#: Settings that would cut an insert into several blocks, were they not sent with it.
CUTTING = {
    "max_insert_block_size": 100,
    "max_block_size": 100,
    "min_insert_block_size_rows": 100,
    "min_insert_block_size_bytes": 1,
    "max_insert_block_size_bytes": 10_000,
    "input_format_max_block_size_bytes": 10_000,
    "input_format_parallel_parsing": 1,
    "min_chunk_bytes_for_parallel_parsing": 10_000,
    "use_strict_insert_block_limits": 1,
    "input_format_connection_handling": 1,
}


def batch(rows: int, *, client_ids: bool = False) -> Rows:
    parts = []
    for number in range(rows // 100):
        events = [{"event_name": f"e{number}", "page_url": str(one), "session_id": "s" * 24} for one in range(100)]
        if client_ids:
            events = [event | {"event_id": str(uuid.uuid4())} for event in events]
        parts.append(
            make_rows(parse_batch(json.dumps({"events": events}).encode()), source="t", received_at=RECEIVED_AT)
        )
    return Rows(CURRENT, parts)


async def parts_of(store: Store, table: str) -> int:
    [[parts]] = await store.query(
        "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = {table:String}"
        " AND active AND level = 0",
        {"table": table},
    )
    return int(parts)


@pytest.mark.parametrize("size", [10_000, 100_000])
async def test_a_batch_is_one_block_whatever_cuts_and_however_it_is_encoded(
    store: Store, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = batch(size, client_ids=True)
    await store.insert(rows, "t")
    assert (await count(store), await parts_of(store, "events"), await parts_of(store, "client_ids")) == (size, 1, 1)
    await store._engine.insert_converted(rows, InsertOptions("t"))
    joined = Rows(CURRENT, [EncodedRows(rows.payload, len(rows))])
    for name, value in CUTTING.items():
        for names in (engines.INSERT_SETTINGS, engines.NEWER_INSERT_SETTINGS):
            if name not in engines.INSERT_SETTINGS | engines.NEWER_INSERT_SETTINGS:
                monkeypatch.setitem(names, name, value)
    await store.insert(joined, "t")
    assert await count(store) == size
    [[ids]] = await store.query("SELECT count() FROM client_ids")
    assert ids == size


async def test_each_setting_that_would_cut_a_batch_is_sent_with_it(own_server: ClickHouseServer) -> None:
    """A user's profile must not decide how many blocks a batch is."""
    rows = batch(10_000)
    store = Store(parse_dsn(own_server.dsn("analytics"), Path("unused")), migrating=True)
    await store.prepare()
    await store.insert(rows, "before")
    await store.close()
    own_server.stop()
    profile = "".join(f"<{name}>{value}</{name}>" for name, value in CUTTING.items())
    own_server.users = USERS.replace("<default/>", f"<default>{profile}</default>", 1)
    own_server.start()
    assert query(own_server.dsn("analytics"), "SELECT getSetting('max_insert_block_size')") == [[100]]
    store = Store(parse_dsn(own_server.dsn("analytics"), Path("unused")), migrating=True)
    await store.prepare()
    await store.insert(rows, "before")
    await store.insert(rows, "after")
    assert await count(store) == 20_000
    assert await parts_of(store, "events") == 2
    await store.close()


async def test_an_insert_that_was_sent_and_then_refused_may_still_run(own_server: ClickHouseServer) -> None:
    """The driver sends it again by itself when the connection breaks, and tells of the last failure only."""
    proxy = Proxy(own_server.port).open()
    store = Store(parse_dsn(proxy.dsn(own_server.dsn("analytics")), Path("unused")), migrating=True)
    await store.prepare()
    try:
        proxy.fates.append("cut-answer, refuse")
        with pytest.raises(Retryable) as failed:
            await store.insert(batch(10), "token")
        assert failed.value.may_run
        assert proxy.met[-1] == "cut-answer, refuse"  # it got through to ClickHouse
    finally:
        await store.close()
        proxy.close()


async def test_what_is_cut_off_at_the_end_of_a_row_is_not_taken_for_the_whole(own_server: ClickHouseServer) -> None:
    """A row's end looks like the batch's end: only the announced length tells."""
    store = Store(parse_dsn(own_server.dsn("analytics"), Path("unused")), migrating=True)
    await store.prepare()
    rows = batch(1000)
    statement = f"INSERT INTO events ({', '.join(CURRENT.names)}) FORMAT MsgPack"
    settings = urllib.parse.urlencode(engines.INSERT_SETTINGS | {"query": statement, "insert_deduplication_token": "t"})
    head = f"POST /?database=analytics&{settings} HTTP/1.1\r\nHost: x\r\n"
    half = rows.split(500)[0].payload
    for framing in (f"Content-Length: {len(rows.payload)}\r\n\r\n".encode() + half,
                    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(half), half)):  # fmt: skip
        reader, writer = await asyncio.open_connection("127.0.0.1", own_server.port)
        writer.write(head.encode() + framing)
        await writer.drain()
        writer.write_eof()
        await reader.read()
        writer.close()
    await store.insert(rows, "t")
    assert await count(store) == 1000
    await store.close()


@pytest.mark.parametrize(
    ("change", "column", "expected"),
    [
        ("MODIFY COLUMN page_url Nullable(String)", "page_url", "7"),
        ("MODIFY COLUMN page_url UInt8", "page_url", 7),
        ("MODIFY COLUMN user_agent Enum8('x' = 1, 'agent' = 2)", "user_agent", "agent"),
        ("MODIFY COLUMN properties JSON", "toString(properties.a)", "1"),
        ("MODIFY COLUMN event_name String", "event_name", "e"),
        ("MODIFY COLUMN sequence UInt64", "sequence", 2**32 - 1),
        ("ADD COLUMN more UInt8 DEFAULT 5", "more", 5),
    ],
)  # fmt: skip
async def test_a_table_of_other_types_gets_the_values_converted(
    store: Store, change: str, column: str, expected: object
) -> None:
    await store.command(f"ALTER TABLE events {change}")
    event = {"event_name": "e", "page_url": "7", "user_agent": "agent", "properties": {"a": 1}, "sequence": 2**32 - 1}
    for _ in range(2):
        await insert(store, rows_of(event), "t")
    assert await store.query(f"SELECT {column} FROM events") == [(expected,)]


async def test_a_column_altered_just_now_costs_one_try(store: Store) -> None:
    rows = rows_of({"event_name": "e", "priority": "high"})
    await insert(store, rows, "before")
    await store.command("ALTER TABLE events MODIFY COLUMN priority Enum8('high' = 1)")
    with pytest.raises(Retryable) as refused:
        await insert(store, rows, "after")
    assert refused.value.code == 44
    await insert(store, rows, "after")
    assert await store.query("SELECT priority FROM events") == [("high",)] * 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("MODIFY COLUMN page_url UInt8", 6),
        ("MODIFY COLUMN page_url Enum8('7' = 1)", 691),
        ("MODIFY COLUMN page_url FixedString(2)", 131),
        ("MODIFY COLUMN page_url UUID", 376),
        ("ADD CONSTRAINT short CHECK length(page_url) < 2", 469),
    ],
)
async def test_a_value_for_which_there_is_no_place_is_rejected(store: Store, change: str, code: int) -> None:
    await store.command(f"ALTER TABLE events {change}")
    with pytest.raises(Rejected) as refused:
        await insert(store, rows_of({"event_name": "e", "page_url": "7"}, {"event_name": "e", "page_url": "bad"}), "t")
    assert refused.value.code == code
    assert await count(store) == 0


async def test_a_column_that_is_gone_is_for_a_person_to_mend(store: Store) -> None:
    await store.command("ALTER TABLE events DROP COLUMN referrer")
    with pytest.raises(Misconfigured) as refused:
        await insert(store, rows_of({"event_name": "e"}), "t")
    assert refused.value.code == 16


async def test_converted_or_not_a_row_is_the_same(store: Store) -> None:
    odd = "\0 \t'\"\\ é 漢 🙂 {x:String} %s"
    rows = encoded(
        rows_of(
            {
                "event_name": odd,
                "session_id": odd,
                "page_url": odd * 3000,
                "referrer": odd,
                "user_agent": odd,
                "user_id": odd,
            },
            {"event_name": "first", "timestamp": "1900-01-01T00:00:00Z", "category": "trading", "sequence": 2**32 - 1},
            {"event_name": "last", "timestamp": "2299-12-31T23:59:59.999999Z", "event_id": str(uuid.uuid4())},
            sent_at="2299-12-31T23:59:59.999999Z",
        )
    )
    content = "SELECT count(), sum(cityHash64(* EXCEPT segment)) FROM events"
    await store.insert(rows, "a")
    plain = await store.query(content)
    await store.command("TRUNCATE TABLE events")
    await store._engine.insert_converted(rows, InsertOptions("b"))
    assert await store.query(content) == plain
