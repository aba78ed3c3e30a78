"""Can an event sent now be kept? From what is known already: no question is put to disk or ClickHouse."""

import time
from typing import Any, NamedTuple

from aiohttp import web

from service import __version__
from service.api.respond import json_response
from service.api.stats import iso
from service.api.track import WRITER
from service.quarantine import Quarantine
from service.status import Status


class Parts(NamedTuple):
    """The states that health speaks of, and when the service started, in seconds on the monotonic clock."""

    spool: Status
    clickhouse: Status
    quarantine: Quarantine
    started_at: float


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)


async def get_health(request: web.Request) -> web.Response:
    """200 while an event sent now can be kept, with or without ClickHouse; else 503."""
    spool, clickhouse, quarantine, started_at = request.app[PARTS]
    refusal, shed = request.app[WRITER].refusal(), request.app[WRITER].shed_priorities()
    status = "failing" if refusal else "ok" if clickhouse.ok and not shed else "degraded"
    nearly = f"nearly full: events of priority {' and '.join(sorted(shed))} are not taken" if shed else None
    return _answer(
        {
            "status": status,
            "version": __version__,
            "uptime_seconds": round(time.monotonic() - started_at, 3),
            "spool": _part(spool, refusal or nearly),
            "clickhouse": _part(clickhouse, None if clickhouse.ok else clickhouse.reason),
            "quarantine": quarantine.held._asdict(),
        },
        failing=bool(refusal),
    )


async def get_livez(request: web.Request) -> web.Response:
    """200 while the process answers: a restart would not help a full disk."""
    return _answer({"status": "ok", "reason": None}, failing=False)


async def get_readyz(request: web.Request) -> web.Response:
    """200 while an event sent now can be kept; else 503, so that none is sent here."""
    refusal = request.app[WRITER].refusal()
    return _answer({"status": "failing" if refusal else "ok", "reason": refusal}, failing=bool(refusal))


def _part(status: Status, reason: str | None) -> dict[str, Any]:
    return {"ok": reason is None, "since": iso(status.since), "reason": reason}


def _answer(value: dict[str, Any], *, failing: bool) -> web.Response:
    return json_response(value, 503 if failing else 200, {"Retry-After": "5"} if failing else None)
