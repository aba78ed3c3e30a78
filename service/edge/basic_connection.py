"""A connection that uses nothing of aiohttp but what is public: for a version of it that we don't know.

It takes and answers the same requests. It can't tell what aiohttp has, so it is less exact at the edges: a client that
has closed its side is closed a second after its last answer, and bytes of unfinished heads are not counted.
"""

import time

from aiohttp import web

from service.edge.connection import IDLE, Connection

#: Seconds after which all that came before the client closed its side is in a handler, or answered.
ENDED_PATIENCE = 1.0


class BasicConnection(Connection):
    """A connection without the fast path. It has no slots: so aiohttp may keep in it what we don't know of."""

    # -- what can't be told of aiohttp ------------------------------------------------------------

    def is_between_requests(self) -> bool:
        """Whether no handler has a request. One that is whole may wait for its handler."""
        return bool(self._idle_since)

    def has_queued_requests(self) -> bool:
        """Perhaps."""
        return True

    def has_room(self) -> bool:
        """It has bounds of its own."""
        return True

    def fail_unfinished(self, current: web.BaseRequest | None) -> bool:
        """Such a body has its deadline."""
        return False

    def has_whole_requests(self, current: web.BaseRequest | None) -> bool:
        """Perhaps not."""
        return False

    # -- what follows from that -------------------------------------------------------------------

    def _count_unfinished(self, size: int) -> None:
        if not self._unfinished_since:
            self._unfinished_since = time.monotonic()  # until a handler begins

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's: whether to keep our side open
        """The client has closed its side. What it has asked for is answered; a body that was cut short is refused."""
        super().eof_received()
        if self._idle_since:
            self._idle_since = time.monotonic()
        return True

    def outstayed(self, now: float, header_timeout: float) -> str | None:
        """As that of others; and a client that has closed its side is done when no handler begins any more."""
        if self.ended and self._idle_since and now - self._idle_since > ENDED_PATIENCE:
            return IDLE
        return super().outstayed(now, header_timeout)
