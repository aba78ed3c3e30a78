"""Values and errors → JSON answers."""

import json
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from service.errors import RequestError

#: Of every answer but files: whose it is, that it is not to be kept, and that its type is not to be guessed.
_HEADERS = CIMultiDict({
    "Content-Type": "application/json",
    "Server": "analytics",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
})  # fmt: skip


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer with ``value`` as its body."""
    try:
        body = orjson.dumps(value)
    except TypeError:  # an echoed input may hold integers beyond 64 bits
        body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    response = web.Response(status=status, body=body, headers=_HEADERS)
    if headers:
        response.headers.update(headers)
    return response


def error_response(error: RequestError) -> web.Response:
    """The contract's error body, with the error's status and headers."""
    response = json_response({"detail": error.detail}, error.status, error.headers)
    if error.closes:
        response.force_close()
    return response
