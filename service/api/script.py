"""``/tracker.js``: what web pages load to send events. Built from ``tracker/``, where its tests are."""

import gzip
import hashlib
from pathlib import Path

from aiohttp import ETag, web

_SOURCE = (Path(__file__).parents[1] / "static" / "tracker.js").read_bytes()
_PACKED = gzip.compress(_SOURCE, 9, mtime=0)
_DIGEST = hashlib.sha256(_SOURCE).hexdigest()[:16]
_HEADERS = {
    "Cache-Control": "public, max-age=600",  # a fix reaches pages within ten minutes
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
    # It is no secret: a page may check it (integrity), import it, and load it under COEP.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


def routes() -> list[web.RouteDef]:
    """The route of the script."""
    return [web.get("/tracker.js", _tracker)]


async def _tracker(request: web.Request) -> web.Response:
    packed = "gzip" in request.headers.get("Accept-Encoding", "").lower()
    etag = ETag(f"{_DIGEST}-gzip" if packed else _DIGEST)
    response = web.Response(headers=_HEADERS)
    response.etag = etag
    if etag in (request.if_none_match or ()):
        response.set_status(304)
        return response
    response.content_type, response.charset = "text/javascript", "utf-8"
    response.body = _PACKED if packed else _SOURCE
    if packed:
        response.headers["Content-Encoding"] = "gzip"
    return response
