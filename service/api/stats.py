"""Counts out: one aggregate query for all who ask at a time, and the state of the buffer when they are answered."""

import time
from datetime import datetime
from importlib.resources import files

from aiohttp import web

from service.api.auth import authorize
from service.api.flight import SingleFlight
from service.api.respond import json_response
from service.api.state import STATES, Kind, States
from service.api.track import WRITER
from service.errors import StoreError, StoreUnavailable
from service.flusher import Flusher
from service.store import Store

Counts = list[tuple[str, int, int, int]]
COUNTS: web.AppKey[SingleFlight[Counts]] = web.AppKey("counts", SingleFlight)
FLUSHER: web.AppKey[Flusher] = web.AppKey("flusher", Flusher)
STATS_SQL = files("schemas").joinpath("sql", "stats.sql").read_text("utf-8")


async def get_stats(request: web.Request) -> web.Response:
    """Totals of the table by category, today and this hour."""
    authorize(request, "read")
    try:
        rows = await request.app[COUNTS]()
    except StoreError:
        raise StoreUnavailable from None
    return json_response({
        "total_events": sum(total for _, total, _, _ in rows),
        "events_by_category": {category: total for category, total, _, _ in rows},
        "events_today": sum(today for _, _, today, _ in rows),
        "events_this_hour": sum(hour for _, _, _, hour in rows),
        "buffer_status": await request.app[STATES].merged("buffer"),
    })  # fmt: skip


async def count(store: Store) -> Counts:
    """By category: events in all, of today and of this hour. Raises StoreError."""
    return await store.query(STATS_SQL, {"now_us": time.time_ns() // 1000})


def _own_buffer(app: web.Application) -> dict[str, object]:
    writer, flusher = app[WRITER], app[FLUSHER]
    return {
        "buffer_size": writer.open_rows,
        "max_buffer_size": writer.limits.batch_rows,
        "flush_interval_seconds": writer.limits.flush_interval,
        "last_flush": iso(flusher.totals.last_flush),
        "events_pending": writer.open_rows + flusher.pending_rows,
        "events_flushed_total": flusher.totals.flushed,
    }


def _merge_buffers(states: States) -> dict[str, object]:
    buffers = list(states.known.values())
    added = ("buffer_size", "events_pending", "events_flushed_total")
    return {
        **buffers[0],
        **{name: sum(one[name] for one in buffers) for name in added},
        "last_flush": max((one["last_flush"] for one in buffers if one["last_flush"]), default=None),
    }


BUFFER = Kind(_own_buffer, _merge_buffers)


def iso(time: datetime | None) -> str | None:
    """A UTC time as the contract writes it."""
    return None if time is None else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
