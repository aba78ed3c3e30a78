"""Queries of analysts on the embedded ClickHouse, beside the inserts.

Each has a connection of its own, which costs a fraction of a millisecond and takes its settings with it. The engine
writes the answer into a pipe (``INTO OUTFILE``, which we add behind the guard): so it is one stream in any format,
compressed by the engine, as slow as its reader, and of no memory. Who stops reading closes the pipe, and the query is
killed by a mark in its ``log_comment``.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from service.errors import SqlError
from service.store.sql_guard import Guarded
from service.store.sql_query import SqlQuery

#: As INTO OUTFILE and Content-Encoding call them.
COMPRESSIONS = frozenset({"gzip", "zstd", "lz4", "deflate"})
CHUNK_BYTES = 2**18
#: Threads of a query that does not ask for some: half of the cores are left to events.
THREADS = str(max(1, (os.cpu_count() or 1) // 2))
#: Seconds until a query that was killed before it had begun is killed again.
KILL_AGAIN = 0.05
_INTO = " INTO OUTFILE "
_KILL = "KILL QUERY WHERE Settings['log_comment'] = '{}' ASYNC"


class EmbeddedReader:
    """The embedded ClickHouse of this process, as many queries at a time as threads."""

    def __init__(self, folder: Path, database: str, at_a_time: int) -> None:
        self._folder = str(folder)
        self._database = database
        self._closed = False
        self._threads = ThreadPoolExecutor(at_a_time, "chdb-sql")
        self._short = ThreadPoolExecutor(1, "chdb-guard")  # never behind a query that runs for long

    async def ask(self, sql: str, parameters: Mapping[str, str]) -> str:
        """The answer to a question of our own, as raw text."""
        self._require_open()
        return await asyncio.get_running_loop().run_in_executor(self._short, self._ask, sql, dict(parameters))

    def _ask(self, sql: str, parameters: dict[str, str]) -> str:
        connection = self._connect({"readonly": "2"})
        try:
            return str(_query(connection, sql, parameters, "TSVRaw"))
        finally:
            connection.close()

    def _connect(self, settings: Mapping[str, str]) -> Any:
        import chdb

        connection = chdb.connect(self._folder)
        try:
            _query(connection, f"USE {self._database}")
            _query(connection, "SET " + ", ".join(f"{name} = {_literal(value)}" for name, value in settings.items()))
        except BaseException:
            connection.close()
            raise
        return connection

    async def run(self, query: SqlQuery, guarded: Guarded, settings: Mapping[str, str]) -> "EmbeddedResult":
        """Begin the query."""
        self._require_open()
        format_ = guarded.format or query.format
        result = EmbeddedResult(self, format_)
        compression = f" COMPRESSION '{query.compression}'" if query.compression else ""
        target = f"{_INTO}'/proc/self/fd/{result.write_end}' TRUNCATE{compression} FORMAT {format_}"
        own = {"max_threads": THREADS, **settings, "log_comment": result.mark}
        own["readonly"] = own.pop("readonly")  # nothing can be set behind it
        own["max_threads"] = min(own["max_threads"], str(os.cpu_count() or 1), key=_number)
        await result.start(f"{guarded.text}{target}", dict(query.parameters), own)
        return result

    def begin(
        self, sql: str, parameters: dict[str, str], settings: Mapping[str, str], write_end: int
    ) -> "asyncio.Future[Any]":
        """Run it on a thread; the write end is closed when it is done."""

        def execute() -> Any:
            try:
                connection = self._connect(settings)
                try:
                    if sql.startswith("EXPLAIN "):  # that of an AST would take our end for a part of the query
                        text, _, into = sql.rpartition(_INTO)
                        found = _query(connection, text, parameters, into.rpartition(" ")[2])
                        with open(write_end, "wb", closefd=False) as pipe:
                            pipe.write(found.bytes())
                        return found
                    return _query(connection, sql, parameters)
                finally:
                    connection.close()
            finally:
                os.close(write_end)

        return asyncio.get_running_loop().run_in_executor(self._threads, execute)

    async def kill(self, mark: str) -> None:
        """Kill the query with that mark, if it runs already."""
        await asyncio.get_running_loop().run_in_executor(self._short, self._kill, mark)

    def _kill(self, mark: str) -> None:
        connection = self._connect({"log_comment": ""})
        try:
            _query(connection, _KILL.format(mark))
        finally:
            connection.close()

    def _require_open(self) -> None:
        if self._closed:
            raise SqlError(394, "Query was cancelled: the service stops", "QUERY_WAS_CANCELLED")

    async def close(self) -> None:
        """Let go of the engine: no thread may be inside of it when the process ends."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._short.shutdown)


class EmbeddedResult:
    """A query that runs, and the pipe into which it writes."""

    def __init__(self, reader: EmbeddedReader, format_: str) -> None:
        self.format = format_
        self.summary: dict[str, str] = {}
        self.mark = f"sql-{uuid4().hex}"
        self._reader = reader
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        self._done: asyncio.Future[Any] | None = None
        self._pipe: asyncio.ReadTransport | None = None
        self._bytes = asyncio.StreamReader(limit=CHUNK_BYTES)

    async def start(self, sql: str, parameters: dict[str, str], settings: Mapping[str, str]) -> None:
        """Begin, and be ready to read."""
        self._done = self._reader.begin(sql, parameters, settings, self.write_end)
        self._pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._bytes), os.fdopen(self._read_end, "rb", 0)
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come. Raises SqlError at their end if the query failed."""
        assert self._done  # noqa: S101  # start sets it
        while chunk := await self._bytes.read(CHUNK_BYTES):
            yield chunk
        found = await asyncio.shield(self._done)
        self.summary = {
            "read_rows": str(found.storage_rows_read()),
            "read_bytes": str(found.storage_bytes_read()),
            "result_rows": str(found.rows_read()),
            "result_bytes": str(found.bytes_read()),
            "elapsed_ns": str(int(found.elapsed() * 1e9)),
        }

    async def close(self) -> None:
        """Cancel it if it still runs: the next byte has nobody to take it, and the engine stops reading."""
        if self._pipe:
            self._pipe.close()
        if self._done is None:
            return
        while not self._done.done():
            await self._reader.kill(self.mark)
            await asyncio.wait([self._done], timeout=KILL_AGAIN)
        if not self._done.cancelled():
            self._done.exception()


def _query(connection: Any, sql: str, parameters: dict[str, str] | None = None, format_: str = "TSVRaw") -> Any:
    try:
        return connection.query(sql, format_, params=parameters or {})
    except RuntimeError as error:
        raise in_clickhouses_words(str(error)) from None


def in_clickhouses_words(text: str) -> SqlError:
    """An error by the text that ClickHouse gave it."""
    text = text.strip()
    code = text.removeprefix("Code: ").partition(".")[0]
    if not text.startswith("Code: ") or not code.isdecimal():
        return SqlError(1002, text or "no answer", "UNKNOWN_EXCEPTION")
    twice = f"Code: {code}. DB::Exception: "
    if text.startswith(twice * 2):  # the engine packs an error of its own into another one
        text = text.removeprefix(twice).rpartition(". (")[0]
    before, asked_by_us, after = text.partition(": In scope SELECT formatQuerySingleLine(")
    if asked_by_us:
        text = f"{before} ({after.rpartition('(')[2]}"
    return SqlError(int(code), text)


def _number(text: str) -> float:
    return float(text) if text.isdecimal() and int(text) else float("inf")


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
