"""Rows as bytes. What a frame of the spool carries is what an INSERT sends, so a row is encoded once.

A *payload* is the values of some rows in the order of their columns, in MessagePack (https://msgpack.org) and with
nothing around them: ClickHouse's ``FORMAT MsgPack``. An id has ClickHouse's order of bytes there (each half reversed),
and the usual one everywhere else. Payloads of the same columns can be joined.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

AnyRow = tuple[Any, ...]
_UUID = "UUID"


class Header(NamedTuple):
    """The columns of a segment's rows. So a segment from before an upgrade can still be read.

    ``tries``: how often ClickHouse has refused its rows; 0 unless they come from the quarantine.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    tries: int = 0


def encode_header(header: Header) -> bytes:
    """The header as a segment carries it: JSON."""
    return msgspec.json.encode(header if header.tries else header[:2])


parse_header = msgspec.json.Decoder(Header).decode


class EncodedRows(msgspec.Struct, frozen=True, gc=False):
    """A payload, how many rows it holds, and whether clients made ids of some of them."""

    payload: bytes
    count: int
    with_ids: bool = False

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class Rows:
    """Rows of a segment, in parts as they were written, and their columns."""

    header: Header
    parts: Sequence[EncodedRows]

    def __len__(self) -> int:
        return sum([part.count for part in self.parts])

    @property
    def with_ids(self) -> bool:
        """Whether clients made ids of some of the rows."""
        return any(part.with_ids for part in self.parts)

    @property
    def payload(self) -> bytes:
        """All in one piece."""
        return b"".join([part.payload for part in self.parts])

    def decode(self) -> list[AnyRow]:
        """One tuple a row. Raises msgspec.DecodeError if they have more or fewer columns than the header."""
        return [row for part in self.parts for row in _decode_rows(part, self.header.types)]

    def split(self, at: int) -> tuple["Rows", "Rows"]:
        """The first ``at`` rows, and the others."""
        before: list[EncodedRows] = []
        after: list[EncodedRows] = []
        for part in self.parts:
            if at >= part.count:
                before.append(part)
            elif at <= 0:
                after.append(part)
            else:
                rows = _decode_rows(part, self.header.types)
                before.append(encode_rows(rows[:at], self.header.types, with_ids=part.with_ids))
                after.append(encode_rows(rows[at:], self.header.types, with_ids=part.with_ids))
            at -= part.count
        return replace(self, parts=before), replace(self, parts=after)

    def slice(self, start: int, stop: int) -> "Rows":
        """The rows of a range."""
        if (start, stop) == (0, len(self)):
            return self
        return self.split(stop)[0].split(start)[1]

    def span(self) -> tuple[int, int] | None:
        """The first and the last time of receipt, in ms since 1970; None if they have none."""
        if "received_at" not in self.header.names or not len(self):
            return None
        index = self.header.names.index("received_at")
        times = [row[index] for row in self.decode()]
        return min(times), max(times)

    def without_months(self, months: Collection[int]) -> "Rows":
        """The rows that were not received in these months (202612 is December 2026)."""
        index = self.header.names.index("received_at")
        kept = [row for row in self.decode() if month_of(row[index]) not in months]
        return Rows(self.header, [encode_rows(kept, self.header.types, with_ids=self.with_ids)] if kept else [])


def month_of(milliseconds: int) -> int:
    """The month of a time in ms since 1970, as ClickHouse's toYYYYMM: 202612."""
    time = datetime.fromtimestamp(min(max(milliseconds // 1000, _FIRST_SECOND), _LAST_SECOND), UTC)
    return time.year * 100 + time.month


#: ClickHouse's times reach from 1900 to 2299; times beyond count as the nearest of these.
_FIRST_SECOND, _LAST_SECOND = -2_208_988_800, 10_413_791_999


def read_rows(header: bytes, parts: Sequence[EncodedRows], default: Header) -> Rows:
    """The rows that a segment's file holds; ``header`` is empty if it is damaged, and then they must fit the default.

    Raises msgspec.DecodeError.
    """
    known = parse_header(header) if header else default
    rows = Rows(known, [_from_format_1(part, known.types) for part in parts])
    if not header:
        rows.decode()
    return rows


_encode = msgspec.msgpack.Encoder().encode
_decode_values = msgspec.msgpack.Decoder(list[Any]).decode
_decode_nested = msgspec.msgpack.Decoder(list[AnyRow]).decode


def encode_values(values: list[Any], count: int, *, with_ids: bool = False) -> EncodedRows:
    """The payload of ``count`` rows, from their values one row after the other, ids in ClickHouse's order."""
    array = _encode(values)
    head = 1 if len(values) < 16 else 3 if len(values) < 65_536 else 5  # says that it is an array, and how long
    return EncodedRows(array[head:], count, with_ids)


def encode_rows(rows: Sequence[AnyRow], types: Sequence[str], *, with_ids: bool = False) -> EncodedRows:
    """The payload of rows. Raises ValueError if one does not fit the columns."""
    values: list[Any] = []
    for row in rows:
        values += [swap_id(one) if type_ == _UUID else one for one, type_ in zip(row, types, strict=True)]
    return encode_values(values, len(rows), with_ids=with_ids)


def join_rows(parts: Sequence[EncodedRows]) -> EncodedRows:
    """All rows of the parts, in order."""
    if len(parts) == 1:
        return parts[0]
    with_ids = any(part.with_ids for part in parts)
    return EncodedRows(b"".join([part.payload for part in parts]), sum([part.count for part in parts]), with_ids)


def by_kind(parts: Sequence[EncodedRows]) -> tuple[list[EncodedRows], list[EncodedRows]]:
    """The parts without ids of clients, and those with some; each in order."""
    return [part for part in parts if not part.with_ids], [part for part in parts if part.with_ids]


def swap_id(event_id: bytes) -> bytes:
    """Converts an id of 16 bytes between the usual order and ClickHouse's."""
    return event_id[7::-1] + event_id[:7:-1]


def _decode_rows(part: EncodedRows, types: Sequence[str]) -> list[AnyRow]:
    width = len(types)
    values = _decode_values(b"\xdd" + (width * part.count).to_bytes(4, "big") + part.payload)
    for index, type_ in enumerate(types):
        if type_ == _UUID:
            values[index::width] = map(swap_id, values[index::width])
    return list(zip(*[iter(values)] * width, strict=True))


def _from_format_1(part: EncodedRows, types: Sequence[str]) -> EncodedRows:
    """In format 1 of segments a payload was an array of arrays. None of today begins with an array."""
    if part.payload[0] & 0xF0 == 0x90 or part.payload[0] in (0xDC, 0xDD):
        return encode_rows(_decode_nested(part.payload), types, with_ids=part.with_ids)
    return part


def to_columns(rows: Sequence[AnyRow], types: Sequence[str]) -> list[Sequence[Any]]:
    """Rows → one sequence a column, as the driver's columnar insert takes it."""
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    return [
        # the driver takes integers and bytes for UUIDs, and writes integers twice as fast
        [int.from_bytes(one, "big") for one in column] if type_ == _UUID else column
        for column, type_ in zip(columns, types, strict=True)
    ]
