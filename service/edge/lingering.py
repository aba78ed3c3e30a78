"""The end of a connection whose client may still be sending after its answer.

If we close a socket with unread bytes, the kernel resets it, and the reset can overtake the answer. So we close only
our side, and read and discard what comes until the client closes its side, is silent for long, or its time is up.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

#: Seconds that such a client may be silent: it must take the answer and close, which takes round trips.
SILENCE_MAX = 2.0
#: Bytes that we read from such a client. They cost no memory and little time, so large uploads are allowed.
LINGERING_MAX_BYTES = 2**30
#: Discarded bytes of all connections go here.
_FORGOTTEN = memoryview(bytearray(2**18))


class Lingering(asyncio.BufferedProtocol):
    """Takes over a socket after its answer is written, for ``seconds`` at most; calls ``gone`` when it is closed."""

    def __init__(self, seconds: float, gone: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._gone = gone
        self._until = self._loop.time() + seconds
        self._heard_at = self._loop.time()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours: close our side."""
        self._transport = cast(asyncio.Transport, transport)
        with contextlib.suppress(OSError):  # the client is gone already
            self._transport.write_eof()  # after what is written was sent
        self._transport.resume_reading()
        self._watch()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the bytes go."""
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
            self._heard_at = now  # it is still taking the answer
        end = min(self._until, self._heard_at + SILENCE_MAX)
        if now >= end:
            self._transport.abort()
        else:
            self._timer = self._loop.call_at(end, self._watch)
