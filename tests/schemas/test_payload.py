"""Rows as bytes: what a frame carries and an INSERT sends, and back."""

import uuid
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.payload import (
    EncodedRows,
    Header,
    Rows,
    encode_header,
    encode_rows,
    join_rows,
    parse_header,
    read_rows,
    swap_id,
    to_columns,
)
from schemas.rows import COLUMNS, CURRENT, Row
from service.spool.spool import Spool

pytestmark = pytest.mark.quick

TEXT = st.text(max_size=20)
TIMES = st.integers(-2_208_988_800_000_000, 10_413_791_999_999_999)
ROW: st.SearchStrategy[Row] = st.tuples(
    st.binary(min_size=16, max_size=16),
    *[TEXT] * 4,
    TIMES,
    st.integers(0, 2**42),
    *[TEXT] * 7,
    st.integers(0, 2**32 - 1),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    TEXT,
)
ROWS = st.lists(ROW, max_size=20)
#: A segment written by the version before payloads were flat.
FORMAT_1 = Path(__file__).parents[1] / "segments" / "format-1"


def encoded(rows: list[Row]) -> EncodedRows:
    return encode_rows(rows, CURRENT.types)


@given(parts=st.lists(ROWS, max_size=4))
@example(parts=[[(bytes(16), "", "", "", "", 0, 0, "", "", "", "", "", "", "", 0, None, "")] * 5000])  # a longer array
def test_encoded_rows_come_back_the_same_in_parts_and_joined(parts: list[list[Row]]) -> None:
    rows = [row for part in parts for row in part]
    made = [encoded(part) for part in parts]
    assert Rows(CURRENT, made).decode() == rows
    assert Rows(CURRENT, [join_rows(made)]).decode() == rows
    assert Rows(CURRENT, made).payload == encoded(rows).payload
    assert len(Rows(CURRENT, made)) == len(rows)


@given(parts=st.lists(ROWS, max_size=4), data=st.data())
def test_rows_are_split_at_each_place(parts: list[list[Row]], data: st.DataObject) -> None:
    rows = [row for part in parts for row in part]
    at = data.draw(st.integers(0, len(rows)))
    before, after = Rows(CURRENT, [encoded(part) for part in parts]).split(at)
    assert (before.decode(), after.decode()) == (rows[:at], rows[at:])
    assert (len(before), len(after)) == (at, len(rows) - at)
    assert before.payload == encoded(rows[:at]).payload, "the same bytes each time"


@given(st.uuids())
def test_an_id_has_each_half_reversed_in_a_payload(one: uuid.UUID) -> None:
    number = one.int >> 64, one.int & (1 << 64) - 1
    assert swap_id(one.bytes) == b"".join(half.to_bytes(8, "little") for half in number)
    assert swap_id(swap_id(one.bytes)) == one.bytes
    assert encode_rows([("a", one.bytes)], ["String", "UUID"]).payload == b"\xa1a\xc4\x10" + swap_id(one.bytes)


@given(rows=ROWS.filter(bool))
def test_columns_hold_the_values_of_the_rows_and_ids_as_integers(rows: list[Row]) -> None:
    columns = to_columns(rows, CURRENT.types)
    assert len(columns) == len(COLUMNS)
    for index, (column, values) in enumerate(zip(COLUMNS, columns, strict=True)):
        sent = [row[index] for row in rows]
        assert list(values) == ([uuid.UUID(bytes=one).int for one in sent] if column.type == "UUID" else sent)


def test_columns_follow_the_types_that_are_given_and_not_those_of_today() -> None:
    one = uuid.UUID(int=5)
    assert [list(column) for column in to_columns([("a", one.bytes)], ["String", "UUID"])] == [["a"], [5]]


@pytest.mark.parametrize("rows", [[("a", "b"), ("a",)], [("a", "b", "c")]])
def test_rows_that_do_not_fit_the_columns_are_refused(rows: list[tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="zip"):
        encode_rows(rows, ["String", "String"])
    with pytest.raises(ValueError, match="zip"):
        to_columns(rows, ["String", "String"])


@given(columns=st.lists(st.tuples(TEXT, TEXT)))
def test_header_comes_back_the_same(columns: list[tuple[str, str]]) -> None:
    header = Header(tuple(name for name, _ in columns), tuple(type for _, type in columns))
    assert parse_header(encode_header(header)) == header


def test_a_segment_of_format_1_is_read_as_its_header_says() -> None:
    [segment] = Spool(FORMAT_1, FORMAT_1, b"").recover()
    contents = Spool(FORMAT_1, FORMAT_1, b"").read(segment)
    rows = read_rows(contents.header, contents.parts, CURRENT)
    assert rows.header.names == CURRENT.names[:14]
    assert len(rows) == segment.rows == 22
    first, *_, last = [dict(zip(rows.header.names, row, strict=True)) for row in rows.decode()]
    assert first["event_id"] == uuid.UUID("01940000-0000-7000-8000-0123456789ab").bytes
    assert (first["properties"], first["timestamp"]) == ('{"a":0.10,"b":"é漢🙂"}', -2_208_988_799_999_999)
    assert (last["event_name"], last["id_origin"]) == ("last", "server")


def test_without_its_header_a_segment_is_read_only_if_it_has_the_columns_of_today() -> None:
    row = (bytes(16), *["x"] * 4, 1, 2, *["y"] * 7, 3, None, "z")
    part = encode_rows([row], CURRENT.types)
    assert read_rows(b"", [part], CURRENT).decode() == [row]
    for other in (part.payload + b"\x00", part.payload[:-1]):
        with pytest.raises(msgspec.DecodeError):
            read_rows(b"", [EncodedRows(other, 1)], CURRENT)
