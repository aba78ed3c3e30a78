"""The parts of a worker, wired only here. ``Lifecycle`` starts them in order, and closes them in reverse.

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
from service.part import Part
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

#: The byte trigger: a segment never grows larger than one INSERT comfortably carries.
BATCH_MAX_BYTES = 16 * 2**20


class Parts:
    """All parts of a worker but the HTTP server. Needs a running event loop.

    Raises StartError if the data folder can't be used.
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
        self._leaving = asyncio.Event()
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
            "health": health_query(
                writer, store, self._quarantine, self._spool_status, self._clickhouse_status, leaving=self._leaving
            ),
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
            leaving=self._leaving,
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
        read_states(self._metrics, self._spool_status, self._clickhouse_status, self._writer, self._leaving)
        read_process(self._metrics, self._usage, self._worker, embedded=self._store.embedded)

    def recover(self) -> None:
        """Hand what an earlier process left on disk to the flusher. Raises StartError."""
        recover(self._spool, self._flusher, first=self._worker.number == 0)

    def in_order(self) -> list[Part]:
        """The parts in the order in which they start."""
        context = self.context
        shared = context.counts, *context.activities.values()
        writing = self._flusher, self._writer, context.intake
        return [self._store, self._usage, *writing, self._monitor, context.peers, *shared]
