"""Can an event sent now be kept? The answer comes from memory: neither the disk nor ClickHouse is asked."""

import asyncio
import time
from typing import Any

from aiohttp import web

from schemas.times import iso
from service import __version__
from service.edge.auth import authorize
from service.edge.context import CONTEXT
from service.edge.responses import json_response
from service.errors import Forbidden, Stopping, Unauthorized
from service.pipeline.writer import BatchWriter
from service.spool.quarantine import Quarantine
from service.store.store import Store
from service.telemetry.peers import PeerAnswers, PeerQuery
from service.telemetry.status import Status


async def get_health(request: web.Request) -> web.Response:
    """200 while an event sent now can be kept, with or without ClickHouse; else 503. Warnings for readers."""
    health = dict(await request.app[CONTEXT].peers.ask("health"))
    warnings = health.pop("warnings")
    if warnings and _may_read(request):
        health["warnings"] = warnings
    return _answer(health, failing=health["status"] == "failing")


def _may_read(request: web.Request) -> bool:
    try:
        authorize(request, "read")
    except (Unauthorized, Forbidden):
        return False
    return True


async def get_livez(request: web.Request) -> web.Response:
    """200 while the process answers: a restart would not free a full disk."""
    return _answer({"status": "ok", "reason": None}, failing=False)


async def get_readyz(request: web.Request) -> web.Response:
    """200 while an event sent now can be kept; else 503, so that events go elsewhere."""
    health = await request.app[CONTEXT].peers.ask("health")
    failing = health["status"] == "failing"
    reason = health["spool"]["reason"] if failing else None
    return _answer({"status": "failing" if failing else "ok", "reason": reason}, failing=failing)


def health_query(
    writer: BatchWriter,
    store: Store,
    quarantine: Quarantine,
    spool: Status,
    clickhouse: Status,
    *,
    leaving: asyncio.Event,
) -> PeerQuery:
    """The health of each worker, and of all together. ``spool`` and ``clickhouse`` say whether those work."""
    started_at = time.monotonic()

    def own() -> dict[str, Any]:
        reason = str(Stopping.detail) if leaving.is_set() else writer.unavailable_reason()
        shed = writer.shed_priorities()
        nearly = f"nearly full: events of priority {' and '.join(sorted(shed))} are not taken" if shed else None
        return {
            "status": "failing" if reason else "ok" if clickhouse.ok and not shed else "degraded",
            "version": __version__,
            "uptime_seconds": round(time.monotonic() - started_at, 3),
            "spool": _part(spool, reason or nearly),
            "clickhouse": _part(clickhouse, None if clickhouse.ok else clickhouse.reason),
            "quarantine": quarantine.size._asdict(),
            "warnings": list(store.warnings),
        }

    return PeerQuery(own, merge_health)


def merge_health(answers: PeerAnswers) -> dict[str, Any]:
    """Failing only if every worker is: what one refuses, another may take. All share one quarantine."""
    found: dict[int, dict[str, Any]] = answers.known
    statuses = {one["status"] for one in found.values()}
    [status] = statuses if len(statuses) == 1 else ["degraded"]
    if len(found) == 1 and not answers.silent:
        return found[answers.asked]
    return {
        **found[answers.asked],
        "status": "degraded" if status == "ok" and answers.silent else status,
        "uptime_seconds": max(one["uptime_seconds"] for one in found.values()),
        **{
            part: _merge_parts({number: one[part] for number, one in found.items()}) for part in ("spool", "clickhouse")
        },
        "warnings": sorted({warning for one in found.values() for warning in one["warnings"]}),
        "workers": {"answering": len(found), "silent": list(answers.silent)},
    }


def _merge_parts(parts: dict[int, dict[str, Any]]) -> dict[str, Any]:
    failing = {number: one for number, one in parts.items() if not one["ok"]}
    if not failing:
        return {"ok": True, "since": max(one["since"] for one in parts.values()), "reason": None}
    by_reason: dict[str, list[str]] = {}
    for number, one in failing.items():
        by_reason.setdefault(one["reason"], []).append(str(number))
    if len(failing) == len(parts) and len(by_reason) == 1:
        [reason] = by_reason
    else:
        reason = "; ".join(f"worker {', '.join(numbers)}: {text}" for text, numbers in by_reason.items())
    return {"ok": False, "since": min(one["since"] for one in failing.values()), "reason": reason}


def _part(status: Status, reason: str | None) -> dict[str, Any]:
    return {"ok": reason is None, "since": iso(status.since), "reason": reason}


def _answer(value: dict[str, Any], *, failing: bool) -> web.Response:
    return json_response(value, 503 if failing else 200, {"Retry-After": "5"} if failing else None)
