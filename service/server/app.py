"""The application: the only place where the parts are wired, and where their lives begin and end.

data folder ─ spool ─ flusher ─ writer ─ monitor        each closed in reverse
                        └─ store ─┘
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial

from aiohttp import web

from schemas.payload import encode_header
from schemas.rows import CURRENT
from service.api import activity, health, loss, metrics, pipeline, stats
from service.api import ingest as track
from service.api.peers import STATES, WorkerStates
from service.api.refusals import REFUSALS, REFUSALS_OF_ALL, get_refusals
from service.api.single_flight import SingleFlight
from service.api.web.dashboard import routes as dashboard_routes
from service.api.web.docs import routes as docs_routes
from service.api.web.tracker import routes as script_routes
from service.config import Settings
from service.edge import body
from service.edge.access_tokens import Token
from service.edge.auth import TOKENS
from service.edge.connection import LOAD, Load
from service.edge.cors import CORS, Cors, preflight
from service.edge.fast_path import Way
from service.edge.middleware import LEAVING, PATHS, error_middleware, paths_of
from service.edge.request_head import Heads
from service.errors import StartError
from service.pipeline.dedup_lock import DedupLock
from service.pipeline.flusher import Flusher
from service.pipeline.intake import AT_ONCE_MAX_BYTES, Intake
from service.pipeline.rate_limit import RateLimit
from service.pipeline.totals import Totals
from service.pipeline.writer import BatchWriter, Limits
from service.server.gauges import read_load, read_parts, read_process, read_states
from service.server.monitor import Monitor
from service.spool.data_dir import DataDir, spool_of
from service.spool.quarantine import Quarantine
from service.spool.spool import Spool
from service.store.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.process import Usage
from service.telemetry.refusals import Refusals
from service.telemetry.status import Status
from service.worker import ALONE, Worker

#: The byte trigger: a segment never outgrows what one INSERT comfortably carries.
BATCH_MAX_BYTES = 16 * 2**20
#: How long a start waits for ClickHouse before it takes events without it, in seconds.
PREPARE_TIMEOUT = 2.0
STOP_BY: web.AppKey[list[float]] = web.AppKey("stop_by", list)
_log = logging.getLogger(__name__)


def create_app(
    settings: Settings, data: DataDir, tokens: Mapping[bytes, Token], store: Store, worker: Worker = ALONE
) -> web.Application:
    """The service on a locked data folder. It takes events from the moment that it has started up."""
    app = web.Application(middlewares=[error_middleware], client_max_size=settings.max_body_bytes)
    app[body.SETTINGS] = settings
    app[TOKENS] = tokens
    app[loss.STORE] = store
    app[stats.COUNTS] = SingleFlight(partial(stats.count, store))
    app[activity.ACTIVITIES] = activity.activities(store)
    kinds = {
        "buffer": stats.buffer(data.folder, worker),
        "pending": loss.PENDING,
        "health": health.HEALTH,
        "metrics": metrics.METRICS_OF_ALL,
        "pipeline": pipeline.PIPELINE,
        "refusals": REFUSALS_OF_ALL,
    }
    app[STATES] = WorkerStates(app, worker, data.workers, kinds)
    app[metrics.METRICS] = counts = Metrics()
    app[REFUSALS] = Refusals()
    app[metrics.TOKENS] = metrics.scrape_tokens(settings)
    inflight = max(1, settings.max_inflight_bytes // worker.count)
    app[LOAD] = Load(inflight, settings.keepalive_timeout, settings.body_timeout)
    app[LEAVING] = asyncio.Event()
    app[STOP_BY] = []
    prefix = settings.path_prefix
    app[CORS] = Cors(settings.cors_origins, prefix)
    intake = {"": track.track_event, "/batch": track.track_batch, "/beacon": track.track_beacon}
    answers = {
        "/stats": stats.get_stats,
        "/activity": activity.get_activity,
        "/pipeline": pipeline.get_pipeline,
        "/refusals": get_refusals,
        "/loss": loss.get_loss,
        "/health": health.get_health,
    }
    app.router.add_routes([
        *(web.post(prefix + path, one, expect_handler=body.leave_expect) for path, one in intake.items()),
        *(web.get(prefix + path, one) for path, one in answers.items()),
        *(web.options(prefix + path, preflight) for path in (*intake, *answers) if app[CORS]),
        web.get("/livez", health.get_livez),
        web.get("/readyz", health.get_readyz),
        web.get("/metrics", metrics.get_metrics),
        *docs_routes(),
        *script_routes(),
        *dashboard_routes(prefix),
    ])  # fmt: skip
    app[PATHS] = paths_of(app)

    async def parts(app: web.Application) -> AsyncIterator[None]:
        spool_status, clickhouse_status = Status("spool"), Status("clickhouse")
        spool = Spool(spool_of(data.folder, worker.number), data.quarantine, encode_header(CURRENT))
        quarantine = Quarantine(data.folder, takes_back=worker.number == 0)
        flusher = Flusher(
            spool,
            store,
            Totals(data.folder, worker),
            clickhouse_status,
            lock=DedupLock(data.in_flight, worker),
            quarantine=quarantine,
            metrics=counts,
            data=data.folder,
            dedup_window=settings.dedup_window,
        )
        limits = Limits(settings.batch_size, BATCH_MAX_BYTES, settings.flush_interval, settings.spool_max_bytes)
        writer = BatchWriter(spool, flusher, limits, spool_status, counts)
        rate_limit = RateLimit(settings.rate_limit, worker=worker) if settings.rate_limit else None
        usage = Usage(data.folder)
        monitor = Monitor(worker, spool, writer, flusher, store, clickhouse_status, counts, usage)
        app[stats.FLUSHER], app[track.WRITER] = flusher, writer
        app[track.INTAKE] = Intake(writer, rate_limit)
        read_parts(counts, writer, flusher, spool, quarantine, store)
        read_load(counts, app[LOAD])
        read_states(counts, spool_status, clickhouse_status)
        read_process(counts, usage, worker, embedded=store.embedded)
        app[health.PARTS] = health.Parts(spool_status, clickhouse_status, store, quarantine, time.monotonic())

        try:
            recover(spool, flusher, first=worker.number == 0)
            await monitor.prepare(PREPARE_TIMEOUT)
            await writer.probe()
            writer.start()
            monitor.start()
            await app[STATES].start()
            yield
        finally:
            await app[STATES].close()
            await app[stats.COUNTS].close()
            for one in app[activity.ACTIVITIES].values():
                await one.close()
            await writer.close()
            await flusher.drain(app[STOP_BY][0] - asyncio.get_running_loop().time() if app[STOP_BY] else 0)
            await monitor.close()
            await flusher.close()
            await store.close()
            usage.close()

    app.cleanup_ctx.append(parts)
    return app


def direct_way(app: web.Application) -> Way:
    """The way of POSTs of events past this application, once it has started up."""
    settings = app[body.SETTINGS]
    paths = settings.path_prefix, f"{settings.path_prefix}/batch"
    heads = Heads(dict(zip(paths, (True, False), strict=True)), app[TOKENS], app[CORS])
    counts = app[metrics.METRICS]
    single, batch = (counts.requests("POST", path) for path in paths)
    limits = min(settings.max_body_bytes, AT_ONCE_MAX_BYTES), settings.body_timeout
    return Way(heads, app[track.INTAKE], counts, app[REFUSALS], *paths, single, batch, app[LEAVING], *limits)


def announce_stop(app: web.Application, seconds: float) -> None:
    """Handlers still run: readiness goes off, answers close their connections, and the time for the stop begins."""
    app[LEAVING].set()
    app[STOP_BY].append(asyncio.get_running_loop().time() + seconds)
    app[track.WRITER].announce_stop()


def recover(spool: Spool, flusher: Flusher, *, first: bool = True) -> None:
    """Hand what an earlier process left on disk to the flusher. Raises StartError. ``first``: of several workers."""
    quarantine = flusher.quarantine
    try:
        for path in quarantine.returning():  # before the spool is looked into: it is there then
            quarantine.take(path, spool)
        quarantine.count()
    except OSError as error:
        _log.error("what comes back from the quarantine waits: %s", error)
    if first and any(quarantine.held):
        _log.warning("the quarantine holds %d events and %d damaged files, %d bytes", *quarantine.held)
    try:
        waiting = quarantine.waiting()
        segments = [segment for segment in spool.recover() if segment.token not in waiting]
    except OSError as error:
        raise StartError(f"the spool {spool.folder} can't be read ({error.strerror or error}): mend the disk") from None
    for segment in segments:
        flusher.submit(segment, None)
    if segments:
        _log.info("%d events of earlier runs are in the spool, to be inserted", flusher.pending_rows)
    for stranger in spool.strangers:
        _log.warning("%s in the spool is none of our files: left alone", stranger)
