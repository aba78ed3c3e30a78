"""The bytes of a request: bounded in size and time, unpacked with a limit.

aiohttp's own unpacking is off (``auto_decompress=False`` where the server is made): it unpacks before
a handler can refuse, and goes on unpacking what no handler reads.
"""

import asyncio
import sys
import zlib
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion11

from service.config import Settings
from service.errors import BadFraming, BadRequest, BodyTimeout, BodyTooLarge, UnsupportedEncoding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
CUT_SHORT = "The body ended before its end"
_GZIP_WINDOW = 31
#: Larger windows are refused: they would be memory for the asking (RFC 8878 recommends decoders to support 8 MB).
_ZSTD_WINDOW_LOG_MAX = 23


async def read_body(request: web.Request) -> bytes:
    """The body, unpacked. Raises BadRequest, BodyTimeout, BodyTooLarge, Overloaded or UnsupportedEncoding."""
    settings = request.app[SETTINGS]
    limit = settings.max_body_bytes
    connection: Any = request.protocol  # a Connection; a cast would be a call
    length = request.content_length
    if length is not None:
        if length > limit:
            raise BodyTooLarge(f"The body is larger than {limit} bytes")
        connection.hold(length)
    if connection.ended and not request.content.is_eof():
        raise BadFraming(CUT_SHORT)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the interim answer is no part of the answer
    try:
        if length is not None and request.content.is_eof():
            body = (
                await request.read()
            )  # all of it is here: the usual case, and a timeout would cost as much as reading
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
    """A body whose length is not known before: it counts as it comes."""
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
    """Do nothing where aiohttp would answer ``Expect: 100-continue`` at once.

    ``read_body`` does, once the token and the length are found good: so a body that is refused is not sent.
    """


def _unpack(body: bytes, encoding: str, limit: int) -> bytes:
    encoding = encoding.strip().lower()
    try:
        if encoding in ("gzip", "x-gzip"):
            gzip = zlib.decompressobj(_GZIP_WINDOW)
            data, whole, rest = gzip.decompress(body, limit + 1), gzip.eof, gzip.unused_data
        elif encoding == "zstd":
            frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX})
            data, whole, rest = frame.decompress(body, limit + 1), frame.eof, frame.unused_data
        elif encoding in ("", "identity"):
            return body
        else:
            raise UnsupportedEncoding
    except (zlib.error, zstd.ZstdError):
        raise BadRequest(f"The body is not valid {encoding}") from None
    if len(data) > limit:
        raise BodyTooLarge(f"The unpacked body is larger than {limit} bytes")
    if not whole or rest:
        raise BadRequest(f"The body is not one whole {encoding} stream")
    return data
