"""Bytes of a request → validated events, or the list of what is wrong with them.

Two ways through, one truth. The fast way (msgspec) takes what is plainly valid, at half a
microsecond an event. What it does not take goes the slow way (``schemas.validation_errors``): the standard
library's JSON and the pydantic models, which is what FastAPI does, and so words the very errors
that existing clients parse. The slow way may also find the input valid (a key given twice, say).
A property test checks that FastAPI takes whatever the fast way takes, with the same values.

``properties`` is never parsed: its text is kept as the client wrote it, so no number passes
through a float (0.1, 2^63 and 1e400 come back as sent).
"""

import json
from codecs import BOM_UTF8
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
from pydantic import ValidationError

from schemas import outlines, validation_errors
from schemas.events import (
    BATCH_MAX_EVENTS,
    BATCH_MIN_EVENTS,
    DEFAULT_CATEGORY,
    DEFAULT_PRIORITY,
    MAX_ID,
    NAME_MAX_LENGTH,
    NAME_MIN_LENGTH,
    NIL_ID,
    PROPERTIES_MAX_DEPTH,
    SEQUENCE_MAX,
    SEQUENCE_MIN,
    Category,
    Event,
    EventBatch,
    EventEnvelope,
    Priority,
)
from schemas.nesting import depth
from schemas.slices import slices_of_array, slices_of_object
from schemas.times import MILLISECONDS, SECONDS, microseconds, microseconds_as_sent, validate_time
from schemas.validation_errors import ErrorItem, Invalid, TooDeep

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
    user_id: str | None = None


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
#: Everything that the fast way can raise: not our JSON, not UTF-8, nested too deep, or a time that pydantic refuses.
_NOT_TAKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValidationError, Invalid)


def parse_event(body: bytes) -> ParsedEvent:
    """The event in ``body``. Raises Invalid."""
    try:
        event = _decode_event(_utf8(body))
        too_deep = _settle((event,))
    except _NOT_TAKEN:
        body = body.removeprefix(BOM_UTF8)
        return _parse_event_slowly(body, large=outlines.is_large(body))
    if too_deep:
        raise TooDeep(PROPERTIES_MAX_DEPTH)
    return event


def parse_batch(body: bytes) -> ParsedBatch:
    """The batch in ``body``, if all of its events are valid. Raises Invalid."""
    try:
        batch, errors = _parse_batch_fast(body)
    except _NOT_TAKEN:
        body = body.removeprefix(BOM_UTF8)
        if outlines.is_large(body):
            batch, errors = _parse_large_batch(body)
        else:
            validation_errors.check(body, EventBatch)
            batch, errors = _parse_each(body)
    if errors:
        raise Invalid(errors) from None
    return batch


def parse_batch_leniently(body: bytes) -> tuple[ParsedBatch, list[ErrorItem]]:
    """The valid events of the batch, and the errors of the others, ``loc`` naming each one's index.

    Raises Invalid when the batch as a whole can't be taken (no JSON, no list, 0 or 101 events …).
    """
    try:
        return _parse_batch_fast(body)
    except _NOT_TAKEN:
        body = body.removeprefix(BOM_UTF8)
        if outlines.is_large(body):
            return _parse_large_batch(body)
        try:
            validation_errors.check(body, EventEnvelope, strict_json=False)
        except Invalid:
            validation_errors.check(body, EventBatch)  # which words it like any other
            raise
        return _parse_each(body)


def _parse_event_slowly(body: bytes, *, large: bool) -> ParsedEvent:
    if large:
        members = validation_errors.members_of_large(body)
        event: Event = validation_errors.check_large(body, members, Event)
        properties = members.get("properties", b"null").decode()
    else:
        event = validation_errors.check(body, Event)
        properties = str(_decode_raw_properties(body).properties, "utf-8")  # type: ignore[call-overload]
    fields = {name: getattr(event, name) for name in ParsedEvent.__struct_fields__}
    fields["timestamp"] = None if event.timestamp is None else microseconds(event.timestamp)
    fields["properties"] = NO_PROPERTIES if event.properties is None else properties
    if _is_too_deep(properties):
        raise TooDeep(PROPERTIES_MAX_DEPTH)
    return ParsedEvent(**fields)


def _parse_batch_fast(body: bytes) -> tuple[ParsedBatch, list[ErrorItem]]:
    batch = _decode_batch(_utf8(body))
    too_deep = _settle(batch.events)
    if batch.sent_at is not None:
        batch.sent_at = microseconds_as_sent(batch.sent_at)
    if not too_deep:
        return batch, []
    refused = set(map(id, too_deep))
    errors: list[ErrorItem] = []
    for index, event in enumerate(batch.events):
        if id(event) in refused:
            errors += _errors_at(index, TooDeep(PROPERTIES_MAX_DEPTH))
    batch.events = [event for event in batch.events if id(event) not in refused]
    return batch, errors


def _parse_large_batch(body: bytes) -> tuple[ParsedBatch, list[ErrorItem]]:
    """Validate first what surrounds the events, then each event alone. Raises Invalid."""
    members = validation_errors.members_of_large(body)
    text = members.get("events", b"")
    events = outlines.elements(text) if text.startswith(b"[") else None
    envelope: EventEnvelope = validation_errors.check_large(body, members, EventEnvelope, events)
    return _judge(events or [], envelope.client_id, envelope.sent_at, large=True)


def _parse_each(body: bytes) -> tuple[ParsedBatch, list[ErrorItem]]:
    """Validate each event of a batch alone, after what surrounds them."""
    members = slices_of_object(body.decode("utf-8", "surrogatepass"))
    events = [one.encode("utf-8", "surrogatepass") for one in slices_of_array(members["events"])]
    client_id, sent_at = (json.loads(members.get(name, "null")) for name in ("client_id", "sent_at"))
    return _judge(events, client_id, None if sent_at is None else validate_time(sent_at), large=False)


def _judge(
    texts: list[bytes], client_id: str | None, sent_at: datetime | None, *, large: bool
) -> tuple[ParsedBatch, list[ErrorItem]]:
    batch = ParsedBatch([], client_id, None if sent_at is None else microseconds(sent_at))
    errors: list[ErrorItem] = []
    for index, text in enumerate(texts):
        try:
            event = _parse_event_slowly(text, large=True) if large else parse_event(text)
        except Invalid as invalid:
            errors += _errors_at(index, invalid)
        else:
            batch.events.append(event)
    return batch, errors


def _errors_at(index: int, invalid: Invalid) -> list[ErrorItem]:
    return [{**item, "loc": ["body", "events", index, *item["loc"][1:]]} for item in invalid.errors]


def _utf8(body: bytes) -> bytes:
    """``body``, known to be UTF-8 also where msgspec does not look: in what it skips. Raises UnicodeDecodeError."""
    if not body.isascii():
        body.decode()
    return body


def _settle(events: Iterable[ParsedEvent]) -> list[ParsedEvent]:
    """Fill in the text of the properties and the µs of the time. Runs a hundred times a request.

    Returns those whose properties are nested too deep.
    """
    long: list[ParsedEvent] = []
    for event in events:
        raw = event.properties
        if raw is _ABSENT:
            event.properties = NO_PROPERTIES
        else:
            event.properties = text = str(raw, "utf-8")  # type: ignore[call-overload]
            if text[0] != "{":
                if text != "null":
                    raise Invalid([])  # the slow way words this
                event.properties = NO_PROPERTIES
            elif len(text) > _SHALLOW:
                long.append(event)
        event_id = event.event_id
        if event_id is not None and not NIL_ID < event_id.int < MAX_ID:
            raise Invalid([])
        sent = event.timestamp
        if sent is not None:
            try:
                event.timestamp = SECONDS[sent[:20]] + MILLISECONDS[sent[20:]]  # type: ignore[index]
            except (KeyError, TypeError):
                event.timestamp = microseconds_as_sent(sent)
    if long:
        return [event for event in long if _is_too_deep(event.properties)]
    return long


#: Characters. Deeper objects are longer.
_SHALLOW = 2 * PROPERTIES_MAX_DEPTH


def _is_too_deep(text: str) -> bool:
    # Counting brackets is cheap and never counts too few; only a suspect is looked at closely.
    return text.count("{") + text.count("[") > PROPERTIES_MAX_DEPTH and depth(text.encode()) > PROPERTIES_MAX_DEPTH
