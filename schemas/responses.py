"""The shapes of the answers: acks, statistics, health, errors. ``/openapi.json`` is made from them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field


class ValidationError(BaseModel):
    """One fault of a body."""

    loc: list[str | int] = Field(description="'body', then the path to the fault")
    msg: str
    type: str = Field(description="pydantic's error type")
    input: Any = Field(None, description="The value at fault")
    ctx: dict[str, Any] = {}


class ValidationErrorBody(BaseModel):
    """Why a request is not valid."""

    detail: list[ValidationError]


class ErrorBody(BaseModel):
    """Why a request was refused."""

    detail: str


class EventAck(BaseModel):
    """The event is kept."""

    success: bool
    event_id: str = Field(description="Id of the event in the table")
    message: str
    timestamp: datetime = Field(description="Server time of acceptance")


class BatchAck(BaseModel):
    """The queued events are kept."""

    success: bool = Field(description="Whether any event was queued")
    events_received: int = Field(ge=0, description="Events in the request")
    events_queued: int = Field(ge=0, description="Events that will be stored")
    events_failed: int = Field(ge=0, description="Events that will not")
    message: str
    timestamp: datetime = Field(description="Server time of acceptance")
    errors: list[ValidationError] = Field(
        [], description="Why some events failed, with Prefer: handling=lenient or near the spool's cap"
    )


class BufferStatus(BaseModel):
    """Where acknowledged events are at the moment of the answer."""

    buffer_size: int = Field(ge=0, description="Events in the open batch")
    max_buffer_size: int = Field(ge=0, description="The size trigger: events in a full batch")
    flush_interval_seconds: float = Field(description="The time trigger")
    last_flush: datetime | None = Field(description="Time of the last insert that ClickHouse confirmed")
    events_pending: int = Field(
        ge=0, description="Events acknowledged and not yet confirmed by ClickHouse, in every batch"
    )
    events_flushed_total: int = Field(ge=0, description="Events that ClickHouse has confirmed")


class Stats(BaseModel):
    """Counts of the table, and the state of the buffer before it."""

    total_events: int = Field(ge=0, description="Events in the table")
    events_by_category: dict[str, int]
    events_today: int = Field(ge=0, description="Events of the current UTC day, by event time")
    events_this_hour: int = Field(ge=0, description="Events of the current UTC hour, by event time")
    buffer_status: BufferStatus


class NameCount(BaseModel):
    """How often an event came."""

    event_name: str
    events: int = Field(ge=1)


class Activity(BaseModel):
    """The events of the last hour or day in the table, by event time as sent, and when they were counted."""

    as_of: datetime = Field(description="When this was counted: a moment ago, or on a busy table up to about a minute")
    span: Literal["1h", "24h"]
    start: datetime = Field(description="Where the first bucket begins; the last one is that of `as_of`, not over yet")
    bucket_seconds: int = Field(ge=1)
    total_events: int = Field(ge=0)
    events_by_category: dict[str, list[int]] = Field(
        description="For each category that occurs, the events of every bucket"
    )
    top_names: list[NameCount] = Field(description="The ten most frequent names, the most frequent first")


class SpoolUse(BaseModel):
    """How full the spool is."""

    bytes: int = Field(ge=0, description="Bytes of pending events on disk")
    max_bytes: int = Field(ge=0, description="Bytes that they may take")


class Latency(BaseModel):
    """Seconds from the first event of a batch to ClickHouse's confirmation, for recent batches."""

    p50_seconds: float | None = Field(description="null if there was no batch")
    p99_seconds: float | None
    batches: int = Field(ge=0, description="How many batches this is computed from: at most the last thousand")
    window_seconds: float = Field(description="How far back these batches go")


class Pipeline(BaseModel):
    """Acknowledged events on their way to the table, of all workers that answer: /health names the others."""

    as_of: datetime
    events_pending: int = Field(ge=0, description="Events acknowledged and not yet confirmed by ClickHouse")
    oldest_pending_seconds: float = Field(ge=0, description="Age of the oldest of them; 0 if there is none")
    last_flush: datetime | None = Field(description="Time of the last insert that ClickHouse confirmed")
    spool: SpoolUse
    acknowledged_to_visible: Latency


class Refusal(BaseModel):
    """Similar refusals: how many, and when."""

    method: str
    route: str = Field(description="The registered path; `unknown` if there is none")
    status: int = Field(description="200 where only some events of a request were refused")
    reason: str = Field(description="In the words of the answer, cut to 200 characters, without values of the client")
    token: str | None = Field(description="The name of the access token; null if it is not known")
    count: int = Field(ge=1)
    first_at: datetime
    last_at: datetime


class Refusals(BaseModel):
    """Recent refusals since the start of the service, the latest first; at most a hundred kinds."""

    as_of: datetime
    refusals: list[Refusal]


class MissingRange(BaseModel):
    """Consecutive numbers that are all missing."""

    first: int = Field(ge=1)
    last: int = Field(ge=1)


class Loss(BaseModel):
    """What the table has of a session, by the numbers (`sequence`) that its client gave the events."""

    session_id: str
    sent: int = Field(ge=0, description="The highest number in the table: the client sent at least so many")
    stored: int = Field(ge=0, description="How many of these numbers are in the table; one stored twice counts once")
    missing: int = Field(ge=0, description="How many are not: sent minus stored")
    missing_ranges: list[MissingRange] = Field(description="Which ones, in order; the first hundred ranges")
    missing_ranges_cut: bool = Field(description="Whether there are more ranges")
    events_pending: int | None = Field(
        ge=0,
        description="Events of all sessions that are acknowledged and not yet in the table: they may be among the"
        " missing. What is missing while this is 0 was never acknowledged, or was refused by ClickHouse."
        " Null if a worker did not answer",
    )


class PartHealth(BaseModel):
    """The state of one part of the service."""

    ok: bool = Field(description="Whether it works")
    since: datetime = Field(description="Since when")
    reason: str | None = Field(description="Why it does not work; null if it does")


class QuarantineHealth(BaseModel):
    """What the quarantine holds, at most a second old."""

    events: int = Field(ge=0, description="Events that ClickHouse refuses for good")
    files: int = Field(ge=0, description="Damaged stretches of the spool, each kept in a file")
    bytes: int = Field(ge=0, description="Bytes of both on disk")


class WorkersHealth(BaseModel):
    """Which workers answered the one that was asked."""

    answering: int = Field(ge=1, description="How many did")
    silent: list[int] = Field(description="The numbers of those that did not: they are being restarted, or hang")


class Health(BaseModel):
    """Whether an event sent now can be kept."""

    status: Literal["ok", "degraded", "failing"] = Field(
        description="ok; degraded: events are kept, ClickHouse is away; failing: an event sent now can't be kept"
    )
    version: str
    uptime_seconds: float
    spool: PartHealth
    clickhouse: PartHealth
    quarantine: QuarantineHealth
    workers: WorkersHealth | None = Field(None, description="Only where there are several")
    warnings: list[str] | None = Field(
        None,
        description="What stops nothing now but should be fixed in ClickHouse; only if there is something, and only"
        " for requests with an access token to read",
    )


class Probe(BaseModel):
    """The answer to an orchestrator."""

    status: Literal["ok", "failing"]
    reason: str | None = Field(None, description="Why not; null if ok")
