"""Counts out: first the state of the buffer, then one aggregate query for all who ask at the same time.

In this order, an event that was acknowledged before is pending in the first or counted by the second. While it is being
inserted it may be in both, but never in neither.
"""

import time
from datetime import datetime
from pathlib import Path

from aiohttp import web

from schemas.statements import statement
from schemas.times import iso
from service.edge.auth import authorize
from service.edge.context import CONTEXT
from service.edge.responses import json_response
from service.errors import StoreError, StoreUnavailable
from service.pipeline.flusher import Flusher
from service.pipeline.totals import Totals
from service.pipeline.writer import BatchWriter
from service.spool.data_dir import spool_of
from service.spool.rebalance import rows_in
from service.store.store import Store
from service.telemetry.peers import PeerAnswers, PeerQuery
from service.worker import Worker

Counts = list[tuple[str, int, int, int]]
STATS_SQL = statement("stats")


async def get_stats(request: web.Request) -> web.Response:
    """Totals of the table by category, today and this hour."""
    authorize(request, "read")
    buffer_status = await request.app[CONTEXT].peers.ask("buffer")
    try:
        rows: Counts = await request.app[CONTEXT].counts()
    except StoreError:
        raise StoreUnavailable from None
    return json_response({
        "total_events": sum(total for _, total, _, _ in rows),
        "events_by_category": {category: total for category, total, _, _ in rows},
        "events_today": sum(today for _, _, today, _ in rows),
        "events_this_hour": sum(hour for _, _, _, hour in rows),
        "buffer_status": buffer_status,
    })  # fmt: skip


async def count(store: Store) -> Counts:
    """By category: events in all, of today and of this hour. Raises StoreError."""
    return await store.query(STATS_SQL, {"now_us": time.time_ns() // 1000})


def _merge_buffers(answers: PeerAnswers) -> dict[str, object]:
    buffers = [*answers.known.values(), *answers.silent.values()]
    added = ("buffer_size", "events_pending", "events_flushed_total")
    return {
        **answers.known[answers.asked],
        **{name: sum(one[name] for one in buffers) for name in added},
        "last_flush": max((one["last_flush"] for one in buffers if one["last_flush"]), default=None),
    }


def buffer_query(writer: BatchWriter, flusher: Flusher, data: Path, worker: Worker) -> PeerQuery:
    """The state of the buffer before the table. For a worker that does not answer, it is read from disk."""

    def own() -> dict[str, object]:
        return {
            "buffer_size": writer.open_rows,
            "max_buffer_size": writer.limits.batch_rows,
            "flush_interval_seconds": writer.limits.flush_interval,
            "last_flush": _time(flusher.totals.last_flush),
            "events_pending": writer.open_rows + flusher.pending_rows,
            "events_flushed_total": flusher.totals.flushed,
        }

    def on_disk(number: int) -> dict[str, object]:
        totals = Totals(data, Worker(number, worker.count))
        pending = rows_in(spool_of(data, number))
        found = {"events_pending": pending, "events_flushed_total": totals.flushed}
        return {"buffer_size": 0, "last_flush": _time(totals.last_flush), **found}

    return PeerQuery(own, _merge_buffers, on_disk)


def _time(flushed: datetime | None) -> str | None:
    return None if flushed is None else iso(flushed)
