"""The heads of POSTs that bring events, read without aiohttp.

A head becomes a ``Head`` only if everything in it is ordinary: HTTP/1.1 on a kept connection, a known token that may
write, one Content-Length, no header twice, and none that changes how the body is framed or packed. An offer to upgrade
is ignored, as service/edge/framing.py ignores it for aiohttp. Everything else is left to aiohttp, which words the
refusals. So no rule exists twice: this module reads a subset of what aiohttp takes, and a test checks that both
understand it alike.

A client sends the same head again and again, except for the body's length: so heads are remembered.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from service.edge.access_tokens import AccessToken
from service.edge.auth import check_origin, token_with_scope
from service.edge.cors import Cors
from service.edge.responses import request_id_of
from service.errors import RequestError

IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
#: How many heads we remember, and how long each may be: at most 4 MB in all, and only from clients with a token.
REMEMBERED, REMEMBERED_MAX_BYTES = 4096, 1024
_HEADERS_MAX, _NAME_MAX_BYTES, _VALUE_MAX_BYTES = 60, 100, 4000
#: The bytes that a name and a value may have. We use no regular expression: with optional blanks at both ends of a
#: value, it would try every way to divide them.
_NAME = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUE = bytes(byte for byte in range(256) if byte == ord("\t") or (byte >= ord(" ") and byte != 0x7F))
_LENGTH = re.compile(rb"\d{1,10}")
#: Headers that change how the request must be read; aiohttp serves clients that send these.
_NOT_HERE = (b"transfer-encoding", b"content-encoding", b"expect", b"te", b"trailer")
#: Headers that say whether the client keeps the connection; aiohttp's parser treats both alike. These options keep it;
#: any other is left to aiohttp.
_CONNECTION = (b"connection", b"proxy-connection")
_KEPT = {b"keep-alive", b"upgrade", b"http2-settings", b""}
#: Headers that differ in each request, so that remembering the head would be useless.
_EACH_ITS_OWN = (b"idempotency-key", b"x-request-id", b"traceparent")


class Head(NamedTuple):
    """What a head says: whether a single event or a batch follows, in how many bytes, from whom, and how to take it.

    ``headers`` are for every answer: what a browser needs if a page of another origin asks.
    """

    single: bool
    length: int
    source: str
    key: str | None
    lenient: bool
    request_id: str | None
    headers: Mapping[str, str] = {}


class Heads:
    """Reads heads. ``routes`` are the paths of events: True for a single one, False for a batch."""

    def __init__(
        self, routes: Mapping[str, bool], tokens: Mapping[bytes, AccessToken], cors: Cors | None = None
    ) -> None:
        self._routes = {f"POST {path} HTTP/1.1".encode(): single for path, single in routes.items()}
        self._tokens = tokens
        self._cors = cors or Cors()
        self._remembered: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head | None:
        """Read a head without the empty line at its end; None if it is not for us."""
        if head := self._remembered.get(block):
            return head
        first, *lines = block.split(b"\r\n")
        single = self._routes.get(first)
        headers = _headers(lines)
        if single is None or headers is None:
            return None
        head = self._head(single, headers)
        if head and len(block) <= REMEMBERED_MAX_BYTES and not any(name in headers for name in _EACH_ITS_OWN):
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[block] = head
        return head

    def _head(self, single: bool, headers: dict[bytes, bytes]) -> Head | None:
        length = headers.get(b"content-length", b"")
        if b"host" not in headers or not all(_is_kept(headers[name]) for name in _CONNECTION if name in headers):
            return None
        if not _LENGTH.fullmatch(length) or any(name in headers for name in _NOT_HERE):
            return None
        try:
            token = token_with_scope(self._tokens, _text(headers.get(b"authorization", b"")), "write")
            origin = _text(headers[b"origin"]) if b"origin" in headers else None
            if origin is not None:
                check_origin(token, [origin])
        except RequestError:
            return None
        key = headers.get(b"idempotency-key")
        if key is not None and not IDEMPOTENCY_KEY.fullmatch(_text(key)):
            return None
        return Head(
            single,
            int(length),
            token.name,
            None if key is None else _text(key),
            prefers_lenient([_text(headers[b"prefer"])]) if b"prefer" in headers else False,
            request_id_of(_text(headers[b"x-request-id"])) if b"x-request-id" in headers else None,
            self._cors.headers(origin),
        )


def _headers(lines: list[bytes]) -> dict[bytes, bytes] | None:
    """The values by name in lower case; None if a header occurs twice or is malformed."""
    if len(lines) > _HEADERS_MAX:
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not (colon and 0 < len(name) <= _NAME_MAX_BYTES and len(value) <= _VALUE_MAX_BYTES):
            return None
        if name.translate(None, _NAME) or value.translate(None, _VALUE):
            return None
        headers[name.lower()] = value
    return headers if len(headers) == len(lines) else None


def _is_kept(options: bytes) -> bool:
    return all(option.strip(b" \t") in _KEPT for option in options.lower().split(b","))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")  # as aiohttp does


def prefers_lenient(prefer: Iterable[str]) -> bool:
    """Whether these headers have the preference handling=lenient (RFC 7240); the first one counts."""
    for header in prefer:
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "handling":
                return value.strip().strip('"').lower() == "lenient"
    return False
