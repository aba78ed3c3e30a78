"""Columns out of properties: what they hold, and that nothing else notices them."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from schemas.payload import Header
from schemas.rows import CURRENT
from service.errors import StartError
from service.store.columns import (
    add_column,
    column_default,
    drop_column,
    fill_column,
    fill_states,
    list_columns,
    path_steps,
)
from service.store.engines import InsertOptions
from service.store.store import Store
from tests.support.clickhouse import query
from tests.support.fastapi_peer import NUMBERS, TEXT, VALUES, spell
from tests.support.quarantine import MEND, Rig
from tests.support.rows import encoded, insert, rows_of
from tests.support.service import ANALYTICS, Service

SEGMENTS = Path(__file__).parents[1] / "segments"
FEW = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
#: Nested documents; of a key given twice ClickHouse reads the first and Python the last, so there is none.
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "b", "é", 'x"y', "\\"]) | TEXT, VALUES | NUMBERS, max_size=5).flatmap(
    lambda members: st.sampled_from(["", " ", "\n"]).map(lambda space: spell(list(members.items()), space=space))
)


async def values(store: Store, kind: str, path: str, documents: list[str]) -> list[Any]:
    """What a column of this type for this path holds of each document."""
    _, default = column_default(kind, path_steps(path))
    sql = f"SELECT {default} FROM (SELECT arrayJoin({{documents:Array(String)}}) AS properties)"
    return [value for (value,) in await store.query(sql, {"documents": documents})]


def as_text(document: str, *path: str) -> str:
    """The property as JSON has it: numbers are not worked out, but that -0 is 0."""
    value: Any = json.loads(document, parse_int=lambda digits: "0" if digits == "-0" else digits, parse_float=str)
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return json.dumps(value) if isinstance(value, bool) else value if isinstance(value, str) else ""


@FEW
@given(documents=st.lists(DOCUMENTS, min_size=1, max_size=40))
@example(
    documents=[
        '{"a": -0.10}',
        '{"b":1e400,"a":"x 5 \\" true"}',
        '{"b":{"a":1},"a":[5]}',
        '{"a":123456789012345678901234}',
    ]
)
@example(
    documents=['{"a":"\\u0041\\\\"}', '{"a":true,"b":"a\\":5"}', '{"a":null}', "{}", '{"a":1.0}', '{"a":19.90,"b":1}']
)
async def test_a_text_is_what_was_sent_digit_by_digit(store: Store, documents: list[str]) -> None:
    assert await values(store, "String", "a", documents) == [as_text(one, "a") for one in documents]
    nested = [f'{{"o": {one}, "a": 7}}' for one in documents]
    assert await values(store, "String", "$.o.a", nested) == [as_text(one, "o", "a") for one in nested]


KINDS = (
    *("String", "Bool", "UUID", "Date32", "Int8", "Int64", "UInt64", "Float32"),
    *("Decimal(18,8)", "Decimal(76, 20)", "DateTime64(3)"),
)
ODD = st.text(max_size=30) | NUMBERS.map('{{"a":{}}}'.format) | NUMBERS.map('{{"a":"{}"}}'.format)


@FEW
@given(documents=st.lists(DOCUMENTS | ODD, min_size=1, max_size=40))
@example(
    documents=['{"a":"9999-99-99"}', '{"a":"inf"}', '{"a":1e999}', '{"a":"1e-999"}', '{"a"', '"', '{"a":"\\ud800"}']
)
@example(documents=['{"a":"2026-01-01T99:99"}', '{"a":"2026-01-01 x"}', '{"a":9999999999999}', '{"a":"1e999"}', ""])
async def test_no_document_makes_a_row_be_refused(store: Store, documents: list[str]) -> None:
    defaults = [column_default(one, ["a"])[1] for kind in KINDS for one in (kind, f"Nullable({kind})")]
    sql = f"SELECT {', '.join(defaults)} FROM (SELECT arrayJoin({{documents:Array(String)}}) AS properties)"
    assert len(await store.query(sql, {"documents": documents})) == len(documents)


HELD: list[tuple[str, list[str], list[str | None]]] = [
    ("Decimal(38,18)", ["0.1", "12345678901234567890.123456789012345678", '"0.30"', "1e-8", '"1.2.3"', "null",
                        "1e400"],
     ["0.1", "12345678901234567890.123456789012345678", "0.3", "0.00000001", "0", "0", "0"]),
    ("Nullable(Decimal(18, 8))", ["19.90", '"x"', "[1]"], ["19.9", None, None]),
    ("Int64", ["9223372036854775807", "-5", "1.5", '"7"', "9223372036854775808"],
     ["9223372036854775807", "-5", "0", "7", "0"]),
    ("Float64", ["0.5", "1e400", '"nan"'], ["0.5", "0", "0"]),
    ("Bool", ["true", "false", "2"], ["true", "false", "false"]),
    ("Date32", ['"1990-02-03"', '"1990-02-03T04:05:06Z"', '"x"'], ["1990-02-03", "1990-02-03", "1900-01-01"]),
    ("DateTime64(3)", ['"2026-02-03T04:05:06.789+01:00"', "1790000000123", '"5.0"'],
     ["2026-02-03 03:05:06.789", "2026-09-21 14:13:20.123", "1970-01-01 00:00:00.000"]),
    ("LowCardinality(Nullable(String))", ['"ACME"', "1.50", "{}"], ["ACME", "1.50", None]),
]  # fmt: skip


async def test_a_value_is_exact_or_the_default(store: Store) -> None:
    for kind, sent, held in HELD:
        _, default = column_default(kind, ["a"])
        sql = f"SELECT toString({default}) FROM (SELECT arrayJoin({{sent:Array(String)}}) AS properties)"
        found = await store.query(sql, {"sent": [f'{{"a": {one}}}' for one in sent]})
        assert [value for (value,) in found] == held, kind


async def test_inserts_of_both_forms_fill_it_and_rows_from_before_have_it_too(store: Store) -> None:
    before, after = ([{"event_name": "e", "properties": {"order": {"price": price}}}] for price in (1.5, 2.5))
    await insert(store, rows_of(*before), "before")
    await add_column(store, "price", "Decimal(18, 8)", "order.price")
    await add_column(store, "symbol", "LowCardinality(String)")
    await insert(store, rows_of(*after), "after")
    await store._engine.insert_converted(encoded(rows_of(*after)), InsertOptions("converted"))
    read = "SELECT toString(price), count() FROM events GROUP BY price ORDER BY price"
    assert await store.query(read) == [("1.5", 1), ("2.5", 2)]
    assert [(one.name, one.type, one.path, one.rows, one.of) for one in await list_columns(store)] == [
        ("price", "Decimal(18, 8)", "order.price", 2, 3),
        ("symbol", "LowCardinality(String)", "symbol", 2, 3),
    ]
    await fill_column(store, "price")
    states = [state async for state in fill_states(store, "price")]
    assert (states[-1].done, states[-1].problem) == (states[-1].of, "")
    assert {one.name: one.rows for one in await list_columns(store)} == {"price": 3, "symbol": 2}
    assert await store.query(read) == [("1.5", 1), ("2.5", 2)]
    await drop_column(store, "price")
    assert [one.name for one in await list_columns(store)] == ["symbol"]


async def test_a_start_an_older_version_and_the_same_batch_again_do_not_notice_it(store: Store) -> None:
    await add_column(store, "symbol", "LowCardinality(String)")
    await store.prepare()
    assert store.warnings == ()
    row = rows_of({"event_name": "e", "properties": {"symbol": "ACME"}})[0]
    for last in ("id_origin", "clock_skew", "user_id"):
        count = CURRENT.names.index(last) + 1
        header = Header(CURRENT.names[:count], CURRENT.types[:count])
        for _ in range(2):
            await store.insert(encoded([row[:count]], header), last)
    assert await store.query("SELECT symbol, count() FROM events GROUP BY symbol") == [("ACME", 3)]


REFUSED = [
    ("timestamp", "String", None, "name of a column or field of the service"),
    ("User_ID", "String", None, "name of a column or field of the service"),
    ("segment", "String", None, "name of a column or field of the service"),
    ("sent_at", "String", None, "name of a column or field of the service"),
    ("there", "String", None, "has a column there already"),
    ("a b", "String", None, "no name for a column"),
    ("_part", "String", None, "no name for a column"),
    ("x`; DROP TABLE events", "String", None, "no name for a column"),
    ("x", "Strin", None, "no type for a column"),
    ("x", "Enum8('a' = 1)", None, "no type for a column"),
    ("x", "Nullable(String", None, "no type for a column"),
    ("x", "Array(String)", None, "no type for a column"),
    ("x", "LowCardinality(Int64)", None, "only String can be LowCardinality"),
    ("x", "Decimal(77,1)", None, "1 to 76 digits"),
    ("x", "Decimal(5,6)", None, "1 to 76 digits"),
    ("x", "String DEFAULT 1", None, "no type for a column"),
    ("x", "String", "", "no path"),
    ("x", "String", "a..b", "no path"),
    ("x", "String", "$.a[0]", "no path"),
    ("x", "String", "$['a", "no path"),
]


async def test_what_can_not_be_a_column_is_refused(store: Store) -> None:
    await store.command("ALTER TABLE events ADD COLUMN there String")
    described = await store.query("DESCRIBE TABLE events")
    for name, kind, path, reason in REFUSED:
        with pytest.raises(StartError, match=reason):
            await add_column(store, name, kind, path)
    assert await store.query("DESCRIBE TABLE events") == described


async def test_a_column_of_others_is_neither_listed_nor_dropped_nor_filled(store: Store) -> None:
    await store.command("ALTER TABLE events ADD COLUMN there String COMMENT 'Property there of properties'")
    assert await list_columns(store) == []
    for name in ("there", "properties", "nothing"):
        for change in (drop_column, fill_column):
            with pytest.raises(StartError, match="no column that `analytics columns` has made"):
                await change(store, name)


PATHS = {"a": ["a"], "$.a.b": ["a", "b"], "$['a.b'].c": ["a.b", "c"], r"""$['it\'s']["\"q\""]""": ["it's", '"q"']}


async def test_a_path_leads_to_its_property_and_is_listed_as_it_may_be_written(store: Store) -> None:
    for number, (path, steps) in enumerate(PATHS.items()):
        assert path_steps(path) == steps
        await add_column(store, f"x{number}", "String", path)
        properties: Any = f"found {number}"
        for step in reversed(steps):
            properties = {step: properties}
        await insert(store, rows_of({"event_name": "e", "properties": properties}), path)
        assert (f"found {number}",) in await store.query(f"SELECT x{number} FROM events")
    assert [path_steps(one.path) for one in await list_columns(store)] == list(PATHS.values())


def command(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``analytics columns`` with the service's settings."""
    environment = service.environment | {"PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [ANALYTICS, "columns", *arguments],
        env=environment,
        cwd=service.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_running_service_what_it_left_on_disk_and_its_quarantine_do_not_notice_columns(
    make_service: Callable[..., Service], server_dsn: str
) -> None:
    service = make_service(server_dsn).start()
    event = {"event_name": "e", "session_id": "poison", "properties": {"symbol": "Q"}}
    assert service.post(event).status == 200
    service.wait_for_total(1)
    query(server_dsn, "DELETE FROM events WHERE 1")
    rig = Rig(service, server_dsn)
    assert service.post(event).status == 200
    rig.settle(1)
    done = command(service, "add", "symbol", "LowCardinality(String)", "--fill")
    assert done.returncode == 0, done
    assert re.fullmatch(r"added symbol: .*\nfilled symbol: \d+ rows in .* s\n", done.stdout)
    assert service.post(event | {"session_id": "", "properties": {"symbol": "ACME"}}).status == 200
    service.wait_for_total(1)
    query(server_dsn, MEND)
    assert rig.command("retry", "--all").returncode == 0
    service.wait_for_total(2)
    assert service.stop() == 0
    for old in SEGMENTS.glob("*/*"):
        shutil.copy(old, service.data / "spool")
    service.start().wait_for_total(2 + 22 + 5)
    rows = query(server_dsn, "SELECT symbol, count() FROM events GROUP BY symbol ORDER BY symbol")
    assert rows == [["", 27], ["ACME", 1], ["Q", 1]]
    assert command(service, "list").stdout.startswith("symbol\tLowCardinality(String)\tsymbol\t100 %\t")
    assert command(service, "drop", "symbol").returncode == 0
    assert service.post({"event_name": "e"}).status == 200
    service.wait_for_total(30)
    refused = command(service, "drop", "symbol")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


def test_the_embedded_clickhouse_of_a_running_service_is_refused_with_what_to_do(
    make_service: Callable[..., Service],
) -> None:
    service = make_service().start()
    refused = command(service, "add", "symbol", "String")
    assert refused.returncode == 1
    assert "stop it, run this, start it again" in refused.stderr
    assert service.stop() == 0
    assert command(service, "add", "symbol", "String").returncode == 0
    assert service.start().post({"event_name": "e", "properties": {"symbol": "ACME"}}).status == 200
    service.wait_for_total(1)
    assert service.stop() == 0
    [listed] = [json.loads(line) for line in command(service, "list", "--json").stdout.splitlines()]
    assert (listed["name"], listed["rows"], listed["of"]) == ("symbol", 1, 1)
