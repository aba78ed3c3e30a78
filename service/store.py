"""The store: ClickHouse, a server over HTTP or embedded in this process, behind one small interface.

The only file that knows clickhouse-connect. Both kinds run the same statements with the same settings;
they differ in how a call leaves the event loop: the server's client is asynchronous, the embedded one
has a thread for inserts and one for queries, each with a client of its own.

What an insert must carry, so that it is stored once however often it is tried:

- one token, the segment's;
- one block (``req_block_size``): the driver would split a batch by a sampled row size, and ClickHouse
  compares a token block by block;
- ``async_insert=0``: it is on by default in current servers, and acknowledges what is not yet stored.
"""

import asyncio
import logging
import os
import re
import ssl
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from clickhouse_connect.driver import options
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError

from schemas.rows import Header
from service.dsn import Target
from service.errors import Misconfigured, Rejected, Retryable, StoreError
from service.migrate import Migration, migrate

_log = logging.getLogger(__name__)
TABLE = "events"
#: Seconds. An insert that takes longer is tried again while the first may still run: its token makes that safe.
CONNECT_TIMEOUT, PING_TIMEOUT, QUERY_TIMEOUT, INSERT_TIMEOUT = 3.0, 3.0, 10.0, 60.0
#: Below the server's own limit (3 s in older versions, 10 s or 30 s now), so that a reused connection is a live one.
KEEPALIVE_TIMEOUT = 2.5
ONE_BLOCK = 1 << 30
KNOWN_IDS_SQL = files("schemas").joinpath("sql", "known_ids.sql").read_text("utf-8")
#: A parameter may be 128 KiB long (http_max_field_value_size), and an id as a number has 39 digits.
IDS_IN_ONE_QUERY = 2000
INSERT_SETTINGS = {"async_insert": 0, "deduplicate_blocks_in_dependent_materialized_views": 1}

# Error codes: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
#: These rows will never fit.
REJECTED = frozenset({
    6,  # CANNOT_PARSE_TEXT
    25, 26, 27,  # CANNOT_PARSE_ESCAPE_SEQUENCE, CANNOT_PARSE_QUOTED_STRING, CANNOT_PARSE_INPUT_ASSERTION_FAILED
    33,  # CANNOT_READ_ALL_DATA
    38, 41, 72,  # CANNOT_PARSE_DATE, CANNOT_PARSE_DATETIME, CANNOT_PARSE_NUMBER
    53, 69, 70,  # TYPE_MISMATCH, ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE
    117,  # INCORRECT_DATA
    131,  # TOO_LARGE_STRING_SIZE
    321, 349,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    376,  # CANNOT_PARSE_UUID
    407, 469,  # DECIMAL_OVERFLOW, VIOLATED_CONSTRAINT
    691,  # UNKNOWN_ELEMENT_OF_ENUM
})  # fmt: skip
#: A person must mend something; until then every batch waits.
MISCONFIGURED = frozenset({
    16, 47, 60, 81,  # NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER, UNKNOWN_TABLE, UNKNOWN_DATABASE
    115, 164,  # UNKNOWN_SETTING, READONLY
    192, 193, 194, 195, 497, 516,  # unknown user, wrong or required password, address not allowed, denied, failed
})  # fmt: skip
#: Passes by itself. What is in none of the three sets is treated like these, and logged as an error.
RETRYABLE = frozenset({
    3, 23, 74, 75,  # UNEXPECTED_END_OF_FILE, cannot read from or write to a file descriptor or a buffer
    159, 160, 201, 202,  # TIMEOUT_EXCEEDED, TOO_SLOW, QUOTA_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES
    209, 210, 225, 236,  # SOCKET_TIMEOUT, NETWORK_ERROR, NO_ZOOKEEPER, ABORTED
    241, 242, 243, 252,  # MEMORY_LIMIT_EXCEEDED, TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE, TOO_MANY_PARTS
    279, 285, 286, 319,  # ALL_CONNECTION_TRIES_FAILED, too few live replicas, quorum, UNKNOWN_STATUS_OF_INSERT
    394, 425, 999,  # QUERY_WAS_CANCELLED, SYSTEM_ERROR, KEEPER_EXCEPTION
})  # fmt: skip
_UNKNOWN_DATABASE = 81
_TOO_MANY_PARTS = 252
#: What messages hold besides their meaning: addresses, versions, ids of tables and values of events. /health shows
#: the rest to anyone, and the log keeps it.
_NOT_FOR_PEOPLE = re.compile(
    r"^Received ClickHouse exception, code: \d+, server response: "
    r"|\s*\((?:for url|version) [^()]*(?:\([^()]*\))?[^()]*\)|\s*\(?for url \S+\)?"
    r"|\s*\([0-9a-f]{8}-[0-9a-f-]{27}\)|\.? Column values:.*(?= \([A-Z_]+\)$)|\.? Column values:.*$"
)
_MESSAGE_MAX = 300


class _Engine(Protocol):
    """How calls reach one kind of ClickHouse. May raise anything; the store tells what it means."""

    async def open(self, database: str | None) -> None: ...
    async def insert(self, header: Header, columns: Sequence[Sequence[Any]], token: str) -> None: ...
    async def query(self, sql: str, parameters: dict[str, Any] | None) -> list[tuple[Any, ...]]: ...
    async def close(self) -> None: ...


class Store:
    """ClickHouse. ``prepare`` it once; until it is ``ready`` nothing else works. All methods raise StoreError."""

    def __init__(self, target: Target, *, migrating: bool) -> None:
        self.embedded = target.embedded
        self.ready = False
        self._target = target
        self._migrating = migrating
        self._engine: _Engine = _Embedded(target.folder) if target.folder else _Server(target.server)

    async def prepare(self) -> list[Migration]:
        """Connect; make the database and its tables, unless that is left to ``analytics migrate``."""
        applied: list[Migration] = []
        if self._migrating:
            await self._call(self._open_or_create_database(), QUERY_TIMEOUT)
            applied = await migrate(self)
        else:
            await self._call(self._engine.open(self._target.database), QUERY_TIMEOUT)
        self.ready = True
        return applied

    async def _open_or_create_database(self) -> None:
        try:
            await self._engine.open(self._target.database)
        except Exception as error:
            if _code(error) != _UNKNOWN_DATABASE:
                raise
            await self._engine.open(None)
            await self._engine.query(f"CREATE DATABASE IF NOT EXISTS {self._target.database}", None)
            await self._engine.open(self._target.database)

    async def insert(self, header: Header, columns: Sequence[Sequence[Any]], token: str) -> None:
        """Insert one block, once for this token. Raises Retryable or Rejected."""
        await self._call(self._engine.insert(header, columns, token), INSERT_TIMEOUT)

    async def known_ids(self, ids: Sequence[int], since: int) -> set[int]:
        """Which of these ids are in the table, of events accepted at ``since`` (ms since 1970) or later."""
        known: set[int] = set()
        for start in range(0, len(ids), IDS_IN_ONE_QUERY):
            some = list(ids[start : start + IDS_IN_ONE_QUERY])
            known.update(one for (one,) in await self.query(KNOWN_IDS_SQL, {"ids": some, "since": since}))
        return known

    async def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a SELECT; parameters are bound by the server, as ``{name:Type}``."""
        rows: list[tuple[Any, ...]] = await self._call(self._engine.query(sql, parameters), QUERY_TIMEOUT)
        return rows

    async def command(self, sql: str, parameters: dict[str, Any] | None = None) -> None:
        """Run a statement that returns nothing."""
        await self.query(sql, parameters)

    async def ping(self) -> None:
        """Raise if ClickHouse does not answer."""
        await self._call(self._engine.query("SELECT 1", None), PING_TIMEOUT)

    async def close(self) -> None:
        """Let go of ClickHouse; a running call is waited for."""
        self.ready = False
        await self._engine.close()

    async def _call(self, call: Awaitable[Any], seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await call
        except TimeoutError:
            raise Retryable(f"ClickHouse did not answer within {seconds:.0f} s") from None
        except StoreError:
            raise
        except Exception as error:
            raise _classified(error) from error


class _Server:
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
        context = await self._client.create_insert_context(**_context(header, token))
        context.req_block_size = ONE_BLOCK
        _check_written(await self._client.insert(data=columns, context=context), columns)

    async def query(self, sql: str, parameters: dict[str, Any] | None) -> list[tuple[Any, ...]]:
        result = await self._client.query(sql, parameters=parameters)
        return list(result.result_rows)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class _Embedded:
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
        context = client.create_insert_context(**_context(header, token))
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


def _context(header: Header, token: str) -> dict[str, Any]:
    # Types are given, so the driver asks the server for none. A context holds state: each insert has its own.
    return {
        "table": TABLE,
        "column_names": header.names,
        "column_type_names": header.types,
        "column_oriented": True,
        "settings": {**INSERT_SETTINGS, "insert_deduplication_token": token},
    }


def _check_written(summary: Any, columns: Sequence[Sequence[Any]]) -> None:
    """A proxy's page with status 200 is no confirmation: the summary must count the rows. (A resend counts too.)"""
    if (written := int(summary.summary.get("written_rows", 0))) < len(columns[0]):
        raise Retryable(f"the answer to an insert confirms {written} of {len(columns[0])} rows: is this ClickHouse?")


def _code(error: BaseException) -> int:
    return int(getattr(error, "code", None) or 0)


def _classified(error: Exception) -> StoreError:
    """What a failure means for the batch."""
    code = _code(error)
    message = _NOT_FOR_PEOPLE.sub("", " ".join(str(error).split())) or type(error).__name__
    message = textwrap.shorten(message, _MESSAGE_MAX, placeholder=" …")
    if "while pushing to view" in str(error):
        # The rows are stored and only the view failed: sent again with this token, they are not stored again, and
        # the view gets them. Any other token would double them.
        return Misconfigured(message, code)
    if code in REJECTED or (code == _TOO_MANY_PARTS and "partitions for single INSERT" in message):
        return Rejected(message, code)
    if code in MISCONFIGURED:
        return Misconfigured(message, code)
    if not code and isinstance(error, (DataError, UnicodeError, OverflowError)):
        return Rejected(f"the driver can't encode the rows: {message}")
    if not code and (network := _network_reason(error)):
        return Retryable(f"ClickHouse can't be reached: {network}")
    if not isinstance(error, ClickHouseError):
        message = f"{type(error).__name__}: {message}"
    if code not in RETRYABLE and (code or not isinstance(error, ClickHouseError)):
        _log.error("an error of no known class, taken to pass by itself: %s", message)
    return Retryable(message, code)


def _network_reason(error: BaseException | None) -> str | None:
    """What the operating system said, behind the layers of the driver; without the address."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return f"TLS failed ({error.reason or error})"
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno) if error.errno > 0 else "its name can't be resolved"
        error = error.__cause__ or error.__context__
    return None


# The embedded extra brings pandas along, and the driver would import it (1 s, 90 MB) to ask whether
# the data is a data frame. It never is.
options.np = options.pd = None
