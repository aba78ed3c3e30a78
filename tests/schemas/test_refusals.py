"""What is refused, and in which words: those of FastAPI with the same models, for every kind of fault."""

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.events import SEQUENCE_MAX
from schemas.parse import parse_batch, parse_batch_leniently, parse_event
from schemas.validation_errors import INPUT_MAX_BYTES, ErrorItem, Invalid
from tests.support.fastapi_peer import (
    CUT,
    EVENTS_OF_ALL_KINDS,
    NUMBERS,
    TIMES,
    VALID_EVENTS,
    VALUES,
    Peer,
    assert_agreement,
    batches,
    parse,
    spell,
)
from tests.support.service import BATCH, EVENTS

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """A FastAPI service with the same models."""
    with Peer() as one:
        yield one


def _errors(body: bytes, path: str = EVENTS) -> list[ErrorItem]:
    outcome = parse(body, path)
    assert isinstance(outcome, list), f"taken: {outcome}"
    return outcome


@given(body=EVENTS_OF_ALL_KINDS | VALUES)
@example(body="{}")
@example(body='{"event_name":"","category":"low","priority":5,"properties":[],"timestamp":"x","session_id":1}')
@example(body='{"event_name":"a","event_name":5}')
def test_faulty_event_gets_the_errors_of_fastapi(peer: Peer, body: str) -> None:
    assert_agreement(peer, body.encode())


@given(
    body=batches(EVENTS_OF_ALL_KINDS | VALUES, VALUES, TIMES | VALUES)
    | VALUES
    | VALUES.map(lambda text: f'{{"events":{text}}}')
)
@example(body='{"events":[],"client_id":5}')
@example(body='{"events":[{"event_name":""}],"sent_at":"2300-01-01T00:00:00Z","client_id":5}')
@example(body='{"events":[' + ",".join(['{"event_name":""}'] * 101) + "]}")
@example(body='{"events":[null,[],{},"a",{"event_name":"a"}]}')
def test_faulty_batch_gets_the_errors_of_fastapi(peer: Peer, body: str) -> None:
    assert_agreement(peer, body.encode(), BATCH)


@given(event=EVENTS_OF_ALL_KINDS)
@example(event='{"event_name":"a","timestamp":"2024-02-30T00:00:00Z"}')
def test_fault_deep_in_a_batch_is_named_by_its_index(peer: Peer, event: str) -> None:
    events = ['{"event_name":"a"}'] * 60
    events[37] = event
    errors = assert_agreement(peer, f'{{"events":[{",".join(events)}]}}'.encode(), BATCH)
    alone = parse(event.encode())
    assert isinstance(errors, list) == isinstance(alone, list)
    if isinstance(errors, list) and isinstance(alone, list):
        assert [item["loc"] for item in errors] == [["body", "events", 37, *item["loc"][1:]] for item in alone]


@given(time=TIMES | VALUES)
@example(time="true")
@example(time='"1"')
@example(time="20000000000")
@example(time="20000000001")
@example(time="1" * 400)
@example(time='"0001-01-01T00:00:00+23:59"')
@example(time='"9999-12-31T23:59:59-23:59"')
@example(time='"2024-01-01T00:00:60Z"')
@example(time='"2024-01-01T24:00:00Z"')
@example(time='"２024-01-01T00:00:00Z"')
@example(time='"2024-01-01T00:00:00.１23Z"')
def test_time_is_taken_or_refused_as_by_fastapi(peer: Peer, time: str) -> None:
    event = spell([("event_name", '"a"'), ("timestamp", time)])
    assert_agreement(peer, event.encode())
    assert_agreement(peer, f'{{"sent_at":{time},"events":[{event}]}}'.encode(), BATCH)


@given(number=NUMBERS | NUMBERS.map(json.dumps) | VALUES)
@example(number="0")
@example(number="1")
@example(number="-1")
@example(number="1.0")
@example(number="1.5")
@example(number='"7"')
@example(number='" 7 "')
@example(number="true")
@example(number=str(SEQUENCE_MAX))
@example(number=str(SEQUENCE_MAX + 1))
@example(number=str(2**64))
@example(number="1" * 400)
@example(number="1e400")
def test_sequence_is_taken_or_refused_as_by_fastapi(peer: Peer, number: str) -> None:
    assert_agreement(peer, spell([("event_name", '"a"'), ("sequence", number)]).encode())


@pytest.mark.parametrize(
    "time",
    [
        "1899-12-31T23:59:59.999999Z",
        "1900-01-01T00:59:59+01:00",
        "2300-01-01T00:00:00Z",
        "2299-12-31T23:59:59-00:01",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        -2_208_988_801,
        10_413_792_000,
        10_413_792_000_000,
    ],
)
def test_time_that_the_column_does_not_hold_is_refused(time: str | int) -> None:
    (item,) = _errors(json.dumps({"event_name": "a", "timestamp": time}).encode())
    assert (item["type"], item["loc"], item["input"]) == ("datetime_range", ["body", "timestamp"], time)
    assert item["msg"] == "Input should be a time from 1900-01-01T00:00:00+00:00 to 2299-12-31T23:59:59.999999+00:00"


_VALID = b'{"event_name":"a","properties":{"x":[1.5,"y"]}}'


@pytest.mark.parametrize("path", [EVENTS, BATCH])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"true",
        b"5",
        b"[]",
        b"[[{}]]",
        b"{",
        b"{}}",
        b"'",
        b'{"event_name"}',
        b'{event_name:"a"}',
        *(_VALID[:length] for length in range(1, len(_VALID))),
        *(_VALID + tail for tail in (b"x", b",", b"{}", b"\0", b"\f", b"//")),
        *(
            b'{"event_name":"a","properties":{"x":' + text + b"}}"
            for text in b"1. .5 - +1 01 -01 1e 1e+ tru 0x1 nul".split()
        ),
        *(
            b'{"event_name":"a","x":"' + text + b'"}'
            for text in (b"\n", b"\0", b"\x1f", b"\\x", b"\\u12g4", b"\\", b"\\u12")
        ),
        *(b'{"event_name":"a","properties":{"x":1' + tail for tail in (b",}}", b"]}", b"}", b" 2}}", b"\xc2\xa0}}")),
    ],
)
def test_body_that_is_no_json_object_gets_the_errors_of_fastapi(peer: Peer, body: bytes, path: str) -> None:
    assert isinstance(assert_agreement(peer, body, path), list)


_TOKENS = [*rb"""NaN -Infinity " \ \ud800 { } [ , 1e - """.split(), b"\0", b"\xff", b"\xed\xa0\x80"]


@st.composite
def _mutated(draw: st.DrawFn, bodies: st.SearchStrategy[str]) -> bytes:
    """A body with a few places damaged."""
    body = draw(bodies).encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 8]))
        body = body[:start] + draw(st.sampled_from(_TOKENS) | st.binary(max_size=3)) + body[end:]
    return body


@given(body=_mutated(EVENTS_OF_ALL_KINDS))
def test_damaged_event_is_taken_or_refused_as_by_fastapi(peer: Peer, body: bytes) -> None:
    assert_agreement(peer, body)


@given(body=_mutated(batches(VALID_EVENTS)))
def test_damaged_batch_is_taken_or_refused_as_by_fastapi(peer: Peer, body: bytes) -> None:
    assert_agreement(peer, body, BATCH)


@pytest.mark.parametrize("parse_any", [parse_event, parse_batch, parse_batch_leniently])
@given(body=st.binary(max_size=60) | _mutated(batches(EVENTS_OF_ALL_KINDS)))
def test_no_body_raises_anything_but_invalid(parse_any: Callable[[bytes], object], body: bytes) -> None:
    try:
        parse_any(body)
    except Invalid as invalid:
        json.dumps(invalid.errors, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize("field", [b"properties", b"unknown"])
@pytest.mark.parametrize(
    ("value", "type"),
    [
        (b"NaN", "json_invalid"),
        (b"Infinity", "json_invalid"),
        (b"-Infinity", "json_invalid"),
        (b'"\xff"', "json_invalid"),
        (b'"\xc0\xaf"', "json_invalid"),
        (b'"\xed\xa0\x80"', "json_invalid"),
        (b"[" * 100_000 + b"]" * 100_000, "json_invalid"),
        (b'"\\ud800"', "string_unicode"),
        (b'"\\ud800 and more"', "string_unicode"),
        (b'"\\udc00\\ud800"', "string_unicode"),
        (b'{"\\ud800":1}', "string_unicode"),
    ],
)
def test_value_that_can_not_be_kept_as_json_is_refused(field: bytes, value: bytes, type: str) -> None:
    event = b'{"event_name":"a","%b":{"x":%b}}' % (field, value)
    for body, path in ((event, EVENTS), (b'{"events":[{"event_name":"b"},%b]}' % event, BATCH)):
        (item,) = _errors(body, path)
        assert (item["type"], item["loc"][0]) == (type, "body")
        assert type == "json_invalid" or field.decode() in item["loc"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_body_in_another_encoding_than_utf8_is_refused_by_its_name(encoding: str) -> None:
    for body, path in (('{"event_name":"é"}', EVENTS), ('{"events":[{"event_name":"é"}]}', BATCH)):
        [item] = _errors(body.encode(encoding), path)
        assert item["type"] == "json_invalid"
        assert item["ctx"] == {"error": f"The body is {encoding[:6].upper()}; JSON is sent as UTF-8"}


@given(body=VALID_EVENTS | EVENTS_OF_ALL_KINDS)
@example(body='{"event_name":"a",}')
@example(body='{"event_name":"a"} x')
@example(body="\ufeff{}")
def test_byte_order_mark_before_an_event_changes_nothing(peer: Peer, body: str) -> None:
    marked = BOM_UTF8 + body.encode()
    outcome = assert_agreement(peer, marked)
    if not body.startswith("\ufeff"):
        assert outcome == parse(body.encode())
        assert parse(BOM_UTF8 + b'{"events":[%b]}' % body.encode(), BATCH) == parse(
            b'{"events":[%b]}' % body.encode(), BATCH
        )


def test_byte_order_mark_before_a_lenient_batch_changes_nothing() -> None:
    batch = b'{"events":[{"event_name":"a"},{}],"client_id":"\xc3\xa9"}'
    assert parse_batch_leniently(BOM_UTF8 + batch) == parse_batch_leniently(batch)


@pytest.mark.parametrize("digit", ["0", "f", "F"])
@pytest.mark.parametrize("form", ["{0}-{1}-{1}-{1}-{2}", "{0}{1}{1}{1}{2}", "urn:uuid:{0}-{1}-{1}-{1}-{2}",
                                  "{{{0}-{1}-{1}-{1}-{2}}}"])  # fmt: skip
def test_id_that_stands_for_no_id_is_refused_in_every_spelling(peer: Peer, form: str, digit: str) -> None:
    """Many clients would send it, each for its own events, of which one would be stored."""
    sent = form.format(digit * 8, digit * 4, digit * 12)
    event = json.dumps({"event_name": "a", "event_id": sent}).encode()
    [item] = _errors(event)
    assert (item["type"], item["loc"], item["input"]) == ("uuid_reserved", ["body", "event_id"], sent)
    assert_agreement(peer, event)
    batch = b'{"events":[{"event_name":"b"},%b]}' % event
    assert [item["loc"] for item in _errors(batch, BATCH)] == [["body", "events", 1, "event_id"]]
    kept, [item] = parse_batch_leniently(batch)
    assert ([one.event_name for one in kept.events], item["loc"]) == (["b"], ["body", "events", 1, "event_id"])
    neighbour = sent.replace(digit * 12, f"{digit * 11}7")
    assert parse_event(event.replace(sent.encode(), neighbour.encode())).event_id is not None


@pytest.mark.parametrize("text", [b"\\ud800", b"a\\udfffb", b"\\udc00\\ud800"])
@pytest.mark.parametrize("name", ["event_name", "timestamp", "session_id", "page_url", "referrer", "user_agent"])
def test_lone_surrogate_in_a_text_is_refused_on_its_field(name: str, text: bytes) -> None:
    event = b'{"event_name":"a","%b":"%b"}' % (name.encode(), text)
    batch = b'{"events":[{"event_name":"b"},%b]}' % event
    for body, path, place in ((event, EVENTS, []), (batch, BATCH, ["events", 1])):
        (item,) = _errors(body, path)
        assert (item["type"], item["loc"]) == ("string_unicode", ["body", *place, name])


@pytest.mark.parametrize("levels", [1, 500])
def test_many_lone_surrogates_do_not_swell_the_refusal(levels: int) -> None:
    faults = b",".join([b'"\\ud800"'] * 1000)
    body = b'{"event_name":"a","x":%b%b%b}' % (b"[" * levels, faults, b"]" * levels)
    assert len(json.dumps(_errors(body))) <= len(body)


@pytest.mark.parametrize(
    ("value", "echo"),
    [
        ("9" * 5000, "9" * INPUT_MAX_BYTES),
        ("é" * 5000, "é" * (INPUT_MAX_BYTES // 2)),
        ("x" + "é" * 5000, "x" + "é" * (INPUT_MAX_BYTES // 2 - 1)),
        (["a"] * 5000, '["a",' + '"a",' * ((INPUT_MAX_BYTES - 5) // 4) + '"a",'[: (INPUT_MAX_BYTES - 5) % 4]),
        ([2**70] * 500, json.dumps([2**70] * 500)[:INPUT_MAX_BYTES]),
    ],
)
def test_long_input_is_echoed_by_its_first_kilobyte(value: Any, echo: str) -> None:
    (item,) = _errors(json.dumps({"event_name": "a", "category": value}).encode())
    assert (item["type"], item["input"]) == ("literal_error", echo + CUT)


@pytest.mark.parametrize("text", ["x" * (INPUT_MAX_BYTES - 2), "é" * (INPUT_MAX_BYTES // 2 - 1)])
def test_input_of_a_kilobyte_is_echoed_whole(text: str) -> None:
    (item,) = _errors(json.dumps({"event_name": "a", "category": text}).encode())
    assert item["input"] == text


@pytest.mark.parametrize("path", [EVENTS, BATCH])
def test_empty_list_as_properties_is_refused_in_the_words_of_fastapi(peer: Peer, path: str) -> None:
    """PHP writes an empty array so. docs/errors.md says what to do."""
    event = b'{"event_name":"a","properties":[]}'
    [item] = assert_agreement(peer, event if path == EVENTS else b'{"events":[%b]}' % event, path)
    assert (item["type"], item["msg"], item["input"]) == ("dict_type", "Input should be a valid dictionary", [])


@pytest.mark.parametrize("text", ["", "x" * 2000], ids=["short", "long"])
@pytest.mark.parametrize("form", ['{"x":%s}', '{"event_name":"a","category":%s}', '{"event_name":"a","properties":%s}'])
def test_deeply_nested_input_is_echoed_or_called_too_deep(form: str, text: str) -> None:
    for levels in (*range(1, 1100), 100_000):
        event = form % f'{"[" * levels}"{text}"{"]" * levels}'
        for body, path in ((event, EVENTS), (f'{{"events":[{event}]}}', BATCH)):
            (item,) = _errors(body.encode(), path)
            assert item["type"] in ("missing", "literal_error", "dict_type", "json_invalid")
