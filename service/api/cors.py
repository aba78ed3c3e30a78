"""Pages of other origins: what a browser must be told before it lets such a page read an answer (CORS).

All of it is worked out once for each origin, for both ways of a request. One without ``Origin`` costs nothing.
"""

from collections.abc import Iterable, Mapping

from aiohttp import web

from service.errors import Forbidden

#: Seconds for which a browser need not ask again before it posts. Chromium keeps it no longer.
PREFLIGHT_MAX_AGE = 7200
_REQUEST_HEADERS = "Authorization, Content-Encoding, Content-Type, Idempotency-Key, Prefer, X-Request-ID"
_ANSWER_HEADERS = "Preference-Applied, Retry-After, X-Request-ID"
_NONE: Mapping[str, str] = {}


class Cors:
    """The origins whose pages may read the answers of ``prefix`` and of the paths under it."""

    def __init__(self, origins: Iterable[str] = (), prefix: str = "") -> None:
        self._prefix = f"{prefix}/"
        self._headers: dict[str | None, Mapping[str, str]] = {
            origin: {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Expose-Headers": _ANSWER_HEADERS,
                "Vary": "Origin",
            }
            for origin in origins
        }

    def __bool__(self) -> bool:
        return bool(self._headers)

    def covers(self, path: str) -> bool:
        """Whether this is a path for pages of other origins."""
        return f"{path}/".startswith(self._prefix)

    def headers(self, origin: str | None) -> Mapping[str, str]:
        """What to add to every answer to a request with this ``Origin``; nothing if that is not allowed."""
        return self._headers.get(origin, _NONE)


CORS: web.AppKey[Cors] = web.AppKey("cors", Cors)


def add_cors(request: web.Request, response: web.StreamResponse) -> None:
    """Add to the answer of a request that has an ``Origin`` what its browser must be told."""
    cors = request.app[CORS]
    if cors.covers(request.path):
        response.headers.update(cors.headers(request.headers["Origin"]))


async def preflight(request: web.Request) -> web.Response:
    """What a browser asks before it sends headers that a plain form could not send. It sends no token yet."""
    if not request.app[CORS].headers(request.headers.get("Origin")):
        raise Forbidden("Pages of this origin may not read answers")
    headers = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": _REQUEST_HEADERS,
        "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE),
    }
    if request.path.endswith("/beacon"):
        headers["Access-Control-Allow-Credentials"] = "true"  # a beacon of another type than text is sent with them
    return web.Response(status=204, headers=headers)
