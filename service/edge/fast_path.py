"""POSTs of events, from the socket to the writer and back, past aiohttp's tasks, router and responses.

Those are three quarters of what a single event costs. What goes wrong on this way before anything was kept is left to
aiohttp's way, which finds it again and words the answer; so this way knows only what is good.

           a head of ours                its whole body, good              answered
    IDLE ───────────────────► GATHERING ──────────────────────► COMMITTING ──────────► IDLE
    │  ▲                       │     │                              │
    │  │ aiohttp waits for     │     │ overdue, cut short           │ answered for the last time
    │  │ a request again       │     ▼                              ▼
    │  │                       │   CLOSING                       CLOSING
    ▼  │                       ▼
    AIOHTTP ◄──────────────────┘
       all else, and a body that is refused

A request that comes in one piece is in GATHERING for no time. Whether AIOHTTP is over is asked when bytes come. A
connection whose client is gone is CLOSING too.

What comes during COMMITTING is put by. Once the answer is written, the next request is taken out of that: one in a turn
of the event loop, each from the writer's call or the loop's, and none from inside another. So however many requests a
client sends ahead, the stack stays as deep, and nobody else waits for them.
"""

import asyncio
import logging
import time
from enum import Enum

from aiohttp import web

from service.edge.body import CUT_SHORT
from service.edge.connection import Connection
from service.edge.fast_path_context import FastPathContext
from service.edge.request_head import Head
from service.errors import BadFraming, BodyTimeout, Overloaded, RequestError, SpoolFailed
from service.pipeline.intake import Accepted
from service.telemetry.load import ConnectionLoad

#: What a client may send ahead while its request is on the way to disk; beyond, we stop reading.
AHEAD_MAX_BYTES = 2**16
_log = logging.getLogger(__name__)


class State(Enum):
    """Who has the request of a connection, and how far it is."""

    IDLE = "nobody: one may begin"
    GATHERING = "we: its body is still to come"
    COMMITTING = "we: it is on its way to disk"
    CLOSING = "nobody: the last answer is written, or the client is gone"
    AIOHTTP = "aiohttp, or the end of its last one can't be told yet"


IDLE, GATHERING, COMMITTING, CLOSING, AIOHTTP = State  # an attribute of a class takes longer to find


class DirectConnection(Connection):
    """A connection on which POSTs of events go the direct way, and everything else aiohttp's."""

    __slots__ = (
        "_accepted", "_ahead", "_answered", "_begun_at", "_body_due", "_context", "_end", "_gathered", "_head",
        "_reading_held", "_state",
    )  # fmt: skip

    def __init__(self, server: web.Server, load: ConnectionLoad, context: FastPathContext) -> None:
        super().__init__(server, load)
        self._context = context
        self._state = IDLE
        self._answered: asyncio.Future[None] | None = None  # for those who wait until no request is ours
        # of our request:
        self._head: Head | None = None
        self._begun_at = 0.0
        # in GATHERING:
        self._gathered = bytearray()
        self._end = 0  # how many bytes the request has
        self._body_due: asyncio.TimerHandle | None = None
        # in COMMITTING:
        self._accepted: Accepted | None = None
        self._ahead = b""
        self._reading_held = False

    # -- what happens to the connection -----------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        state = self._state
        if state is COMMITTING:
            self._put_by(data)
        elif state is GATHERING:
            self._gather(data)
        elif state is not CLOSING:
            self._take(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's
        """The client has closed its side."""
        if self._state is IDLE or self._state is AIOHTTP:
            return super().eof_received()
        self.ended = True
        if self._state is GATHERING:
            self._answer(BadFraming(CUT_SHORT))
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is closed, by whichever side."""
        super().connection_lost(exc)
        if self._state is not COMMITTING:  # else the writer still has to call us
            self._let_go(CLOSING)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109  # aiohttp's
        """Close in good order: a request on its way is answered first."""
        if self._head is not None:
            self._answered = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._answered], timeout=timeout)
        await super().shutdown(timeout)

    # -- a request --------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Take the request that begins here if it is one for us; else these bytes are aiohttp's."""
        if self._state is AIOHTTP and self._aiohttp_bytes_due == 0 and self.is_between_requests():
            self._state = IDLE
        if self._state is AIOHTTP or not self._begin(data):
            self._leave(data)

    def _begin(self, data: bytes) -> bool:
        """Take the request that begins here; False if it is not for us, the service stops, or answers are not taken."""
        context, end = self._context, data.find(b"\r\n\r\n")
        head = context.heads.read(data[:end]) if end > 0 else None
        if head is None or head.length > context.max_body_bytes:
            return False
        if self.writing_paused or context.leaving.is_set():
            return False
        self.begin()
        try:
            self.hold(head.length)
        except Overloaded:
            self.end()
            return False
        self._head, self._begun_at = head, time.perf_counter()
        end += 4 + head.length
        if len(data) >= end:
            self._commit(head, data, end)
        else:
            self._state, self._end = GATHERING, end
            self._gathered += data
            self._body_due = asyncio.get_running_loop().call_later(context.body_timeout, self._on_overdue_body)
            self._read_on()
        return True

    def _gather(self, data: bytes) -> None:
        self._gathered += data
        if len(self._gathered) >= self._end:
            assert self._head  # noqa: S101
            whole = bytes(self._gathered)
            self._stop_gathering()
            self._commit(self._head, whole, self._end)

    def _stop_gathering(self) -> None:
        if self._body_due is not None:
            self._body_due.cancel()
        self._body_due = None
        self._gathered.clear()

    def _on_overdue_body(self) -> None:
        self._answer(BodyTimeout())

    def _commit(self, head: Head, data: bytes, end: int) -> None:
        """Hand the rows of the request, which ends there in the data, to the writer."""
        try:
            accepted = self._context.accept(head, data[end - head.length : end])
            if accepted.rows:
                self._context.intake.put(head.source, accepted.rows, head.length, self._settled)
        except Exception:  # whatever it is, aiohttp's way meets it again, and answers
            self._leave(data)
            return
        self._state, self._accepted, self._ahead = COMMITTING, accepted, data[end:]
        if self._reading_held and len(self._ahead) <= AHEAD_MAX_BYTES:
            self._read_on()
        if not accepted.rows:  # not at once: of a hundred such requests in a row each would be answered inside another
            asyncio.get_running_loop().call_soon(self._settled, None)

    def _leave(self, data: bytes) -> None:
        """Give the bytes to aiohttp."""
        if self._head is not None:
            self._let_go(AIOHTTP)
        self._state = AIOHTTP
        self._read_on()
        super().data_received(data)

    def _settled(self, error: SpoolFailed | None) -> None:
        """The writer has made our rows durable, or could not."""
        what = error or self._accepted
        assert what  # noqa: S101
        try:
            self._answer(what)
            if self._state is IDLE and (self._ahead or self.ended):
                self._go_on()
        except Exception:  # a bug must not reach the writer
            _log.exception("a connection could not be answered")
            self.abort()

    def _answer(self, what: Accepted | RequestError) -> None:
        """Answer our request: then the connection is idle, or closing."""
        head, transport = self._head, self.transport
        assert head  # noqa: S101
        self._let_go(CLOSING)
        if transport is None:
            return  # the client is gone
        refused = isinstance(what, RequestError) and what.closes
        last = refused or self._context.leaving.is_set() or (self.ended and not self._ahead)
        transport.write(self._context.answer(head, what, self._begun_at, closes=last))
        if refused:
            self.linger()
        elif last:
            self.force_close()
        else:
            self._state = IDLE

    def _let_go(self, state: State) -> None:
        """Our request, if there is one, is over: hold nothing of it."""
        self._state = state
        if self._body_due is not None:
            self._stop_gathering()
        if self._head is not None:
            self._head = self._accepted = None
            self.end()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    # -- what is sent ahead -----------------------------------------------------------------------

    def _put_by(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > AHEAD_MAX_BYTES and not self._reading_held and self.transport is not None:
            self._reading_held = True
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if self._reading_held and self.transport is not None:
            self._reading_held = False
            self.transport.resume_reading()

    def _go_on(self) -> None:
        """Take the next request out of what was sent ahead. That answers none: it may begin one, or leave it."""
        ahead, self._ahead = self._ahead, b""
        if ahead:
            self._take(ahead)
        if self.ended and self._state is not COMMITTING and not self.eof_received():
            self.force_close()
