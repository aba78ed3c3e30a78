"""The flusher: takes sealed segments in order and inserts each as one batch, for as long as it takes.

Live batches and those found on disk at the start go through the same function. One insert is in
flight at a time. A batch is the same bytes with the same token however often it is tried, so that
ClickHouse stores it once, whatever became of the tries before.

A *retryable* failure is tried again without end (see ``inserts``). A *rejected* batch is halved
until the bad rows are alone; they go to the quarantine, the others into the table. Each part has a
token of its own, made of the segment's and the row range, and each split is on disk before its
halves are sent: a crash in between, or a table that was mended in between, can't make a row come
twice.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from schemas.payload import EncodedRows, Rows, read_rows
from schemas.rows import CURRENT
from service import inserts
from service.errors import Rejected
from service.inserts import Inserts
from service.metrics import Metrics
from service.quarantine import Quarantine
from service.segment import Segment
from service.spool import Spool
from service.status import Status
from service.totals import Totals

#: Sealed batches whose rows stay in memory; later ones are read back from disk when their turn comes.
BATCHES_IN_MEMORY = 2
#: Retry-After in seconds while the drain rate is unknown, since ClickHouse confirms nothing.
RETRY_AFTER_UNKNOWN, RETRY_AFTER_MAX = 30.0, 300.0


class _Batch(NamedTuple):
    segment: Segment
    parts: Sequence[EncodedRows] | None  # None: on disk only
    tried: bool  # perhaps by an earlier process
    accepted_at: float  # the first of its events, on the monotonic clock
    memory_only: bool


class Flusher:
    """Owns the sealed segments. Methods belong to the event loop; disk work is done on one thread."""

    def __init__(
        self,
        spool: Spool,
        inserts: Inserts,
        totals: Totals,
        status: Status,
        *,
        quarantine: Quarantine,
        metrics: Metrics,
    ) -> None:
        self.inserts = inserts
        self.totals = totals
        self.quarantine = quarantine
        #: Rows in sealed segments that ClickHouse has not confirmed.
        self.pending_rows = 0
        #: Bytes of segments that can't be read back: their rows are in memory only.
        self.memory_only_bytes = 0
        self._metrics = metrics
        self._spool = spool
        self._status = status
        self._thread = ThreadPoolExecutor(1, "flusher")
        self._queue: deque[_Batch] = deque()
        self._in_memory = 0
        self._confirmed: set[str] = set()  # tokens of segments that are stored and not yet deleted
        self._submitted = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._bytes_per_second = 0.0
        self._quarantine_reason = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def oldest_at(self) -> float | None:
        """When the first event of the oldest pending batch was accepted, on the monotonic clock; None if none is."""
        pending = (batch for batch in self._queue if batch.segment.token not in self._confirmed)
        return min((batch.accepted_at for batch in pending), default=None)

    def submit(
        self,
        segment: Segment,
        parts: Sequence[EncodedRows] | None,
        *,
        keep: bool = False,
        tried: bool = False,
        accepted_at: float | None = None,
    ) -> None:
        """Queue a sealed segment. ``parts`` are its rows and spare reading them; let go of when many are queued.

        ``keep``: they can't be read back. ``tried``: an earlier process may have sent it. ``accepted_at``: its first
        event, on the monotonic clock; None for one that was found on disk.
        """
        if accepted_at is None:
            self._metrics.events_recovered.add(segment.rows)
            accepted_at = time.monotonic() - max(0.0, time.time() - segment.made_at)
        if parts is not None and not keep and self._in_memory >= BATCHES_IN_MEMORY:
            parts = None
        self._in_memory += parts is not None
        self.memory_only_bytes += segment.size if keep else 0
        self.pending_rows += segment.rows
        self._queue.append(_Batch(segment, parts, tried, accepted_at, keep))
        self._empty.clear()
        self._submitted.set()

    def seconds_to_free(self, size: int) -> float:
        """How long until ``size`` bytes of the spool are free, by the rate of late."""
        if not self._status.ok or not self._bytes_per_second:
            return RETRY_AFTER_UNKNOWN
        return min(RETRY_AFTER_MAX, size / self._bytes_per_second)

    def start(self) -> None:
        """Begin to insert. The store must be ready: migrated and reachable."""
        self._task = asyncio.create_task(self._run(), name="flusher")

    async def drain(self, seconds: float) -> None:
        """Wait until all is inserted, at most so long. What is left stays on disk for the next start."""
        if self._task and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError:
                pass

    async def watch_quarantine(self) -> None:
        """Queue what comes back from the quarantine, and bring its count up to date."""
        try:
            for path in await self._on_thread(self.quarantine.returning):
                if segment := await self._on_thread(self.quarantine.take, path, self._spool):
                    self.submit(segment, None)
            await self._on_thread(self.quarantine.count)
            reason = ""
        except OSError as error:  # a full disk: nothing is lost, the next time does it again
            reason = str(error)
        if reason and reason != self._quarantine_reason:
            _log.error("what comes back from the quarantine waits: %s", reason)
        self._quarantine_reason = reason

    async def close(self) -> None:
        """Stop inserting. An insert that is cut off here is tried again at the next start, with its token."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.inserts.close()
        self._thread.shutdown()
        if self.pending_rows:
            _log.warning("%d events stay in the spool; the next start inserts them", self.pending_rows)

    async def _run(self) -> None:
        while True:
            if not self._queue:
                try:
                    self.inserts.settle()
                except Exception:  # of the disk: it is tried again when the queue is empty the next time
                    _log.exception("the turn could not be given back")
                self._empty.set()
                self._submitted.clear()
                await self._submitted.wait()
            batch = self._queue[0]
            try:
                if batch.segment.token not in self._confirmed:
                    await self._flush(batch)
                await self._on_thread(self._spool.drop, batch.segment)
            except Exception:  # a bug or a disk error: the batch stays on disk and must not stop the others
                _log.exception("batch %s could not be flushed, and is tried again later", batch.segment.token)
                self._queue.rotate(-1)
                await asyncio.sleep(self._pause_after_failure())
                continue
            self._confirmed.discard(batch.segment.token)
            self._queue.popleft()
            self._in_memory -= batch.parts is not None
            self.memory_only_bytes -= batch.segment.size if batch.memory_only else 0

    def _pause_after_failure(self) -> float:
        """Short while there are batches that have not been tried: what fails one disk operation may spare others."""
        untried = len(self._queue) > len(self._confirmed) and self._queue[0].segment.token not in self._confirmed
        return inserts.BACKOFF_FIRST if untried else inserts.BACKOFF_MAX

    async def _flush(self, batch: _Batch) -> None:
        segment, started = batch.segment, time.monotonic()
        rows = Rows(CURRENT, batch.parts) if batch.parts else await self._on_thread(self._load, segment)
        splits = await self._on_thread(self._spool.splits.of, segment.token)
        quarantined, duplicate = await self._insert(segment.token, rows, splits, tried=batch.tried)
        stored = len(rows) - quarantined
        await self._on_thread(self.totals.add, segment.token, stored, datetime.now(UTC))
        self._confirmed.add(segment.token)
        self.pending_rows -= segment.rows
        now = time.monotonic()
        seconds = now - started
        self._metrics.batch_settled(
            stored - duplicate, duplicate, quarantined, segment.rows - len(rows), seconds, now - batch.accepted_at
        )
        self._bytes_per_second += (segment.size / max(seconds, 1e-3) - self._bytes_per_second) * 0.2
        _log.debug("flushed %d rows in %.3f s, token %s", stored, seconds, segment.token)

    def _load(self, segment: Segment) -> Rows:
        try:
            contents = self._spool.read(segment)
        except FileNotFoundError:
            _log.error("%s was deleted by someone else: its %d events are lost", segment.path, segment.rows)
            return Rows(CURRENT, [])
        rows = read_rows(contents.header, contents.parts, CURRENT)
        if lost := segment.rows - len(rows):
            _log.error("%s lacks %d of its %d events: they are lost", segment.path, lost, segment.rows)
        return rows

    async def _insert(self, token: str, rows: Rows, splits: set[tuple[int, int]], *, tried: bool) -> tuple[int, int]:
        """Insert all rows that ClickHouse takes, quarantine the others; how many those are, and how many repeats."""
        quarantined = duplicate = 0
        total = len(rows)
        ranges = [(0, rows)] if total else []
        while ranges:
            start, rows = ranges.pop()
            stop = start + len(rows)
            if stop - start == 1 and await self._on_thread(self.quarantine.holds, token, start):
                quarantined += 1
                continue
            if (start, stop) not in splits:
                name = token if stop - start == total else f"{token}-{start}-{stop}"
                try:
                    duplicate += await self.inserts.insert(name, rows, tried=tried)
                    continue
                except Rejected as error:
                    if stop - start == 1:
                        await self._on_thread(self.quarantine.put, token, start, rows, error)
                        quarantined += 1
                        continue
                    _log.warning("ClickHouse rejects rows %d to %d of %s: %s", start, stop, token, error)
                await self._on_thread(self._spool.splits.record, token, start, stop)
            middle = (start + stop) // 2
            first, second = await self._on_thread(rows.split, middle - start)
            ranges += [(middle, second), (start, first)]
        return quarantined, duplicate

    async def _on_thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args))


_log = logging.getLogger(__name__)
