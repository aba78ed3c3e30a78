"""The read-only SQL port speaks ClickHouse's HTTP protocol, on both kinds of ClickHouse, and harms no event."""

import base64
import gzip
import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.frame
import pytest
from backports import zstd

from service.edge import native_blocks
from service.errors import BadRequest, BodyTooLarge
from tests.support import wait_until
from tests.support.service import READ, WRITE, Service
from tests.support.sql import Answered, Door, serve_sql

ENDLESS = "SELECT sum(cityHash64(number)) FROM numbers(1000000000000)"


@pytest.fixture(scope="module", params=["server", "embedded"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    yield from serve_sql(request, tmp_path_factory.mktemp("sql"), ANALYTICS_SQL_MAX_QUERIES=3)


# -- who may ask ------------------------------------------------------------------------------------


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-ClickHouse-User": "default", "X-ClickHouse-Key": READ},
        {"X-ClickHouse-Key": READ},
        {"Authorization": basic(READ)},
        {"Authorization": f"Bearer {READ}"},
    ],
)
def test_the_password_is_an_access_token_with_the_scope_read(door: Door, headers: dict[str, str]) -> None:
    assert door.ask("SELECT 1", headers=headers).body == b"1\n"


def test_user_and_password_may_stand_in_the_address(door: Door) -> None:
    assert door.ask("SELECT 1", headers={}, user="default", password=READ).body == b"1\n"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-ClickHouse-User": "default"},
        {"X-ClickHouse-Key": WRITE},
        {"X-ClickHouse-Key": "wrong"},
        {"X-ClickHouse-Key": "x" * 4000},
        {"Authorization": basic(WRITE)},
        {"Authorization": "Basic ?"},
        {"Authorization": "Bearer"},
        {"Authorization": ""},
    ],
)
def test_nobody_else_may_ask(door: Door, headers: dict[str, str]) -> None:
    answer = door.ask("SELECT 1", headers=headers)
    assert (answer.status, answer.code) == (403, 516)
    assert answer.text.startswith("Code: 516. DB::Exception: Authentication failed")


# -- the protocol -----------------------------------------------------------------------------------


def test_ping_needs_no_token(door: Door) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=20)
    for path in ("/ping", "/"):
        connection.request("GET", path, headers={"X-ClickHouse-Key": READ} if path == "/" else {})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"Ok.\n")
    connection.request("GET", "/nosuch")
    assert connection.getresponse().status == 404
    connection.close()


def test_the_query_is_in_the_address_or_the_body_or_both(door: Door) -> None:
    assert door.ask(None, query="SELECT 1 + 1").body == b"2\n"
    assert door.ask("SELECT 1 + 2").body == b"3\n"
    assert door.ask("FROM numbers(4)", query="SELECT count()").body == b"4\n"
    assert door.ask(b"", query="SELECT 5").body == b"5\n"


def test_a_body_may_be_packed(door: Door) -> None:
    sql = b"SELECT count() FROM events"
    key = {"X-ClickHouse-Key": READ}
    assert door.ask(gzip.compress(sql), headers=key | {"Content-Encoding": "gzip"}).body == b"100\n"
    assert door.ask(zstd.compress(sql), headers=key | {"Content-Encoding": "zstd"}).body == b"100\n"
    assert door.ask(native_blocks.pack(sql), decompress=1).body == b"100\n"
    assert door.ask(b"not a block", decompress=1).status == 400
    assert door.ask(sql, headers=key | {"Content-Encoding": "br"}).status == 415


def test_parameters_are_bound_by_clickhouse(door: Door) -> None:
    sql = "SELECT {a:UInt8} + 1, {b:String}, {c:Array(String)}, {d:Identifier} FROM events LIMIT 1"
    answer = door.ask(sql, param_a=1, param_b="it's \\t '", param_c="['x','y']", param_d="event_name")
    assert answer.text.startswith("2\tit\\'s \\t \\'\t['x','y']\tevent_")
    assert door.ask("SELECT {a:UInt8}", param_a="x").code == 457
    assert door.ask("SELECT {a:UInt8}").code == 456


def test_a_form_is_taken_and_files_are_not(door: Door) -> None:
    form = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
    query_ = form.format("query", "", "SELECT {a:UInt8}") + form.format("param_a", "", "7")
    headers = {"X-ClickHouse-Key": READ, "Content-Type": "multipart/form-data; boundary=x"}
    assert door.ask(f"{query_}--x--\r\n", headers=headers).body == b"7\n"
    external = form.format("t", '; filename="t"', "1")
    assert door.ask(f"{query_}{external}--x--\r\n", headers=headers).code == 48


def test_the_format_is_that_of_the_query_else_the_default(door: Door) -> None:
    assert door.ask("SELECT 1 AS x").headers["X-ClickHouse-Format"] == "TabSeparated"
    answer = door.ask("SELECT 1 AS x", default_format="JSONEachRow")
    assert (answer.body, answer.headers["X-ClickHouse-Format"]) == (b'{"x":1}\n', "JSONEachRow")
    answer = door.ask("SELECT 1 AS x FORMAT CSVWithNames SETTINGS join_use_nulls = 1", default_format="JSON")
    assert (answer.body, answer.headers["X-ClickHouse-Format"]) == (b'"x"\n1\n', "CSVWithNames")
    assert answer.headers["Content-Type"].startswith("text/csv")
    answer = door.ask("SELECT ' FORMAT JSON' AS x -- FORMAT CSV")
    assert answer.body == b" FORMAT JSON\n"
    assert door.ask("SELECT 1 FORMAT `Null`").body == b""
    assert door.ask("SELECT 1", default_format="nosuch").code == 73


def test_an_answer_says_what_clients_look_for(door: Door) -> None:
    answer = door.ask("SELECT * FROM events FORMAT Null", query_id="my-query")
    head = answer.headers
    assert head["X-ClickHouse-Query-Id"] == "my-query"
    assert head["X-ClickHouse-Timezone"] == door.value("SELECT timezone()")
    assert head["X-ClickHouse-Server-Display-Name"] == socket.gethostname()
    summary = json.loads(head["X-ClickHouse-Summary"])
    assert int(summary["read_rows"]) == 100
    assert int(summary["elapsed_ns"]) > 0
    assert all(isinstance(value, str) for value in summary.values())
    assert "X-ClickHouse-Exception-Code" not in head


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        ("SELECT nosuch FROM events", 404, 47),
        ("SELECT * FROM nosuch", 404, 60),
        ("SELEKT 1", 400, 62),
        ("SELECT 'x", 400, 62),
        ("", 400, 62),
        ("SELECT throwIf(1)", 500, 395),
        ("SELECT toUInt8('x')", 400, 6),
        ("SELECT 1; SELECT 2", 400, 62),
        (b"SELECT '\xff'", 400, 62),
    ],
)
def test_errors_are_in_the_words_of_clickhouse(door: Door, sql: str | bytes, status: int, code: int) -> None:
    answer = door.ask(sql)
    assert (answer.code, answer.status) == (code, status), answer
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
    assert "formatQuerySingleLine" not in answer.text
    assert answer.text.count("DB::Exception") == 1


#: One a line.
ASKED = """
SHOW TABLES
SHOW TABLES LIKE 'ev%'
SHOW DATABASES
SHOW COLUMNS FROM events
SHOW FUNCTIONS LIKE 'sum'
SHOW CREATE TABLE events
SHOW CREATE TABLE events FORMAT Vertical
EXISTS TABLE events
DESCRIBE events
DESC TABLE events SETTINGS describe_compact_output = 1
DESCRIBE (SELECT 1 AS x)
EXPLAIN SELECT 1
EXPLAIN AST SELECT 1
EXPLAIN SYNTAX SELECT 1
EXPLAIN PIPELINE SELECT 1
EXPLAIN ESTIMATE SELECT * FROM events
EXPLAIN indexes = 1 SELECT * FROM events FORMAT TSV
SELECT * FROM system.processes
FROM events SELECT count()
SELECT * FROM system.tables
SELECT * FROM system.columns
SELECT * FROM system.functions LIMIT 1
SELECT * FROM system.settings LIMIT 1
SELECT * FROM information_schema.columns
SELECT * FROM system.parts
SELECT * FROM INFORMATION_SCHEMA.TABLES
(SELECT 1) UNION ALL (SELECT 2)
WITH 1 AS x SELECT x
WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n) FROM t
SELECT uniqStateIf(1, 1) FORMAT Null
SELECT row_number() OVER (ORDER BY event_name) FROM events LIMIT 1
SELECT SUM(1), COUNT(*), toString(now()) FROM events GROUP BY ALL WITH TOTALS
SELECT CURRENT_TIMESTAMP
SELECT * FROM numbers(2) AS a, numbers(2) AS b
SELECT * FROM numbers(2) AS a CROSS JOIN numbers(2) AS b CROSS JOIN numbers(2) AS c
SELECT * FROM numbers(2) ARRAY JOIN [1, 2] AS x
SELECT * FROM numbers(2) LEFT ARRAY JOIN range(number) AS x, arrayEnumerate(range(number)) AS y
SELECT * FROM numbers(2) AS a PASTE JOIN numbers(2) AS b
SELECT * FROM numbers(3) AS a ASOF JOIN numbers(3) AS b ON a.number = b.number AND a.number >= b.number
SELECT * FROM numbers(3) AS a LEFT SEMI JOIN numbers(3) AS b USING (number)
SELECT * FROM numbers(3) AS a FULL OUTER JOIN numbers(3) AS b ON a.number = b.number + 1
SELECT number % 2 AS a, number % 3 AS b, count() FROM numbers(9) GROUP BY GROUPING SETS ((a), (b), ())
SELECT number % 2 AS a, grouping(a), count() FROM numbers(9) GROUP BY ROLLUP (a)
SELECT number % 2 AS a, count() FROM numbers(9) GROUP BY CUBE (a) HAVING count() > 1
SELECT number, sum(number) OVER w FROM numbers(9) WINDOW w AS (ORDER BY number ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)
SELECT lagInFrame(number, 1) OVER (PARTITION BY number % 2 ORDER BY number) FROM numbers(9) QUALIFY number > 3
SELECT * REPLACE (number + 1 AS number) FROM numbers(3)
SELECT * EXCEPT ('num.*'), 1 FROM numbers(1)
SELECT number FROM numbers(3) UNION DISTINCT SELECT 1 INTERSECT SELECT 1 EXCEPT SELECT 7
SELECT number FROM numbers(9) AS a WHERE EXISTS (SELECT 1 FROM numbers(3) AS b WHERE b.number = a.number)
SELECT number FROM numbers(9) WHERE number > ALL (SELECT number FROM numbers(3)) ORDER BY number LIMIT 2 WITH TIES
SELECT argMaxIf(number, number, number < 5), groupArray(3)(number), topK(2)(number) FROM numbers(9)
SELECT sumMap(map('a', 1)), quantilesTiming(0.5, 0.9)(number), uniqCombined64(number), any(number) FROM numbers(9)
SELECT windowFunnel(3600)(toDateTime(timestamp), event_name = 'event_1', event_name = 'event_2') FROM events
SELECT event_name AS "a b", `event_name` AS `c.d` FROM events AS `e f` LIMIT 1
SELECT (1, 'x', [NULL, 2], map('k', 1.5), toDecimal64('1.25', 4), unhex('ff'), '日本', $$it's$$)
SELECT multiIf(1, 2, 3), 1 ? 2 : 3, coalesce(NULL, 1), 'a' || 'b', -1, 5 DIV 2, 5 MOD 2, 'x' ILIKE 'X', 'x' REGEXP 'x'
SELECT CAST('1' AS UInt8), '1'::UInt8, accurateCastOrNull('x', 'UInt8') SETTINGS cast_keep_nullable = 1
SELECT position('b' IN 'abc'), trim(BOTH 'x' FROM 'xax'), dateAdd(DAY, 1, today()), date_trunc('hour', now())
SELECT quantileTDigestArrayIf(0.5)([1, 2], 1)
SELECT * EXCEPT (properties) FROM events LIMIT 1
SELECT COLUMNS('event') APPLY(toString) APPLY(x -> length(x)) FROM events LIMIT 1
SELECT [1, 2][1], (1, 2).1
SELECT arrayMap(x -> x + 1, [1]), arrayMap(toString, [1])
SELECT * FROM numbers(3) AS a JOIN numbers(3) AS b USING number
SELECT * FROM values('a UInt8', 1, 2)
SELECT number AS x FROM numbers(3) ORDER BY x WITH FILL INTERPOLATE LIMIT 1 BY x LIMIT 1
SELECT count() FROM events AS e WHERE e.event_name IN (SELECT event_name FROM events)
SELECT 1 WHERE 1 IN (1, 2)
SELECT dateDiff('day', now(), now()), INTERVAL 1 DAY, DATE '2026-01-01'
SELECT extract(YEAR FROM now()), substring('abc' FROM 2), CASE 1 WHEN 1 THEN 2 END, 1 BETWEEN 0 AND 2, NOT NULL
SELECT JSONExtractString(properties, 'a') FROM events LIMIT 1
SELECT formatReadableSize(1), version(), currentDatabase(), currentUser(), hostName(), displayName()
"""


@pytest.mark.parametrize("sql", ASKED.strip().splitlines())
def test_what_analysts_and_their_tools_ask_is_answered(door: Door, sql: str) -> None:
    answer = door.ask(sql)
    assert answer.status == 200, (sql, answer.text)
    assert "Null" in sql or answer.body


@pytest.mark.parametrize(
    ("encoding", "unpack"),
    [("gzip", gzip.decompress), ("zstd", zstd.decompress), ("lz4", lz4.frame.decompress), ("identity", bytes)],
)
def test_answers_are_packed_as_asked(door: Door, encoding: str, unpack: Callable[[bytes], bytes]) -> None:
    headers = {"X-ClickHouse-Key": READ, "Accept-Encoding": encoding}
    answer = door.ask("SELECT number FROM numbers(1000)", headers=headers, enable_http_compression=1)
    assert answer.headers.get("Content-Encoding", "identity") == encoding
    assert unpack(answer.body).split() == [str(number).encode() for number in range(1000)]
    assert "Content-Encoding" not in door.ask("SELECT 1", headers=headers).headers
    for sql in ("SELECT nosuch", "SELECT (", "SELECT throwIf(number = 9) FROM numbers(10)"):
        assert door.ask(sql, headers=headers, enable_http_compression=1).text.startswith("Code: ")


def test_answers_are_packed_in_clickhouses_own_blocks(door: Door) -> None:
    plain = door.ask("SELECT number FROM numbers(500000)").body
    packed = door.ask("SELECT number FROM numbers(500000)", compress=1).body
    assert len(packed) < len(plain)
    assert native_blocks.unpack(packed, 2**25) == plain
    assert native_blocks.unpack(door.ask("SELECT (", compress=1).body, 2**20).startswith(b"Code: 62.")


def test_blocks_are_those_of_clickhouse(clickhouse: Callable[[str], str]) -> None:
    parts = urllib.parse.urlsplit(clickhouse("default"))
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 8123, timeout=20)
    connection.request("POST", "/?decompress=1&compress=1", native_blocks.pack(b"SELECT number FROM numbers(9)"))
    body = connection.getresponse().read()
    connection.close()
    assert native_blocks.unpack(body, 100) == b"".join(b"%d\n" % number for number in range(9))
    with pytest.raises(BodyTooLarge):
        native_blocks.unpack(body, 8)
    for damaged in (body[:-1], body[:20], b"x" * len(body), body[:5] + b"?" + body[6:]):
        with pytest.raises((BadRequest, BodyTooLarge)):
            native_blocks.unpack(damaged, 100)


# -- large answers, limits, and clients that leave ----------------------------------------------------


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def stream(door: Door, sql: str, **fields: object) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=60)
    connection.request("POST", f"/?{urllib.parse.urlencode(fields)}", sql, {"X-ClickHouse-Key": READ})
    return connection, connection.getresponse()


def test_a_large_answer_takes_flat_memory_however_slowly_it_is_read(door: Door) -> None:
    assert door.service.process
    pid = door.service.process.pid
    connection, answer = stream(door, "SELECT number, repeat('x', 100) FROM numbers(3000000)", default_format="CSV")
    answer.read(2**20)
    time.sleep(0.3)  # the query goes on, and nobody reads
    before, size = rss(pid), 2**20
    most = before
    while chunk := answer.read(2**22):
        size += len(chunk)
        most = max(most, rss(pid))
    connection.close()
    assert size > 300 * 10**6
    assert most - before < 64 * 2**20


def test_an_error_in_the_middle_of_an_answer_breaks_it_off(door: Door) -> None:
    connection, answer = stream(door, "SELECT throwIf(number = 2000000) FROM numbers(3000000)")
    assert answer.status == 200
    with pytest.raises(http.client.IncompleteRead) as broken:
        answer.read()
    connection.close()
    tail = broken.value.partial[-2000:].decode()
    tag = answer.headers["X-ClickHouse-Exception-Tag"]
    assert re.search(rf"__exception__\r\n{tag}\r\nCode: 395\. DB::Exception: .*__exception__\r\n$", tail, re.DOTALL)


def running(door: Door) -> int:
    return (
        int(door.value("SELECT count() FROM system.processes WHERE query LIKE '%cityHash64(number)%' AND elapsed > 0"))
        - 1
    )


def test_a_client_that_leaves_cancels_its_query(door: Door) -> None:
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=60)
        connection.request("POST", "/", ENDLESS, {"X-ClickHouse-Key": READ})
        wait_until(lambda: running(door) == 1, 10)
        connection.close()
        wait_until(lambda: running(door) == 0, 10)


def test_a_client_that_leaves_in_the_middle_of_an_answer_cancels_its_query(door: Door) -> None:
    connection, answer = stream(door, "SELECT cityHash64(number) FROM numbers(1000000000000)")
    answer.read(2**16)
    assert running(door) == 1
    answer.close()
    connection.close()
    wait_until(lambda: running(door) == 0, 10)


def test_queries_beyond_those_at_a_time_wait_for_their_turn(door: Door) -> None:
    endless = [http.client.HTTPConnection("127.0.0.1", door.port, timeout=60) for _ in range(3)]
    for connection in endless[:2]:
        connection.request("POST", "/", ENDLESS, {"X-ClickHouse-Key": READ})
    wait_until(lambda: running(door) == 2, 10)
    endless[2].request("POST", "/", ENDLESS, {"X-ClickHouse-Key": READ})
    time.sleep(0.3)  # the third one takes the last turn
    found: list[Answered] = []
    waiting = threading.Thread(target=lambda: found.append(door.ask("SELECT 1")))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    for connection in endless:
        connection.close()
    waiting.join(20)
    assert found[0].body == b"1\n"


def test_events_are_taken_while_queries_run(door: Door) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=60)
    connection.request("POST", "/", ENDLESS, {"X-ClickHouse-Key": READ})
    wait_until(lambda: running(door) == 1, 10)
    for _ in range(5):
        assert door.service.post({"event_name": "beside"}).status == 200
    wait_until(lambda: door.value("SELECT count() FROM events WHERE event_name = 'beside'") == "5", 20)
    connection.close()


@pytest.mark.parametrize("dsn", ["server", "embedded"], indirect=True)
def test_limits_end_a_query_and_a_stop_ends_all(make_service: Callable[..., Service], dsn: str) -> None:
    limits = {"ANALYTICS_SQL_MAX_SECONDS": 1, "ANALYTICS_SQL_MAX_ROWS": 10, "ANALYTICS_SQL_MAX_MEMORY": 2**26}
    service = make_service(dsn, ANALYTICS_SQL_PORT=0, **limits).start()
    door = Door(service, "", "")
    assert door.ask(ENDLESS).code == 159
    assert door.ask("SELECT number FROM numbers(11)").code == 396
    assert door.ask("SELECT number FROM numbers(10)").status == 200
    assert door.ask("SELECT groupArray(number) FROM numbers(100000000)").code == 241
    connection, answer = stream(door, "SELECT 1")
    assert answer.read() == b"1\n"
    connection.request("POST", "/", ENDLESS, {"X-ClickHouse-Key": READ})
    assert service.stop() == 0
    connection.close()
    assert "Traceback" not in service.log()
