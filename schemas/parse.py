"""Bytes of a request → validated events, or the list of what is wrong with them.

Two ways through, one truth. The fast way (msgspec) takes what is plainly valid, at half a
microsecond an event. What it does not take goes the slow way (``schemas.refusals``): the standard
library's JSON and the pydantic models, which is what FastAPI does, and so words the very errors
that existing clients parse. The slow way may also find the input valid (a key given twice, say).
A property test holds that what the fast way takes, FastAPI takes, with the same values.

``properties`` is never taken apart: its text is kept as the client wrote it, so no number passes
through a float (0.1, 2^63 and 1e400 come back as sent).
"""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
from pydantic import TypeAdapter, ValidationError

from schemas import refusals
from schemas.events import (
    BATCH_MAX_EVENTS,
    BATCH_MIN_EVENTS,
    DEFAULT_CATEGORY,
    DEFAULT_PRIORITY,
    NAME_MAX_LENGTH,
    NAME_MIN_LENGTH,
    PROPERTIES_MAX_DEPTH,
    SEQUENCE_MAX,
    SEQUENCE_MIN,
    Category,
    Event,
    EventBatch,
    EventEnvelope,
    EventTime,
    Priority,
)
from schemas.refusals import ErrorItem, Invalid
from schemas.slices import slices_of_array, slices_of_object

if TYPE_CHECKING:
    JsonText = str
else:  # on the wire; `_settle` puts the text in its place
    JsonText = msgspec.Raw

_ABSENT: Any = msgspec.Raw(b"null")
NO_PROPERTIES = "{}"


class ParsedEvent(msgspec.Struct, gc=False):
    """A validated event: ``properties`` is a JSON object's text, ``timestamp`` whole µs since 1970, or None."""

    event_name: Annotated[str, msgspec.Meta(min_length=NAME_MIN_LENGTH, max_length=NAME_MAX_LENGTH)]
    category: Category = DEFAULT_CATEGORY
    priority: Priority = DEFAULT_PRIORITY
    properties: JsonText = _ABSENT
    timestamp: str | int | float | None = None
    session_id: str | None = None
    page_url: str | None = None
    referrer: str | None = None
    user_agent: str | None = None
    event_id: UUID | None = None
    sequence: Annotated[int, msgspec.Meta(ge=SEQUENCE_MIN, le=SEQUENCE_MAX)] | None = None


class ParsedBatch(msgspec.Struct, gc=False):
    """The validated events of one request, in order, and what its client says of itself.

    ``sent_at`` is whole µs since 1970, or None.
    """

    events: Annotated[list[ParsedEvent], msgspec.Meta(min_length=BATCH_MIN_EVENTS, max_length=BATCH_MAX_EVENTS)]
    client_id: str | None = None
    sent_at: str | int | float | None = None


class _RawProperties(msgspec.Struct):
    properties: JsonText = _ABSENT


_decode_event = msgspec.json.Decoder(ParsedEvent).decode
_decode_batch = msgspec.json.Decoder(ParsedBatch).decode
_decode_raw_properties = msgspec.json.Decoder(_RawProperties).decode
#: All that the fast way can raise: not our JSON, not UTF-8, nested too deep, or a time that pydantic refuses.
_NOT_TAKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValidationError, Invalid)


def parse_event(body: bytes) -> ParsedEvent:
    """The event that ``body`` holds. Raises Invalid."""
    try:
        event = _decode_event(_utf8(body))
        _settle((event,))
    except _NOT_TAKEN:
        return _parse_event_slowly(body)
    return event


def parse_batch(body: bytes) -> ParsedBatch:
    """The batch that ``body`` holds, all of its events valid. Raises Invalid."""
    try:
        batch = _decode_batch(_utf8(body))
        _settle(batch.events)
        if batch.sent_at is not None:
            batch.sent_at = _event_microseconds(batch.sent_at)
    except _NOT_TAKEN:
        refusals.check(body, EventBatch)
        batch, errors = _parse_each(body)
        if errors:
            raise Invalid(errors) from None
    return batch


def parse_batch_leniently(body: bytes) -> tuple[ParsedBatch, list[ErrorItem]]:
    """The valid events of the batch, and the errors of the others, ``loc`` naming each one's index.

    Raises Invalid when the batch as a whole can't be taken (no JSON, no list, 0 or 101 events …).
    """
    try:
        return parse_batch(body), []
    except Invalid as invalid:
        try:
            refusals.check(body, EventEnvelope, strict_json=False)
        except Invalid:
            raise invalid from None
        return _parse_each(body)


def _parse_each(body: bytes) -> tuple[ParsedBatch, list[ErrorItem]]:
    """Judge each event of a batch alone. What surrounds them has been found good."""
    members = slices_of_object(body.decode("utf-8", "surrogatepass"))
    sent_at = json.loads(members.get("sent_at", "null"))
    batch = ParsedBatch(
        [], json.loads(members.get("client_id", "null")), None if sent_at is None else _event_microseconds(sent_at)
    )
    errors: list[ErrorItem] = []
    for index, one in enumerate(slices_of_array(members["events"])):
        try:
            batch.events.append(parse_event(one.encode("utf-8", "surrogatepass")))
        except Invalid as invalid:
            errors += [{**item, "loc": ["body", "events", index, *item["loc"][1:]]} for item in invalid.errors]
    return batch, errors


def _parse_event_slowly(body: bytes) -> ParsedEvent:
    event: Event = refusals.check(body, Event)
    fields = {name: getattr(event, name) for name in ParsedEvent.__struct_fields__}
    fields["timestamp"] = None if event.timestamp is None else _microseconds(event.timestamp)
    fields["properties"] = _properties_text(str(_decode_raw_properties(body).properties, "utf-8"))  # type: ignore[call-overload]
    return ParsedEvent(**fields)


def _utf8(body: bytes) -> bytes:
    """``body``, known to be UTF-8 also where msgspec does not look: in what it skips. Raises UnicodeDecodeError."""
    if not body.isascii():
        body.decode()
    return body


def _settle(events: Iterable[ParsedEvent]) -> None:
    """Put the text of the properties and the µs of the time in their places. A hundred times a request."""
    for event in events:
        raw = event.properties
        if raw is _ABSENT:
            event.properties = NO_PROPERTIES
        else:
            text = str(raw, "utf-8")  # type: ignore[call-overload]
            event.properties = text if text[0] == "{" and len(text) <= _SHALLOW else _properties_text(text)
        sent = event.timestamp
        if sent is not None:
            try:
                event.timestamp = _seconds[sent[:20]] + _MILLISECONDS[sent[20:]]  # type: ignore[index]
            except (KeyError, TypeError):
                event.timestamp = _event_microseconds(sent)


#: Characters. Deeper objects are longer.
_SHALLOW = 2 * PROPERTIES_MAX_DEPTH


def _properties_text(text: str) -> str:
    if text[0] != "{":
        if text == "null":
            return NO_PROPERTIES
        raise Invalid(refusals.wrong_type_of_properties())
    # Counting brackets is cheap and never counts too few; only a suspect is looked at closely.
    if text.count("{") + text.count("[") > PROPERTIES_MAX_DEPTH and _depth(text) > PROPERTIES_MAX_DEPTH:
        raise Invalid(refusals.too_deep(PROPERTIES_MAX_DEPTH))
    return text


_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')


def _depth(text: str) -> int:
    deepest = depth = 0
    for char in _STRINGS.sub("", text):
        if char in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "}]":
            depth -= 1
    return deepest


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.", re.ASCII)
_validate_time = TypeAdapter(EventTime).validate_python


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _event_microseconds(sent: str | int | float) -> int:
    """µs since 1970 of a time as sent. Seconds in the usual form are remembered; the rest is read by pydantic."""
    if type(sent) is str:
        usual = sent[:19] + ".000Z" if sent[19:] == "Z" else sent
        second, rest = usual[:20], usual[20:]
        if rest in _MILLISECONDS and _SECOND.fullmatch(second):
            if second not in _seconds:
                if len(_seconds) >= SECONDS_MAX:
                    _seconds.clear()
                _seconds[second] = _microseconds(_validate_time(second + "0Z"))
            return _seconds[second] + _MILLISECONDS[rest]
    return _microseconds(_validate_time(sent))


#: µs since 1970 of the times ``YYYY-MM-DDTHH:MM:SS.`` seen of late, and of ``000Z`` to ``999Z``. Together they are
#: what browsers write.
_seconds: dict[str, int] = {}
SECONDS_MAX = 4096
_MILLISECONDS = {f"{number:03}Z": number * 1000 for number in range(1000)}
