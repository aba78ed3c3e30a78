"""Which events of a session are missing, by the numbers that its client gave them."""

from aiohttp import web

from schemas.statements import statement
from schemas.validation_errors import Invalid
from service.edge.auth import authorize
from service.edge.context import CONTEXT
from service.edge.responses import json_response
from service.errors import StoreError, StoreUnavailable
from service.pipeline.flusher import Flusher
from service.pipeline.writer import BatchWriter
from service.telemetry.peers import PeerAnswers, PeerQuery

LOSS_SQL = statement("loss")


async def get_loss(request: web.Request) -> web.Response:
    """How many events of the session in the query string were sent, are stored, are missing; zeros if it is unknown."""
    authorize(request, "read")
    session_id = _session_id(request)
    # Before the query, which finds the events that are no longer pending.
    pending = await request.app[CONTEXT].peers.ask("pending")
    try:
        [(sent, stored, gaps, ranges)] = await request.app[CONTEXT].store.query(LOSS_SQL, {"session_id": session_id})
    except StoreError:
        raise StoreUnavailable from None
    return json_response({
        "session_id": session_id,
        "sent": sent,
        "stored": stored,
        "missing": sent - stored,
        "missing_ranges": [{"first": first, "last": last} for first, last in ranges],
        "missing_ranges_cut": gaps > len(ranges),
        "events_pending": pending,
    })  # fmt: skip


def pending_query(writer: BatchWriter, flusher: Flusher) -> PeerQuery:
    """The acknowledged events that ClickHouse has not confirmed."""
    return PeerQuery(lambda: writer.open_rows + flusher.pending_rows, merge_pending)


def merge_pending(answers: PeerAnswers) -> int | None:
    """The sum, or None: a worker that does not answer may hold events that we can't count, and they are not lost."""
    return None if answers.silent else sum(answers.known.values())


def _session_id(request: web.Request) -> str:
    """The parameter. Raises Invalid, in FastAPI's words."""
    fault = {"loc": ["query", "session_id"], "input": request.query.get("session_id")}
    if fault["input"] is None:
        raise Invalid([{"type": "missing", "msg": "Field required"} | fault])
    if fault["input"] == "":
        message = "String should have at least 1 character"
        raise Invalid([{"type": "string_too_short", "msg": message, "ctx": {"min_length": 1}} | fault])
    return str(fault["input"])
