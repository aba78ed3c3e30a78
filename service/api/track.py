"""Events in: validate, make durable, acknowledge."""

import time
import uuid
from datetime import UTC, datetime

from aiohttp import web

from schemas.parse import ParsedBatch, parse_batch, parse_batch_leniently, parse_event
from schemas.rows import make_rows
from service.api.auth import authorize
from service.api.body import read_body
from service.api.respond import json_response
from service.writer import BatchWriter

WRITER: web.AppKey[BatchWriter] = web.AppKey("writer", BatchWriter)


async def track_event(request: web.Request) -> web.Response:
    """One event, kept when this returns 200."""
    token = authorize(request, "write")
    body = await read_body(request)
    now = time.time_ns() // 1000
    rows = make_rows(ParsedBatch([parse_event(body)]), source=token.name, received_at=now)
    await request.app[WRITER].add(rows, len(body))
    event_id = str(uuid.UUID(bytes=rows[0][0]))
    return json_response({"success": True, "event_id": event_id, "message": "Event accepted", "timestamp": _iso(now)})


async def track_batch(request: web.Request) -> web.Response:
    """Up to 100 events, all kept when this returns 200; with ``Prefer: handling=lenient``, the valid ones."""
    token = authorize(request, "write")
    body = await read_body(request)
    now = time.time_ns() // 1000
    lenient = _prefers_lenient(request)
    batch, errors = parse_batch_leniently(body) if lenient else (parse_batch(body), [])
    if batch.events:
        await request.app[WRITER].add(make_rows(batch, source=token.name, received_at=now), len(body))
    queued, failed = len(batch.events), len({item["loc"][2] for item in errors})
    ack = {
        "success": queued > 0,
        "events_received": queued + failed,
        "events_queued": queued,
        "events_failed": failed,
        "message": "Batch accepted" if not failed else f"{failed} of {queued + failed} events are not valid",
        "timestamp": _iso(now),
    }
    if errors:
        ack["errors"] = errors
    response = json_response(ack)
    if lenient:
        response.headers["Preference-Applied"] = "handling=lenient"
    return response


def _prefers_lenient(request: web.Request) -> bool:
    """Whether the request has the preference handling=lenient (RFC 7240); of one given twice the first counts."""
    for header in request.headers.getall("Prefer", ()):
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "handling":
                return value.strip().strip('"').lower() == "lenient"
    return False


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
