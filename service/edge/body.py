"""The bytes of a request: bounded in size and time, unpacked with a limit.

aiohttp's own unpacking is off (``auto_decompress=False`` where the server is made): it unpacks before a
handler can refuse, and goes on even if no handler reads.
"""

import asyncio
import re
import sys
import zlib
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion11

from service.edge.context import CONTEXT
from service.errors import BadFraming, BadRequest, BodyTimeout, BodyTooLarge, UnsupportedEncoding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CUT_SHORT = "The body ended before its end"
_GZIP_WINDOW = 31
#: How many bytes the unpacker of a further member gets at a time: it copies what it does not use.
_STEP = 4096
#: gzip ignores zeros after a member, which tapes and block devices leave there.
_PADDING = re.compile(rb"\0*")
#: Larger windows are refused, since they cost memory (RFC 8878 recommends that decoders support 8 MB).
_ZSTD_WINDOW_LOG_MAX = 23


def _gzip() -> Any:
    return zlib.decompressobj(_GZIP_WINDOW)


def _zstd() -> Any:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX})


#: How many members or frames a body may have: an empty one costs as much as kilobytes of text, and more in zstd.
GZIP_MEMBERS_MAX, ZSTD_FRAMES_MAX = 20_000, 2_000
_UNPACKERS: dict[str, tuple[Callable[[], Any], int]] = {
    "gzip": (_gzip, GZIP_MEMBERS_MAX),
    "x-gzip": (_gzip, GZIP_MEMBERS_MAX),
    "zstd": (_zstd, ZSTD_FRAMES_MAX),
}


async def read_body(request: web.Request) -> bytes:
    """The body, unpacked. Raises BadRequest, BodyTimeout, BodyTooLarge, Overloaded or UnsupportedEncoding."""
    settings = request.app[CONTEXT].settings
    limit = settings.max_body_bytes
    connection: Any = request.protocol  # a Connection; a cast would cost a call
    length = request.content_length
    if length is not None:
        if length > limit:
            raise BodyTooLarge(f"The body is larger than {limit} bytes")
        connection.hold(length)
    if connection.ended and not request.content.is_eof():
        raise BadFraming(CUT_SHORT)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the interim answer does not count as the answer
    try:
        if length is not None and request.content.is_eof():
            # The usual case: all of it is here, and a timeout would cost as much as reading.
            body = await request.read()
        else:
            async with asyncio.timeout(settings.body_timeout):
                body = await (request.read() if length is not None else _read_chunks(request, connection, limit))
    except TimeoutError:
        raise BodyTimeout from None
    except web.RequestPayloadError:
        raise BadFraming(CUT_SHORT if connection.ended else "The body's chunks are malformed") from None
    encoding = request.headers.get("Content-Encoding")
    if encoding is None:
        return body
    data = _unpack(body, encoding, limit)
    connection.hold(max(0, len(data) - len(body)))
    return data


async def _read_chunks(request: web.Request, connection: Any, limit: int) -> bytes:
    """Read a body of unknown length, counting its bytes as they come."""
    coding = request.headers.get("Transfer-Encoding", "chunked")
    if coding.lower() != "chunked" or request.version != HttpVersion11:
        raise BadFraming("Transfer-Encoding must be chunked, in HTTP/1.1")
    body = bytearray()
    while piece := await request.content.readany():
        if len(body) + len(piece) > limit:
            raise BodyTooLarge(f"The body is larger than {limit} bytes")
        connection.hold(len(piece))
        body += piece
    return bytes(body)


async def leave_expect(request: web.Request) -> None:
    """Do nothing, where aiohttp would answer ``Expect: 100-continue`` at once.

    ``read_body`` answers it once the token and the length are valid, so that a refused body is not sent.
    """


def _unpack(body: bytes, encoding: str, limit: int) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _UNPACKERS:
        raise UnsupportedEncoding
    try:
        return _unpack_members(body, encoding, limit)
    except (zlib.error, zstd.ZstdError):
        raise BadRequest(f"The body is not valid {encoding}") from None


def _unpack_members(body: bytes, encoding: str, limit: int) -> bytes:
    """Unpack all members of a gzip file, or frames of a zstd file, one after the other."""
    rest, place, room = memoryview(body), 0, limit
    parts: list[bytes] = []
    step = len(body)  # usually there is only one, unpacked in one go
    new_member, most = _UNPACKERS[encoding]
    for _ in range(most):
        member = new_member()
        while not member.eof:
            if place == len(body):
                raise BadRequest(f"The body is not one whole {encoding} stream")
            piece = rest[place : place + step]
            parts.append(member.decompress(piece, room + 1))
            room -= len(parts[-1])
            if room < 0:
                raise BodyTooLarge(f"The unpacked body is larger than {limit} bytes")
            place += len(piece) - len(member.unused_data)
        if encoding != "zstd":
            place = _PADDING.match(body, place).end()  # type: ignore[union-attr]
        if place == len(body):
            return b"".join(parts)
        step = _STEP
    raise BadRequest(f"The body has more than {most} members of {encoding}")
