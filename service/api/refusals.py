"""The route of recent refusals, of all workers."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from schemas.times import iso
from service.edge.auth import authorize
from service.edge.context import CONTEXT
from service.edge.responses import json_response
from service.telemetry.peers import PeerAnswers, PeerQuery
from service.telemetry.refusals import MOST, Refusal, Refusals, Seen


async def get_refusals(request: web.Request) -> web.Response:
    """The recent refusals of all workers, the latest first."""
    authorize(request, "read")
    return json_response({
        "as_of": iso(datetime.now(UTC)),
        "refusals": await request.app[CONTEXT].peers.ask("refusals"),
    })  # fmt: skip


def merge_refusals(answers: PeerAnswers) -> list[dict[str, Any]]:
    merged: dict[Refusal, Seen] = {}
    for entries in answers.known.values():
        for kind, seen in entries:
            refusal, new = Refusal(*kind), Seen(*seen)
            old = merged.get(refusal, new._replace(times=0))
            first_at, last_at = min(old.first_at, new.first_at), max(old.last_at, new.last_at)
            merged[refusal] = Seen(old.times + new.times, first_at, last_at)
    latest = sorted(merged.items(), key=lambda item: item[1].last_at, reverse=True)[:MOST]
    return [
        {
            **refusal._asdict(),
            "count": seen.times,
            "first_at": iso(int(seen.first_at * 1e6)),
            "last_at": iso(int(seen.last_at * 1e6)),
        }
        for refusal, seen in latest
    ]


def refusals_query(refusals: Refusals) -> PeerQuery:
    """The recent refusals of each worker, and of all together."""

    def own() -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        return [(tuple(refusal), tuple(seen)) for refusal, seen in refusals.entries()]  # plain tuples, for orjson

    return PeerQuery(own, merge_refusals)
