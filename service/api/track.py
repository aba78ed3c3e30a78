"""Events in: validate, make durable, acknowledge."""

import re
import time
from collections.abc import Set
from datetime import UTC, datetime
from functools import lru_cache

from aiohttp import web

from schemas.parse import ParsedBatch, parse_batch, parse_batch_leniently, parse_event
from schemas.refusals import ErrorItem
from schemas.rows import derive_event_id, id_text, make_rows
from service.api.auth import authorize
from service.api.body import read_body
from service.api.respond import json_response
from service.errors import BadRequest, SpoolFull
from service.ratelimit import RateLimit
from service.writer import BatchWriter

WRITER: web.AppKey[BatchWriter] = web.AppKey("writer", BatchWriter)
RATE_LIMIT: web.AppKey[RateLimit | None] = web.AppKey("rate_limit")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")


async def track_event(request: web.Request) -> web.Response:
    """One event, kept when this returns 200."""
    token, body, now = await _receive(request)
    batch = ParsedBatch([parse_event(body)])
    writer = request.app[WRITER]
    if batch.events[0].priority in writer.shed_priorities():
        raise SpoolFull(retry_after=writer.seconds_to_room())
    rows = make_rows(batch, source=token, received_at=now, derived_ids=_derived_ids(request, token, [0]))
    _count(request, token, 1)
    await writer.add(rows, len(body))
    event_id = id_text(rows[0][0])
    return json_response({"success": True, "event_id": event_id, "message": "Event accepted", "timestamp": _iso(now)})


async def track_batch(request: web.Request) -> web.Response:
    """Up to 100 events, all kept when this returns 200; with ``Prefer: handling=lenient``, the valid ones.

    Near the spool's cap, those of the priorities that are still taken.
    """
    token, body, now = await _receive(request)
    lenient = _prefers_lenient(request)
    batch, errors = parse_batch_leniently(body) if lenient else (parse_batch(body), [])
    invalid = {item["loc"][2] for item in errors}
    received = len(batch.events) + len(invalid)
    places = [place for place in range(received) if place not in invalid]
    headers = {"Preference-Applied": "handling=lenient"} if lenient else {}
    writer = request.app[WRITER]
    if shed := writer.shed_priorities():
        retry_after = SpoolFull(retry_after=writer.seconds_to_room())
        places, refused = _shed(batch, places, shed)
        if refused and not places:
            raise retry_after
        if refused:
            errors += refused
            headers |= retry_after.headers
    if places:
        ids = _derived_ids(request, token, places)
        _count(request, token, len(places))
        await writer.add(make_rows(batch, source=token, received_at=now, derived_ids=ids), len(body))
    failed = received - len(places)
    ack = {
        "success": bool(places),
        "events_received": received,
        "events_queued": len(places),
        "events_failed": failed,
        "message": f"{failed} of {received} events were not taken" if failed else "Batch accepted",
        "timestamp": _iso(now),
    }
    return json_response(ack | ({"errors": errors} if errors else {}), headers=headers)


async def _receive(request: web.Request) -> tuple[str, bytes, int]:
    """The name of the token, the body, and the time in µs since 1970. Raises RequestError."""
    name = authorize(request, "write").name
    if limit := request.app[RATE_LIMIT]:
        limit.check(name)
    return name, await read_body(request), time.time_ns() // 1000


def _count(request: web.Request, name: str, events: int) -> None:
    if limit := request.app[RATE_LIMIT]:
        limit.take(name, events)


def _shed(batch: ParsedBatch, places: list[int], shed: Set[str]) -> tuple[list[int], list[ErrorItem]]:
    """Take the events of these priorities out of the batch; the places of the others, and why these were refused."""
    kept, errors = [], []
    for event, place in zip(batch.events, places, strict=True):
        if event.priority in shed:
            reason = f"The spool is nearly full, and events of priority {event.priority} are not taken"
            errors.append({"type": "shed", "loc": ["body", "events", place], "msg": reason, "input": event.priority})
        else:
            kept.append(place)
    batch.events = [event for event in batch.events if event.priority not in shed]
    return kept, errors


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
    return _iso_of_millisecond(microseconds // 1000)


@lru_cache(maxsize=256)  # under load many requests share a millisecond
def _iso_of_millisecond(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1e3, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
