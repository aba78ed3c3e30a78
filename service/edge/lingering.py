"""The last moments of a connection whose client may still be sending when it has its answer.

A socket that is closed with bytes unread is reset, and a reset overtakes the answer. So only our side is closed, and
what comes is read and forgotten until the client closes its own, is silent, or has had its time.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

#: Seconds for which such a client may be silent: it has to take the answer and to close, which takes round trips.
SILENCE_MAX = 2.0
#: Bytes that are read of such a client. They cost no memory and little time, so it may be a large upload.
LINGERING_MAX_BYTES = 2**30
#: Where all of them write what is forgotten.
_FORGOTTEN = memoryview(bytearray(2**18))


class Lingering(asyncio.BufferedProtocol):
    """Takes a socket over once its answer is written. ``seconds`` is its time; ``gone`` is called when it is closed."""

    def __init__(self, seconds: float, gone: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._gone = gone
        self._until = self._loop.time() + seconds
        self._heard_at = self._loop.time()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours: nothing more is written."""
        self._transport = cast(asyncio.Transport, transport)
        with contextlib.suppress(OSError):  # the client is gone already
            self._transport.write_eof()  # once what is written is sent
        self._transport.resume_reading()
        self._watch()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for what comes."""
        return _FORGOTTEN

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._heard_at = self._loop.time()
        self._bytes += nbytes
        if self._bytes > LINGERING_MAX_BYTES and self._transport:
            self._transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is closed."""
        if self._timer:
            self._timer.cancel()
        self._gone()

    def _watch(self) -> None:
        assert self._transport  # noqa: S101
        now = self._loop.time()
        if self._transport.get_write_buffer_size():
            self._heard_at = now  # it is taking answers still
        end = min(self._until, self._heard_at + SILENCE_MAX)
        if now >= end:
            self._transport.abort()
        else:
            self._timer = self._loop.call_at(end, self._watch)
