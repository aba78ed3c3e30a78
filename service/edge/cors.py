"""Pages of other origins: what a browser must be told before it lets such a page read an answer (CORS).

All of it is worked out once for each origin, for both ways of a request. One without ``Origin`` costs nothing.
"""

import re
from collections.abc import Iterable, Mapping

from aiohttp import web

from service.errors import Forbidden

#: Seconds for which a browser need not ask again before it posts. Chromium keeps it no longer.
PREFLIGHT_MAX_AGE = 7200
_REQUEST_HEADERS = ("Authorization", "Content-Encoding", "Content-Type", "Idempotency-Key", "Prefer", "X-Request-ID")
#: Of the names of other headers that a page wants to send: so many characters are looked at. We ignore what they say.
_ASKED, _ASKED_MAX_LENGTH = "Access-Control-Request-Headers", 2048
_HEADER_NAME = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]{1,100}")  # a token of HTTP; not the asterisk, which means all
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

    def add_to(self, response: web.StreamResponse, path: str, origin: str) -> None:
        """Add to the answer of a request from a page of ``origin`` what its browser must be told."""
        if self.covers(path):
            varies = response.headers.get("Vary")
            response.headers.update(self.headers(origin))
            if varies:
                response.headers["Vary"] = f"Origin, {varies}"

    async def preflight(self, request: web.Request) -> web.Response:
        """What a browser asks before it sends headers that a plain form could not send. It sends no token yet."""
        if not self.headers(request.headers.get("Origin")):
            raise Forbidden("Pages of this origin may not read answers")
        headers = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": ", ".join([*_REQUEST_HEADERS, *_asked_for(request)]),
            "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE),
        }
        if _ASKED in request.headers:
            headers["Vary"] = _ASKED
        if request.path.endswith("/beacon"):
            headers["Access-Control-Allow-Credentials"] = "true"  # a beacon of another type than text is sent with them
        return web.Response(status=204, headers=headers)


def _asked_for(request: web.Request) -> list[str]:
    """The other headers that the page wants to send, such as the ``traceparent`` of its tracing."""
    asked = ",".join(request.headers.getall(_ASKED, ()))
    if len(asked) > _ASKED_MAX_LENGTH:
        return []
    known = {name.lower() for name in _REQUEST_HEADERS}
    names = dict.fromkeys(name.strip(" \t").lower() for name in asked.split(","))
    return [name for name in names if name not in known and _HEADER_NAME.fullmatch(name)]
