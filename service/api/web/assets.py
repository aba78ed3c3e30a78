"""Files that browsers load: read and packed at the first request, and sent to a browser again only if they changed."""

import asyncio
import gzip
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from aiohttp import ETag, web

STATIC = Path(__file__).parents[2] / "static"
#: An entity tag of RFC 9110, weak or not; the group is what is between the quotes.
_TAG = re.compile(r'(?:W/)?"([!\x23-\x7e\x80-\xff]*)"')
_WEIGHT = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)


class _Loaded(NamedTuple):
    plain: bytes
    packed: bytes
    digest: str


class File:
    """A text file that is served as it is, with these headers. ``read`` is called on a thread, once."""

    def __init__(self, read: Callable[[], bytes], content_type: str, headers: Mapping[str, str]) -> None:
        self._read = read
        self._loaded: _Loaded | None = None
        self._content_type = content_type
        self._headers = {"Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff", **headers}

    async def answer(self, request: web.Request) -> web.Response:
        """The file, or 304 for a browser that has it."""
        if self._loaded is None:
            self._loaded = await asyncio.to_thread(self._load)
        file = self._loaded
        packed = prefers_gzip(",".join(request.headers.getall("Accept-Encoding", ())))
        etag = f"{file.digest}-gzip" if packed else file.digest
        response = web.Response(headers=self._headers)
        response.etag = ETag(etag)
        if has(etag, ",".join(request.headers.getall("If-None-Match", ()))):
            response.set_status(304)
            return response
        response.content_type, response.charset = self._content_type, "utf-8"
        response.body = file.packed if packed else file.plain
        if packed:
            response.headers["Content-Encoding"] = "gzip"
        return response

    def _load(self) -> _Loaded:
        content = self._read()
        return _Loaded(content, gzip.compress(content, 9, mtime=0), hashlib.sha256(content).hexdigest()[:16])


def prefers_gzip(accepted: str) -> bool:
    """Whether a client with this Accept-Encoding takes gzip, and does not prefer it unpacked (RFC 9110, 12.5.3).

    A client that takes neither gets the file unpacked, as without the header.
    """
    weights: dict[str, float] = {}
    for one in accepted.lower().split(","):
        coding, *parameters = (part.strip() for part in one.split(";"))
        found = _WEIGHT.fullmatch(parameters[0]) if parameters else None
        weights[coding] = float(found[1]) if found else 0.0 if parameters else 1.0
    gzip_weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return 0 < gzip_weight >= weights.get("identity", 0.0)


def has(etag: str, given: str) -> bool:
    """Whether an If-None-Match names this tag, by weak comparison (RFC 9110, 13.1.2)."""
    return given.strip() == "*" or etag in _TAG.findall(given)
