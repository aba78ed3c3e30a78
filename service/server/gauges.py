"""Where each gauge reads its value at a scrape. The parts have these values anyway, so nothing is counted for them."""

import asyncio
import platform
import time
from functools import partial

from service import __version__
from service.pipeline.flusher import Flusher
from service.pipeline.writer import BatchWriter
from service.spool.quarantine import Quarantine
from service.spool.spool import Spool
from service.store.store import Store
from service.telemetry import logs
from service.telemetry.load import ConnectionLoad
from service.telemetry.metrics import Metrics
from service.telemetry.process import ProcessUsage
from service.telemetry.status import Status
from service.worker import Worker


def read_parts(
    metrics: Metrics, writer: BatchWriter, flusher: Flusher, spool: Spool, quarantine: Quarantine, store: Store
) -> None:
    """Let the gauges of the spool, the quarantine and ClickHouse read these parts."""
    metrics.pending_events.read = lambda: writer.open_rows + flusher.pending_rows
    metrics.oldest_pending.read = lambda: _oldest(writer, flusher)
    metrics.flush_interval.read = lambda: writer.limits.flush_interval
    metrics.spool_bytes.read = lambda: spool.size
    metrics.spool_max_bytes.read = lambda: writer.limits.spool_max_bytes
    metrics.quarantine_events.read = lambda: quarantine.size.events
    metrics.quarantine_files.read = lambda: quarantine.size.files
    metrics.quarantine_bytes.read = lambda: quarantine.size.bytes
    metrics.clickhouse_errors.values = store.errors


def read_load(metrics: Metrics, load: ConnectionLoad) -> None:
    """Let the gauges of the connections read ``load``."""
    metrics.connections.read = lambda: load.connections
    metrics.connections_closed.values = load.closed
    metrics.inflight_bytes.read = lambda: load.bytes
    metrics.inflight_max_bytes.read = lambda: load.max_bytes


def read_states(
    metrics: Metrics, spool: Status, clickhouse: Status, writer: BatchWriter, leaving: asyncio.Event
) -> None:
    """Let the gauges that are 1 while a part works read these statuses."""
    metrics.ready.read = lambda: not leaving.is_set() and writer.unavailable_reason() is None
    metrics.spool_up.read = lambda: spool.ok
    metrics.clickhouse_up.read = lambda: clickhouse.ok


def read_process(metrics: Metrics, usage: ProcessUsage, worker: Worker, *, embedded: bool) -> None:
    """Let the gauges of the process and its disk read the latest ``usage``."""
    metrics.workers.read = lambda: worker.count
    metrics.build.label_values = (__version__, platform.python_version(), "embedded" if embedded else "server")
    metrics.build.read = lambda: 1
    metrics.log_dropped.read = logs.dropped
    metrics.disk_free.read = lambda: usage.disk_free
    metrics.disk_size.read = lambda: usage.disk_size
    own = (metrics.cpu, metrics.resident_bytes, metrics.virtual_bytes, metrics.open_files, metrics.max_files)
    for metric in (*own, metrics.started):
        metric.read = partial(_of_process, usage, metric.name)


def _of_process(usage: ProcessUsage, name: str) -> float | None:
    return usage.process.get(name)


def _oldest(writer: BatchWriter, flusher: Flusher) -> float:
    since = [one for one in (writer.oldest_at, flusher.oldest_at) if one is not None]
    return time.monotonic() - min(since) if since else 0.0
