"""One middleware: every error becomes JSON, and internal errors show no details to clients."""

import logging
import time
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.typedefs import Handler

from schemas.validation_errors import Invalid
from service.edge.auth import name_of
from service.edge.context import CONTEXT
from service.edge.responses import REQUEST_ID, error_response, json_response, request_id_of
from service.errors import BadFraming, RequestError
from service.telemetry.refusals import reason_of

#: aiohttp's parser also accepts 0.9 and 2.0.
_VERSIONS = (HttpVersion11, HttpVersion10)
#: In the metrics: a method that HTTP does not have, and a path without a route.
UNKNOWN = "unknown"
_log = logging.getLogger(__name__)


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Call the handler; turn what it raises into an answer; give every answer the request's id."""
    connection: Any = request.protocol  # a Connection; a cast would cost a call
    connection.begin(request)
    context = request.app[CONTEXT]
    started, metrics = time.perf_counter(), context.metrics
    request_id = request_id_of(request.headers.get(REQUEST_ID))
    reason: str | None = None
    try:
        if request.version not in _VERSIONS:
            raise BadFraming("The version must be HTTP/1.1 or HTTP/1.0")
        response = await handler(request)
    except ConnectionError:
        raise  # the client is gone: nobody would get an answer
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
        response, reason = _answer(error, request, request_id)
    finally:
        connection.end()
    route = _route(request)
    metrics.requests(*route).observe(response.status, time.perf_counter() - started)
    response.headers[REQUEST_ID] = request_id
    response.headers.setdefault("Server", "analytics")  # for files, which don't come from json_response
    if (origin := request.headers.get("Origin")) is not None:
        context.cors.add_to(response, request.path, origin)
    if context.leaving.is_set():
        response.force_close()  # so that the client reconnects elsewhere, and not while we close
    elif request.method == hdrs.METH_CONNECT:
        # aiohttp drops what came with it: what comes next may begin in the middle of a request.
        response.force_close()
    if response.status >= 400:
        if reason is not None:  # otherwise it is /health or /readyz, which answer 503
            context.refusals.add(*route, response.status, reason, name_of(request))
        _log.info(
            "refused",
            extra={
                "request_id": request_id,
                "method": request.method,
                "path": request.path,  # without the query string
                "status": response.status,
            },
        )
    return response


def _plain(path: str) -> str:
    """The path in lower case, without superfluous slashes."""
    return "/".join(part for part in path.lower().split("/") if part)


def _answer(error: Exception, request: web.Request, request_id: str) -> tuple[web.Response, str]:
    """The answer for an error, and the reason for the recent refusals."""
    metrics = request.app[CONTEXT].metrics
    if isinstance(error, Invalid):
        metrics.refused(Invalid)
        return json_response({"detail": error.errors}, 422), reason_of(error.errors)
    if isinstance(error, RequestError):
        metrics.refused(type(error))
        return error_response(error), str(error.detail)
    if isinstance(error, web.HTTPException):
        kept = {name: value for name, value in error.headers.items() if name not in ("Content-Type", "Content-Length")}
        reason = _words(error, request)
        return json_response({"detail": reason}, error.status, kept), reason
    _log.error("unexpected error", exc_info=error, extra={"request_id": request_id})
    return json_response({"detail": f"Internal error; it is in the log as {request_id}"}, 500), "Internal error"


def _words(error: web.HTTPException, request: web.Request) -> str:
    """What is wrong; if the path is nearly that of a route, also that route."""
    if error.status != 404:
        return error.reason
    paths = {_plain(resource.canonical): resource.canonical for resource in request.app.router.resources()}
    meant = paths.get(_plain(request.path))
    return f"{error.reason}; the path is {meant}" if meant else error.reason


def _route(request: web.Request) -> tuple[str, str]:
    """The method and the registered path: only few exist, whatever clients make up."""
    resource = request.match_info.route.resource
    return request.method if request.method in hdrs.METH_ALL else UNKNOWN, resource.canonical if resource else UNKNOWN
