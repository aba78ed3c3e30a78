"""The format of a segment's file, version 3. Integers are little-endian.

    file  = magic "EVSPOOL3", frame (the header: its payload says which columns follow, 0 rows), frame*
    frame = magic "\\xf5EVF" or "\\xf5EVI", u32 length, u32 rows, u32 crc32(length, rows, payload), payload

The frame's magic says whether clients made ids of its rows ("I"), and marks where the next whole frame begins behind
a damaged one. Versions 1 and 2 can still be read: they mixed both kinds of rows in a frame, and in version 1 a payload
was an array of arrays.
"""

import struct
import zlib
from collections.abc import Iterator

FILE_MAGIC = b"EVSPOOL3"
#: Versions whose frames mix rows with ids of clients and others.
MIXED_MAGICS = (b"EVSPOOL1", b"EVSPOOL2")
READABLE_MAGICS = (*MIXED_MAGICS, FILE_MAGIC)
FRAME_MAGIC, IDS_MAGIC = b"\xf5EVF", b"\xf5EVI"
_ANY_MAGIC = b"\xf5EV"
FRAME_HEADER = struct.Struct("<4sIII")
#: Overwrites the head of a refused frame that perhaps can't be cut off, so that nobody takes it for a kept one.
REFUSED = b"\xf5EVX" + bytes(12)
#: A row takes more bytes than this: its id alone has as many.
_ROW_MIN_BYTES = 16
_CHECKED = struct.Struct("<II")


def encode_frame(payload: bytes, rows: int, *, with_ids: bool = False) -> bytes:
    """The frame that holds ``payload``. ``with_ids``: clients made the ids of some of its rows."""
    crc = zlib.crc32(payload, zlib.crc32(_CHECKED.pack(len(payload), rows)))
    return FRAME_HEADER.pack(IDS_MAGIC if with_ids else FRAME_MAGIC, len(payload), rows, crc) + payload


def has_ids(data: bytes, start: int) -> bool:
    """Whether the intact frame at ``start`` says that clients made ids of its rows."""
    return data.startswith(IDS_MAGIC, start)


def frames(data: bytes) -> Iterator[tuple[int, int, int, bytes | None]]:
    """(start, end, rows, payload) of each frame in a file and of each damaged stretch, which has None as payload."""
    position = len(FILE_MAGIC) if data.startswith(READABLE_MAGICS) else 0
    while position < len(data):
        start = position
        if frame := _frame_at(data, start):
            position, rows, payload = frame
            yield start, position, rows, payload
            continue
        while position < len(data) and (position == start or not _frame_at(data, position)):
            found = data.find(_ANY_MAGIC, position + 1)
            position = found if found >= 0 else len(data)
        yield start, position, 0, None


def _frame_at(data: bytes, start: int) -> tuple[int, int, bytes] | None:
    """(end, rows, payload) of the intact frame at ``start``, if there is one."""
    body = start + FRAME_HEADER.size
    if body > len(data):
        return None
    magic, length, rows, crc = FRAME_HEADER.unpack_from(data, start)
    payload = data[body : body + length]
    if magic not in (FRAME_MAGIC, IDS_MAGIC) or len(payload) != length:
        return None
    if zlib.crc32(payload, zlib.crc32(_CHECKED.pack(length, rows))) != crc:
        return None
    return body + length, rows, payload


def is_torn(data: bytes, start: int) -> bool:
    """Whether the damage from ``start`` to the end is a write that ended half way, and so was never acknowledged.

    A frame of full length is not torn, nor is one in which only the length is wrong.
    """
    rest = len(data) - start
    if rest < FRAME_HEADER.size or data.startswith(REFUSED, start):
        return True
    magic, length, rows, crc = FRAME_HEADER.unpack_from(data, start)
    if magic not in (FRAME_MAGIC, IDS_MAGIC) or length <= rest - FRAME_HEADER.size:
        return False
    payload = data[start + FRAME_HEADER.size :]
    return bool(zlib.crc32(payload, zlib.crc32(_CHECKED.pack(len(payload), rows))) != crc)


def rows_lost(data: bytes, start: int, end: int) -> int:
    """How many rows a damaged stretch held, by the heads of its frames; where a head is damaged, one row."""
    lost = 0
    if start == 0:  # the magic of the file is damaged
        start = len(FILE_MAGIC)
    while start < end:
        length, rows = FRAME_HEADER.unpack_from(data, start)[1:3] if end - start >= FRAME_HEADER.size else (0, 1)
        stop = start + FRAME_HEADER.size + length
        if stop != end and not (stop < end and data.startswith((FRAME_MAGIC, IDS_MAGIC), stop)):
            found = data.find(_ANY_MAGIC, start + 1, end)
            stop = found if found >= 0 else end
        if start > len(FILE_MAGIC):  # before it is the header, which holds no row
            lost += rows if 0 < rows * _ROW_MIN_BYTES <= stop - start else 1
        start = stop
    return lost
