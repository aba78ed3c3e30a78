"""Queries of analysts, on either kind of ClickHouse: guarded, limited, streamed, and cancelled when nobody wants them.

``sql_guard`` says what may run. Here is with which settings: our limits, what the client asks for from a list, and
``readonly = 1`` with them, after which ClickHouse lets nobody change any. How a query runs is in ``sql_embedded`` and
``sql_server``.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from service.config import Settings
from service.errors import SqlError
from service.store.dsn import Target
from service.store.sql_guard import LIMITS, allowed, cannot_modify, guard, is_allowed
from service.store.sql_query import Reader, Result, SqlQuery

DEFAULT_FORMAT = "TabSeparated"
#: Of those that wait for their turn, so many at most.
WAITING_MAX = 100
#: Of the threads of a query, so that events go first; without the right to it (CAP_SYS_NICE) ClickHouse leaves it be.
NICE = "15"
#: Temporary files of a query, for what it groups or sorts, are on the disk of the table: so many times its memory.
DISK_PER_MEMORY = 4


class ReadOnly:
    """The read-only side of the store, for as many queries at a time as there may be."""

    def __init__(self, target: Target, settings: Settings, at_a_time: int) -> None:
        self.database = target.database
        self._settings = settings
        self._turns = asyncio.Semaphore(at_a_time)
        self._waiting = 0
        self._results: set[Result] = set()
        self._timezone = ""
        self._reader: Reader
        if target.folder:  # each imports much that the other does not need
            from service.store.sql_embedded import EmbeddedReader

            self._reader = EmbeddedReader(target.folder, target.database, at_a_time)
        else:
            from service.store.sql_server import ServerReader

            user, password = settings.sql_user, settings.sql_password.get_secret_value()
            server = target.server | ({"username": user, "password": password} if user else {})
            self._reader = ServerReader(server, target.database)

    async def timezone(self) -> str:
        """That of ClickHouse, for the head of an answer."""
        self._timezone = self._timezone or (await self._reader.ask("SELECT timezone()", {})).strip()
        return self._timezone

    @asynccontextmanager
    async def run(self, query: SqlQuery) -> AsyncIterator[Result]:
        """The answer to a query, within the time that one may take; cancelled where the block is left before its end.

        Raises SqlError.
        """
        seconds = self._settings.sql_max_seconds
        try:
            async with asyncio.timeout(seconds), self._turn():
                wanted = self._allowed(query.settings)
                guarded = await guard(self._reader.ask, query.text, query.parameters, self.database)
                settings = self._with_limits(wanted | guarded.settings)
                # With 1, system.settings says of each that it can't be set, and clients believe it.
                settings["readonly"] = "2" if guarded.tells_settings else "1"
                result = await self._reader.run(query, guarded, settings)
                self._results.add(result)
                try:
                    yield result
                finally:
                    self._results.discard(result)
                    await result.close()
        except TimeoutError:
            raise SqlError(159, f"Timeout exceeded: maximum: {seconds:g} s", "TIMEOUT_EXCEEDED") from None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_MAX:
            raise SqlError(202, "Too many simultaneous queries", "TOO_MANY_SIMULTANEOUS_QUERIES")
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    def _allowed(self, given: Mapping[str, str]) -> dict[str, str]:
        asked = {name: value for name, value in given.items() if name not in allowed("ignored settings")}
        for name in asked:
            if not _may_ask(name):
                raise cannot_modify(name)
        return asked

    def _with_limits(self, wanted: Mapping[str, str]) -> dict[str, str]:
        ours = self._settings
        limits = {
            "max_execution_time": ours.sql_max_seconds,
            "max_result_rows": ours.sql_max_rows,
            "max_memory_usage": ours.sql_max_memory,
        }
        only_this = {f"system.{table}": "database" for table in ("tables", "columns", "parts", "projections")}
        only_this |= {"system.data_skipping_indices": "database", "system.databases": "name"}
        filters = ",".join(f"'{table}':'{name} = \\'{self.database}\\''" for table, name in only_this.items())
        return {
            "timeout_overflow_mode": "throw",
            "os_thread_priority": NICE,
            "max_temporary_data_on_disk_size_for_query": str(DISK_PER_MEMORY * ours.sql_max_memory),
            **{name: value for name, value in wanted.items() if name not in LIMITS},
            **{name: _lower(wanted.get(name, ""), most) for name, most in limits.items()},
            "additional_table_filters": f"{{{filters}}}",
            "format_display_secrets_in_show_and_select": "0",
            "enable_analyzer": "1",  # the guard looks at the tree of this one
        }

    async def close(self) -> None:
        """Cancel what runs, and let go of ClickHouse."""
        for result in list(self._results):
            await result.close()
        await self._reader.close()


def _may_ask(setting: str) -> bool:
    return setting in LIMITS or is_allowed(setting)


def _lower(wanted: str, most: float) -> str:
    """The lower of two limits, of which 0 is none."""
    try:
        number = float(wanted or 0)
    except ValueError:
        return wanted  # ClickHouse says what is wrong with it
    if number < 0 or math.isnan(number):
        number = 0
    limits = [one for one in (number, most) if one]
    return f"{min(limits, default=0):.15g}"
