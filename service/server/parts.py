"""The parts of a worker: wired here alone, started in order, closed in reverse.

data folder ─ spool ─ flusher ─ writer ─ monitor
                        └─ store ─┘
"""

import asyncio
from collections.abc import Mapping
from functools import partial

from schemas.payload import encode_header
from schemas.rows import CURRENT
from service.api import stats
from service.api.activity import activities
from service.api.health import health_query
from service.api.loss import pending_query
from service.api.metrics import metrics_query, scrape_tokens
from service.api.pipeline import pipeline_query
from service.api.refusals import refusals_query
from service.config import Settings
from service.edge.access_tokens import AccessToken
from service.edge.context import Context
from service.edge.cors import Cors
from service.pipeline.dedup_lock import DedupLock
from service.pipeline.flusher import Flusher
from service.pipeline.intake import Intake
from service.pipeline.rate_limit import RateLimit
from service.pipeline.recovery import recover
from service.pipeline.totals import Totals
from service.pipeline.writer import BatchWriter, Limits
from service.server.gauges import read_load, read_parts, read_process, read_states
from service.server.monitor import Monitor
from service.spool.data_dir import DataDir, spool_of
from service.spool.quarantine import Quarantine
from service.spool.spool import Spool
from service.store.store import Store
from service.telemetry.load import ConnectionLoad
from service.telemetry.metrics import Metrics
from service.telemetry.peers import Peers
from service.telemetry.process import ProcessUsage
from service.telemetry.refusals import Refusals
from service.telemetry.single_flight import SingleFlight
from service.telemetry.status import Status
from service.worker import ALONE, Worker

#: The byte trigger: a segment never outgrows what one INSERT comfortably carries.
BATCH_MAX_BYTES = 16 * 2**20
#: How long a start waits for ClickHouse before it takes events without it, in seconds.
PREPARE_TIMEOUT = 2.0


class Parts:
    """What a worker is made of. Needs a running event loop; takes events from ``start`` to ``close``.

    Raises StartError where the data folder can't be used.
    """

    def __init__(
        self,
        settings: Settings,
        data: DataDir,
        tokens: Mapping[bytes, AccessToken],
        store: Store,
        worker: Worker = ALONE,
    ) -> None:
        self._worker = worker
        self._stop_by: float | None = None
        self._store = store
        self._spool_status, self._clickhouse_status = Status("spool"), Status("clickhouse")
        self._metrics = Metrics()
        self._spool = Spool(spool_of(data.folder, worker.number), data.quarantine, encode_header(CURRENT))
        self._quarantine = Quarantine(data.folder, takes_back=worker.number == 0)
        self._flusher = Flusher(
            self._spool,
            store,
            Totals(data.folder, worker),
            self._clickhouse_status,
            lock=DedupLock(data.in_flight, worker),
            quarantine=self._quarantine,
            metrics=self._metrics,
            data=data.folder,
            dedup_window=settings.dedup_window,
        )
        limits = Limits(settings.batch_size, BATCH_MAX_BYTES, settings.flush_interval, settings.spool_max_bytes)
        self._writer = BatchWriter(self._spool, self._flusher, limits, self._spool_status, self._metrics)
        self._usage = ProcessUsage(data.folder)
        self._monitor = Monitor(
            worker,
            self._spool,
            self._writer,
            self._flusher,
            store,
            self._clickhouse_status,
            self._metrics,
            self._usage,
        )
        self.context = self._context(settings, data, tokens)
        self._read_gauges()

    def _context(self, settings: Settings, data: DataDir, tokens: Mapping[bytes, AccessToken]) -> Context:
        worker, writer, flusher, store = self._worker, self._writer, self._flusher, self._store
        refusals = Refusals()
        queries = {
            "buffer": stats.buffer_query(writer, flusher, data.folder, worker),
            "pending": pending_query(writer, flusher),
            "health": health_query(writer, store, self._quarantine, self._spool_status, self._clickhouse_status),
            "metrics": metrics_query(self._metrics),
            "pipeline": pipeline_query(self._metrics),
            "refusals": refusals_query(refusals),
        }
        inflight = max(1, settings.max_inflight_bytes // worker.count)
        return Context(
            settings=settings,
            tokens=tokens,
            scrape_tokens=scrape_tokens(settings),
            cors=Cors(settings.cors_origins, settings.path_prefix),
            load=ConnectionLoad(inflight, settings.keepalive_timeout, settings.body_timeout),
            leaving=asyncio.Event(),
            metrics=self._metrics,
            refusals=refusals,
            intake=Intake(writer, RateLimit(settings.rate_limit, worker=worker) if settings.rate_limit else None),
            writer=writer,
            flusher=flusher,
            store=store,
            peers=Peers(worker, data.workers, queries),
            counts=SingleFlight(partial(stats.count, store)),
            activities=activities(store),
        )

    def _read_gauges(self) -> None:
        read_parts(self._metrics, self._writer, self._flusher, self._spool, self._quarantine, self._store)
        read_load(self._metrics, self.context.load)
        read_states(self._metrics, self._spool_status, self._clickhouse_status)
        read_process(self._metrics, self._usage, self._worker, embedded=self._store.embedded)

    async def start(self) -> None:
        """Begin to take events, those first that an earlier process left on disk. Raises StartError."""
        recover(self._spool, self._flusher, first=self._worker.number == 0)
        await self._monitor.prepare(PREPARE_TIMEOUT)
        await self._writer.probe()
        self._writer.start()
        self._monitor.start()
        await self.context.peers.start()

    def announce_stop(self, seconds: float) -> None:
        """Handlers still run: readiness goes off, answers close their connections, and the time for the stop begins."""
        self.context.leaving.set()
        self._stop_by = asyncio.get_running_loop().time() + seconds
        self._writer.announce_stop()

    async def close(self) -> None:
        """Take no more, insert what there is time for, and let go of everything."""
        await self.context.peers.close()
        await self.context.counts.close()
        for one in self.context.activities.values():
            await one.close()
        await self._writer.close()
        await self._flusher.drain(0 if self._stop_by is None else self._stop_by - asyncio.get_running_loop().time())
        await self._monitor.close()
        await self._flusher.close()
        await self._store.close()
        self._usage.close()
