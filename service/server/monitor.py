"""The monitor: keeps what /health says true while there is no traffic.

Every second it tries the disk, unless a group was just written, and pings ClickHouse, unless an insert
was just answered. It looks after the quarantine, which a command may have changed. It measures how late
the event loop is, and what the process uses. Before that it makes the store ready, however long that
takes: meanwhile events are taken and kept.
"""

import asyncio
import logging
import time

from service.errors import Misconfigured, StoreError
from service.part import Part, Tasks, cancel
from service.pipeline.flusher import Flusher
from service.pipeline.writer import BatchWriter
from service.spool.spool import Spool
from service.store.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.process import ProcessUsage
from service.telemetry.status import Status
from service.worker import SPOOL_BYTES, Worker

#: How long a start waits for ClickHouse before it takes events without it, in seconds.
OPEN_TIMEOUT = 2.0
#: How often the disk, the quarantine and ClickHouse are checked, in seconds.
INTERVAL = 1.0
#: How often the use of the process and the disk is read, in seconds.
USAGE_INTERVAL = 2.0
#: How often the lag of the event loop is measured, in seconds.
LAG_INTERVAL = 0.5
#: How often workers publish how much their spools hold, in seconds.
SHARE_INTERVAL = 0.1
#: The log has a line if a timer is later than this, in seconds: meanwhile no client was answered.
LATE_WARNED = 1.0
_log = logging.getLogger(__name__)


class Monitor(Part):
    """The background checks."""

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

    async def open(self) -> None:
        """Make the store ready, if that is quick enough for a start; otherwise ``start`` continues it.

        Raises Misconfigured: a start had better stop and say so.
        """
        try:
            async with asyncio.timeout(None if self._store.embedded else OPEN_TIMEOUT):
                await self._store.prepare()
        except TimeoutError:
            self._clickhouse.fails(f"no answer within {OPEN_TIMEOUT} s")
        except Misconfigured:
            raise
        except StoreError as error:
            self._clickhouse.fails(error.public, str(error))

    def start(self, tasks: Tasks) -> None:
        """Begin to watch."""
        watches = {
            "event loop": self._watch_loop,
            "usage": self._watch_usage,
            "spool": self._watch_spool,
            "quarantine": self._watch_quarantine,
            "ClickHouse": self._watch_clickhouse,
            **({"cap": self._share_cap} if self._worker.count > 1 else {}),
        }
        self._tasks = [tasks.create_task(watch(), name=f"monitor: {name}") for name, watch in watches.items()]

    async def close(self) -> None:
        """Stop watching."""
        await cancel(self._tasks)

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
        """Publish our part of the cap, which the spools of all workers share."""
        while True:
            self._spool.elsewhere = self._worker.publish(SPOOL_BYTES, self._spool.size)
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
        self._clickhouse.works()
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
