"""``/openapi.json``: made from the pydantic models, so that it can't say what the code does not do."""

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

_MODELS = (
    *(Event, EventBatch, EventAck, BatchAck, Stats, Activity, Pipeline, Refusals, Loss),
    *(ValidationErrorBody, ErrorBody, Health, Probe),
)
_IN_ADDRESS: list[dict[str, list[str]]] = [{"BeaconToken": []}]
_BEARER: list[dict[str, list[str]]] = [{"HTTPBearer": []}]
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
_REFUSALS: dict[int, tuple[str, str]] = {
    400: ("ErrorBody", "The Content-Encoding is broken, or the Idempotency-Key is none"),
    401: ("ErrorBody", "No token, or one that is not known"),
    403: ("ErrorBody", "The token lacks the scope"),
    408: ("ErrorBody", "The body did not arrive in time"),
    413: ("ErrorBody", "The body is too large, as sent or unpacked"),
    415: ("ErrorBody", "A Content-Encoding that is not taken"),
    429: ("ErrorBody", "The token sends more events a second than it may; send the same again after Retry-After"),
    503: ("ErrorBody", "No promise was made: send the same again after Retry-After seconds"),
}


def document(version: str, prefix: str = PREFIX) -> dict[str, Any]:
    """The OpenAPI 3.1 document of this version of the service, its routes under ``prefix``."""
    _, schemas = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_ref("{model}"))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Analytics",
            "version": "1.0.0",
            "description": "Platform analytics: events in, counts out.",
            "x-service-version": version,
        },
        "paths": {
            prefix: {"post": _post("track_event", "Track Event", "Event", "EventAck", parameters=[_KEY])},
            f"{prefix}/batch": {
                "post": _post("track_batch", "Track Batch", "EventBatch", "BatchAck", parameters=[_PREFER, _KEY])
            },
            f"{prefix}/beacon": {
                "post": _post(
                    "track_beacon",
                    "Track Batch As A Page Is Closed",
                    "EventBatch",
                    "BatchAck",
                    parameters=[_KEY],
                    security=_IN_ADDRESS,
                )
            },
            f"{prefix}/stats": {
                "get": _operation(
                    "get_stats", "Get Analytics Stats", {200: ("Stats", "OK")} | _some(401, 403, 503), security=_BEARER
                )
            },
            f"{prefix}/activity": {
                "get": _operation(
                    "get_activity",
                    "Get Events Of The Last Hour Or Day",
                    {200: ("Activity", "OK"), 422: ("ValidationErrorBody", "Another span")} | _some(401, 403, 503),
                    security=_BEARER,
                    parameters=[_SPAN],
                )
            },
            f"{prefix}/pipeline": {
                "get": _operation(
                    "get_pipeline",
                    "Get What Is On Its Way To The Table",
                    {200: ("Pipeline", "OK")} | _some(401, 403),
                    security=_BEARER,
                )
            },
            f"{prefix}/refusals": {
                "get": _operation(
                    "get_refusals",
                    "Get Refusals Of Late",
                    {200: ("Refusals", "OK")} | _some(401, 403),
                    security=_BEARER,
                )
            },
            f"{prefix}/loss": {
                "get": _operation(
                    "get_loss",
                    "Get Loss Of A Session",
                    {200: ("Loss", "OK"), 422: ("ValidationErrorBody", "No session_id")} | _some(401, 403, 503),
                    security=_BEARER,
                    parameters=[_SESSION],
                )
            },
            f"{prefix}/health": {"get": _operation("get_health", "Analytics Health", _probes("Health"))},
            "/livez": {"get": _operation("get_livez", "Liveness", {200: ("Probe", "The process answers")})},
            "/readyz": {"get": _operation("get_readyz", "Readiness", _probes("Probe"))},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "HTTPBearer": {"type": "http", "scheme": "bearer"},
                "BeaconToken": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


def _post(operation: str, summary: str, body: str, ack: str, **more: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _ref(body)}}}
    answers = {200: (ack, "OK"), 422: _INVALID} | _REFUSALS
    return _operation(
        operation,
        summary,
        answers,
        **{"security": _BEARER, "requestBody": {"required": True, "content": content}} | more,
    )


def _operation(operation: str, summary: str, answers: dict[int, tuple[str, str]], **more: Any) -> dict[str, Any]:
    responses = {
        str(status): {"description": text, "content": {"application/json": {"schema": _object(model)}}}
        for status, (model, text) in sorted(answers.items())
    }
    return {"operationId": operation, "tags": ["Analytics"], "summary": summary, **more, "responses": responses}


def _some(*statuses: int) -> dict[int, tuple[str, str]]:
    return {status: _REFUSALS[status] for status in statuses}


def _probes(model: str) -> dict[int, tuple[str, str]]:
    return {200: (model, "OK"), 503: (model, "An event sent now can't be kept")}


def _object(model: str) -> dict[str, Any]:
    # the contract says of health no more than that it is an object
    return ({"type": "object"} if model == "Health" else {}) | {"$ref": _ref(model)}


def _ref(model: str) -> str:
    return f"#/components/schemas/{model}"
