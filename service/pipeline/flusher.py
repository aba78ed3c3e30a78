"""The flusher: takes sealed segments in order and brings all of their rows into the table, each once.

    submit ──► batches of a segment ─┬─► lane of rows without ids of clients ─┬─► inserter ──► ClickHouse
                                     └─► lane of rows with such ids ──────────┘
                                                                  all rows of a segment stored: its file is deleted

Live segments and those found on disk at the start go through the same function. Rows with ids that clients made are
looked up first, one INSERT at a time over all workers. So they have a lane of their own, and the others never wait for
them. Each lane has one INSERT in flight.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from schemas.payload import EncodedRows, Rows
from schemas.rows import CURRENT
from service.part import Part, Tasks, cancel
from service.pipeline.batch import Batch, batches_of, read_batch
from service.pipeline.dedup_lock import DedupLock
from service.pipeline.inserter import Inserter, InsertStore
from service.pipeline.lane import Lane
from service.pipeline.totals import Totals
from service.spool.quarantine import Quarantine
from service.spool.segment import Segment
from service.spool.spool import Spool
from service.telemetry.metrics import Metrics
from service.telemetry.status import Status

#: How many sealed segments keep their rows in memory; later ones are read back from disk when their turn comes.
SEGMENTS_IN_MEMORY = 2
#: Retry-After in seconds: while ClickHouse confirms nothing, so that the drain rate is unknown; and at most.
RETRY_AFTER_UNKNOWN, RETRY_AFTER_MAX = 30.0, 300.0


class FlusherStore(InsertStore, Protocol):
    """What is needed of the store."""

    @property
    def ready(self) -> bool:
        """Whether ClickHouse has been reached, and its tables are there."""

    async def until_ready(self) -> None:
        """Wait until it is."""

    async def ping(self) -> None:
        """Raise StoreError if ClickHouse does not answer."""


@dataclass
class _Pending:
    """A segment that ClickHouse has not confirmed."""

    segment: Segment
    batches: list[Batch]
    in_memory: bool
    accepted_at: float  # its first event, on the monotonic clock
    memory_only: bool
    begun_at: float = 0.0


class Flusher(Part):
    """Owns the sealed segments. Methods belong to the event loop; disk work is done on one thread."""

    def __init__(
        self,
        spool: Spool,
        store: FlusherStore,
        totals: Totals,
        status: Status,
        *,
        lock: DedupLock,
        quarantine: Quarantine,
        metrics: Metrics,
        data: Path,
        dedup_window: float,
    ) -> None:
        self.totals = totals
        self.quarantine = quarantine
        #: Rows in sealed segments that ClickHouse has not confirmed.
        self.pending_rows = 0
        #: Bytes of segments that can't be read back, so that their rows are in memory only.
        self.memory_only_bytes = 0
        self._metrics = metrics
        self._spool = spool
        self._status = status
        self._lock = lock
        self._thread = ThreadPoolExecutor(1, "flusher")
        self._inserter = Inserter(store, dedup_window, quarantine, lock=lock, data=data, thread=self._thread)
        self._lanes = {
            with_ids: Lane(name, self._bring, store.ping, status)
            for with_ids, name in ((False, "events"), (True, "events with ids"))
        }
        self._pending: dict[str, _Pending] = {}
        self._in_memory = 0
        self._undeleted: list[Segment] = []  # confirmed, but their files are still there
        self._empty = asyncio.Event()
        self._empty.set()
        self._bytes_per_second = 0.0
        self._quarantine_reason = ""
        self._store = store
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def oldest_at(self) -> float | None:
        """When the first event of the oldest pending segment was accepted, on the monotonic clock; None if none is."""
        return min((one.accepted_at for one in self._pending.values()), default=None)

    @property
    def heard_at(self) -> float:
        """When ClickHouse last took or rejected a batch; seconds on the monotonic clock."""
        return max(lane.heard_at for lane in self._lanes.values())

    @property
    def retrying(self) -> bool:
        """Whether a batch has failed and is tried again: then only an INSERT shows that ClickHouse works."""
        return any(lane.retrying for lane in self._lanes.values())

    def submit(
        self,
        segment: Segment,
        parts: Sequence[EncodedRows] | None,
        *,
        keep: bool = False,
        accepted_at: float | None = None,
    ) -> None:
        """Queue a sealed segment. ``parts`` are its rows, so that nobody need read them; dropped when many are queued.

        ``keep``: never dropped, since they can't be read back. ``accepted_at``: when its first event was, on the
        monotonic clock; None for a segment found on disk, which an earlier process may have inserted.
        """
        found = accepted_at is None
        if accepted_at is None:
            self._metrics.events_recovered.add(segment.rows)
            accepted_at = time.monotonic() - max(0.0, time.time() - segment.made_at)
        if parts is not None and not keep and self._in_memory >= SEGMENTS_IN_MEMORY:
            parts = None
        self._in_memory += parts is not None
        self.memory_only_bytes += segment.size * keep
        batches = batches_of(segment, parts, sent=found)
        self._pending[segment.name] = _Pending(segment, batches, parts is not None, accepted_at, keep)
        self.pending_rows += segment.rows
        self._empty.clear()
        for batch in batches:
            self._lanes[batch.with_ids].submit(batch)

    def seconds_to_free(self, size: int) -> float:
        """How long until ``size`` bytes of the spool are free, by the recent rate."""
        if not self._status.ok or not self._bytes_per_second:
            return RETRY_AFTER_UNKNOWN
        return min(RETRY_AFTER_MAX, size / self._bytes_per_second)

    def start(self, tasks: Tasks) -> None:
        """Start inserting as soon as the store is ready."""
        running = {lane.name: lane.run for lane in self._lanes.values()} | {"views": self._inserter.view_filler.run}
        self._tasks = [
            tasks.create_task(self._when_ready(run), name=f"flusher: {name}") for name, run in running.items()
        ]

    async def _when_ready(self, run: Callable[[], Awaitable[None]]) -> None:
        await self._store.until_ready()
        await run()

    async def drain(self, seconds: float) -> None:
        """Wait until all is inserted, at most ``seconds``. What is left stays on disk for the next start."""
        if self._tasks and self._store.ready and seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()

    async def tend(self) -> None:
        """Queue what returns from the quarantine, update its size, and try again to delete confirmed segments."""
        try:
            for path in await self._on_thread(self.quarantine.returning):
                if segment := await self._on_thread(self.quarantine.take, path, self._spool):
                    self.submit(segment, None)
            await self._on_thread(self.quarantine.count)
            reason = ""
        except OSError as error:  # a full disk: nothing is lost, the next call tries again
            reason = str(error)
        if reason and reason != self._quarantine_reason:
            _log.error("rows that return from the quarantine must wait: %s", reason)
        self._quarantine_reason = reason
        undeleted, self._undeleted = self._undeleted, []
        for segment in undeleted:
            await self._delete(segment, quiet=True)

    async def close(self) -> None:
        """Stop inserting. If this cuts off an INSERT, the next start asks the table for its rows."""
        await cancel(self._tasks)
        self._thread.shutdown()
        self._lock.close()
        self._inserter.view_filler.close()
        if self.pending_rows:
            _log.warning("%d events stay in the spool; the next start inserts them", self.pending_rows)

    async def _bring(self, batch: Batch) -> None:
        """Try to insert a batch; the last batch of a segment confirms the segment. Raises Retryable."""
        pending = self._pending[batch.segment.name]
        pending.begun_at = pending.begun_at or time.monotonic()
        if batch.todo != []:
            rows = Rows(CURRENT, batch.parts) if batch.parts is not None else await self._on_thread(self._load, batch)
            await self._inserter.insert(batch, rows)
        if all(one.todo == [] for one in pending.batches):
            await self._confirm(pending)

    async def _confirm(self, pending: _Pending) -> None:
        segment, batches = pending.segment, pending.batches
        names = "read", "quarantined", "repeats"
        read, quarantined, repeats = (sum(getattr(batch, name) for batch in batches) for name in names)
        await self._on_thread(self.totals.add, segment.name, read - quarantined, datetime.now(UTC))
        del self._pending[segment.name]
        self._in_memory -= pending.in_memory
        self.memory_only_bytes -= segment.size * pending.memory_only
        self.pending_rows -= segment.rows
        now = time.monotonic()
        seconds = now - pending.begun_at
        self._metrics.batch_confirmed(
            flushed=read - quarantined - repeats,
            duplicate=repeats,
            quarantined=quarantined,
            lost=segment.rows - read,
            seconds=seconds,
            visible_after=now - pending.accepted_at,
        )
        self._bytes_per_second += (segment.size / max(seconds, 1e-3) - self._bytes_per_second) * 0.2
        _log.debug("flushed %d rows in %.3f s, segment %s", read - quarantined, seconds, segment.name)
        await self._delete(segment)
        if not self._pending:
            self._empty.set()

    async def _delete(self, segment: Segment, *, quiet: bool = False) -> None:
        try:
            await self._on_thread(self._spool.drop, segment)
        except OSError as error:
            self._undeleted.append(segment)
            if not quiet:
                _log.error("%s is stored but can't be deleted; this is tried again: %s", segment.path, error)

    def _load(self, batch: Batch) -> Rows:
        try:
            rows = read_batch(batch, self._spool)
        except FileNotFoundError:
            _log.error("%s was deleted by someone else: its %d events are lost", batch.segment.path, batch.rows)
            return Rows(CURRENT, [])
        except msgspec.MsgspecError as error:  # a damaged header, and the rows don't fit the current one
            self._spool.put_aside(batch.segment)
            text = "%s is damaged, so that its %d events can't be read (%s): copied to the quarantine, and lost"
            _log.error(text, batch.segment.path, batch.rows, error)
            return Rows(CURRENT, [])
        if lost := batch.rows - len(rows):
            _log.error("%s lacks %d of its %d events: they are lost", batch.segment.path, lost, batch.rows)
        return rows

    async def _on_thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args))


_log = logging.getLogger(__name__)
