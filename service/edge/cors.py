"""Pages of other origins: the headers that a browser needs before it lets such a page read an answer (CORS).

They are made once for each origin, and serve both ways of a request. A request without ``Origin`` costs nothing.
"""

import re
from collections.abc import Iterable, Mapping

from aiohttp import web

from service.errors import Forbidden

#: Seconds during which a browser need not ask again before it posts. Chromium caps it at this.
PREFLIGHT_MAX_AGE = 7200
_REQUEST_HEADERS = ("Authorization", "Content-Encoding", "Content-Type", "Idempotency-Key", "Prefer", "X-Request-ID")
#: Where a page names other headers that it wants to send, and how much of that we read. We ignore those headers.
_ASKED, _ASKED_MAX_LENGTH = "Access-Control-Request-Headers", 2048
_HEADER_NAME = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]{1,100}")  # a token of HTTP, but not the asterisk, which means all
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
        """Whether pages of other origins may use this path."""
        return f"{path}/".startswith(self._prefix)

    def headers(self, origin: str | None) -> Mapping[str, str]:
        """The headers for every answer to a request with this ``Origin``; none if it is not allowed."""
        return self._headers.get(origin, _NONE)

    def add_to(self, response: web.StreamResponse, path: str, origin: str) -> None:
        """Add the headers for a page of ``origin`` to an answer."""
        if self.covers(path):
            varies = response.headers.get("Vary")
            response.headers.update(self.headers(origin))
            if varies:
                response.headers["Vary"] = f"Origin, {varies}"

    async def preflight(self, request: web.Request) -> web.Response:
        """Answer what a browser asks before it sends headers that a plain form can't send. It sends no token yet."""
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
            headers["Access-Control-Allow-Credentials"] = (
                "true"  # browsers send them with a beacon whose type is not text
            )
        return web.Response(status=204, headers=headers)


def _asked_for(request: web.Request) -> list[str]:
    """Other headers that the page wants to send, such as the ``traceparent`` of its tracing."""
    asked = ",".join(request.headers.getall(_ASKED, ()))
    if len(asked) > _ASKED_MAX_LENGTH:
        return []
    known = {name.lower() for name in _REQUEST_HEADERS}
    names = dict.fromkeys(name.strip(" \t").lower() for name in asked.split(","))
    return [name for name in names if name not in known and _HEADER_NAME.fullmatch(name)]
