"""What is taken: each body that FastAPI with the same models takes, with the same values, every number as sent."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.events import (
    BATCH_MAX_EVENTS,
    BATCH_MIN_EVENTS,
    NAME_MAX_LENGTH,
    NAME_MIN_LENGTH,
    PROPERTIES_MAX_DEPTH,
    SEQUENCE_MAX,
    SEQUENCE_MIN,
    TIMESTAMP_MAX,
    TIMESTAMP_MIN,
    Category,
    Event,
    EventBatch,
    Priority,
)
from schemas.parse import (
    NO_PROPERTIES,
    ParsedBatch,
    ParsedEvent,
    parse_batch,
    parse_batch_leniently,
    parse_event,
)
from schemas.times import SECONDS, SECONDS_MAX
from schemas.validation_errors import Invalid
from tests.support.fastapi_peer import (
    EVENTS_OF_ALL_KINDS,
    NUMBERS,
    STORABLE_TIMES,
    VALID_EVENTS,
    Peer,
    assert_agreement,
    batches,
    microseconds,
    spell,
)
from tests.support.service import BATCH

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """A FastAPI service with the same models."""
    with Peer() as one:
        yield one


@given(body=VALID_EVENTS)
@example(body='{"event_name":"first","event\\u005fname":"last","timestamp":"2024-02-29T23:59:59.999Z"}')
@example(body='{"event_name":5,"event_name":"a","propert\\u0069es":{"a":1},"properties":{"b":2}}')
@example(body='\n{ "event_name" : "\\u0000" , "x" : { } }\r\n\t')
def test_valid_event_is_taken_with_the_values_that_fastapi_reads(peer: Peer, body: str) -> None:
    assert isinstance(assert_agreement(peer, body.encode()), ParsedEvent)


@given(body=batches(VALID_EVENTS))
@example(body='{"events":"no","client_id":5,"events":[{"event_name":"a"}],"client_id":"b"}')
def test_valid_batch_is_taken_with_the_values_that_fastapi_reads(peer: Peer, body: str) -> None:
    assert isinstance(assert_agreement(peer, body.encode(), BATCH), ParsedBatch)


@given(time=STORABLE_TIMES)
@example(time='"2024-02-29T23:59:59Z"')
@example(time='"1969-12-31T23:59:59.999Z"')
@example(time='"2024-01-01T00:00:00.123456789Z"')
@example(time='"2024-01-01"')
@example(time='"1700000000"')
@example(time='"1700000000123"')
@example(time="1700000000123")
@example(time="-0.5")
@example(time="-0")
def test_time_of_any_form_is_the_same_instant_as_in_fastapi(peer: Peer, time: str) -> None:
    event = assert_agreement(peer, spell([("event_name", '"a"'), ("timestamp", time)]).encode())
    assert isinstance(event, ParsedEvent)
    assert isinstance(event.timestamp, int)


@pytest.mark.parametrize(
    ("sent", "instant"),
    [
        ("2024-01-01T01:00:00+01:00", "2024-01-01T00:00:00"),
        ("2023-12-31T23:00:00-01:00", "2024-01-01T00:00:00"),
        ("2024-01-01T00:00:00", "2024-01-01T00:00:00"),
        ("2024-01-01T00:00:00.123456Z", "2024-01-01T00:00:00.123456"),
        ("2024-01-01T00:00:00.1239999Z", "2024-01-01T00:00:00.123999"),
        ("2024-01-01", "2024-01-01T00:00:00"),
        (1_704_067_200, "2024-01-01T00:00:00"),
        (1_704_067_200_000, "2024-01-01T00:00:00"),
        (1_704_067_200.25, "2024-01-01T00:00:00.250000"),
        ("1704067200", "2024-01-01T00:00:00"),
        ("1900-01-01T00:00:00Z", TIMESTAMP_MIN.isoformat()),
        ("2299-12-31T23:59:59.999999Z", TIMESTAMP_MAX.isoformat()),
        ("2300-01-01T01:59:59.999999+02:00", TIMESTAMP_MAX.isoformat()),
    ],
)
def test_time_becomes_microseconds_of_utc(sent: str | float, instant: str) -> None:
    body = json.dumps({"event_name": "a", "timestamp": sent}).encode()
    assert parse_event(body).timestamp == microseconds(datetime.fromisoformat(instant))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "sent",
    [
        "2024-02-30T00:00:00.000Z", "2024-01-01T00:00:60.000Z", "2024-01-01T00:00:00Z123Z", "2024-01-01T00:00:00.12aZ",
        "2024-01-01T00:00:00.１２３Z", "٢٠٢٤-01-01T00:00:00.000Z", "1899-12-31T23:59:59.999Z",
        "2300-01-01T00:00:00.000Z",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_time_is_refused_also_next_to_one(sent: str, known: bool) -> None:
    """Seconds are remembered."""
    events = ['{"event_name":"e","timestamp":"2024-01-01T00:00:00.000Z"}'] * known
    events.append(json.dumps({"event_name": "e", "timestamp": sent}))
    with pytest.raises(Invalid) as refused:
        parse_batch(f'{{"events":[{",".join(events)}]}}'.encode())
    assert {item["loc"][3] for item in refused.value.errors} == {"timestamp"}


def test_only_some_seconds_are_remembered() -> None:
    for number in range(2 * SECONDS_MAX):
        parse_event(b'{"event_name":"e","timestamp":"2024-01-01T%02d:%02d:%02d.000Z"}'
                    % (number // 3600, number // 60 % 60, number % 60))  # fmt: skip
        assert len(SECONDS) <= SECONDS_MAX


@given(number=NUMBERS)
@example(number="0.1")
@example(number="1.10")
@example(number=str(2**63))
@example(number=str(2**64))
@example(number="1e400")
@example(number="-1E-400")
@example(number="123456789012345678901234567890")
@example(number="0.1000000000000000055511151231257827")
@pytest.mark.parametrize("form", ['{{"x":{}}}', '{{ "x" : [ {} , "\\u00e9é" ] }}'])
def test_properties_come_back_as_they_were_written(form: str, number: str) -> None:
    text = form.format(number)
    fast = spell([("event_name", '"a"'), ("properties", text)])
    slow = spell([("event_name", "0"), ("event_name", '"a"'), ("properties", text)])
    assert [parse_event(body.encode()).properties for body in (fast, slow)] == [text, text]
    batch = parse_batch(f'{{"events":[{fast},{slow}]}}'.encode())
    assert [event.properties for event in batch.events] == [text, text]


@pytest.mark.parametrize("body", [b'{"event_name":"a"}', b'{"event_name":"a","properties":null,"timestamp":null}'])
def test_absent_and_null_are_the_same(body: bytes) -> None:
    assert parse_event(body) == ParsedEvent("a", properties=NO_PROPERTIES)


def _nested(levels: int, opening: str, innermost: str, closing: str) -> str:
    return f'{{"a":{opening * (levels - 2)}{innermost}{closing * (levels - 2)}}}'


_ARRAYS, _OBJECTS = ("[", "[]", "]"), ('{"a":', "{}", "}")


@pytest.mark.parametrize(
    "properties",
    [
        _nested(PROPERTIES_MAX_DEPTH, *_ARRAYS),
        _nested(PROPERTIES_MAX_DEPTH, *_OBJECTS),
        f'{_nested(PROPERTIES_MAX_DEPTH, *_ARRAYS)[:-1]},"b":[[]]}}',
        f'{{"a":[{",".join(["[]"] * 1000)}]}}',
        '{"a":"' + "[{" * 1000 + '","b":"\\"' + "[{" * 1000 + '"}',
    ],
    ids=["arrays", "objects", "neighbours", "wide", "brackets in text"],
)
def test_properties_may_be_nested_to_the_limit(properties: str) -> None:
    body = f'{{"event_name":"a","properties":{properties}}}'.encode()
    assert parse_event(body).properties == properties


@pytest.mark.parametrize("form", [_ARRAYS, _OBJECTS], ids=["arrays", "objects"])
def test_properties_nested_one_level_deeper_are_refused(form: tuple[str, str, str]) -> None:
    body = f'{{"event_name":"a","properties":{_nested(PROPERTIES_MAX_DEPTH + 1, *form)}}}'
    with pytest.raises(Invalid) as event:
        parse_event(body.encode())
    with pytest.raises(Invalid) as batch:
        parse_batch(f'{{"events":[{{"event_name":"b"}},{body}]}}'.encode())
    assert [(item["type"], item["loc"]) for item in event.value.errors] == [("json_invalid", ["body", "properties"])]
    assert [item["loc"] for item in batch.value.errors] == [["body", "events", 1, "properties"]]


@given(bodies=st.lists(EVENTS_OF_ALL_KINDS, min_size=1, max_size=6))
def test_lenient_batch_keeps_the_valid_events_in_order_and_names_the_others(bodies: list[str]) -> None:
    kept: list[ParsedEvent] = []
    errors: list[dict[str, Any]] = []
    for index, body in enumerate(bodies):
        try:
            kept.append(parse_event(body.encode()))
        except Invalid as invalid:
            errors += [item | {"loc": ["body", "events", index, *item["loc"][1:]]} for item in invalid.errors]
    whole = f'{{"events":[{",".join(bodies)}],"client_id":"c","sent_at":"2024-01-01T00:00:00Z"}}'.encode()
    batch = ParsedBatch(kept, "c", sent_at=1_704_067_200_000_000)
    assert parse_batch_leniently(whole) == (batch, errors)
    if errors:
        with pytest.raises(Invalid) as refused:
            parse_batch(whole)
        assert refused.value.errors == errors
    else:
        assert parse_batch(whole) == batch


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"events":[]}',
        b'{"events":null}',
        b'{"events":{"event_name":"a"}}',
        b'{"events":[' + b",".join([b'{"event_name":"a"}'] * 101) + b"]}",
        b'{"events":[{"event_name":"a"}],"client_id":5}',
        b'{"events":[{"event_name":"a"}],"sent_at":"yesterday"}',
        b'{"events":[{"event_name":"a"}]',
        b'{"events":[{"event_name":"a"}]}}',
        b'{"events":[{"event_name":"\xff"},{"event_name":"a"}]}',
    ],
)
def test_batch_that_is_none_is_refused_whole_also_leniently(body: bytes) -> None:
    with pytest.raises(Invalid) as strict:
        parse_batch(body)
    with pytest.raises(Invalid) as lenient:
        parse_batch_leniently(body)
    assert lenient.value.errors == strict.value.errors


def test_batch_of_a_hundred_events_is_taken() -> None:
    body = b'{"events":[' + b",".join([b'{"event_name":"a"}'] * 100) + b"]}"
    assert parse_batch(body) == ParsedBatch([ParsedEvent("a", properties=NO_PROPERTIES)] * 100)


def test_parsed_event_has_the_fields_limits_and_defaults_of_the_model() -> None:
    ours = {field.name: field for field in msgspec.inspect.type_info(ParsedEvent).fields}
    assert list(ours) == list(Event.model_fields)
    for name, model in Event.model_fields.items():
        assert ours[name].required == model.is_required()
        if name != "properties":  # there it is the text of null
            assert ours[name].default == (msgspec.NODEFAULT if model.is_required() else model.default)
    assert [_limits(ours["event_name"].type), ours["category"].type.values, ours["priority"].type.values] == [
        (NAME_MIN_LENGTH, NAME_MAX_LENGTH),
        tuple(sorted(get_args(Category))),
        tuple(sorted(get_args(Priority))),
    ]
    (sequence,) = (one for one in ours["sequence"].type.types if isinstance(one, msgspec.inspect.IntType))
    assert (sequence.ge, sequence.le) == (SEQUENCE_MIN, SEQUENCE_MAX)


def test_parsed_batch_has_the_fields_limits_and_defaults_of_the_model() -> None:
    events, *others = msgspec.inspect.type_info(ParsedBatch).fields
    assert [events.name, *(one.name for one in others)] == list(EventBatch.model_fields)
    assert _limits(events.type) == (BATCH_MIN_EVENTS, BATCH_MAX_EVENTS)
    assert {one.name: one.default for one in others} == {
        one.name: EventBatch.model_fields[one.name].default for one in others
    }


def _limits(kind: msgspec.inspect.StrType | msgspec.inspect.ListType) -> tuple[int | None, int | None]:
    return kind.min_length, kind.max_length
