"""One client's connection: what aiohttp leaves without a bound has one here.

A connection is in a handler, which has deadlines of its own, or it is idle. An idle one that has sent something and
not yet a whole head, or that does not take its answer, is *overdue* after the header timeout; one that sends nothing is
closed in time without reproach. The listener looks for both. Nothing here costs a request more than a few attributes.

An answer that is given before the whole request has come is the last one of its connection: what comes next can't be
told from the rest of that request, neither by us nor by a proxy that keeps connections for its other clients.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import Any, cast

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion10

from service.edge.framing import EMPTY_LINE, UNKNOWN, follow
from service.edge.internals import Handler
from service.edge.lingering import Lingering
from service.edge.responses import json_response
from service.errors import Overloaded
from service.telemetry.load import ConnectionLoad
from service.telemetry.logs import Seldom

#: What aiohttp's parser and its connections are told. Its own limits are larger, and some are none.
OPTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,  # ours has a limit: see service/edge/body.py
    "keepalive_timeout": 1e9,  # ours is the same on both ways: see ``Connection.outstayed``
    "lingering_time": 0.0,  # ours does not count as a request: see service/edge/lingering.py
    "max_line_size": 4096,
    "max_field_size": 8190,
    "max_headers": 64,
}
#: Bytes of heads that are unfinished, over all connections. There are more only where somebody hoards them: then a
#: connection is closed whose own are more than a usual head takes.
UNFINISHED_MAX_BYTES = 16 * 2**20
USUAL_HEAD_BYTES = 16 * 2**10
#: Room for what one read may bring. For asyncio's own 256 KiB, malloc asks the kernel anew each time: 12 µs a request.
READ_BYTES = 2**16
_log = logging.getLogger(__name__)
_not_http, _hoarding = Seldom(_log), Seldom(_log)
#: What a client can cause by sending what is no HTTP.
_CLIENT_FAULTS = (HttpProcessingError, web.RequestPayloadError)
#: Why a connection is closed: the client left us waiting in the middle of something, or had nothing to ask.
OVERDUE, IDLE = "overdue", "idle"


class Connection(Handler):
    """aiohttp's connection with a sense of time, and of how much memory its request takes."""

    __slots__ = (
        "_aiohttp_bytes_due", "_head_begun", "_held", "_idle_since", "_load", "_malformed", "_request", "_served",
        "_to_aiohttp", "_unfinished_bytes", "_unfinished_since", "_wire", "ended",
    )  # fmt: skip

    def __init__(self, server: web.Server, load: ConnectionLoad, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **OPTIONS | options)
        self._load = load
        self._held = self._unfinished_bytes = 0
        self._idle_since, self._unfinished_since = time.monotonic(), 0.0
        self._served = self._malformed = False
        self._request: web.BaseRequest | None = None  # which a handler has
        self._to_aiohttp: deque[bytes] = deque()  # requests for which its queue has no room
        self._head_begun = b""  # of a request that aiohttp has in part
        self._aiohttp_bytes_due = 0  # that it still waits for to the end of its last request, or UNKNOWN
        #: Whether the client has closed its side: it sends no more, and may still wait for answers.
        self.ended = False
        # aiohttp forgets its transport when it closes one, though the answer may still wait to be taken.
        self._wire: asyncio.Transport | None = None
        load.connections += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._wire = cast(asyncio.Transport, transport)
        with contextlib.suppress(AttributeError):  # other transports than asyncio's own have none
            self._wire.max_size = READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is closed, by whichever side."""
        self._load.leave()
        self._load.unfinished_bytes -= self._unfinished_bytes
        self._unfinished_bytes = 0
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came. They are of an unfinished head if aiohttp, having seen them, still waits for a request."""
        self._give(data)
        if data and self._idle_since and self.is_between_requests():
            self._count_unfinished(len(data))

    def _give(self, data: bytes) -> None:
        """Give the bytes to aiohttp, each request by itself; with none, those for which it had no room."""
        if not data:
            super().data_received(data)  # it may have put some by itself
        pieces, self._aiohttp_bytes_due, self._head_begun = follow(data, self._aiohttp_bytes_due, self._head_begun)
        self._to_aiohttp.extend(pieces)
        while self._to_aiohttp and self.has_room():
            super().data_received(self._to_aiohttp.popleft())
            if self.fail_unfinished(self._request):
                self._to_aiohttp.clear()
        if self._aiohttp_bytes_due == UNKNOWN and data.endswith(EMPTY_LINE) and self.has_whole_requests(self._request):
            self._aiohttp_bytes_due, self._head_begun = 0, b""  # the empty line ended a head, or a body in chunks

    def _count_unfinished(self, size: int) -> None:
        if not self._unfinished_since:
            self._unfinished_since = time.monotonic()
        self._unfinished_bytes += size
        self._load.unfinished_bytes += size
        if self._load.unfinished_bytes > UNFINISHED_MAX_BYTES and self._unfinished_bytes > USUAL_HEAD_BYTES:
            self._load.count_closed("hoarding")
            _hoarding(logging.WARNING, "closed a connection: the unfinished heads of all take too much memory")
            self.abort()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's: whether to keep our side open
        """The client has closed its side. What it has asked for is answered; a body that was cut short is refused."""
        self.ended = True
        request = self._request
        if request is not None and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError("the client sends no more"))
        if self.is_between_requests():
            return False
        if not self.has_queued_requests():  # else the last of them is the last request
            self.close()  # after the one under way, whose answer may be written already
        return True

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, *args: Any, **kw: Any
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer. It is the last one if the request's end is not here, or nothing more will come."""
        unread = self._malformed or not request.content.is_eof()
        if unread:
            self.close()  # what comes from now on is dropped
        if unread or (self.ended and not self.has_queued_requests()) or asks_for_close(request):
            resp.force_close()
            resp.headers["Connection"] = "close"
        done = await super().finish_response(request, resp, *args, **kw)
        if self.has_queued_requests():
            await asyncio.sleep(0)  # from Python 3.12 on, they would all be answered in one turn of the event loop
        if unread or (resp.status >= 400 and not resp.keep_alive):
            self.linger()
        return done

    def linger(self) -> None:
        """Part with the client, who has its answer and may still be sending."""
        wire, self.transport = self.transport, None
        if wire is None:
            return
        if self.ended:
            wire.close()
            return
        self._wire = None
        load = self._load
        lingering = Lingering(load.body_timeout, load.leave)
        load.connections += 1
        wire.set_protocol(lingering)
        self.connection_lost(None)
        lingering.connection_made(wire)

    def begin(self, request: web.BaseRequest | None = None) -> None:
        """A handler takes a request of this connection, or the fast path takes one."""
        self._request = request
        self._idle_since = self._unfinished_since = 0.0
        self._load.unfinished_bytes -= self._unfinished_bytes
        self._unfinished_bytes = 0

    def end(self) -> None:
        """The handler has its answer; what the request held is free again, however it went."""
        self._request = None
        self._idle_since = time.monotonic()
        self._served = True
        self._load.bytes -= self._held
        self._held = 0

    def hold(self, size: int) -> None:
        """Count ``size`` more bytes of the request as in flight, until its end. Raises Overloaded.

        A request that is alone is always taken, so that a body may be larger than the budget.
        """
        load = self._load
        if load.bytes + size > load.max_bytes and load.bytes > self._held:
            raise Overloaded
        load.bytes += size
        self._held += size

    def outstayed(self, now: float, header_timeout: float) -> str | None:
        """Why the connection is to be closed now: OVERDUE, IDLE, or None if it is not."""
        if not self._idle_since:
            return None
        if self._unfinished_since:
            return OVERDUE if now - self._unfinished_since > header_timeout else None
        silent = now - self._idle_since
        if self._wire is not None and self._wire.get_write_buffer_size():
            return OVERDUE if silent > header_timeout else None
        patience = self._load.keepalive_timeout if self._served else header_timeout
        return IDLE if silent > patience and self.is_between_requests() else None

    def abort(self) -> None:
        """Close at once: what is still to be sent is dropped, where a mere close would wait for the client."""
        self.force_close()
        if self._wire is not None:
            self._wire.abort()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what the parser refuses: JSON like any other, and one line of log in a while."""
        if isinstance(exc, ConnectionError):
            return web.Response(status=400)  # the client is gone: this is for nobody, and nothing to log
        if status != 400 or not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        _not_http(logging.INFO, "refused what is no valid HTTP: %s", type(exc).__name__)
        self._load.count_closed("not_http")
        self._malformed = True
        response = json_response({"detail": "The request is not valid HTTP, or its head is too large"}, 400)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp logs a traceback; for what clients cause, a line is enough."""
        exc = kw.get("exc_info")
        if isinstance(exc, _CLIENT_FAULTS):
            _not_http(logging.INFO, "refused what is no valid HTTP: %s", type(exc).__name__)
        else:
            super().log_exception(*args, **kw)


def asks_for_close(request: web.BaseRequest) -> bool:
    """Whether the client wants the connection closed. aiohttp overlooks it where HTTP/1.0 also asks to keep it."""
    names = ("Connection", "Proxy-Connection") if request.version == HttpVersion10 else ()
    lists = [one for name in names for one in request.headers.getall(name, ())]
    return "close" in [option.strip().lower() for option in ",".join(lists).split(",")]
