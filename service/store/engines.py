"""How calls reach ClickHouse: the driver's asynchronous client for a server, threads for the embedded one.

Both run the same statements with the same settings. An insert is stored once, however often it is tried, if it has:

- one token, made of the segment's name;
- one block, since ClickHouse compares tokens block by block. Settings of the server cut what it parses into blocks
  (``ONE_BLOCK``), and the driver cuts what it encodes, by a sampled row size (``req_block_size``);
- ``async_insert=0``: current servers have it on by default, and acknowledge what is not stored yet;
- deduplication switched on, since a user's profile may switch it off.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from clickhouse_connect.driver import options

from schemas.payload import Rows, to_columns
from service.errors import Misconfigured, Retryable
from service.store.failures import READONLY, SETTING_CONSTRAINT_VIOLATION, code_of
from service.store.settings import (
    CONNECT_SETTINGS,
    ENDLESS,
    INSERT_SETTINGS,
    LIMITS,
    NEWER_INSERT_SETTINGS,
    QUERY_SETTINGS,
    TABLE,
)

CONNECT_TIMEOUT = 3.0
#: Below the server's own limit (3 s in older versions, 10 s or 30 s now), so that a reused connection is still open.
KEEPALIVE_TIMEOUT = 2.5


#: Settings with which views behind the table may fail without failing the INSERT.
PAST_VIEWS = frozenset({"materialized_views_ignore_errors", "ignore_materialized_views_with_dropped_target_table"})


class InsertOptions(NamedTuple):
    """Options of one INSERT: its deduplication token; whether views behind the table may fail without failing it."""

    token: str
    past_views: bool = False


class Engine(Protocol):
    """How calls reach one kind of ClickHouse. May raise anything; the store classifies it."""

    async def open(self, database: str | None) -> None: ...
    async def insert(self, rows: Rows, options: InsertOptions) -> None: ...
    async def insert_converted(self, rows: Rows, options: InsertOptions) -> None: ...
    async def try_insert(self, sql: str) -> None: ...
    async def query(self, sql: str, parameters: dict[str, Any] | None) -> list[tuple[Any, ...]]: ...
    async def close(self) -> None: ...


class Server:
    """A ClickHouse server: the driver's asynchronous client."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._client: Any = None
        self._settings: dict[str, Any] = {}

    async def open(self, database: str | None) -> None:
        await self.close()
        try:
            self._client = await self._connect(CONNECT_SETTINGS)
        except Exception as error:
            if code_of(error) not in (READONLY, SETTING_CONSTRAINT_VIOLATION):
                raise
            try:
                self._client = await self._connect({})  # perhaps the profile constrains only a limit, at a high value
            except Exception:  # noqa: BLE001 - the first error says more
                raise error from None
        self._client.database = database
        await self._learn_settings()
        await self.query("SELECT 1", None)  # fails if the database is missing, or a setting is constrained

    async def _connect(self, settings: dict[str, Any]) -> Any:
        """The driver's own function sends its first queries without our settings, so a profile may change them."""
        from clickhouse_connect.driver.asyncclient import AsyncClient

        client = AsyncClient(
            **self._arguments,
            connect_timeout=CONNECT_TIMEOUT,
            keepalive_timeout=KEEPALIVE_TIMEOUT,
            client_name="analytics",
            form_encode_query_params=True,  # parameters are too long for a URL
            autogenerate_session_id=False,  # requests of one session wait for each other
        )
        for name, value in settings.items():
            client.set_client_setting(name, value)
        return await AsyncExitStack().enter_async_context(client)

    async def _learn_settings(self) -> None:
        """Learn which settings this server knows. ClickHouse shall judge which of them are constrained, not the driver:
        the driver would not send them, and ``system.settings`` shows ``limit`` as 0 even if the profile sets it."""
        from clickhouse_connect.driver.models import SettingDef

        client = self._client
        asked = "SELECT name, readonly OR ifNull(min, '') NOT IN ('', '0') FROM system.settings"
        found = (await client.query(asked, settings={"limit": 0, "offset": 0})).result_rows
        client.server_settings = {name: SettingDef(name, "", 0) for name, _ in found}
        held = {name for name, fast in found if fast}
        known = _known(client, QUERY_SETTINGS)
        self._settings = known | {name: 0 for name in _known(client, LIMITS) if name not in held}

    async def insert(self, rows: Rows, options: InsertOptions) -> None:
        _check_written(await self._client.raw_insert(**_raw(self._client, rows, options)), rows)

    async def insert_converted(self, rows: Rows, options: InsertOptions) -> None:
        context = await self._client.create_insert_context(**_context(self._client, rows, options))
        context.req_block_size = ENDLESS
        columns = await asyncio.to_thread(_columns, rows)
        _check_written(await self._client.insert(data=columns, context=context), rows)

    async def try_insert(self, sql: str) -> None:
        await self._client.command(sql, settings=_insert_settings(self._client))

    async def query(self, sql: str, parameters: dict[str, Any] | None) -> list[tuple[Any, ...]]:
        result = await self._client.query(sql, parameters=parameters, settings=self._settings)
        return list(result.result_rows)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class Embedded:
    """ClickHouse in this process: synchronous clients, each with a thread of its own. It has no users,
    and so no profile to overrule and no rights to check.

    The engine must be closed before the process ends, and no thread may be inside it then.
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

    async def insert(self, rows: Rows, options: InsertOptions) -> None:
        await self._run("insert", self._insert, rows, options)

    def _insert(self, rows: Rows, options: InsertOptions) -> None:
        client = self._clients["insert"]
        _check_written(client.raw_insert(**_raw(client, rows, options)), rows)

    async def insert_converted(self, rows: Rows, options: InsertOptions) -> None:
        await self._run("insert", self._insert_converted, rows, options)

    def _insert_converted(self, rows: Rows, options: InsertOptions) -> None:
        client = self._clients["insert"]
        context = client.create_insert_context(**_context(client, rows, options))
        context.req_block_size = ENDLESS
        _check_written(client.insert(data=_columns(rows), context=context), rows)

    async def try_insert(self, sql: str) -> None:
        """Here everybody has all rights."""

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


def _settings(client: Any, options: InsertOptions) -> dict[str, Any]:
    past_views = _known(client, dict.fromkeys(PAST_VIEWS, int(options.past_views)))
    return _insert_settings(client) | past_views | {"insert_deduplication_token": options.token}


def _insert_settings(client: Any) -> dict[str, Any]:
    return INSERT_SETTINGS | _known(client, NEWER_INSERT_SETTINGS)


def _known(client: Any, settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in client.server_settings}


def _raw(client: Any, rows: Rows, options: InsertOptions) -> dict[str, Any]:
    return {
        "table": TABLE,
        "column_names": rows.header.names,
        "insert_block": rows.payload,
        "settings": _settings(client, options),
        "fmt": "MsgPack",
    }


def _context(client: Any, rows: Rows, options: InsertOptions) -> dict[str, Any]:
    # We give the types, so that the driver does not ask for them. A context has state: each insert has its own.
    return {
        "table": TABLE,
        "column_names": rows.header.names,
        "column_type_names": rows.header.types,
        "column_oriented": True,
        "settings": _settings(client, options),
    }


def _columns(rows: Rows) -> list[Sequence[Any]]:
    return to_columns(rows.decode(), rows.header.types)


def _check_written(summary: Any, rows: Rows) -> None:
    """A proxy's page with status 200 confirms nothing: the summary must count the rows. (A resend counts too.)"""
    if (written := int(summary.summary.get("written_rows", 0))) < len(rows):
        raise Retryable(
            f"the answer to an insert confirms {written} of {len(rows)} rows: is this ClickHouse?", may_run=True
        )


# The extra ``embedded`` installs pandas, and the driver would import it (1 s, 90 MB) to see whether the
# data is a data frame. It never is.
options.np = options.pd = None
