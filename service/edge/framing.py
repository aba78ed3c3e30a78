"""Where the requests end that are given to aiohttp, so that we know when it is between two; and offers to upgrade.

aiohttp gets each request by itself. If it gets several at once and one of them is malformed, its parser forgets those
in front of that one: they would never be answered.

An ``Upgrade`` is an offer of another protocol, which we don't take and may ignore (RFC 9110, section 7.8). aiohttp's
parser does not: it stops at the end of such a request and drops what came with it. So it does not get to see the offer,
unless the head came in pieces; and even then nothing comes with it.
"""

from typing import NamedTuple

#: How many bytes are still to come can't be told.
UNKNOWN = -1
#: Bytes of a head that comes in pieces, of which a copy is kept to see what it says.
HEAD_MAX_BYTES = 2**14
#: What ends a head, and also a body in chunks.
EMPTY_LINE = b"\r\n\r\n"


class Followed(NamedTuple):
    """The pieces, how many bytes the last request still needs, and the head that has no end yet."""

    pieces: list[bytes]
    due: int
    begun: bytes = b""


def follow(data: bytes, due: int, begun: bytes = b"") -> Followed:
    """The bytes without offers to upgrade, cut where requests end.

    ``due`` are those that were due before, of the request that the bytes begin with; 0 if they begin with a request.
    Where it is ``UNKNOWN``, they go on with the head that has ``begun``; or they are cut wherever a request may end.
    """
    pieces: list[bytes] = []
    if due == UNKNOWN:
        whole = begun + data
        end = whole.find(EMPTY_LINE, max(0, len(begun) - 3)) + 4 if begun else 0
        if begun and end < 4:
            return Followed([data], UNKNOWN, whole if len(whole) <= HEAD_MAX_BYTES else b"")
        due = _framed(whole[:end])[1] if begun else UNKNOWN
        if due == UNKNOWN:
            return Followed(_cut(data), UNKNOWN)
        due += end - len(begun)
    place, length = min(due, len(data)), len(data)
    due -= place
    if place:
        pieces.append(data[:place])
    while place < length:
        end = data.find(EMPTY_LINE, place) + 4
        if end < 4:
            return Followed([*pieces, data[place:]], UNKNOWN, data[place:])
        head, due = _framed(data[place:end])
        if due == UNKNOWN:
            return Followed([*pieces, head, *_cut(data[end:])], UNKNOWN)
        place = min(end + due, length)
        due -= place - end
        pieces.append(head + data[end:place])
    return Followed(pieces, due)


def _cut(data: bytes) -> list[bytes]:
    """The bytes, cut behind each empty line."""
    pieces, place = [], 0
    while (end := data.find(EMPTY_LINE, place)) >= 0:
        pieces.append(data[place : end + 4])
        place = end + 4
    if place < len(data):
        pieces.append(data[place:])
    return pieces


def _framed(head: bytes) -> tuple[bytes, int]:
    """The head without an offer to upgrade, and the length of its body; ``UNKNOWN`` if that is not plain to see."""
    small = head.lower()
    if b"\r\nupgrade:" in small:
        head = _without_upgrade(head)
        small = head.lower()
    if b"\r\ntransfer-encoding" in small or b"\r\nupgrade:" in small or small.startswith(b"connect "):
        return head, UNKNOWN
    _, name, rest = small.partition(b"\r\ncontent-length:")
    length = rest.partition(b"\r\n")[0].strip(b" \t") if name else b"0"
    return head, int(length) if length.isdigit() and len(length) <= 10 else UNKNOWN


def _without_upgrade(head: bytes) -> bytes:
    """As it is if it is not plainly a request line and headers: that is for aiohttp to refuse."""
    first, *others = head.split(b"\r\n")
    if first[-9:] not in (b" HTTP/1.1", b" HTTP/1.0") or b"\r" in first or b"\n" in first:
        return head
    if any(line[:1] in (b" ", b"\t") or b"\r" in line or b"\n" in line for line in others):
        return head
    return b"\r\n".join([first, *(line for line in others if line[:8].lower() != b"upgrade:")])
