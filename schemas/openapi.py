"""``/openapi.json``: made from the pydantic models, so that it always agrees with the code."""

from typing import Any

from pydantic.json_schema import models_json_schema

from schemas.events import PREFIX, Event, EventBatch
from schemas.responses import (
    Activity,
    BatchAck,
    ErrorBody,
    EventAck,
    Health,
    Loss,
    Pipeline,
    Probe,
    Refusals,
    Stats,
    ValidationErrorBody,
)
from schemas.routes import ROUTES

#: The version of the contract that the routes keep (``tests/contract/openapi.json``).
CONTRACT_VERSION = "1.0.0"
_MODELS = (
    *(Event, EventBatch, EventAck, BatchAck, Stats, Activity, Pipeline, Refusals, Loss),
    *(ValidationErrorBody, ErrorBody, Health, Probe),
)
_Security = list[dict[str, list[str]]]
_IN_ADDRESS: _Security = [{"BeaconToken": []}]
_BEARER: _Security = [{"HTTPBearer": []}]
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`handling=lenient` keeps the valid events of a batch and lists the others in `errors` (RFC 7240)",
    "schema": {"type": "string"},
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes sending the same request again safe where its events have no `event_id`",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_SESSION = {
    "name": "session_id",
    "in": "query",
    "required": True,
    "description": "The session",
    "schema": {"type": "string", "minLength": 1},
}
_SPAN = {
    "name": "span",
    "in": "query",
    "required": False,
    "description": "How far back",
    "schema": {"type": "string", "enum": ["1h", "24h"], "default": "1h"},
}
_INVALID = ("ValidationErrorBody", "The body is not valid; nothing of it was kept")
_ERRORS: dict[int, tuple[str, str]] = {
    400: ("ErrorBody", "The Content-Encoding is broken, or the Idempotency-Key is malformed"),
    401: ("ErrorBody", "No token, or an unknown one"),
    403: ("ErrorBody", "The token lacks the scope"),
    408: ("ErrorBody", "The body did not arrive in time"),
    413: ("ErrorBody", "The body is too large, as sent or unpacked"),
    415: ("ErrorBody", "A Content-Encoding that is not supported"),
    429: ("ErrorBody", "The token sends more events a second than it may; send the same again after Retry-After"),
    503: ("ErrorBody", "No promise was made: send the same again after Retry-After seconds"),
}


def document(version: str, prefix: str = PREFIX) -> dict[str, Any]:
    """The OpenAPI 3.1 document of this version of the service, its routes under ``prefix``."""
    _, schemas = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_ref("{model}"))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.under(prefix), {})[route.method.lower()] = _OPERATIONS[route.operation]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Analytics",
            "version": version,
            "description": "Platform analytics: events in, counts out.",
            "x-contract-version": CONTRACT_VERSION,
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "HTTPBearer": {"type": "http", "scheme": "bearer"},
                "BeaconToken": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


def _post(summary: str, body: str, ack: str, **more: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _ref(body)}}}
    answers = {200: (ack, "OK"), 422: _INVALID} | _ERRORS
    return _operation(summary, answers, **{"requestBody": {"required": True, "content": content}} | more)


def _get(summary: str, answers: dict[int, tuple[str, str]], *refusals: int, **more: Any) -> dict[str, Any]:
    """A route that needs the scope read."""
    return _operation(summary, answers | {status: _ERRORS[status] for status in refusals}, **more)


def _operation(
    summary: str, answers: dict[int, tuple[str, str]], security: _Security | None = _BEARER, **more: Any
) -> dict[str, Any]:
    responses = {
        str(status): {"description": text, "content": {"application/json": {"schema": _object(model)}}}
        for status, (model, text) in sorted(answers.items())
    }
    secured = {"security": security} if security else {}
    return {"tags": ["Analytics"], "summary": summary, **secured, **more, "responses": responses}


def _probes(model: str) -> dict[int, tuple[str, str]]:
    return {200: (model, "OK"), 503: (model, "An event sent now can't be kept")}


def _object(model: str) -> dict[str, Any]:
    # the contract says only that health is an object
    return ({"type": "object"} if model == "Health" else {}) | {"$ref": _ref(model)}


def _ref(model: str) -> str:
    return f"#/components/schemas/{model}"


_OPERATIONS: dict[str, dict[str, Any]] = {
    "track_event": _post("Track Event", "Event", "EventAck", parameters=[_KEY]),
    "track_batch": _post("Track Batch", "EventBatch", "BatchAck", parameters=[_PREFER, _KEY]),
    "track_beacon": _post(
        "Track Batch As A Page Is Closed", "EventBatch", "BatchAck", parameters=[_KEY], security=_IN_ADDRESS
    ),
    "get_stats": _get("Get Analytics Stats", {200: ("Stats", "OK")}, 401, 403, 503),
    "get_activity": _get(
        "Get Events Of The Last Hour Or Day",
        {200: ("Activity", "OK"), 422: ("ValidationErrorBody", "Another span")},
        *(401, 403, 503),
        parameters=[_SPAN],
    ),
    "get_pipeline": _get("Get Events On Their Way To The Table", {200: ("Pipeline", "OK")}, 401, 403),
    "get_refusals": _get("Get Recent Refusals", {200: ("Refusals", "OK")}, 401, 403),
    "get_loss": _get(
        "Get Loss Of A Session",
        {200: ("Loss", "OK"), 422: ("ValidationErrorBody", "No session_id")},
        *(401, 403, 503),
        parameters=[_SESSION],
    ),
    "get_health": _operation("Analytics Health", _probes("Health"), None),
    "get_livez": _operation("Liveness", {200: ("Probe", "The process answers")}, None),
    "get_readyz": _operation("Readiness", _probes("Probe"), None),
}
for _name, _described in _OPERATIONS.items():
    _described["operationId"] = _name
