"""The rate limit: how many events a second each access token may send, off unless set.

A bucket for each token fills at the rate, up to one second's worth or one full batch request. A request
is let in while there is anything in the bucket and takes out what it holds, be it more than is there:
the debt is waited for by the next one. So no request needs to be read to be refused.
"""

import time
from collections.abc import Callable

from schemas.events import BATCH_MAX_EVENTS
from service.errors import RateLimited


class RateLimit:
    """``rate`` is in events a second and token."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._most = max(rate, BATCH_MAX_EVENTS)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # by the token's name: what was in it, and when

    def check(self, name: str) -> None:
        """Raise RateLimited if the token must wait."""
        content = self._content(name)
        if content < 1:
            raise RateLimited(retry_after=(1 - content) / self._rate)

    def take(self, name: str, events: int) -> None:
        """Count the events of a request that was let in."""
        self._buckets[name] = (self._content(name) - events, self._clock())

    def _content(self, name: str) -> float:
        now = self._clock()
        content, then = self._buckets.get(name, (self._most, now))
        return min(self._most, content + (now - then) * self._rate)
