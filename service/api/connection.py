"""One client's connection: what aiohttp leaves without a bound has one here.

A connection is in a handler, which has deadlines of its own, or it is idle. An idle one that has sent something and
not yet a whole head, or that does not take its answer, is *overdue* after the header timeout; the listener looks for
those and aborts them. Nothing here costs a request more than a few attributes.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web
from aiohttp.http import HttpProcessingError

from service.api.respond import json_response
from service.errors import Overloaded
from service.logs import Seldom

#: What aiohttp's parser and its connections are told. Its own limits are larger, and some are none.
OPTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,  # ours has a limit: see service/api/body.py
    "keepalive_timeout": 75.0,  # longer than that of the usual proxy, so that the proxy closes first
    "lingering_time": 1.0,  # reading on after a refusal, so that the client sees it: not for 10 s
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


@dataclass(slots=True)
class Load:
    """What all connections of the process take together."""

    max_bytes: int
    bytes: int = 0
    unfinished_bytes: int = 0
    connections: int = 0
    #: How many connections were closed on our own account, by why.
    closed: dict[tuple[str, ...], int] = field(default_factory=dict)

    def count_closed(self, reason: str, connections: int = 1) -> None:
        """Count connections that are closed on our own account."""
        self.closed[reason,] = self.closed.get((reason,), 0) + connections


LOAD: web.AppKey[Load] = web.AppKey("load", Load)


class Connection(web.RequestHandler):
    """aiohttp's connection with a sense of time, and of how much memory its request takes."""

    __slots__ = ("_held", "_idle_since", "_load", "_unfinished_bytes", "_unfinished_since", "_wire")

    def __init__(self, server: web.Server, load: Load) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **OPTIONS)
        self._load = load
        self._held = self._unfinished_bytes = 0
        self._idle_since = self._unfinished_since = time.monotonic()
        # aiohttp forgets its transport when it closes one, though the answer may still wait to be taken.
        self._wire: asyncio.Transport | None = None
        load.connections += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._wire = cast(asyncio.Transport, transport)
        self._wire.max_size = READ_BYTES  # type: ignore[attr-defined]  # of asyncio's own transports
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is closed, by whichever side."""
        self._load.connections -= 1
        self._load.unfinished_bytes -= self._unfinished_bytes
        self._unfinished_bytes = 0
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._idle_since:
            if not self._unfinished_since:
                self._unfinished_since = time.monotonic()
            self._unfinished_bytes += len(data)
            self._load.unfinished_bytes += len(data)
            if self._load.unfinished_bytes > UNFINISHED_MAX_BYTES and self._unfinished_bytes > USUAL_HEAD_BYTES:
                self._load.count_closed("hoarding")
                _hoarding(logging.WARNING, "closed a connection: the unfinished heads of all take too much memory")
                self.abort()
                return
        super().data_received(data)

    def begin(self) -> None:
        """A handler takes a request of this connection."""
        self._idle_since = self._unfinished_since = 0.0
        self._load.unfinished_bytes -= self._unfinished_bytes
        self._unfinished_bytes = 0

    def end(self) -> None:
        """The handler has its answer; what the request held is free again, however it went."""
        self._idle_since = time.monotonic()
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

    def is_overdue(self, now: float, timeout: float) -> bool:
        """Whether the client has left us waiting for longer than it may."""
        if not self._idle_since:
            return False
        if self._unfinished_since:
            return now - self._unfinished_since > timeout
        stuck = self._wire is not None and self._wire.get_write_buffer_size() > 0
        # What is idle aiohttp closes in time; beyond, the client takes a file's bytes too slowly.
        return now - self._idle_since > (timeout if stuck else self.keepalive_timeout + timeout)

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
