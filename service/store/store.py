"""The store: ClickHouse, a server over HTTP or embedded in this process, behind one small interface.

``engines`` calls clickhouse-connect; ``failures`` says what its errors mean.
"""

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from schemas.payload import Rows
from schemas.statements import statement
from service.errors import Retryable, StoreError
from service.part import Part
from service.store.checks import check
from service.store.dsn import Target
from service.store.engines import Embedded, Engine, InsertOptions, Server
from service.store.failures import UNKNOWN_DATABASE, classify_failure, classify_query_failure, code_of
from service.store.migrations import migrate
from service.store.settings import TABLE
from service.store.token_memory import TokenMemory
from service.store.views import make_views

#: Seconds. An insert that takes longer is tried again while the first may still run: its token makes that safe.
PING_TIMEOUT, QUERY_TIMEOUT, INSERT_TIMEOUT = 3.0, 10.0, 60.0
#: Seconds for a query on which only an INSERT waits: among many random ids it may take long.
LOOK_UP_TIMEOUT = 60.0
#: Seconds between two runs of the checks.
CHECKED_EVERY = 60.0
KNOWN_IDS_SQL = statement("known_ids")
STORED_SQL = statement("stored")
IS_RUNNING_SQL = statement("is_running")
TOKEN_MEMORY_SQL = statement("token_memory")
REMEMBER_IDS_SQL = statement("remember_ids")
#: Seconds. Until then rows for an altered column may be refused (44); the next try succeeds.
TYPES_KEPT_FOR = 1.0
DESCRIBE_SQL = f"DESCRIBE TABLE {TABLE}"
#: A parameter may be 128 KiB long (http_max_field_value_size), and an id as a number has 39 digits.
IDS_IN_ONE_PARAMETER = 3000
_log = logging.getLogger(__name__)


class Store(Part):
    """ClickHouse. ``prepare`` it once; until it is ``ready`` nothing else works.

    All methods raise Retryable, and only ``insert`` raises Rejected.
    """

    def __init__(self, target: Target, *, migrating: bool) -> None:
        self.embedded = target.embedded
        #: How often a call failed, by the kind of StoreError and ClickHouse's code.
        self.errors: dict[tuple[str, ...], int] = {}
        #: What silently changes inserts or answers, so that a person should mend it.
        self.warnings: tuple[str, ...] = ()
        self._checked_at = -math.inf
        self._ready = asyncio.Event()
        self._target = target
        self._migrating = migrating
        self._types: dict[str, str] = {}
        self._described_at = -math.inf
        self._engine: Engine = Embedded(target.folder) if target.folder else Server(target.server)

    async def prepare(self) -> list[str]:
        """Connect; create the database, its tables and views, unless that is left to ``analytics migrate``.

        What was made: names of migrations and views.
        """
        applied: list[str] = []
        if self._migrating:
            await self._call(self._open_or_create_database(), QUERY_TIMEOUT)
            applied = [migration.name for migration in await self._within(migrate(self), None)]
            applied += [f"view {view.name}" for view in await self._within(make_views(self), None)]
        else:
            await self._call(self._engine.open(self._target.database), QUERY_TIMEOUT)
        await self._check()
        self._ready.set()
        return applied

    @property
    def ready(self) -> bool:
        """Whether it was prepared."""
        return self._ready.is_set()

    async def until_ready(self) -> None:
        """Wait until it is prepared."""
        await self._ready.wait()

    async def _check(self) -> None:
        self._checked_at = -math.inf  # if it fails, the next ping checks again
        try:
            warnings = await self._within(check(self), None)
        except StoreError as error:
            if error.code:
                raise
            _log.debug("not checked, since ClickHouse does not answer: %s", error)
            return
        for warning in set(warnings).difference(self.warnings):
            _log.warning("%s", warning)
        self.warnings, self._checked_at = warnings, time.monotonic()

    async def try_insert(self, sql: str) -> None:
        """Run an INSERT that inserts nothing, with the settings of those that do."""
        await self._call(self._engine.try_insert(sql), QUERY_TIMEOUT)

    async def _open_or_create_database(self) -> None:
        try:
            await self._engine.open(self._target.database)
        except Exception as error:
            if code_of(error) != UNKNOWN_DATABASE:
                raise
            await self._engine.open(None)
            await self._engine.query(f"CREATE DATABASE IF NOT EXISTS {self._target.database}", None)
            await self._engine.open(self._target.database)

    async def insert(self, rows: Rows, token: str, *, past_views: bool = False) -> None:
        """Insert one block, once for this token. Raises Retryable or Rejected.

        ``past_views``: even if materialized views behind the table fail.
        """
        await self._call(self._insert(rows, InsertOptions(token, past_views)), INSERT_TIMEOUT)

    async def _insert(self, rows: Rows, options: InsertOptions) -> None:
        """Send the rows as they are; or with their types, so that ClickHouse converts them if the table's differ.

        Bare values do not carry their types, so ClickHouse can't convert them.
        """
        if time.monotonic() - self._described_at > TYPES_KEPT_FOR:
            described = await self._ask(DESCRIBE_SQL)
            self._types = {name: type_ for name, type_, *_ in described}
            self._described_at = time.monotonic()
        fits = all(_fits(type_, self._types.get(name, type_)) for name, type_ in zip(*rows.header[:2], strict=True))
        try:
            await (self._engine.insert if fits else self._engine.insert_converted)(rows, options)
        except BaseException:
            self._described_at = -math.inf  # perhaps the types have just changed
            raise

    async def known_ids(self, ids: Sequence[int], window: float) -> set[int]:
        """Which of these ids are known from events stored within the last ``window`` seconds."""
        known: set[int] = set()
        for start in range(0, len(ids), 4 * IDS_IN_ONE_PARAMETER):
            lists = {
                f"ids{number}": list(ids[start + number * IDS_IN_ONE_PARAMETER :][:IDS_IN_ONE_PARAMETER])
                for number in range(4)
            }
            found = await self.query(KNOWN_IDS_SQL, lists | {"window": int(window * 1000)}, LOOK_UP_TIMEOUT)
            known.update(one for (one,) in found)
        return known

    async def stored(self, segment: str, since: int, until: int) -> list[tuple[str, int, int]]:
        """The rows of a segment in the table: the token of their INSERT, the month (202612), how many.

        ``since`` and ``until`` are the first and last time of receipt, in ms since 1970.
        """
        return await self.query(STORED_SQL, {"segment": segment, "since": since, "until": until}, LOOK_UP_TIMEOUT)

    async def is_running(self, token: str) -> bool:
        """Whether ClickHouse may be running an INSERT with this token; True if that is not known."""
        try:
            [(running,)] = await self.query(IS_RUNNING_SQL, {"token": token})
        except StoreError:
            return True
        return bool(running)

    async def remember_ids(self, segment: str, since: int, until: int) -> None:
        """Add the ids of a segment's stored rows to the known ones, after the view that does this has failed."""
        times = {"since": since, "until": until}
        await self.query(REMEMBER_IDS_SQL, {"segment": segment} | times, LOOK_UP_TIMEOUT)

    async def token_memory(self) -> TokenMemory:
        """What shows whether ClickHouse still remembers a token; its window is 0 if that is not known."""
        [(up, blocks, engine)] = await self.query(TOKEN_MEMORY_SQL)
        window = re.search(r"\bnon_replicated_deduplication_window = (\d+)", engine)
        plain = str(engine).startswith("MergeTree")  # others number their blocks by partition
        return TokenMemory(up, int(blocks), int(window[1]) if window and plain else 0)

    async def query(
        self, sql: str, parameters: dict[str, Any] | None = None, seconds: float = QUERY_TIMEOUT
    ) -> list[tuple[Any, ...]]:
        """The rows of a SELECT; the server binds parameters, written ``{name:Type}``. Raises Retryable."""
        rows: list[tuple[Any, ...]] = await self._call(self._ask(sql, parameters), seconds)
        return rows

    async def _ask(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        try:
            return await self._engine.query(sql, parameters)
        except Exception as error:
            raise classify_query_failure(error) from error

    async def command(self, sql: str, parameters: dict[str, Any] | None = None) -> None:
        """Run a statement that returns nothing."""
        await self.query(sql, parameters)

    async def ping(self) -> None:
        """Raise if ClickHouse does not answer, or would refuse inserts or look-ups."""
        await self._call(self._ask("SELECT 1"), PING_TIMEOUT)
        if time.monotonic() - self._checked_at > CHECKED_EVERY:
            await self._check()

    async def close(self) -> None:
        """Disconnect from ClickHouse, after a running call has ended."""
        self._ready.clear()
        await self._engine.close()

    async def _call(self, call: Awaitable[Any], seconds: float) -> Any:
        try:
            return await self._within(call, seconds)
        except StoreError as error:
            kind = type(error).__name__.lower()
            failure = kind, str(error.code) if error.code else "network" if kind == "retryable" else "none"
            self.errors[failure] = self.errors.get(failure, 0) + 1
            raise

    async def _within(self, call: Awaitable[Any], seconds: float | None) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await call
        except TimeoutError:
            raise Retryable(f"ClickHouse did not answer within {seconds:.0f} s", may_run=True) from None
        except StoreError:
            raise
        except Exception as error:
            raise classify_failure(error) from error


_TEXT = frozenset({"String", "LowCardinality(String)", "Nullable(String)", "LowCardinality(Nullable(String))"})


def _fits(sent: str, there: str) -> bool:
    """Whether a value made for one type means the same in a column of the other."""
    return sent == there or {sent, there} <= _TEXT
