"""Recent events by time and category, and their most frequent names."""

import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from aiohttp import web

from schemas.statements import statement
from schemas.times import iso
from schemas.validation_errors import Invalid
from service.edge.auth import authorize
from service.edge.context import CONTEXT
from service.edge.responses import body_response, json_body
from service.errors import StoreError, StoreUnavailable
from service.store.store import Store
from service.telemetry.single_flight import CachedFlight

ACTIVITY_SQL, TOP_NAMES_SQL = statement("activity"), statement("top_names")
#: An answer is kept for so many seconds, and for so many times the duration of its queries.
KEPT_SECONDS, KEPT_TIMES = 2.0, 20.0
#: A part of the error message, in FastAPI's words.
_EXPECTED = "'1h' or '24h'"


class Span(NamedTuple):
    """How far back, and in which steps; both in seconds."""

    seconds: int
    bucket_seconds: int


SPANS: Mapping[str, Span] = {"1h": Span(3600, 60), "24h": Span(86_400, 900)}


def activities(store: Store) -> dict[str, CachedFlight[bytes]]:
    """The answer for each span, kept for a while."""
    return {name: CachedFlight(partial(_answer, store, name), seconds=KEPT_SECONDS, times=KEPT_TIMES) for name in SPANS}


async def get_activity(request: web.Request) -> web.Response:
    """The counts of the span in the query string, at most moments old."""
    authorize(request, "read")
    span = request.query.get("span", "1h")
    if span not in SPANS:
        message = f"Input should be {_EXPECTED}"
        fault = {"loc": ["query", "span"], "input": span, "ctx": {"expected": _EXPECTED}}
        raise Invalid([{"type": "literal_error", "msg": message} | fault])
    try:
        return body_response(await request.app[CONTEXT].activities[span]())
    except StoreError:
        raise StoreUnavailable from None


async def _answer(store: Store, name: str) -> bytes:
    return json_body(await activity(store, name, time.time_ns() // 1000))


async def activity(store: Store, name: str, now_us: int) -> dict[str, object]:
    """The span that ends at ``now_us`` (µs since 1970), by bucket. Raises StoreError.

    Buckets begin at whole multiples of their length; the last one is the current one, and not over yet.
    """
    seconds, bucket_seconds = SPANS[name]
    bucket_us = bucket_seconds * 1_000_000
    start_us = now_us // bucket_us * bucket_us - seconds * 1_000_000 + bucket_us
    parameters = {"start_us": start_us, "now_us": now_us}
    rows = await store.query(ACTIVITY_SQL, parameters | {"bucket_us": bucket_us})
    names = await store.query(TOP_NAMES_SQL, parameters)
    by_category: dict[str, list[int]] = {}
    for category, bucket, events in rows:
        by_category.setdefault(category, [0] * (seconds // bucket_seconds))[bucket] = events
    return {
        "as_of": iso(now_us),
        "span": name,
        "start": iso(start_us),
        "bucket_seconds": bucket_seconds,
        "total_events": sum(events for _, _, events in rows),
        "events_by_category": by_category,
        "top_names": [{"event_name": event_name, "events": events} for event_name, events in names],
    }
