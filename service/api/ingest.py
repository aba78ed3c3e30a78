"""Events in: validate, make durable, acknowledge."""

from aiohttp import web

from schemas.parse import parse_batch_leniently, parse_event
from schemas.validation_errors import Invalid
from service.edge.auth import authorize, authorize_by_address
from service.edge.body import read_body
from service.edge.context import CONTEXT
from service.edge.request_head import IDEMPOTENCY_KEY, prefers_lenient
from service.edge.responses import json_response
from service.errors import BadRequest
from service.pipeline.intake import Accepted, batch_parser
from service.telemetry.refusals import partly


async def track_event(request: web.Request) -> web.Response:
    """One event, kept when this returns 200."""
    source = authorize(request, "write").name
    body, key = await _receive(request, source)
    intake = request.app[CONTEXT].intake
    event = await intake.parse(parse_event, body)
    return await _keep(request, source, intake.accept_event(source, event, key), len(body))


async def track_batch(request: web.Request) -> web.Response:
    """Up to 100 events, all kept when this returns 200; with ``Prefer: handling=lenient``, the valid ones."""
    source = authorize(request, "write").name
    body, key = await _receive(request, source)
    lenient = prefers_lenient(request.headers.getall("Prefer", ()))
    intake = request.app[CONTEXT].intake
    batch, errors = await intake.parse(batch_parser(lenient), body)
    return await _keep(request, source, intake.accept_batch(source, batch, errors, key, lenient=lenient), len(body))


async def track_beacon(request: web.Request) -> web.Response:
    """A batch that a page sends as it closes, with its token in the URL: the valid events are kept.

    Nobody reads the answer, so nobody could correct the others and send them again.
    """
    source = authorize_by_address(request).name
    body, key = await _receive(request, source)
    intake = request.app[CONTEXT].intake
    batch, errors = await intake.parse(parse_batch_leniently, body)
    if not batch.events:
        raise Invalid(errors)
    return await _keep(request, source, intake.accept_batch(source, batch, errors, key, lenient=True), len(body))


async def _receive(request: web.Request, source: str) -> tuple[bytes, str | None]:
    """The body and the Idempotency-Key. Raises RequestError."""
    request.app[CONTEXT].intake.check_rate(source)
    body = await read_body(request)
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key must be 1 to 255 visible ASCII characters")
    return body, key


async def _keep(request: web.Request, source: str, accepted: Accepted, size: int) -> web.Response:
    if accepted.rows:
        await request.app[CONTEXT].intake.add(source, accepted.rows, size)
    if accepted.refused:
        request.app[CONTEXT].metrics.events_not_taken(accepted.refused)
        request.app[CONTEXT].refusals.add(request.method, request.path, 200, partly(accepted.refused), source)
    return json_response(accepted.answer, headers=accepted.headers)
