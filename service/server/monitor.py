"""The monitor: keeps what /health tells true when no traffic does.

Every second it tries the disk, unless a group was just written, and asks ClickHouse for a sign of
life, unless an insert was just answered; and it looks after the quarantine, which a command may
have changed. It measures how late
the event loop is, and what the process uses. Before that it makes the store ready, however long that
takes: events are taken and kept meanwhile.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable

from service.errors import Misconfigured, StoreError
from service.pipeline.flusher import Flusher
from service.pipeline.writer import BatchWriter
from service.spool.spool import Spool
from service.store.store import Store
from service.telemetry.logs import Seldom
from service.telemetry.metrics import Metrics
from service.telemetry.process import ProcessUsage
from service.telemetry.status import Status
from service.worker import SPOOL_BYTES, Worker

INTERVAL = 1.0
#: How often it is looked what the process and the disk use, in seconds.
USAGE_INTERVAL = 2.0
#: How often it is measured how late the event loop is, in seconds.
LAG_INTERVAL = 0.5
#: How often workers tell each other how much their spools hold, in seconds.
SHARE_INTERVAL = 0.1
#: A timer of ours that is later than this, in seconds, is told: no client was answered meanwhile.
LATE_WARNED = 1.0
_log = logging.getLogger(__name__)


class Monitor:
    """Owns the background checks, from ``start`` to ``close``."""

    def __init__(
        self,
        worker: Worker,
        spool: Spool,
        writer: BatchWriter,
        flusher: Flusher,
        store: Store,
        clickhouse: Status,
        metrics: Metrics,
        usage: ProcessUsage,
    ) -> None:
        self._metrics = metrics
        self._usage = usage
        self._worker = worker
        self._spool = spool
        self._writer = writer
        self._flusher = flusher
        self._store = store
        self._clickhouse = clickhouse
        self._tasks: list[asyncio.Task[None]] = []
        self._flushing = False
        self._failed = Seldom(_log)

    async def prepare(self, seconds: float) -> None:
        """Make the store ready, if that takes no longer; else ``start`` goes on with it.

        Raises Misconfigured: at a start it is better to stop and say so.
        """
        try:
            async with asyncio.timeout(None if self._store.embedded else seconds):
                await self._store.prepare()
        except TimeoutError:
            self._clickhouse.fails(f"no answer within {seconds} s")
        except Misconfigured:
            raise
        except StoreError as error:
            self._clickhouse.fails(error.public, str(error))

    def start(self) -> None:
        """Begin to watch. The flusher starts as soon as the store is ready."""
        watches = [
            self._watch_loop,
            self._watch_usage,
            self._watch_spool,
            self._watch_quarantine,
            self._watch_clickhouse,
            *([self._share_cap] if self._worker.count > 1 else []),
        ]
        self._tasks = [asyncio.create_task(self._keep(watch), name=watch.__name__) for watch in watches]

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _keep(self, watch: Callable[[], Awaitable[None]]) -> None:
        """A watch that fails, of what nobody thought of, is begun anew: else health would stay as it was for ever."""
        while True:
            try:
                await watch()
            except Exception:
                self._failed(logging.ERROR, "%s failed and is begun anew: %s", watch.__name__, traceback.format_exc())
            await asyncio.sleep(INTERVAL)

    async def _watch_spool(self) -> None:
        while True:
            await self._writer.probe()
            await asyncio.sleep(INTERVAL)

    async def _watch_loop(self) -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(LAG_INTERVAL)
            late = max(0.0, time.monotonic() - started - LAG_INTERVAL)
            self._metrics.timer_late(late)
            if late > LATE_WARNED:
                _log.warning("nothing ran for %.1f s: the process was stopped, starved of CPU, or blocked", late)

    async def _watch_usage(self) -> None:
        while True:
            await self._usage.refresh()
            await asyncio.sleep(USAGE_INTERVAL)

    async def _share_cap(self) -> None:
        """The cap is one for the spools of all workers."""
        while True:
            self._spool.elsewhere = self._worker.tell(SPOOL_BYTES, self._spool.size)
            await asyncio.sleep(SHARE_INTERVAL)

    async def _watch_quarantine(self) -> None:
        while True:
            await self._flusher.tend()
            await asyncio.sleep(INTERVAL)

    async def _watch_clickhouse(self) -> None:
        while not self._store.ready:
            try:
                await self._store.prepare()
            except StoreError as error:
                self._clickhouse.fails(error.public, str(error))
                await asyncio.sleep(INTERVAL)
        if not self._flushing:
            self._flushing = True
            self._clickhouse.works()
            self._flusher.start()
        while True:
            await asyncio.sleep(INTERVAL)
            if time.monotonic() - self._flusher.heard_at < INTERVAL:
                continue
            try:
                await self._store.ping()
            except StoreError as error:
                self._clickhouse.fails(error.public, str(error))
            else:
                if not self._flusher.retrying:
                    self._clickhouse.works()
