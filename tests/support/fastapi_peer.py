"""A FastAPI service with the same pydantic models: whatever it answers to a body, ours must mean the same.

It runs in this process; the models that its handlers were given are kept, so that values can be compared too.
"""

import asyncio
import json
from codecs import BOM_UTF8
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, get_args

import httpx
import hypothesis.strategies as st
from fastapi import FastAPI

from schemas.events import (
    NAME_MAX_LENGTH,
    NAME_MIN_LENGTH,
    SEQUENCE_MAX,
    SEQUENCE_MIN,
    Category,
    Event,
    EventBatch,
    Priority,
)
from schemas.parse import ParsedBatch, ParsedEvent, parse_batch, parse_event
from schemas.validation_errors import INPUT_MAX_BYTES, ErrorItem, Invalid
from tests.support.service import BATCH, EVENTS

CUT = "…"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Outcome = ParsedEvent | ParsedBatch | list[ErrorItem]


class PeerAnswer(NamedTuple):
    """What FastAPI made of a body: 200 and the model, 422 and the errors, or its own failure (400, 500)."""

    status: int
    model: Event | EventBatch | None
    errors: list[ErrorItem]


class Peer:
    """The FastAPI service; a context manager."""

    def __init__(self) -> None:
        app = FastAPI()
        self._taken: list[Event | EventBatch] = []
        # as `async def track_event(event: Event)` under @app.post would be
        app.add_api_route(EVENTS, self._take_event, methods=["POST"])
        app.add_api_route(BATCH, self._take_batch, methods=["POST"])
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://peer", headers={"Content-Type": "application/json"}
        )

    async def _take_event(self, event: Event) -> None:
        self._taken.append(event)

    async def _take_batch(self, batch: EventBatch) -> None:
        self._taken.append(batch)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def post(self, body: bytes, path: str = EVENTS) -> PeerAnswer:
        """Post a body."""
        self._taken.clear()
        answer = self._runner.run(self._client.post(path, content=body))
        errors = answer.json()["detail"] if answer.status_code == 422 else []
        return PeerAnswer(answer.status_code, self._taken[0] if self._taken else None, errors)


def assert_agreement(peer: Peer, body: bytes, path: str = EVENTS) -> Outcome:
    """Put the body to both; they must take it with the same values, or refuse it with the same errors.

    Returns what ours made of it. Where FastAPI fails, or keeps what no column can, ours must refuse.
    """
    theirs, ours = peer.post(body, path), parse(body, path)
    if not isinstance(ours, list):
        assert theirs.status == 200, f"took {body!r}, but FastAPI answered {theirs}"
        assert is_storable(body), f"took {body!r}"
        assert_same_values(ours, theirs.model)
    elif theirs.status == 422 and json.detect_encoding(body) in ("utf-8", "utf-8-sig"):
        assert_same_errors(ours, theirs.errors)
    elif theirs.status == 200:
        assert not is_storable(body), f"refused with {ours}, but FastAPI took {body!r}"
        assert {item["type"] for item in ours} in ({"json_invalid"}, {"string_unicode"})
    return ours


def parse(body: bytes, path: str = EVENTS) -> Outcome:
    """What ours makes of a body: the parsed, or the errors. These must be strict JSON: no NaN, no lone surrogates."""
    try:
        return parse_event(body) if path == EVENTS else parse_batch(body)
    except Invalid as invalid:
        json.dumps(invalid.errors, allow_nan=False, ensure_ascii=False).encode()
        return invalid.errors


def is_storable(body: bytes) -> bool:
    """Whether json.loads takes it and it is UTF-8 without NaN and half characters, also where a key is given twice."""
    constants: list[str] = []
    try:
        value = json.loads(
            body.removeprefix(BOM_UTF8).decode(), parse_constant=constants.append, object_pairs_hook=list
        )
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return False
    return not constants


def assert_same_values(ours: ParsedEvent | ParsedBatch, theirs: Event | EventBatch | None) -> None:
    """Both hold the same values; properties are compared as FastAPI has them: numbers are floats."""
    if isinstance(ours, ParsedBatch):
        assert isinstance(theirs, EventBatch)
        assert ours.client_id == theirs.client_id
        assert ours.sent_at == microseconds(theirs.sent_at)
        assert isinstance(ours.sent_at, int | None)
        for our_event, their_event in zip(ours.events, theirs.events, strict=True):
            assert_same_values(our_event, their_event)
        return
    assert isinstance(theirs, Event)
    plain = (
        "event_name",
        "category",
        "priority",
        "session_id",
        "page_url",
        "referrer",
        "user_agent",
        "sequence",
        "user_id",
    )
    assert {name: getattr(ours, name) for name in plain} == {name: getattr(theirs, name) for name in plain}
    assert ours.timestamp == microseconds(theirs.timestamp)
    assert isinstance(ours.timestamp, int | None)
    assert repr(json.loads(ours.properties)) == repr(theirs.properties or {})


def microseconds(time: datetime | None) -> int | None:
    """Whole µs since 1970; a time without offset is UTC."""
    if time is None:
        return None
    return (time.replace(tzinfo=time.tzinfo or UTC) - _EPOCH) // timedelta(microseconds=1)


def assert_same_errors(ours: list[ErrorItem], theirs: list[ErrorItem]) -> None:
    """The same errors in the same order; ours may cut a long input."""
    assert [_without_input(item) for item in ours] == [_without_input(item) for item in theirs]
    for our_item, their_item in zip(ours, theirs, strict=True):
        our_input, their_input = our_item["input"], their_item["input"]
        if len(json.dumps(their_input).encode()) < INPUT_MAX_BYTES:
            assert repr(our_input) == repr(their_input)
        elif our_input != their_input:
            assert our_input.endswith(CUT)
            assert len(our_input.encode()) <= INPUT_MAX_BYTES + len(CUT.encode())


def _without_input(item: ErrorItem) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "input"}


# Bodies to put to both, as JSON text. Objects are spelled member by member: only text can give a key twice.


def spell(members: list[tuple[str, str]], ascii: bool = True, space: str = "") -> str:
    """An object of names and JSON texts, in this order; a name may come twice."""
    pairs = (f"{json.dumps(name, ensure_ascii=ascii)}:{space}{text}" for name, text in members)
    return f"{{{space}{f',{space}'.join(pairs)}}}"


def _json(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return st.builds(lambda value, ascii: json.dumps(value, ensure_ascii=ascii), values, st.booleans())


def _objects(members: st.SearchStrategy[list[tuple[str, str]]]) -> st.SearchStrategy[str]:
    return st.builds(spell, members, st.booleans(), st.sampled_from(["", " ", "\r\n\t"]))


TEXT = st.text(max_size=12)
#: Numbers as JSON may spell them: many are more than a float holds.
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
#: Any value at all.
VALUES: st.SearchStrategy[str] = st.recursive(
    _json(st.none() | st.booleans() | st.integers() | TEXT) | NUMBERS,
    lambda values: (
        st.lists(values, max_size=3).map(lambda texts: f"[{','.join(texts)}]")
        | _objects(st.lists(st.tuples(TEXT, values), max_size=3))
    ),
    max_leaves=6,
)


def _iso_times(first: datetime, last: datetime, *offsets: str) -> st.SearchStrategy[str]:
    fractions = st.just("") | st.from_regex(r"\.[0-9]{1,10}", fullmatch=True)
    moments = st.datetimes(first, last).map(lambda moment: moment.replace(microsecond=0).isoformat())
    return st.builds("{}{}{}".format, moments, fractions, st.sampled_from(offsets)) | moments.map(
        lambda time: time[:10]
    )


#: Times that can be stored, of all forms: ISO, and numbers and strings of seconds or (beyond ±2e10) of milliseconds.
_SECONDS = (-2_208_988_800, 10_413_791_999)
_NUMERIC_TIMES = st.integers(*_SECONDS) | st.integers(*(edge * 1000 for edge in _SECONDS)).filter(
    lambda time: abs(time) > 2 * 10**10
)
STORABLE_TIMES = _json(
    _iso_times(datetime(1900, 1, 2), datetime(2299, 12, 30), "", "Z", "z", "+00:00", "+02:00", "-0330", "+23:59")
    | _NUMERIC_TIMES
    | _NUMERIC_TIMES.map(str)
    | st.floats(*_SECONDS)
)
#: Times of which many are none, or can't be stored.
_EDGES = st.sampled_from([0, 2 * 10**10, *_SECONDS, *(edge * 1000 for edge in _SECONDS)])
TIMES = (
    _json(_iso_times(datetime.min, datetime.max, "", "Z", "-00:01", "+23:59", "-23:59", "+24:00", " Z", "\u221201:00"))
    | _json(st.builds(int.__add__, _EDGES, st.integers(-2, 2)) | st.booleans() | st.floats(allow_nan=False, width=64))
    | _json(st.from_regex(r"[12][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9](:[0-6][0-9])?Z?", fullmatch=True))
    | NUMBERS
    | NUMBERS.map(json.dumps)
)

_NAMES = st.text(min_size=NAME_MIN_LENGTH, max_size=12) | st.text(min_size=NAME_MAX_LENGTH, max_size=NAME_MAX_LENGTH)
_VALID = {
    "event_name": _json(_NAMES),
    "category": _json(st.sampled_from(get_args(Category))),
    "priority": _json(st.sampled_from(get_args(Priority))),
    "properties": st.just("null") | _objects(st.lists(st.tuples(TEXT, VALUES), max_size=4)),
    "timestamp": st.just("null") | STORABLE_TIMES,
    **dict.fromkeys(("session_id", "page_url", "referrer", "user_agent", "user_id"), _json(st.none() | TEXT)),
    "sequence": st.just("null") | _json(st.integers(SEQUENCE_MIN, SEQUENCE_MAX)),
}
_FAULTY = dict.fromkeys(_VALID, VALUES) | {
    "event_name": VALUES | _json(st.sampled_from(["", "x" * (NAME_MAX_LENGTH + 1), "é" * (NAME_MAX_LENGTH + 1)])),
    "category": VALUES | _json(st.sampled_from(["Auth", "auth ", ["auth"], "low"])),
    "timestamp": VALUES | TIMES,
    "sequence": VALUES
    | _json(st.sampled_from([0, -1, SEQUENCE_MAX + 1, 1.0, 1.5, True, "7", " 7", "7.0", "1e2", 2**64])),
}


def _members(fields: dict[str, st.SearchStrategy[str]]) -> st.SearchStrategy[tuple[str, str]]:
    return st.one_of([st.tuples(st.just(name), values) for name, values in fields.items()])


_UNKNOWN = st.tuples(TEXT.filter(lambda name: name not in _VALID), VALUES)
_NAME = st.tuples(st.just("event_name"), _VALID["event_name"])
#: Events that are valid, with keys of no meaning and keys given twice.
VALID_EVENTS = _objects(
    st.tuples(_NAME, st.lists(_members(_VALID) | _UNKNOWN, max_size=8)).flatmap(
        lambda drawn: st.permutations([drawn[0], *drawn[1]])
    )
)
#: Events of which most are not valid.
EVENTS_OF_ALL_KINDS = VALID_EVENTS | _objects(
    st.lists(_NAME | _members(_VALID) | _members(_FAULTY) | _UNKNOWN, max_size=8)
)


def batches(
    events: st.SearchStrategy[str],
    client_ids: st.SearchStrategy[str] = _VALID["page_url"],
    times: st.SearchStrategy[str] = _VALID["timestamp"],
) -> st.SearchStrategy[str]:
    """Batches of such events, with or without what else a batch may say, in any order."""
    lists = st.lists(events, min_size=1, max_size=4).map(lambda texts: f"[{','.join(texts)}]")
    others = {"client_id": client_ids, "sent_at": times}
    return _objects(
        st.tuples(
            st.tuples(st.just("events"), lists), st.lists(_members(others), max_size=2, unique_by=lambda one: one[0])
        ).flatmap(lambda drawn: st.permutations([drawn[0], *drawn[1]]))
    )
