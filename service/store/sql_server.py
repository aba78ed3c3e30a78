"""Queries of analysts on a ClickHouse server: passed on over HTTP, and its answer passed back as it comes.

``readonly = 1`` goes with each, and the guard's lists. What ClickHouse's own grants allow the user is the other bound:
see docs/sql.md.
"""

import gzip
import ssl
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from service.errors import SqlError
from service.store.sql_embedded import CHUNK_BYTES, in_clickhouses_words
from service.store.sql_guard import Guarded
from service.store.sql_query import SqlQuery

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


CONNECT_TIMEOUT = 3.0
#: Head of ClickHouse's answer that we read, and say ourselves.
SUMMARY = "X-ClickHouse-Summary"
_ERROR_MAX_BYTES = 2**16


class ServerReader:
    """A ClickHouse server, with the rights of one user."""

    def __init__(self, server: Mapping[str, Any], database: str) -> None:
        self._server = server
        self._database = database
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, sql: str, parameters: Mapping[str, str]) -> str:
        """The answer to a question of our own, as raw text."""
        response = await self._post(sql, parameters, {"readonly": "2", "default_format": "TSVRaw"}, "")
        async with response:
            return (await response.read()).decode(errors="replace")

    async def run(self, query: SqlQuery, guarded: Guarded, settings: Mapping[str, str]) -> "ServerResult":
        """Begin the query, and wait for the head of its answer."""
        own = {
            "default_format": guarded.format or query.format,
            "query_id": query.id,
            "cancel_http_readonly_queries_on_client_close": "1",
            "enable_http_compression": "1" if query.compression else "0",
        }
        response = await self._post(guarded.text, query.parameters, {**settings, **own}, query.compression)
        return ServerResult(response)

    async def _post(
        self, sql: str, parameters: Mapping[str, str], settings: Mapping[str, str], compression: str
    ) -> aiohttp.ClientResponse:
        form = aiohttp.FormData(default_to_multipart=True)  # parameters are too long for an address
        for name, value in {"query": sql, **{f"param_{name}": value for name, value in parameters.items()}}.items():
            form.add_field(name, value)
        fields = {"database": self._database, **settings}
        query = "&".join(f"{quote(name)}={quote(value)}" for name, value in fields.items())
        server = self._server
        headers = {"X-ClickHouse-User": server["username"], "X-ClickHouse-Key": server["password"]}
        headers["Accept-Encoding"] = compression or "identity"
        host = f"[{server['host']}]" if ":" in server["host"] else server["host"]
        url = f"{server['interface']}://{host}:{server['port']}/?{query}"
        try:
            response = await self._connected().post(_encoded(url), data=form, headers=headers)
            if response.status == 200:
                return response
            async with response:
                body = await response.content.read(_ERROR_MAX_BYTES)
                text = _unpacked(body, response.headers.get("Content-Encoding", "")).decode(errors="replace")
        except (aiohttp.ClientError, OSError) as error:
            raise SqlError(210, f"ClickHouse can't be reached ({type(error).__name__})", "NETWORK_ERROR") from None
        raise in_clickhouses_words(text if text.startswith("Code: ") else "")

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=_tls(self._server), keepalive_timeout=2.5),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT),
                auto_decompress=False,  # the client wants it as it is
                max_field_size=2**16,
                read_bufsize=CHUNK_BYTES,
            )
        return self._session

    async def close(self) -> None:
        """Let go of the server."""
        if self._session:
            await self._session.close()


class ServerResult:
    """An answer that is arriving."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.format = response.headers.get("X-ClickHouse-Format", "")
        self.summary: dict[str, str] = {}
        #: With which ClickHouse begins an error in the middle of the answer.
        self.exception_tag = response.headers.get("X-ClickHouse-Exception-Tag", "")
        if summary := response.headers.get(SUMMARY):
            import orjson

            self.summary = orjson.loads(summary)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come. Raises ConnectionResetError where they end too early: the last of them tell why."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError):
            raise ConnectionResetError("ClickHouse broke off its answer") from None

    async def close(self) -> None:
        """Closing the connection cancels the query."""
        if self._response.content.is_eof():
            self._response.release()
        else:
            self._response.close()


def _unpacked(body: bytes, encoding: str) -> bytes:
    """An error, which is packed as its answer would have been."""
    import lz4.frame

    unpackers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "zstd": zstd.decompress,
        "lz4": lz4.frame.decompress,
    }
    return unpackers.get(encoding, bytes)(body)


def _tls(server: Mapping[str, Any]) -> ssl.SSLContext | bool:
    if server["interface"] != "https":
        return False
    context = ssl.create_default_context(cafile=server.get("ca_cert"))
    if server.get("client_cert"):
        context.load_cert_chain(server["client_cert"], server.get("client_cert_key"))
    if str(server.get("verify", "")).lower() in ("false", "0", "no"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _encoded(url: str) -> Any:
    from yarl import URL

    return URL(url, encoded=True)
