"""A lane: the batches of one kind, inserted one at a time, the oldest first, for as long as it takes.

A failed try is followed by another, after a pause: exponential backoff with jitter, without end. If a batch fails
repeatedly while ClickHouse takes others or at least answers, it steps aside, and those behind it go first. Batches that
stepped aside are tried again too, but get at most half of the time. If many step aside, the batches are not the cause:
then a pause follows each failure.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

from service.errors import InFlight, Misconfigured, Retryable, StoreError
from service.pipeline.batch import RUNS_AT_MOST, Batch
from service.telemetry.status import Status

BACKOFF_FIRST, BACKOFF_MAX, BACKOFF_MAX_MISCONFIGURED = 0.1, 5.0, 15.0
#: Tries after which a batch steps aside; and how many may do so before we stop blaming the batches.
TRIES_AT_HEAD, ASIDE_MAX = 3, 8
#: At most so many seconds between two tries of rows with ids that get no answer: after each, the others must wait.
BACKOFF_MAX_UNHEARD = 600.0
_log = logging.getLogger(__name__)


class Lane:
    """Owns its batches. ``bring`` tries one, or raises Retryable; ``answers`` raises StoreError without ClickHouse."""

    def __init__(
        self,
        name: str,
        bring: Callable[[Batch], Awaitable[None]],
        answers: Callable[[], Awaitable[None]],
        status: Status,
    ) -> None:
        self.name = name
        #: When ClickHouse last took or rejected a batch; seconds on the monotonic clock.
        self.heard_at = 0.0
        #: Whether the batch at the head has failed and is tried again: then only an INSERT shows that ClickHouse works.
        self.retrying = False
        self._bring = bring
        self._answers = answers
        self._status = status
        self._queue: deque[Batch] = deque()
        self._submitted = asyncio.Event()
        self._others_until = 0.0  # on the monotonic clock: until then, others go before those that stepped aside

    def submit(self, batch: Batch) -> None:
        """Queue a batch."""
        self._queue.append(batch)
        self._submitted.set()

    async def run(self) -> None:
        """Insert batches for ever."""
        while True:
            batch = await self._next()
            began = time.monotonic()
            try:
                await self._bring(batch)
            except Retryable as error:
                await self._failed(batch, error, began)
            except OSError as error:  # of the disk, where the batch stays; it must not stop the others
                _log.error("batch %s will be tried again: %s", batch.segment.name, error)
                self._step_aside(batch, BACKOFF_MAX, began)
            except Exception:  # noqa: BLE001 - a bug must not stop them either
                _log.exception("batch %s could not be inserted and will be tried again", batch.segment.name)
                self._step_aside(batch, BACKOFF_MAX, began)
            else:
                self._queue.remove(batch)
                self.retrying = False
                self.heard_at = time.monotonic()
                self._status.works()

    async def _next(self) -> Batch:
        """The first batch that is due."""
        while True:
            now = time.monotonic()
            due = [batch for batch in self._queue if batch.due <= now]
            if now < self._others_until:
                due = [batch for batch in due if not batch.due] or due
            if due:
                return due[0]
            soonest = min((batch.due for batch in self._queue), default=None)
            self._submitted.clear()
            try:
                async with asyncio.timeout(None if soonest is None else soonest - now):
                    await self._submitted.wait()
            except TimeoutError:
                pass

    async def _failed(self, batch: Batch, error: Retryable, began: float) -> None:
        longest = BACKOFF_MAX_MISCONFIGURED if isinstance(error, Misconfigured) else BACKOFF_MAX
        unheard = error.may_run and batch.with_ids and not isinstance(error, InFlight)
        if unheard and batch.due:
            longest = BACKOFF_MAX_UNHEARD
        pause = min(longest, BACKOFF_FIRST * 2 ** min(batch.tries, 16)) * random.uniform(0.5, 1.0)  # noqa: S311
        if isinstance(error, InFlight):
            self._others_until = max(self._others_until, time.monotonic() + RUNS_AT_MOST)
        else:
            batch.tries += 1
        if not batch.due:
            self.retrying = True
            self._status.fails(error.public, str(error))
            if isinstance(error, InFlight) or batch.tries < TRIES_AT_HEAD or not await self._is_its_own(error):
                await asyncio.sleep(pause)
                return
            _log.warning("batch %s steps aside after %d tries: %s", batch.segment.name, batch.tries, error)
        aside = sum(1 for one in self._queue if one.due)
        if aside >= ASIDE_MAX:
            await asyncio.sleep(pause)
        self._step_aside(batch, pause, began - RUNS_AT_MOST if unheard else began)

    def _step_aside(self, batch: Batch, pause: float, began: float) -> None:
        now = time.monotonic()
        batch.due = now + pause
        self._others_until = max(self._others_until, now + (now - began))

    async def _is_its_own(self, error: Retryable) -> bool:
        """Whether the batch itself may be the cause of the failure, since ClickHouse answers."""
        if error.code:
            return True
        try:
            await self._answers()
        except StoreError:
            return False
        return True
