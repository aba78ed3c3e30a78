"""POSTs of events, from the socket to the writer and back, past aiohttp's tasks, router and responses.

Those are three quarters of what a single event costs. What goes wrong on this way before anything was kept is left to
aiohttp's way, which finds it again and words the answer; so this way knows only what is good.

    data_received ─ a head that is ours? ─ the whole body? ─ rows ──► writer.put ──► _settled ─ the answer
          │ no                  │ not yet: it is gathered     │ refused
          └──► aiohttp          └──► 408 when overdue         └──► aiohttp

A connection changes between the two ways with each request, and only at the border between two: ours begins where
aiohttp waits for a request and has been given none but whole ones.
"""

import asyncio
import logging
import time
from typing import NamedTuple

from aiohttp import web

from service.edge.body import CUT_SHORT
from service.edge.connection import Connection
from service.edge.context import Context
from service.edge.framing import UNKNOWN, follow
from service.edge.request_head import Head, Heads
from service.edge.responses import answer_bytes, json_body, request_id_of
from service.errors import BadFraming, BodyTimeout, Overloaded, RequestError, SpoolFailed
from service.pipeline.intake import AT_ONCE_MAX_BYTES, Accepted, Intake
from service.telemetry.load import ConnectionLoad
from service.telemetry.metrics import Metrics, Requests
from service.telemetry.refusals import Refusals, partly

#: What a client may send ahead while its request is on the way to disk; beyond, we stop reading.
AHEAD_MAX_BYTES = 2**16
_log = logging.getLogger(__name__)


class Way(NamedTuple):
    """What the connections share. ``leaving`` is set when the service stops."""

    heads: Heads
    intake: Intake
    metrics: Metrics
    refusals: Refusals
    single_path: str
    batch_path: str
    single: Requests
    batch: Requests
    leaving: asyncio.Event
    max_body_bytes: int
    body_timeout: float


def direct_way(context: Context) -> Way:
    """The way of POSTs of events past aiohttp."""
    settings, metrics = context.settings, context.metrics
    paths = settings.path_prefix, f"{settings.path_prefix}/batch"
    heads = Heads(dict(zip(paths, (True, False), strict=True)), context.tokens, context.cors)
    single, batch = (metrics.requests("POST", path) for path in paths)
    limits = min(settings.max_body_bytes, AT_ONCE_MAX_BYTES), settings.body_timeout
    return Way(heads, context.intake, metrics, context.refusals, *paths, single, batch, context.leaving, *limits)


class DirectConnection(Connection):
    """A connection on which POSTs of events go the direct way, and everything else aiohttp's."""

    __slots__ = (
        "_accepted", "_ahead", "_begun_at", "_body_due", "_gathered", "_head", "_missing", "_settled_at",
        "_theirs", "_way",
    )  # fmt: skip

    def __init__(self, server: web.Server, load: ConnectionLoad, way: Way) -> None:
        super().__init__(server, load)
        self._way = way
        self._theirs = 0  # bytes that aiohttp still waits for to the end of a request, or UNKNOWN
        self._head: Head | None = None  # of our request: its body is being gathered, or it is on its way to disk
        self._begun_at = 0.0
        self._gathered: list[bytes] = []
        self._missing = 0
        self._body_due: asyncio.TimerHandle | None = None
        self._accepted: Accepted | None = None
        self._ahead = b""
        self._settled_at: asyncio.Future[None] | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._head is not None:
            if self._missing:
                self._gather(data)
            else:
                self._ahead += data
                if len(self._ahead) > AHEAD_MAX_BYTES and self.transport is not None:
                    self.transport.pause_reading()
        elif not self._is_free() or not self._begin(data):
            self._leave(data)

    def _leave(self, data: bytes) -> None:
        """Give the bytes to aiohttp."""
        if self._theirs != UNKNOWN:
            data, self._theirs = follow(data, self._theirs)
        super().data_received(data)
        if self._theirs == UNKNOWN and data.endswith(b"\r\n\r\n") and self.has_whole_requests():
            self._theirs = 0

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's
        """The client has closed its side."""
        if self._head is None:
            return super().eof_received()
        self.ended = True
        if self._missing:
            self._stop_gathering()
            self._answer(BadFraming(CUT_SHORT))
        return True

    def _is_free(self) -> bool:
        """Whether a request can begin here: aiohttp is between two, and the client takes its answers."""
        waiter = self._waiter
        return (
            self._theirs == 0
            and waiter is not None
            and not waiter.done()
            and not self._messages
            and not self.writing_paused
            and not self._way.leaving.is_set()
        )

    def _begin(self, data: bytes) -> bool:
        """Take the request that begins here; False if it is not for us."""
        end = data.find(b"\r\n\r\n")
        head = self._way.heads.read(data[:end]) if end > 0 else None
        if head is None or head.length > self._way.max_body_bytes:
            return False
        self.begin()
        try:
            self.hold(head.length)
        except Overloaded:
            self.end()
            return False
        self._head, self._begun_at = head, time.perf_counter()
        missing = end + 4 + head.length - len(data)
        if missing <= 0:
            self._submit(data, data[end + 4 : end + 4 + head.length], data[end + 4 + head.length :])
        else:
            self._gathered, self._missing = [data], missing
            self._body_due = self._loop.call_later(self._way.body_timeout, self._on_overdue_body)
        return True

    def _gather(self, data: bytes) -> None:
        self._gathered.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        assert self._head  # noqa: S101
        whole = b"".join(self._gathered)
        end = len(whole) + self._missing
        self._stop_gathering()
        self._submit(whole, whole[end - self._head.length : end], whole[end:])

    def _stop_gathering(self) -> None:
        if self._body_due is not None:
            self._body_due.cancel()
        self._body_due, self._gathered, self._missing = None, [], 0

    def _on_overdue_body(self) -> None:
        self._stop_gathering()
        self._answer(BodyTimeout())

    def _submit(self, data: bytes, body: bytes, ahead: bytes) -> None:
        head, intake = self._head, self._way.intake
        assert head  # noqa: S101
        try:
            intake.check_rate(head.source)
            if head.single:
                accepted = intake.event(head.source, body, head.key)
            else:
                accepted = intake.batch(head.source, body, head.key, lenient=head.lenient)
            if accepted.rows:
                intake.put(head.source, accepted.rows, len(body), self._settled)
        except Exception:  # whatever it is, aiohttp's way meets it again, and answers
            self._head = None
            self.end()
            self._leave(data)
            return
        self._accepted, self._ahead = accepted, ahead
        if not accepted.rows:  # not at once: of a hundred such requests in a row each would be answered inside another
            self._loop.call_soon(self._settled, None)

    def _settled(self, error: SpoolFailed | None) -> None:
        """The writer has made our rows durable, or could not."""
        accepted, self._accepted = self._accepted, None
        try:
            self._answer(error or accepted)
        except Exception:  # a bug must not reach the writer
            _log.exception("a connection could not be answered")
            self.abort()

    def _answer(self, what: Accepted | RequestError | None) -> None:
        head, transport = self._head, self.transport
        self.end()
        self._head = None
        if self._settled_at is not None and not self._settled_at.done():
            self._settled_at.set_result(None)
        if transport is None or head is None or what is None:
            return  # the client is gone
        request_id = head.request_id or request_id_of(None)
        if isinstance(what, Accepted):
            status, body, headers, closes = 200, json_body(what.answer), what.headers, False
            if what.refused:
                self._way.metrics.events_not_taken(what.refused)
                self._note(head, status, partly(what.refused))
        else:
            status, body, headers, closes = what.status, json_body({"detail": what.detail}), what.headers, what.closes
            self._way.metrics.refused(type(what))
            self._note(head, status, str(what.detail))
        if head.headers:
            headers = {**headers, **head.headers}
        leaving = self._way.leaving.is_set()
        last = self.ended and not self._ahead
        if closes or leaving or last:
            headers = {**headers, "Connection": "close"}
        transport.write(answer_bytes(body, request_id, status, headers))
        requests = self._way.single if head.single else self._way.batch
        requests.observe(status, time.perf_counter() - self._begun_at)
        if closes:
            self.linger()
        elif leaving or last:
            self.force_close()
        elif self._ahead:
            self._go_on(transport)

    def _go_on(self, transport: asyncio.Transport) -> None:
        """Take what the client has sent ahead."""
        ahead, self._ahead = self._ahead, b""
        transport.resume_reading()
        self.data_received(ahead)
        if not self.ended:
            return
        if self._missing:
            self.eof_received()
        elif self._head is None and self.is_between_requests():
            self.force_close()

    def _note(self, head: Head, status: int, reason: str) -> None:
        path = self._way.single_path if head.single else self._way.batch_path
        self._way.refusals.add("POST", path, status, reason, head.source)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is closed, by whichever side."""
        if self._missing:
            self._stop_gathering()
            self._answer(None)
        super().connection_lost(exc)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109  # aiohttp's
        """Close in good order: a request on its way is answered first."""
        if self._head is not None:
            self._settled_at = self._loop.create_future()
            await asyncio.wait([self._settled_at], timeout=timeout)
        await super().shutdown(timeout)
