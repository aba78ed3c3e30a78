"""Files of the package that browsers load: in memory, packed once, and sent again only if they have changed."""

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path

from aiohttp import ETag, web

STATIC = Path(__file__).parents[1] / "static"


class File:
    """A text file that is served as it is, with these headers."""

    def __init__(self, content: bytes, content_type: str, headers: Mapping[str, str]) -> None:
        self._content, self._packed = content, gzip.compress(content, 9, mtime=0)
        self._digest = hashlib.sha256(content).hexdigest()[:16]
        self._content_type = content_type
        self._headers = {"Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff", **headers}

    async def answer(self, request: web.Request) -> web.Response:
        """The file, or 304 to one who has it."""
        packed = "gzip" in request.headers.get("Accept-Encoding", "").lower()
        etag = ETag(f"{self._digest}-gzip" if packed else self._digest)
        response = web.Response(headers=self._headers)
        response.etag = etag
        if etag in (request.if_none_match or ()):
            response.set_status(304)
            return response
        response.content_type, response.charset = self._content_type, "utf-8"
        response.body = self._packed if packed else self._content
        if packed:
            response.headers["Content-Encoding"] = "gzip"
        return response
