"""SQL for analysts: ClickHouse's own HTTP protocol, read only, so that any tool that speaks to ClickHouse can ask.

It has a port of its own (``ANALYTICS_SQL_PORT``), and a Unix socket in the data folder for ``analytics query``.
The password is an access token with the scope read; the user may be anything. Whoever may use the socket may read the
folder, and needs none. What may run, and how, is in ``service/store/read_only.py``.
"""

import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from uuid import uuid4

import orjson
from aiohttp import web

from service.edge import native_blocks
from service.edge.access_tokens import AccessToken, digest
from service.edge.auth import password_of
from service.edge.body import read_body
from service.edge.context import CONTEXT
from service.errors import RequestError, SqlError
from service.store.read_only import DEFAULT_FORMAT, ReadOnly
from service.store.sql_query import Result, SqlQuery

READ_ONLY: web.AppKey[ReadOnly] = web.AppKey("read_only", ReadOnly)
#: Bytes of an answer until which its head waits, so that it can tell of an error, and with what the query did.
FIRST_BYTES, WHOLE_BYTES = 2**18, 2**25
#: By Content-Encoding, those that we like best first.
_ENCODINGS = ("zstd", "gzip", "lz4", "deflate")
#: What is no setting in the query string.
_OWN = frozenset({
    "query", "database", "default_format", "user", "password", "query_id", "compress", "decompress",
    "enable_http_compression",
})  # fmt: skip
_WAITS = ("wait_end_of_query", "http_wait_end_of_query")
_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "RowBinaryWithNamesAndTypes": "application/octet-stream",
    "Parquet": "application/vnd.apache.parquet",
    "ArrowStream": "application/vnd.apache.arrow.stream",
}
#: ClickHouse's code → HTTP status, as in src/Server/HTTPHandler.cpp.
_STATUSES: dict[int, int] = {
    **dict.fromkeys((516, 192, 193, 497, 291), 403),
    **dict.fromkeys((6, 25, 26, 27, 36, 38, 41, 42, 43, 53, 62, 69, 70, 72, 73, 115, 386, 455, 456, 457), 400),
    **dict.fromkeys((16, 46, 47, 60, 81), 404),
    48: 501,
    159: 408,
    **dict.fromkeys((202, 209, 210), 503),
}
_log = logging.getLogger(__name__)


async def ping(request: web.Request) -> web.Response:
    """For whoever asks whether anybody is here; no token is needed."""
    return web.Response(text="Ok.\n")


async def answer(request: web.Request) -> web.StreamResponse:
    """The answer to a query, or an error in ClickHouse's form."""
    query_id = request.query.get("query_id") or str(uuid4())
    head = {
        "Server": "analytics",
        "X-ClickHouse-Query-Id": query_id,
        "X-ClickHouse-Server-Display-Name": socket.gethostname(),
    }
    try:
        _authorize(request)
        given = await _fields(request)
        if not given["query"].strip() and request.method in ("GET", "HEAD"):
            return web.Response(text="Ok.\n", headers=head)
        return await _run(request, given, head)
    except SqlError as error:
        _log.info("a query failed: %s", error, extra={"query_id": query_id})
        return _error(error, head, packed=error.code != 516 and _is_on(request.query.get("compress")))
    except RequestError as error:
        return _error(SqlError(1000, str(error.detail), "POCO_EXCEPTION"), head, status=error.status)


async def _run(request: web.Request, given: Mapping[str, str], head: Mapping[str, str]) -> web.StreamResponse:
    read_only = request.app[READ_ONLY]
    store = request.app[CONTEXT].store
    if not store.ready:
        raise SqlError(210, "ClickHouse can't be reached yet", "NETWORK_ERROR")
    if given.get("database", "") not in ("", "default", read_only.database):
        raise SqlError(497, f"Not enough privileges: only the database {read_only.database} can be read here")
    native = _is_on(given.get("compress"))
    query = SqlQuery(
        given["query"],
        {name.removeprefix("param_"): value for name, value in given.items() if name.startswith("param_")},
        {name: value for name, value in given.items() if name not in _OWN and not name.startswith("param_")},
        given.get("default_format") or request.headers.get("X-ClickHouse-Format") or DEFAULT_FORMAT,
        head["X-ClickHouse-Query-Id"],
        "" if native or not _is_on(given.get("enable_http_compression")) else _encoding(request),
    )
    whole = any(_is_on(given.get(name)) for name in _WAITS)
    async with read_only.run(query) as result:
        head = {
            **head,
            "X-ClickHouse-Format": result.format,
            "X-ClickHouse-Timezone": await read_only.timezone(),
        }
        head["Content-Type"] = _CONTENT_TYPES.get(result.format, _other_type(result.format))
        if query.compression:
            head["Content-Encoding"] = query.compression
        answer = _Answer(request, head, result, native_blocks.pack if native else None)
        return await answer.send(WHOLE_BYTES if whole else FIRST_BYTES)


class _Answer:
    """Bytes of a result on their way to a client."""

    def __init__(
        self, request: web.Request, head: Mapping[str, str], result: Result, pack: Callable[[bytes], bytes] | None
    ) -> None:
        self._request = request
        self._head = head
        self._result = result
        self._pack = pack
        self._tag = uuid4().hex[:16]

    async def send(self, first_bytes: int) -> web.StreamResponse:
        """Send all of it; as one piece, with a summary, if it is small. Raises SqlError before anything is sent."""
        chunks = self._result.chunks()
        first: list[bytes] = []
        size = 0
        try:
            async for chunk in chunks:
                first.append(chunk)
                size += len(chunk)
                if size > first_bytes:
                    return await self._stream(b"".join(first), chunks)
        except ConnectionResetError:
            if self._request.transport is None or self._request.transport.is_closing():
                raise  # the client has gone
            return await self._stream(b"".join(first), _broken())
        body = b"".join(first)
        return web.Response(body=self._pack(body) if self._pack else body, headers=self._full_head())

    def _full_head(self) -> dict[str, str]:
        counts = dict.fromkeys(("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read"), "0")
        counts |= dict.fromkeys(("result_rows", "result_bytes", "elapsed_ns"), "0")
        summary = orjson.dumps(counts | self._result.summary).decode()
        tag = getattr(self._result, "exception_tag", "") or self._tag
        return {**self._head, "X-ClickHouse-Summary": summary, "X-ClickHouse-Exception-Tag": tag}

    async def _stream(self, first: bytes, chunks: AsyncIterator[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._full_head())
        await response.prepare(self._request)
        try:
            await response.write(self._pack(first) if self._pack else first)
            async for chunk in chunks:
                await response.write(self._pack(chunk) if self._pack else chunk)
        except SqlError as error:  # the status is on its way: the end tells, and that there is no proper one
            if "Content-Encoding" not in self._head and not self._pack:
                await response.write(self._exception(str(error)))
            self._break_off()
        except ConnectionResetError:
            self._break_off()
        await response.write_eof()
        return response

    def _exception(self, message: str) -> bytes:
        text = message.encode()
        tag = self._tag.encode()
        return b"\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n" % (tag, text, len(text) + 1, tag)

    def _break_off(self) -> None:
        if self._request.transport:
            self._request.transport.close()
        raise ConnectionResetError("the answer is broken off")


async def _broken() -> AsyncIterator[bytes]:
    raise ConnectionResetError("the answer was broken off before")
    yield b""


def _authorize(request: web.Request) -> None:
    """Raises SqlError, whose code 516 is for all who may not, and tells nobody why."""
    if (wire := request.get_extra_info("socket")) is not None and wire.family == socket.AF_UNIX:
        return
    token = password_of(request)
    known: AccessToken | None = request.app[CONTEXT].tokens.get(digest(token)) if token else None
    if known is None or "read" not in known.scopes:
        raise SqlError(
            516,
            "Authentication failed: the password must be an access token with the scope read",
            "AUTHENTICATION_FAILED",
        )


async def _fields(request: web.Request) -> dict[str, str]:
    """The query string, fields of a form, and the query out of both: the body comes behind the one in the address."""
    fields: dict[str, str] = dict(request.query)
    if request.content_type == "multipart/form-data":
        for name, value in (await request.post()).items():
            if not isinstance(value, str):
                raise SqlError(48, "External tables are not taken here", "NOT_IMPLEMENTED")
            fields[name] = value
        body = b""
    else:
        body = await read_body(request)
        if _is_on(fields.get("decompress")):
            body = native_blocks.unpack(body, request.app[CONTEXT].settings.max_body_bytes)
    try:
        texts = fields.get("query", ""), body.decode()
    except UnicodeDecodeError:
        raise SqlError(62, "Syntax error: the query is no UTF-8", "SYNTAX_ERROR") from None
    if database := request.headers.get("X-ClickHouse-Database"):
        fields.setdefault("database", database)
    return {**fields, "query": "\n".join(filter(None, texts))}


def _is_on(value: str | None) -> bool:
    return value is not None and value.lower() in ("1", "true")


def _encoding(request: web.Request) -> str:
    named = request.headers.get("Accept-Encoding", "").lower().split(",")
    wanted = {name.strip() for name, _, rest in (one.partition(";") for one in named) if rest.strip() != "q=0"}
    return next((one for one in _ENCODINGS if one in wanted), "")


def _other_type(format_: str) -> str:
    if format_.startswith(("JSON", "PrettyJSON")):
        return "application/json; charset=UTF-8"
    return "text/plain; charset=UTF-8"


def _error(error: SqlError, head: Mapping[str, str], *, status: int = 0, packed: bool = False) -> web.Response:
    headers: dict[str, Any] = {**head, "X-ClickHouse-Exception-Code": str(error.code)}
    if error.code == 516:
        headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
    body = f"{error}\n".encode()
    headers["Content-Type"] = "text/plain; charset=UTF-8"
    status = status or _STATUSES.get(error.code, 500)
    return web.Response(status=status, body=native_blocks.pack(body) if packed else body, headers=headers)
