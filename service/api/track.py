"""Events in: validate, make durable, acknowledge."""

import re
import time
import uuid
from datetime import UTC, datetime

from aiohttp import web

from schemas.parse import ParsedBatch, parse_batch, parse_batch_leniently, parse_event
from schemas.rows import derive_event_id, make_rows
from service.api.auth import authorize
from service.api.body import read_body
from service.api.respond import json_response
from service.errors import BadRequest
from service.writer import BatchWriter

WRITER: web.AppKey[BatchWriter] = web.AppKey("writer", BatchWriter)
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")


async def track_event(request: web.Request) -> web.Response:
    """One event, kept when this returns 200."""
    token = authorize(request, "write")
    body = await read_body(request)
    now = time.time_ns() // 1000
    batch = ParsedBatch([parse_event(body)])
    rows = make_rows(batch, source=token.name, received_at=now, derived_ids=_derived_ids(request, token.name, [0]))
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
    refused = {item["loc"][2] for item in errors}
    queued, received = len(batch.events), len(batch.events) + len(refused)
    if queued:
        places = [index for index in range(received) if index not in refused]
        ids = _derived_ids(request, token.name, places)
        await request.app[WRITER].add(make_rows(batch, source=token.name, received_at=now, derived_ids=ids), len(body))
    ack = {
        "success": queued > 0,
        "events_received": received,
        "events_queued": queued,
        "events_failed": len(refused),
        "message": "Batch accepted" if not refused else f"{len(refused)} of {received} events are not valid",
        "timestamp": _iso(now),
    }
    if errors:
        ack["errors"] = errors
    response = json_response(ack)
    if lenient:
        response.headers["Preference-Applied"] = "handling=lenient"
    return response


def _derived_ids(request: web.Request, source: str, places: list[int]) -> list[bytes] | None:
    """The ids of a request with an Idempotency-Key: by it, the client's token and the places of the events."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key must be 1 to 255 visible ASCII characters")
    return [derive_event_id(source, key, place) for place in places]


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
