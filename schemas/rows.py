"""The table as data: its columns, and how an event becomes a row.

A *row* has its values in the order of ``COLUMNS``. It is made and encoded once, at acceptance, and never changes:
the spool keeps those bytes, and every try of its INSERT sends them.
"""

import hashlib
import io
import os
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from schemas.parse import ParsedBatch
from schemas.payload import EncodedRows, Header, encode_values, swap_id


class Column(NamedTuple):
    """A column of the table ``events``; ``comment`` is what DESCRIBE TABLE tells an analyst."""

    name: str
    type: str
    comment: str


COLUMNS = (
    Column("event_id", "UUID", "Unique id of the event: the one that the client sent, else a UUID of version 7"),
    Column("event_name", "LowCardinality(String)", "What happened, for instance order_placed; 1 to 100 characters"),
    Column(
        "category",
        "LowCardinality(String)",
        "One of page_view, user_action, trading, auth, error, performance, feature, system",
    ),
    Column("priority", "LowCardinality(String)", "One of low, medium, high, critical"),
    Column("properties", "String", "Anything else, a JSON object exactly as the client wrote it; {} if none was sent"),
    Column(
        "timestamp",
        "DateTime64(6, 'UTC')",
        "Event time: when it happened, as the client says; the time of receipt if it says nothing",
    ),
    Column("received_at", "DateTime64(3, 'UTC')", "When the server accepted the event, by the clock of the server"),
    Column("session_id", "String", "Session of the client; empty if none was sent"),
    Column("page_url", "String", "Page on which it happened; empty if none was sent"),
    Column("referrer", "LowCardinality(String)", "Page before it; empty if none was sent"),
    Column("user_agent", "LowCardinality(String)", "User agent of the client, as it says; empty if none was sent"),
    Column("client_id", "LowCardinality(String)", "Client that sent the batch, as it says; empty if none was sent"),
    Column("source", "LowCardinality(String)", "Name of the access token with which the event was sent"),
    Column("id_origin", "LowCardinality(String)", "Who made event_id: client or server"),
    Column(
        "sequence", "UInt32", "Number of the event in its session, counted by the client from 1; 0 if none was sent"
    ),
    Column(
        "clock_skew",
        "Nullable(Int64)",
        "Milliseconds that the clock behind timestamp was slow: received_at less the time of sending by that clock;"
        " NULL if the client did not say when it sent, or gave the event no time",
    ),
    Column("user_id", "String", "User who did it, as the client says; empty if none was sent"),
)
#: Worked out by ClickHouse when it is read; no insert carries it.
CORRECTED_TIMESTAMP = Column(
    "corrected_timestamp",
    "DateTime64(6, 'UTC')",
    "Event time by the clock of the server: timestamp + clock_skew where that is more than 60000 ms either way,"
    " else timestamp",
)
#: Filled by ClickHouse at the INSERT; no insert carries it.
SEGMENT = Column(
    "segment",
    "LowCardinality(String)",
    "Batch of the service with which the event was inserted; empty if not by the service, or by a version before 0.2",
)
#: Milliseconds. Up to this, what looks like a wrong clock may be a slow upload, and is not corrected.
CLOCK_SKEW_TOLERANCE = 60_000
BY_CLIENT, BY_SERVER = "client", "server"

#: Values in the order of COLUMNS: 16 bytes, text, and integers (ticks of the column's own precision since 1970).
Row = tuple[bytes, str, str, str, str, int, int, str, str, str, str, str, str, str, int, int | None, str]


def make_rows(
    batch: ParsedBatch, *, source: str, received_at: int, derived_ids: Sequence[bytes] | None = None
) -> EncodedRows:
    """A row for each event, in order. ``received_at`` is in µs since 1970; ``source`` is the token's name.

    An event's own id counts first, then the derived one, else it gets a new one.
    """
    milliseconds = received_at // 1000
    client_id = batch.client_id or ""
    skew = None if batch.sent_at is None else (received_at - batch.sent_at) // 1000  # type: ignore[operator]
    count = len(batch.events)
    ids = [swap_id(one) for one in derived_ids] if derived_ids else new_event_ids(milliseconds, count)
    origin = BY_CLIENT if derived_ids else BY_SERVER
    with_ids = bool(derived_ids)
    values: list[Any] = []
    for event_id, event in zip(ids, batch.events, strict=True):
        if event.event_id is not None:
            with_ids = True
        values += (
            event_id if event.event_id is None else _swapped(event.event_id),
            event.event_name,
            event.category,
            event.priority,
            event.properties,
            received_at if event.timestamp is None else event.timestamp,  # whole µs by now
            milliseconds,
            event.session_id or "",
            event.page_url or "",
            event.referrer or "",
            event.user_agent or "",
            client_id,
            source,
            origin if event.event_id is None else BY_CLIENT,
            event.sequence or 0,
            None if event.timestamp is None else skew,
            event.user_id or "",
        )
    return encode_values(values, count, with_ids=with_ids)


def first_id(rows: EncodedRows) -> bytes:
    """The id of the first event of new rows."""
    return swap_id(rows.payload[_FIRST_ID])


_FIRST_ID = slice(2, 18)  # event_id is the first column, and MessagePack puts its length before it
_TWO_HALVES = struct.Struct("<QQ").pack


def _swapped(event_id: UUID) -> bytes:
    """``swap_id`` of a UUID."""
    number = event_id.int
    return _TWO_HALVES(number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF)


def derive_event_id(source: str, key: str, index: int) -> bytes:
    """The id of the event at ``index`` of a request with an Idempotency-Key: a UUID of version 8 (RFC 9562).

    The same for each try of the request, and another for each client's token.
    """
    digest = hashlib.blake2b(b"\0".join((source.encode(), key.encode(), b"%d" % index)), digest_size=16).digest()
    return (int.from_bytes(digest, "big") & _UUID_RANDOM | 8 << 76 | 2 << 62).to_bytes(16, "big")


def id_text(event_id: bytes) -> str:
    """An event's id as text. (``str(UUID(bytes=…))`` takes five times as long.)"""
    digits = event_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def new_event_ids(milliseconds: int, count: int) -> Sequence[bytes]:
    """``count`` fresh UUIDs of version 7 (RFC 9562, section 5.7), 16 bytes each, in ClickHouse's order of bytes.

    All are made by one piece of arithmetic on a large integer: a tenth of the cost of one by one.
    """
    each, random_bits, take_apart = _for_ids(count)
    random = int.from_bytes(_random_bytes(16 * count), "little") & random_bits
    ids = random | (milliseconds << 16 | _UUID7_VERSION) * each
    return take_apart(ids.to_bytes(16 * count, "little"))


def _random_bytes(count: int) -> bytes:
    """Fresh random bytes, from a pool: a system call for each event costs more than the event's id."""
    some = _pool.read(count)
    if len(some) < count:
        _pool.seek(0)
        _pool.write(os.urandom(_POOL_BYTES))
        _pool.seek(0)
        some = _pool.read(count)
    return some


_POOL_BYTES = 16_384
_pool = io.BytesIO()
os.register_at_fork(after_in_child=lambda: _pool.seek(0, io.SEEK_END))  # two processes must not share it
_UUID_RANDOM = (1 << 48) - 1 << 80 | 0xFFF << 64 | (1 << 62) - 1
# In ClickHouse's order a UUID's first half is the lower one of a little-endian number.
_UUID7_RANDOM = 0xFFF | (1 << 62) - 1 << 64
_UUID7_VERSION = 7 << 12 | 2 << 126


@lru_cache(maxsize=128)
def _for_ids(count: int) -> tuple[int, int, Callable[[bytes], Sequence[bytes]]]:
    """A one in each of ``count`` UUIDs; their random bits; and what takes their bytes apart."""
    each = sum(1 << 128 * index for index in range(count))
    return each, _UUID7_RANDOM * each, struct.Struct("16s" * count).unpack


#: The header of the segments that this version writes.
CURRENT = Header(tuple(column.name for column in COLUMNS), tuple(column.type for column in COLUMNS))
