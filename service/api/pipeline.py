"""The events on their way to the table. The answer comes from memory: neither the disk nor ClickHouse is asked."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from schemas.times import iso
from service.edge.auth import authorize
from service.edge.context import CONTEXT
from service.edge.responses import json_response
from service.telemetry.instruments import CallbackMetric
from service.telemetry.metrics import RECENT_SECONDS, Metrics
from service.telemetry.peers import PeerAnswers, PeerQuery
from service.telemetry.recent import quantile


async def get_pipeline(request: web.Request) -> web.Response:
    """What is pending and since when, how full the spool is, and how long recent events took to become visible."""
    authorize(request, "read")
    peers = request.app[CONTEXT].peers
    buffer, found = await peers.ask("buffer"), await peers.ask("pipeline")
    return json_response({
        "as_of": iso(datetime.now(UTC)),
        "events_pending": buffer["events_pending"],
        "last_flush": buffer["last_flush"],
        **found,
    })  # fmt: skip


def pipeline_query(metrics: Metrics) -> PeerQuery:
    """What each worker has on its way to the table, and all together."""

    def own() -> dict[str, Any]:
        return {
            "oldest_pending_seconds": _now(metrics.oldest_pending),
            "spool_bytes": _now(metrics.spool_bytes),
            "spool_max_bytes": _now(metrics.spool_max_bytes),
            "visible_after": metrics.visible_recently.values(),
        }

    return PeerQuery(own, merge_pipelines)


def _now(gauge: CallbackMetric) -> float:
    return gauge.read() or 0 if gauge.read else 0


def merge_pipelines(answers: PeerAnswers) -> dict[str, Any]:
    found: list[dict[str, Any]] = list(answers.known.values())
    visible_after = [seconds for one in found for seconds in one["visible_after"]]
    return {
        "oldest_pending_seconds": round(max(one["oldest_pending_seconds"] for one in found), 3),
        "spool": {
            "bytes": sum(one["spool_bytes"] for one in found),
            "max_bytes": max(one["spool_max_bytes"] for one in found),  # one cap for all workers
        },
        "acknowledged_to_visible": {
            "p50_seconds": _rounded(quantile(visible_after, 0.5)),
            "p99_seconds": _rounded(quantile(visible_after, 0.99)),
            "batches": len(visible_after),
            "window_seconds": RECENT_SECONDS,
        },
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
