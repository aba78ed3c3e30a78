"""Turns values and errors into JSON answers with their heads."""

import json
import os
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from itertools import count
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from service.errors import RequestError

REQUEST_ID = "X-Request-ID"
#: For every answer but files: who answers, that caches must not keep it, and that browsers must not guess its type.
_HEADERS = CIMultiDict({
    "Content-Type": "application/json",
    "Server": "analytics",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
})  # fmt: skip
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_prefix, _numbers = os.urandom(6).hex(), count(1)


def request_id_of(given: str | None) -> str:
    """The id of a request: the client's own if it is safe in a log, else a new one."""
    return given if given and _GIVEN_ID.fullmatch(given) else f"{_prefix}-{next(_numbers):x}"


def json_body(value: Any) -> bytes:
    """``value`` as JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an echoed input may have integers beyond 64 bits
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer with ``value`` as its body."""
    return body_response(json_body(value), status, headers)


def body_response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer with ready-made JSON."""
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


def answer_bytes(body: bytes, request_id: str, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of ``body_response`` on the wire, for answers that aiohttp does not write."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) if headers else ""
    head = f"{_head(status, int(time.time()))}{len(body)}\r\n{more}{REQUEST_ID}: {request_id}\r\n\r\n"
    return head.encode() + body


@lru_cache(maxsize=16)
def _head(status: int, second: int) -> str:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))  # in the C locale: nothing sets another
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {one}" for name, one in _HEADERS.items())]
    return "\r\n".join([*lines, f"Date: {date}", "Content-Length: "])
