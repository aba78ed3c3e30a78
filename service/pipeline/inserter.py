"""Brings the rows of a batch into the table, each once. One rule ensures that:

    Before rows that may have been sent are sent again, ask the table for their segment, and send only what is missing.

The column ``segment`` of a row says which INSERT brought it, so the table itself remembers for ever what was stored.
(ClickHouse remembers a deduplication token only for the last INSERTs, and not through a power cut.) An INSERT is one
block, and ClickHouse stores all rows of a month or none. So the answer, how many rows of each range and month are
there, says what is missing. It does not show an INSERT that still runs: so each try of a range has the same token.

A *rejected* range is halved until the bad rows are alone; they go to the quarantine, the others into the table. Each
half is a range with a token of its own. The halving is not noted: the table and the quarantine show it. Only the INSERT
itself can reject rows. Any other failure is temporary, and is tried again.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from schemas.payload import Rows
from service.errors import InFlight, Rejected, Retryable, StoreError, ViewFailed
from service.pipeline.batch import RUNS_AT_MOST, Batch, Range, find_batch
from service.pipeline.dedup import KnownIds, Repeats
from service.pipeline.dedup_lock import DedupLock
from service.pipeline.view_filler import FillerStore, ViewFiller
from service.spool.quarantine import Quarantine

_log = logging.getLogger(__name__)

#: How many rows of a segment the table has, by range and month (202612).
Stored = dict[Range, dict[int, int]]


class InsertStore(KnownIds, FillerStore, Protocol):
    """What is needed of the store. Each raises StoreError; only ``insert`` raises Rejected or ViewFailed."""

    async def insert(self, rows: Rows, token: str, *, past_views: bool = False) -> None:
        """Insert one block. ``past_views``: even if views behind the table fail."""

    async def stored(self, segment: str, since: int, until: int) -> list[tuple[str, int, int]]:
        """The stored rows of a segment: the INSERT's token, the month, how many. Times of receipt in ms since 1970."""

    async def is_running(self, token: str) -> bool:
        """Whether ClickHouse may be running an INSERT with this token; True if that is not known."""

    async def remember_ids(self, segment: str, since: int, until: int) -> None:
        """Make sure that the ids of a segment's rows are among the known ones."""


class _Open(NamedTuple):
    """Another batch's INSERT that got no answer, and until when it may run, on the monotonic clock.

    ``tried``: we sent it again, and got no answer either.
    """

    attempt: str
    until: float
    tried: bool = False


class Inserter:
    """Inserts the batches of a worker. ``window`` is how far back it looks for repeats, in seconds."""

    def __init__(
        self,
        store: InsertStore,
        window: float,
        quarantine: Quarantine,
        *,
        lock: DedupLock,
        data: Path,
        thread: Executor,
    ) -> None:
        self.view_filler = ViewFiller(store)
        self._store = store
        self._quarantine = quarantine
        self._lock = lock
        self._repeats = Repeats(store, window)
        self._data = data
        self._thread = thread
        self._open = _Open("", 0.0)

    async def insert(self, batch: Batch, rows: Rows) -> None:
        """Try once to store all rows of the batch or put them into the quarantine; the next try continues from there.

        Raises Retryable.
        """
        batch.read = len(rows)
        if batch.todo is None:
            batch.todo = [(batch.start, batch.start + len(rows))] if len(rows) else []
        if not batch.todo:  # without waiting: only the last of a segment's batches may find that all is done
            return
        stored = await self._ask(batch, rows) if batch.sent else {}
        quarantined = await self._on_thread(self._quarantine.rows_of, batch.segment.name) if batch.sent else set()
        work = [(start, rows.slice(start - batch.start, stop - batch.start)) for start, stop in batch.todo]
        try:
            while work:
                start, part = work[-1]
                work[-1:] = await self._insert_range(batch, start, part, stored, quarantined)
        finally:
            batch.todo = [(start, start + len(part)) for start, part in work]

    async def _insert_range(
        self, batch: Batch, start: int, rows: Rows, stored: Stored, quarantined: set[int]
    ) -> list[tuple[int, Rows]]:
        """Store a range or put it into the quarantine; or return the parts that it is cut into, the first one last."""
        stop = start + len(rows)
        token = batch.token(start, stop)
        if len(rows) == 1 and start in quarantined:
            batch.quarantined += 1
            return []
        inside = any(start <= a and b <= stop and b - a < stop - start for a, b in stored)
        if inside or (start, stop) in batch.cut or any(start <= row < stop for row in quarantined):
            return await self._halves(start, rows)
        try:
            batch.repeats += await self._insert_missing(batch, start, rows, stored)
        except Rejected as error:
            if time.monotonic() < batch.running_until and await self._store.is_running(token):
                reason = "an earlier try may still store these rows"
                raise Retryable(f"{error}; {reason}", error.code, public=error.public) from None
            if len(rows) == 1:
                await self._on_thread(self._quarantine.put, batch.segment.name, start, rows, error)
                batch.quarantined += 1
                return []
            _log.warning("ClickHouse rejects rows %d to %d of %s: %s", start, stop, batch.segment.name, error)
            batch.cut.add((start, stop))
            return await self._halves(start, rows)
        return []

    async def _halves(self, start: int, rows: Rows) -> list[tuple[int, Rows]]:
        middle = len(rows) // 2
        first, second = await self._on_thread(rows.split, middle)
        return [(start + middle, second), (start, first)]

    async def _insert_missing(self, batch: Batch, start: int, rows: Rows, stored: Stored) -> int:
        """Insert the rows of a range that the table lacks; return how many were repeats. Raises StoreError."""
        token = batch.token(start, start + len(rows))
        rows, left_out = await self._missing(batch, start, rows, stored)
        if not len(rows):
            return left_out
        if not batch.with_ids:
            await self._send(batch, token, rows)
            return 0
        async with self._lock.held():
            await self._resolve_in_flight(token)
            if self._lock.in_flight and not batch.running_until:  # a try of an earlier process
                batch.running_until = time.monotonic() + RUNS_AT_MOST
            fresh = await self._repeats.without(rows)
            if len(fresh):
                await self._on_thread(self._lock.begin, token)
            try:
                if len(fresh):
                    await self._send(batch, token, fresh)
            except StoreError:
                if not batch.ids_missed and time.monotonic() >= batch.running_until:
                    await self._on_thread(self._lock.end)
                raise
            await self._on_thread(self._lock.end)
            return len(rows) - len(fresh)

    async def _missing(self, batch: Batch, start: int, rows: Rows, stored: Stored) -> tuple[Rows, int]:
        """The rows of a range that no INSERT has stored; and how many an INSERT has left out as repeats."""
        stop = start + len(rows)
        there = [months for (a, b), months in stored.items() if a <= start and stop <= b]
        if not there:
            return rows, 0
        if batch.with_ids and (span := await self._on_thread(rows.span)):  # the view that does this may have failed
            await self._store.remember_ids(batch.segment.name, *span)
            batch.ids_missed = False
        counted = sum(sum(months.values()) for months in there)
        if counted >= len(rows):
            return Rows(rows.header, []), 0
        missing = await self._on_thread(rows.without_months, {month for months in there for month in months})
        return missing, max(0, len(rows) - counted - len(missing))

    async def _send(self, batch: Batch, token: str, rows: Rows) -> None:
        batch.sent, sent_at = True, time.monotonic()
        try:
            try:
                await self._store.insert(rows, token)
            except ViewFailed as error:
                batch.ids_missed = batch.with_ids
                await self._store.insert(rows, token, past_views=True)
                if batch.with_ids and (span := await self._on_thread(rows.span)):
                    await self._store.remember_ids(batch.segment.name, *span)
                batch.ids_missed = False
                await self.view_filler.add(rows, token, sent_at, error)
        except Retryable as error:
            if error.may_run:
                batch.running_until = time.monotonic() + RUNS_AT_MOST
            raise

    async def _resolve_in_flight(self, token: str) -> None:
        """Send the INSERT again that is in flight without an answer, perhaps from a worker that has died.

        Then it is stored, and if the first one still arrives, ClickHouse drops it by its token. Raises InFlight.
        """
        other = self._lock.in_flight
        if other in ("", token):
            return
        if self._lock.attempt != self._open.attempt:
            self._open = _Open(self._lock.attempt, time.monotonic() + RUNS_AT_MOST)
        try:
            await self._send_again(other)
        except Rejected:
            pass  # an answer too: the worker that has the segment will get the same
        except (StoreError, OSError, msgspec.MsgspecError) as error:  # the spool may not be readable
            known = error if isinstance(error, StoreError) else Retryable(f"an earlier INSERT is unreadable: {error}")
            if isinstance(known, Retryable) and known.may_run:
                self._open = self._open._replace(until=time.monotonic() + RUNS_AT_MOST, tried=True)
            if time.monotonic() < self._open.until:
                raise InFlight(f"waiting for {other}: {known}", known.code, public=known.public) from error
        await self._on_thread(self._lock.end)

    async def _send_again(self, token: str) -> None:
        """Send the rows that the table lacks of the INSERT in flight. Raises StoreError, OSError, MsgspecError."""
        found = await self._on_thread(find_batch, self._data, token)
        if found:
            batch, start, rows = found
            missing, _ = await self._missing(batch, start, rows, await self._ask(batch, rows))
            fresh = await self._repeats.without(missing)
            if len(fresh) and self._open.tried:
                raise Retryable("ClickHouse may still run an INSERT that got no answer")
            if len(fresh):
                await self._send(batch, token, fresh)

    async def _ask(self, batch: Batch, rows: Rows) -> Stored:
        """Which rows of a batch the table has."""
        span = await self._on_thread(rows.span)
        if not span:
            return {}
        stored: Stored = {}
        for token, month, count in await self._store.stored(batch.segment.name, *span):
            stored.setdefault(batch.range_of(token), {})[month] = count
        return stored

    async def _on_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args))
