"""The inbound contract: ``Event`` and ``EventBatch``, with every limit a named constant.

These pydantic models are the contract's one definition: ``/openapi.json`` is made from them,
and they word every validation error. ``schemas.parse`` holds the same limits in a form that
takes bytes faster; a property test compares the two.
"""

import sys
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

#: Where the contract has the routes.
PREFIX = "/api/v1/analytics"
NAME_MIN_LENGTH = 1
NAME_MAX_LENGTH = 100
BATCH_MIN_EVENTS = 1
BATCH_MAX_EVENTS = 100
#: 0 is what the column has for an event without one.
SEQUENCE_MIN = 1
SEQUENCE_MAX = 2**32 - 1
#: Levels of objects and arrays in ``properties``. Well below what any reader of the column
#: gives up at (orjson writes 254 levels, pydantic reads 200).
PROPERTIES_MAX_DEPTH = 100
#: The range that ClickHouse's DateTime64 stores exactly; it silently changes values outside.
#: Source: https://clickhouse.com/docs/sql-reference/data-types/datetime64
TIMESTAMP_MIN = datetime(1900, 1, 1, tzinfo=UTC)
TIMESTAMP_MAX = datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

Category = Literal["page_view", "user_action", "trading", "auth", "error", "performance", "feature", "system"]
Priority = Literal["low", "medium", "high", "critical"]
DEFAULT_CATEGORY: Category = "user_action"
DEFAULT_PRIORITY: Priority = "medium"


def utc(value: datetime) -> datetime:
    """The same instant with the offset UTC; a time without offset is UTC already."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _storable(value: datetime) -> datetime:
    try:
        value = utc(value)
    except OverflowError:  # the offset moves year 1 or 9999 beyond the calendar
        inside = False
    else:
        inside = TIMESTAMP_MIN <= value <= TIMESTAMP_MAX
    if not inside:
        raise PydanticCustomError(
            "datetime_range",
            "Input should be a time from {earliest} to {latest}",
            {"earliest": TIMESTAMP_MIN.isoformat(), "latest": TIMESTAMP_MAX.isoformat()},
        )
    return value


EventTime = Annotated[datetime, AfterValidator(_storable)]

#: The nil and the max UUID of RFC 9562 stand for "no id": many different events would share them.
NIL_ID, MAX_ID = 0, 2**128 - 1


def _id(value: UUID) -> UUID:
    if value.int in (NIL_ID, MAX_ID):
        raise PydanticCustomError("uuid_reserved", "Input should be a UUID other than the nil and the max UUID")
    return value


EventId = Annotated[UUID, AfterValidator(_id)]


class Event(BaseModel):
    """One thing that happened."""

    event_name: str = Field(
        min_length=NAME_MIN_LENGTH, max_length=NAME_MAX_LENGTH, description="What happened", examples=["order_placed"]
    )
    category: Category = DEFAULT_CATEGORY
    priority: Priority = DEFAULT_PRIORITY
    properties: dict[str, Any] | None = Field(None, description="Anything else worth keeping, as a JSON object")
    timestamp: EventTime | None = Field(None, description="When it happened; the server's time if absent")
    session_id: str | None = Field(None, description="The client's session")
    page_url: str | None = Field(None, description="The page on which it happened")
    referrer: str | None = Field(None, description="The page before it")
    user_agent: str | None = Field(None, description="The client's user agent")
    event_id: EventId | None = Field(
        None,
        description="Makes sending again safe: of the same id only the first event is stored. UUID version 7 is best",
    )
    sequence: int | None = Field(
        None,
        strict=True,
        ge=SEQUENCE_MIN,
        le=SEQUENCE_MAX,
        description="Number of the event in its session, counted by the client from 1; gaps are events that got lost",
    )
    user_id: str | None = Field(None, description="Who did it, as the client knows its users; the same on each device")


class EventEnvelope(BaseModel):
    """A batch without its events: only what surrounds them is validated."""

    events: list[Any] = Field(min_length=BATCH_MIN_EVENTS, max_length=BATCH_MAX_EVENTS)
    client_id: Annotated[str, Field(max_length=sys.maxsize)] | None = None  # bounded: then pydantic wants Unicode
    sent_at: EventTime | None = None


class EventBatch(BaseModel):
    """Up to 100 events in one request."""

    events: list[Event] = Field(min_length=BATCH_MIN_EVENTS, max_length=BATCH_MAX_EVENTS, description="1 to 100 events")
    client_id: str | None = Field(None, description="The sending client; stored with each event of the batch")
    sent_at: EventTime | None = Field(None, description="When the client sent this, by the clock that timed its events")
