"""Clients that we did not write ask the SQL port, on both kinds of ClickHouse."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import clickhouse_connect
import pytest
import sqlalchemy
from clickhouse_connect.driver import options
from clickhouse_connect.driver.exceptions import DatabaseError

from service.edge import native_blocks
from tests.support.service import READ
from tests.support.sql import Door, serve_sql

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["server", "embedded"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    yield from serve_sql(request, tmp_path_factory.mktemp("sql"))


@pytest.fixture
def client(door: Door) -> Iterator[Any]:
    client = clickhouse_connect.get_client(host="127.0.0.1", port=door.port, username="analyst", password=READ)
    yield client
    client.close()


# -- clickhouse-connect -----------------------------------------------------------------------------


def test_clickhouse_connect_queries(client: Any, door: Door) -> None:
    result = client.query("SELECT event_id, event_name, timestamp, clock_skew FROM events ORDER BY event_name LIMIT 2")
    assert result.column_names == ("event_id", "event_name", "timestamp", "clock_skew")
    assert [row[1] for row in result.result_rows] == ["event_0", "event_1"]
    assert isinstance(result.result_rows[0][0], UUID)
    assert int(result.summary["read_rows"]) >= 100
    assert client.command("SELECT count() FROM events") == 100
    assert client.database == door.database or client.command("SELECT currentDatabase()") == door.database


def test_clickhouse_connect_binds_parameters(client: Any) -> None:
    found = client.query(
        "SELECT {a:UInt32} + 1, {b:String}, {c:Array(String)}, {d:DateTime64(3)}",
        parameters={"a": 41, "b": "it's\n\ta \\ line", "c": ["x", "y'z"], "d": "2026-01-02 03:04:05.678"},
    ).result_rows[0]
    assert found[:3] == (42, "it's\n\ta \\ line", ["x", "y'z"])
    by_client = client.query(
        "SELECT event_name FROM events WHERE event_name = %(name)s", parameters={"name": "event_7"}
    )
    assert by_client.result_rows == [("event_7",)]


def test_clickhouse_connect_gives_pandas_and_arrow(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy
    import pandas

    monkeypatch.setattr(options, "np", numpy)  # the service's own store takes them away
    monkeypatch.setattr(options, "pd", pandas)
    frame = client.query_df("SELECT event_name, count() AS n FROM events GROUP BY event_name ORDER BY event_name")
    assert isinstance(frame, pandas.DataFrame)
    assert (len(frame), frame.n.sum()) == (100, 100)
    table = client.query_arrow("SELECT number FROM numbers(1000)")
    assert table.num_rows == 1000


def test_clickhouse_connect_streams(client: Any) -> None:
    with client.query_row_block_stream("SELECT number, toString(number) FROM numbers(500000)") as blocks:
        sizes = [len(block) for block in blocks]
    assert sum(sizes) == 500_000
    assert len(sizes) > 1
    with client.raw_stream("SELECT number FROM numbers(100000)", fmt="CSV") as raw:
        assert len(b"".join(raw).splitlines()) == 100_000


def test_clickhouse_connect_sees_errors_and_settings(client: Any) -> None:
    for sql, code in (("SELECT nosuch", 47), ("DROP TABLE events", 164), ("SELECT file('/etc/hostname')", 497)):
        with pytest.raises(DatabaseError) as error:
            client.command(sql)
        assert error.value.code == code
    with pytest.raises(DatabaseError, match="result exceeded"):
        client.query("SELECT number FROM numbers(100)", settings={"max_result_rows": 10})
    with pytest.raises(Exception, match="throwIf"):
        client.query("SELECT throwIf(number = 3000000) FROM numbers(4000000)")


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_clickhouse_connect_takes_packed_answers(door: Door, compress: str | bool) -> None:
    given = {"host": "127.0.0.1", "port": door.port, "username": "a", "password": READ, "compress": compress}
    with clickhouse_connect.get_client(**given) as client:
        assert len(client.query("SELECT number FROM numbers(100000)").result_rows) == 100_000


async def test_clickhouse_connect_asks_asynchronously(door: Door) -> None:
    async with await clickhouse_connect.get_async_client(
        host="127.0.0.1", port=door.port, username="a", password=READ
    ) as client:
        assert (await client.query("SELECT count() FROM events")).result_rows == [(100,)]


# -- SQLAlchemy, as Superset uses it ------------------------------------------------------------------


def test_sqlalchemy_finds_tables_and_queries(door: Door) -> None:
    engine = sqlalchemy.create_engine(f"clickhousedb://analyst:{READ}@127.0.0.1:{door.port}/{door.database}")
    try:
        inspector = sqlalchemy.inspect(engine)
        assert inspector.get_schema_names() == [door.database]
        assert "events" in inspector.get_table_names(schema=door.database)
        columns = {column["name"]: column for column in inspector.get_columns("events", schema=door.database)}
        assert {"event_id", "event_name", "timestamp", "properties"} <= columns.keys()
        with engine.connect() as connection:
            found = connection.execute(
                sqlalchemy.text("SELECT event_name, count(*) AS n FROM events GROUP BY event_name ORDER BY 1 LIMIT 3")
            )
            assert list(found) == [("event_0", 1), ("event_1", 1), ("event_10", 1)]
            events = sqlalchemy.Table("events", sqlalchemy.MetaData(), autoload_with=engine)
            counted = sqlalchemy.select(sqlalchemy.func.count()).select_from(events)
            assert connection.execute(counted.where(events.c.event_name == "event_7")).scalar() == 1
            # What SQL Lab and a chart of Superset ask, in its words.
            chart = "SELECT toStartOfHour(toDateTime(timestamp)) AS __timestamp, COUNT(*) AS count FROM `events` WHERE"
            chart += " timestamp >= toDateTime('2020-01-01 00:00:00') GROUP BY __timestamp ORDER BY count DESC LIMIT 99"
            assert connection.execute(sqlalchemy.text(chart)).fetchall()[0][1] > 0
    finally:
        engine.dispose()


# -- a BI tool by its own path: Grafana's data source asks over HTTP as clickhouse-go does ---------------


def test_what_grafana_asks_is_answered(door: Door) -> None:
    hello = door.ask(
        "SELECT displayName(), version(), revision(), timezone()",
        headers={"X-ClickHouse-User": "analyst", "X-ClickHouse-Key": READ, "User-Agent": "clickhouse-go/2.40.0"},
        default_format="Native",
        database="default",
        compress=1,
        client_protocol_version=54460,
    )
    assert hello.status == 200
    block = native_blocks.unpack(hello.body, 2**20)
    assert block[:2] == b"\x04\x01", "four columns, one row"
    for sql in (
        "SELECT name FROM system.databases",
        f"SELECT name FROM system.tables WHERE database = '{door.database}'",
        f"SELECT name, type, table FROM system.columns WHERE database = '{door.database}' AND table = 'events'",
        'SELECT toStartOfInterval("timestamp", INTERVAL 60 second) AS "time", event_name, count(*)'
        f' FROM "{door.database}"."events" WHERE ( time >= toDateTime(1600000000)'
        ' AND time <= toDateTime(4000000000) ) GROUP BY "time", event_name'
        ' ORDER BY "time" ASC LIMIT 1000',
        f"DESC TABLE {door.database}.events",
    ):
        answer = door.ask(sql, default_format="JSONCompact", max_execution_time=60, readonly=1)
        assert json.loads(answer.body)["rows"] > 0, answer


# -- @clickhouse/client -------------------------------------------------------------------------------

_SCRIPT = """
import { createRequire } from 'node:module';
const { createClient } = createRequire(process.argv[2] + '/')('@clickhouse/client');
const client = createClient({ url: process.argv[3], username: 'analyst', password: process.argv[4],
  compression: { response: true } });
const found = {};
found.ping = (await client.ping()).success;
found.rows = await (await client.query({ query: 'SELECT event_name FROM events ORDER BY event_name LIMIT 2',
  format: 'JSONEachRow' })).json();
found.params = await (await client.query({ query: 'SELECT {n:UInt8} + 1 AS n, {s:String} AS s',
  query_params: { n: 41, s: "it's\\n" }, format: 'JSONEachRow',
  clickhouse_settings: { join_use_nulls: 1 } })).json();
let streamed = 0;
const many = await client.query({ query: 'SELECT number FROM numbers(200000)', format: 'JSONCompactEachRow' });
for await (const rows of many.stream()) streamed += rows.length;
found.streamed = streamed;
found.errors = [];
for (const query of ['SELECT nosuch', "SELECT file('/etc/hostname')", 'DROP TABLE events'])
  try { await client.query({ query }); } catch (error) { found.errors.push(error.code); }
const gone = new AbortController();
setTimeout(() => gone.abort(), 300);
try { await client.query({ query: 'SELECT sum(number) FROM numbers(1000000000000)', abort_signal: gone.signal }); }
catch (error) { found.aborted = error.message; }
console.log(JSON.stringify(found));
await client.close();
"""


def test_the_client_for_node_asks(door: Door, tmp_path: Path) -> None:
    package = next(iter(ROOT.glob(".tools/clickhouse-client-*/node_modules")), None)
    if not package:
        pytest.fail("no @clickhouse/client for the tests: run `make test`, which fetches it")
    script = tmp_path / "ask.mjs"
    script.write_text(_SCRIPT)
    node = shutil.which("node") or pytest.fail("no node for the tests: install nodejs")
    done = subprocess.run(
        [node, str(script), str(package.parent), f"http://127.0.0.1:{door.port}", READ],
        capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {
        "ping": True,
        "rows": [{"event_name": "event_0"}, {"event_name": "event_1"}],
        "params": [{"n": 42, "s": "it's\n"}],
        "streamed": 200_000,
        "errors": ["47", "497", "164"],
        "aborted": found["aborted"],
    }
    assert "abort" in found["aborted"].lower()
