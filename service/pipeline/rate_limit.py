"""The rate limit: how many events a second each access token may send. It is off unless set.

Each token has a bucket that fills at the rate, up to one second's worth or one full batch request. A request
is let in if the bucket is not empty, and takes out as much as it has events, even more than is there: the
next request waits for the debt. So a request can be refused before it is read.

The workers share one bucket: each publishes what it took, and the others take that out of theirs.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from schemas.events import BATCH_MAX_EVENTS
from service.errors import RateLimited
from service.worker import ALONE, Worker, taken_with


class _Bucket(NamedTuple):
    content: float
    at: float
    taken_elsewhere: int  # by other workers, until then


class RateLimit:
    """``rate`` is in events per second, for each token."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic, worker: Worker = ALONE) -> None:
        self._rate = rate
        self._most = max(rate, BATCH_MAX_EVENTS)
        self._clock = clock
        self._worker = worker
        self._began = clock()
        counters = worker.counters
        self._taken_before = (
            {name: counters.of_others(name, worker.number) for name in counters.names} if counters else {}
        )
        self._buckets: dict[str, _Bucket] = {}  # by the token's name

    def check(self, name: str) -> None:
        """Raise RateLimited if the token must wait."""
        content = self._bucket(name).content
        if content < 1:
            raise RateLimited(retry_after=(1 - content) / self._rate)

    def take(self, name: str, events: int) -> None:
        """Count the events of a request that was let in; a negative number gives back those that were not kept."""
        bucket = self._bucket(name)
        self._buckets[name] = bucket._replace(content=bucket.content - events)
        if counters := self._worker.counters:
            key, number = taken_with(name), self._worker.number
            counters.put(key, number, counters.get(key, number) + events)

    def _bucket(self, name: str) -> _Bucket:
        now, counters, key = self._clock(), self._worker.counters, taken_with(name)
        elsewhere = counters.of_others(key, self._worker.number) if counters else 0
        full = _Bucket(self._most, self._began, self._taken_before.get(key, 0))
        content, at, before = self._buckets.get(name, full)
        # The cap comes after what others took, since we don't know when they took it.
        content = min(self._most, content + (now - at) * self._rate - (elsewhere - before))
        return _Bucket(content, now, elsewhere)
