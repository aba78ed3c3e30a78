"""Where the requests end that are given to aiohttp, so that we know when it is between two; and offers to upgrade.

An ``Upgrade`` is an offer of another protocol, which we don't take and may ignore (RFC 9110, section 7.8). aiohttp's
parser does not: it stops at the end of such a request and drops what came with it. So it does not get to see the offer.
"""

#: How many bytes are still to come can't be told.
UNKNOWN = -1


def follow(data: bytes, due: int) -> tuple[bytes, int]:
    """The bytes without offers to upgrade, and how many more are due to the end of the last request in them.

    ``due`` are those that were due before, of the request that the bytes begin with; 0 if they begin with a request.
    """
    passed, place, length = [], 0, len(data)
    while place < length:
        if due:
            end = min(place + due, length)
            passed.append(data[place:end])
            due -= end - place
            place = end
            continue
        end = data.find(b"\r\n\r\n", place) + 4
        if end < 4:
            return b"".join([*passed, data[place:]]), UNKNOWN
        head, due = _framed(data[place:end])
        passed.append(head)
        place = end
        if due == UNKNOWN:
            passed.append(data[place:])
            break
    return (passed[0] if len(passed) == 1 else b"".join(passed)), due


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
