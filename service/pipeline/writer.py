"""The writer: makes rows durable and cuts them into batches. When ``add`` returns, its rows are kept.

    add ──► waiting ──► one group ──► its frames, one fdatasync ──► every add of the group returns
                                          │ rows, bytes or age
                                          ▼
                                  segment sealed ──► flusher

Group commit: while the spool's thread syncs one group, the next one gathers. No timer delays a lone
request, and load makes the groups larger. A group never holds more than fills the segment, so that
batches have the configured size.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from schemas.events import DEFAULT_PRIORITY
from schemas.payload import EncodedRows, by_kind, join_rows
from service.errors import SpoolFailed, SpoolFull, Stopping
from service.part import Part, Tasks, cancel
from service.pipeline.flusher import Flusher
from service.spool.segment import Segment
from service.spool.spool import Spool
from service.telemetry.metrics import Metrics
from service.telemetry.status import Status

#: Upper bound of the bytes that a row adds to those it came in: ids, times, lengths, defaults.
ROW_OVERHEAD_BYTES = 200
#: Bytes of events that may wait for the disk: a bound on memory, far above what a working disk leaves waiting.
WAITING_MAX_BYTES = 64 * 2**20
#: Bytes of acknowledged events that can't be read back from disk and stay in memory: beyond, no others are taken.
MEMORY_ONLY_MAX_BYTES = 64 * 2**20
#: With less room than this the spool counts as full, so that /health says so before a request finds out.
ROOM_MIN_BYTES = 4096


#: Up to which share of the spool's cap events of each priority are taken: an order matters more than a hover.
TAKEN_UNTIL = {"low": 0.80, "medium": 0.90, "high": 0.95, "critical": 1.0}


@dataclass(frozen=True)
class Limits:
    """The triggers (rows, bytes, seconds) and the cap of the spool in bytes."""

    batch_rows: int
    batch_bytes: int
    flush_interval: float
    spool_max_bytes: int


#: For a group whose commit a bug has cut off: if its frame is on disk, the next start inserts it.
_UNKNOWN = "The service has failed, and it is not known whether the events were kept"
_SHED_FROM = min(TAKEN_UNTIL.values())
_NONE_SHED: frozenset[str] = frozenset()


class _Waiter(NamedTuple):
    rows: EncodedRows
    size: int
    done: Callable[[SpoolFailed | None], object]


class _Outcome(NamedTuple):
    """The result of a commit. ``readable``: whether the sealed segment can be read back from the disk.

    ``bug`` is why the segment could not be sealed: only the next start can tell what it holds.
    """

    sealed: Segment | None
    error: Exception | None
    readable: bool = True
    bug: Exception | None = None


class BatchWriter(Part):
    """Owns the open segment. All methods belong to the event loop; disk work is done on one thread."""

    def __init__(self, spool: Spool, flusher: Flusher, limits: Limits, status: Status, metrics: Metrics) -> None:
        self.limits = limits
        #: When the first event of the open batch was accepted, on the monotonic clock; None if it is empty.
        self.oldest_at: float | None = None
        self._metrics = metrics
        self._spool = spool
        self._flusher = flusher
        self._status = status
        self._thread = ThreadPoolExecutor(1, "spool")
        self._waiting: list[_Waiter] = []
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._open: list[EncodedRows] = []  # what the open segment holds
        self._open_rows = 0
        self._due = False
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._synced_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def open_rows(self) -> int:
        """Acknowledged rows in the open batch."""
        return self._open_rows

    async def open(self) -> None:
        """Find out whether the disk takes writes."""
        await self.probe()

    def start(self, tasks: Tasks) -> None:
        """Begin to take events."""
        self._tasks = [tasks.create_task(self._run(), name="writer")]

    async def add(self, rows: EncodedRows, size: int) -> None:
        """Make ``rows`` durable; they came in ``size`` bytes. On return they are kept, whatever happens.

        Raises Unavailable (SpoolFull, SpoolFailed, Stopping): then none of them is kept.
        """
        done = asyncio.get_running_loop().create_future()
        self.put(rows, size, partial(_resolve, done))
        await done

    def put(self, rows: EncodedRows, size: int, done: Callable[[SpoolFailed | None], object]) -> None:
        """As ``add``, without waiting: ``done`` is called with None, or with the reason why the rows are not kept."""
        size += ROW_OVERHEAD_BYTES * len(rows)
        if unavailable := self._unavailable(size):
            raise unavailable
        self._waiting.append(_Waiter(rows, size, done))
        self._waiting_bytes += size
        self._wake.set()

    def unavailable_reason(self) -> str | None:
        """Why an event of the usual priority sent now would not be kept; None if it would be."""
        if unavailable := self._unavailable(ROOM_MIN_BYTES):
            return str(unavailable.detail)
        if DEFAULT_PRIORITY in self.shed_priorities():
            return SpoolFull.detail
        return None if self._status.ok else self._status.reason

    def shed_priorities(self) -> frozenset[str]:
        """The priorities whose events are refused now, because the spool is nearly full; usually none."""
        full = (self._spool.filled + self._waiting_bytes) / self.limits.spool_max_bytes
        if full < _SHED_FROM:
            return _NONE_SHED
        return frozenset(priority for priority, until in TAKEN_UNTIL.items() if full >= until)

    def seconds_to_room(self) -> float:
        """How many seconds until events of every priority are taken again, by the recent rate."""
        room = _SHED_FROM * self.limits.spool_max_bytes
        return self._flusher.seconds_to_free(max(0, int(self._spool.filled + self._waiting_bytes - room)))

    def _unavailable(self, size: int) -> SpoolFull | SpoolFailed | Stopping | None:
        if self._stopping:
            return Stopping()
        if self._flusher.memory_only_bytes > MEMORY_ONLY_MAX_BYTES:
            return SpoolFailed()
        missing = self._spool.filled + self._waiting_bytes + size - self.limits.spool_max_bytes
        if missing > 0:
            return SpoolFull(retry_after=self._flusher.seconds_to_free(missing))
        if self._waiting_bytes + size > WAITING_MAX_BYTES and self._waiting:
            return SpoolFull("Too many events are waiting for the disk; nothing of this request was kept")
        return None

    async def probe(self) -> None:
        """Find out whether the disk takes writes, unless a commit has just shown it."""
        if self._status.ok and time.monotonic() - self._synced_at < 1.0:
            return
        try:
            probe = partial(self._spool.probe, sync=not self._status.ok)
            await asyncio.get_running_loop().run_in_executor(self._thread, probe)
        except Exception as error:  # noqa: BLE001 - of the disk, or no thread could be started
            self._status.fails(*_reason(error))
        else:
            self._status.works()

    async def drain(self, seconds: float) -> None:
        """Take no more events, finish the waiting ones, and hand the open segment to the flusher.

        It takes as long as the disk needs, since the clients that wait have no answer yet.
        """
        self._stopping = True
        self._wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Let go of the disk."""
        await cancel(self._tasks)
        self._thread.shutdown()

    async def _run(self) -> None:
        try:
            while self._waiting or not self._stopping:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting or self._due or (self._stopping and self._open):
                    await self._turn()
        finally:  # whatever ended the task, nobody waits for ever
            self._stopping = True
            waiting, self._waiting = self._waiting, []
            self._answer(waiting, SpoolFailed())

    async def _turn(self) -> None:
        group, loop = self._take_group(), asyncio.get_running_loop()
        started = loop.time()
        seal = self._due or (self._stopping and not self._waiting)
        error: SpoolFailed | None = SpoolFailed(_UNKNOWN)
        try:
            outcome = await loop.run_in_executor(self._thread, self._commit, group, seal)
            if not outcome.error:
                error = None
            elif not outcome.bug:  # the file was cut to what it held before
                error = SpoolFailed()
            self._book(group, outcome.error, started)
        finally:  # even if a bug ends the writer here
            self._answer(group, error)
        if outcome.bug:
            raise outcome.bug
        self._hand_over(outcome, started)
        if seal and self._open and not outcome.sealed:
            raise RuntimeError("the open segment is gone")

    def _take_group(self) -> list[_Waiter]:
        """Those that have waited longest: as many as the open segment has room for, but at least one if any waits."""
        rows = self.limits.batch_rows - self._open_rows
        room = self.limits.batch_bytes - self._spool.open_size
        for count, waiter in enumerate(self._waiting, 1):
            rows -= len(waiter.rows)
            room -= len(waiter.rows.payload)
            if rows <= 0 or room <= 0:
                group, self._waiting = self._waiting[:count], self._waiting[count:]
                return group
        group, self._waiting = self._waiting, []
        return group

    def _commit(self, group: list[_Waiter], seal: bool) -> _Outcome:
        """On the spool's thread: write durable frames for the group, and seal the segment if it is full or due."""
        error: Exception | None = None
        try:
            if group:
                kinds = by_kind([waiter.rows for waiter in group])
                self._spool.append(*(join_rows(parts) for parts in kinds if parts))
        except OSError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - a bug that the next group may not have
            _log.exception("a group could not be written")
            error = caught
        limits, spool = self.limits, self._spool
        try:
            full = spool.open_rows >= limits.batch_rows or spool.open_size >= limits.batch_bytes
            sealed = spool.seal() if seal or full or error else None
            return _Outcome(sealed, error, not (sealed and error) or spool.holds_all(sealed))
        except Exception as bug:  # noqa: BLE001 - not an error of the disk: see ``Spool.seal``
            return _Outcome(None, error, bug=bug)

    def _book(self, group: list[_Waiter], error: Exception | None, started: float) -> None:
        if error:
            self._status.fails(*_reason(error))
            return
        self._status.works()
        self._synced_at = time.monotonic()
        before = self._open_rows
        for waiter in group:
            self._open.append(waiter.rows)
            self._open_rows += len(waiter.rows)
        if group:
            self._count(self._open_rows - before, started)

    def _hand_over(self, outcome: _Outcome, started: float) -> None:
        """Give the segment to the flusher if it is sealed; otherwise make sure that it is sealed in time."""
        if sealed := outcome.sealed:
            self._flusher.submit(sealed, self._open, keep=not outcome.readable, accepted_at=self.oldest_at)
            self._open, self._open_rows, self.oldest_at = [], 0, None
            self._due = False
            if self._timer:
                self._timer.cancel()
                self._timer = None
        elif self._open and not self._timer:
            self._timer = asyncio.get_running_loop().call_at(started + self.limits.flush_interval, self._on_age)
        elif not self._open:
            self._due = False

    def _answer(self, group: list[_Waiter], error: SpoolFailed | None) -> None:
        for waiter in group:
            self._waiting_bytes -= waiter.size
            try:
                waiter.done(error)
            except Exception:  # noqa: BLE001 - the others still wait
                _log.exception("an answer could not be given")

    def _count(self, rows: int, started: float) -> None:
        if self.oldest_at is None:
            self.oldest_at = started
        self._metrics.events_accepted.add(rows)
        self._metrics.group_events.observe(rows)
        self._metrics.group_seconds.observe(time.monotonic() - started)
        self._metrics.fsync_seconds.observe(self._spool.sync_seconds)

    def _on_age(self) -> None:
        self._timer = None
        self._due = True
        self._wake.set()


def _resolve(future: asyncio.Future[None], error: Exception | None) -> None:
    if not future.done():  # the client may have gone meanwhile
        future.set_exception(error) if error else future.set_result(None)


def _reason(error: Exception) -> tuple[str, str]:
    """Why the spool can't be written: for everybody, and for the log."""
    told = error.strerror if isinstance(error, OSError) else "an unexpected error, see the log"
    return f"the spool can't be written: {told or 'an error of the disk'}", f"the spool can't be written: {error!r}"


_log = logging.getLogger(__name__)
