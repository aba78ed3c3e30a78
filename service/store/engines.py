"""How calls reach ClickHouse: the driver's asynchronous client for a server, threads for the embedded one.

Both run the same statements with the same settings. What an insert must carry, so that it is stored once
however often it is tried:

- one token, the segment's;
- one block (``req_block_size``): the driver would split a batch by a sampled row size, and ClickHouse
  compares a token block by block;
- ``async_insert=0``: it is on by default in current servers, and acknowledges what is not yet stored;
- deduplication switched on, since a user's profile may switch it off.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from clickhouse_connect.driver import options

from schemas.rows import Header
from service.errors import Misconfigured, Retryable

TABLE = "events"
CONNECT_TIMEOUT = 3.0
#: Below the server's own limit (3 s in older versions, 10 s or 30 s now), so that a reused connection is a live one.
KEEPALIVE_TIMEOUT = 2.5
ONE_BLOCK = 1 << 30
INSERT_SETTINGS: dict[str, Any] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
}
#: Overrules insert_deduplicate where it exists; older servers refuse a setting that they don't know.
DEDUPLICATE_INSERT = ("deduplicate_insert", "enable")


class Engine(Protocol):
    """How calls reach one kind of ClickHouse. May raise anything; the store tells what it means."""

    async def open(self, database: str | None) -> None: ...
    async def insert(self, header: Header, columns: Sequence[Sequence[Any]], token: str) -> None: ...
    async def query(self, sql: str, parameters: dict[str, Any] | None) -> list[tuple[Any, ...]]: ...
    async def close(self) -> None: ...


class Server:
    """A ClickHouse server: the driver's asynchronous client."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._client: Any = None

    async def open(self, database: str | None) -> None:
        from clickhouse_connect import get_async_client

        await self.close()
        self._client = await get_async_client(
            **self._arguments,
            connect_timeout=CONNECT_TIMEOUT,
            keepalive_timeout=KEEPALIVE_TIMEOUT,
            client_name="analytics",
            form_encode_query_params=True,  # parameters are too long for an address
        )
        self._client.database = database
        await self._client.query("SELECT 1")  # fails if the database is missing

    async def insert(self, header: Header, columns: Sequence[Sequence[Any]], token: str) -> None:
        context = await self._client.create_insert_context(**_context(self._client, header, token))
        context.req_block_size = ONE_BLOCK
        _check_written(await self._client.insert(data=columns, context=context), columns)

    async def query(self, sql: str, parameters: dict[str, Any] | None) -> list[tuple[Any, ...]]:
        result = await self._client.query(sql, parameters=parameters)
        return list(result.result_rows)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class Embedded:
    """ClickHouse in this process: synchronous clients, each with a thread of its own.

    The engine must be closed before the process ends, and no thread may be inside of it then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = {name: ThreadPoolExecutor(1, f"chdb-{name}") for name in ("insert", "query")}
        self._clients: dict[str, Any] = {}

    async def open(self, database: str | None) -> None:
        for name in self._threads:
            await self._run(name, self._open, name, database)

    def _open(self, name: str, database: str | None) -> None:
        try:
            from clickhouse_connect import get_client

            if client := self._clients.pop(name, None):
                client.close()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._clients[name] = get_client(interface="chdb", path=str(self._folder), database=database)
        except ImportError:
            raise Misconfigured(
                "the embedded ClickHouse is not installed: install this package with its extra [embedded],"
                " or set ANALYTICS_CLICKHOUSE_DSN to a server, http://user:password@host:port/database"
            ) from None

    async def insert(self, header: Header, columns: Sequence[Sequence[Any]], token: str) -> None:
        await self._run("insert", self._insert, header, columns, token)

    def _insert(self, header: Header, columns: Sequence[Sequence[Any]], token: str) -> None:
        client = self._clients["insert"]
        context = client.create_insert_context(**_context(client, header, token))
        context.req_block_size = ONE_BLOCK
        _check_written(client.insert(data=columns, context=context), columns)

    async def query(self, sql: str, parameters: dict[str, Any] | None) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = await self._run("query", self._query, sql, parameters)
        return rows

    def _query(self, sql: str, parameters: dict[str, Any] | None) -> list[tuple[Any, ...]]:
        return list(self._clients["query"].query(sql, parameters=parameters).result_rows)

    async def close(self) -> None:
        for name, thread in self._threads.items():
            if client := self._clients.pop(name, None):
                await self._run(name, client.close)
            thread.shutdown()

    async def _run(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads[name], partial(function, *arguments))


def _context(client: Any, header: Header, token: str) -> dict[str, Any]:
    name, value = DEDUPLICATE_INSERT
    known = {name: value} if name in client.server_settings else {}
    # Types are given, so the driver asks the server for none. A context holds state: each insert has its own.
    return {
        "table": TABLE,
        "column_names": header.names,
        "column_type_names": header.types,
        "column_oriented": True,
        "settings": {**INSERT_SETTINGS, **known, "insert_deduplication_token": token},
    }


def _check_written(summary: Any, columns: Sequence[Sequence[Any]]) -> None:
    """A proxy's page with status 200 is no confirmation: the summary must count the rows. (A resend counts too.)"""
    if (written := int(summary.summary.get("written_rows", 0))) < len(columns[0]):
        raise Retryable(f"the answer to an insert confirms {written} of {len(columns[0])} rows: is this ClickHouse?")


# The embedded extra brings pandas along, and the driver would import it (1 s, 90 MB) to ask whether
# the data is a data frame. It never is.
options.np = options.pd = None
