"""Events become rows: columns and ids."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.events import DEFAULT_CATEGORY, DEFAULT_PRIORITY
from schemas.parse import ParsedBatch, ParsedEvent, parse_batch, parse_event
from schemas.payload import encode_header, swap_id
from schemas.rows import COLUMNS, CURRENT, first_id, id_text, make_rows, new_event_ids
from tests.support.fastapi_peer import STORABLE_TIMES
from tests.support.rows import decoded

pytestmark = pytest.mark.quick

RECEIVED_AT = 1_700_000_000_123_456
TEXT = st.text(max_size=20)
TIMES = st.integers(-2_208_988_800_000_000, 10_413_791_999_999_999)


def _named(row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip((column.name for column in COLUMNS), row, strict=True))


def test_each_value_of_an_event_is_in_the_column_of_its_name() -> None:
    batch = parse_batch(
        b'{"events":[{"event_name":"n","category":"auth","priority":"high","properties":{"a":1.10},'
        b'"timestamp":"2024-01-01T00:00:00.000001Z","session_id":"s","page_url":"p","referrer":"r","user_agent":"u",'
        b'"sequence":7,"user_id":"w"}],"client_id":"c","sent_at":1700000000000}'
    )
    (row,) = decoded(make_rows(batch, source="web", received_at=RECEIVED_AT))
    values = _named(row)
    assert isinstance(values.pop("event_id"), bytes)
    assert values == {
        "event_name": "n",
        "category": "auth",
        "priority": "high",
        "properties": '{"a":1.10}',
        "timestamp": 1_704_067_200_000_001,
        "received_at": RECEIVED_AT // 1000,
        "session_id": "s",
        "page_url": "p",
        "referrer": "r",
        "user_agent": "u",
        "client_id": "c",
        "source": "web",
        "id_origin": "server",
        "sequence": 7,
        "clock_skew": 123,
        "user_id": "w",
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"event_name":"n"}',
        b'{"event_name":"n","properties":null,"timestamp":null,"session_id":null,"page_url":null,"referrer":null,'
        b'"user_agent":null,"sequence":null,"user_id":null}',
        b'{"event_name":"n","properties":{},"session_id":"","page_url":"","referrer":"","user_agent":"","user_id":""}',
    ],
    ids=["absent", "null", "empty"],
)
def test_what_an_event_does_not_say_is_the_default_of_its_column(body: bytes) -> None:
    (row,) = decoded(make_rows(ParsedBatch([parse_event(body)]), source="web", received_at=RECEIVED_AT))
    values = _named(row)
    del values["event_id"]
    assert values == {
        "event_name": "n",
        "category": DEFAULT_CATEGORY,
        "priority": DEFAULT_PRIORITY,
        "properties": "{}",
        "timestamp": RECEIVED_AT,
        "received_at": RECEIVED_AT // 1000,
        "session_id": "",
        "page_url": "",
        "referrer": "",
        "user_agent": "",
        "client_id": "",
        "source": "web",
        "id_origin": "server",
        "sequence": 0,
        "clock_skew": None,
        "user_id": "",
    }


@given(names=st.lists(TEXT, min_size=1, max_size=100), client_id=st.none() | TEXT, received_at=st.integers(0, 2**52))
def test_rows_are_in_the_order_of_the_events(names: list[str], client_id: str | None, received_at: int) -> None:
    batch = ParsedBatch([ParsedEvent(name, properties="{}") for name in names], client_id)
    rows = [_named(row) for row in decoded(make_rows(batch, source="web", received_at=received_at))]
    assert [row["event_name"] for row in rows] == names
    assert {row["client_id"] for row in rows} == {client_id or ""}
    assert {(row["timestamp"], row["received_at"]) for row in rows} == {(received_at, received_at // 1000)}
    assert {int.from_bytes(row["event_id"][:6], "big") for row in rows} == {received_at // 1000}
    assert len({row["event_id"] for row in rows}) == len(rows)


@given(sent_at=STORABLE_TIMES, late=st.integers(0, 10**9))
@example(sent_at=str(RECEIVED_AT // 10**6), late=0)
def test_skew_is_what_the_clock_of_the_client_is_slow_by(sent_at: str, late: int) -> None:
    events = f'{{"event_name":"timed","timestamp":{RECEIVED_AT // 10**6}}},{{"event_name":"untimed"}}'
    batch = parse_batch(f'{{"sent_at":{sent_at},"events":[{events}]}}'.encode())
    made = make_rows(batch, source="web", received_at=RECEIVED_AT + late)
    rows = [_named(row) for row in decoded(made)]
    assert isinstance(batch.sent_at, int)
    assert [row["clock_skew"] for row in rows] == [(RECEIVED_AT + late - batch.sent_at) // 1000, None]
    assert -(2**63) <= rows[0]["clock_skew"] < 2**63
    assert rows[0]["timestamp"] == RECEIVED_AT // 10**6 * 10**6, "as sent"


@given(milliseconds=st.integers(0, 2**48 - 1), count=st.integers(0, 100))
def test_event_id_is_a_uuid_of_version_7_and_of_its_millisecond(milliseconds: int, count: int) -> None:
    ids = [uuid.UUID(bytes=swap_id(one)) for one in new_event_ids(milliseconds, count)]
    assert len(ids) == count
    for one in ids:
        assert (one.version, one.variant, one.int >> 80) == (7, uuid.RFC_4122, milliseconds)


def test_event_ids_of_one_millisecond_differ_in_all_74_random_bits() -> None:
    ids = [int.from_bytes(one, "big") for _ in range(100) for one in new_event_ids(RECEIVED_AT // 1000, 100)]
    assert len(set(ids)) == len(ids)
    ever, always = 0, -1
    for one in ids:
        ever, always = ever | one, always & one
    assert (ever & ~always).bit_count() == 74


@given(st.uuids(), st.binary(min_size=16, max_size=16))
def test_the_first_id_is_the_one_sent_then_the_derived_one(sent: uuid.UUID, derived: bytes) -> None:
    for event_id, expected in ((sent, sent.bytes), (None, derived)):
        batch = ParsedBatch([ParsedEvent("e", properties="{}", event_id=event_id), ParsedEvent("f", properties="{}")])
        rows = make_rows(batch, source="web", received_at=RECEIVED_AT, derived_ids=[derived, bytes(16)])
        assert first_id(rows) == decoded(rows)[0][0] == expected
        assert decoded(rows)[1][0] == bytes(16)


@given(st.binary(min_size=16, max_size=16))
def test_an_id_as_text_is_that_of_its_uuid(event_id: bytes) -> None:
    assert id_text(event_id) == str(uuid.UUID(bytes=event_id))


def test_header_of_new_segments_names_the_columns_in_their_order() -> None:
    assert json.loads(encode_header(CURRENT)) == [
        [column.name for column in COLUMNS],
        [column.type for column in COLUMNS],
    ]


def test_each_column_has_a_name_of_its_own_and_a_comment() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert all(column.comment for column in COLUMNS)
