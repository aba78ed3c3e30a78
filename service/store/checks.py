"""Checks of what the service needs in ClickHouse: tried at a start and now and then, before an event has to wait.

What stops inserts or look-ups (a missing right, a constrained setting) is raised, as the statement itself would raise
it. What silently changes their results is a warning: for the log, and for those who may read ``/stats``. A check that
can't be made, for instance because the user lacks a right, finds nothing.
"""

import logging
import re
from collections.abc import Awaitable
from typing import Any, Protocol

from schemas.rows import CURRENT
from schemas.statements import statement
from service.errors import StoreError
from service.store.failures import ACCESS_DENIED, READONLY, SETTING_CONSTRAINT_VIOLATION

_log = logging.getLogger(__name__)
#: EXPLAIN needs the same rights as the query, and its plan shows row policies.
_READS = {
    "events": "EXPLAIN actions = 1 SELECT event_id, event_name, category, timestamp, session_id, sequence, received_at,"
    " segment FROM events",
    "client_ids": "EXPLAIN actions = 1 SELECT id, received_at FROM client_ids",
}
_TYPES = (type_.replace("'", r"\'") for type_ in CURRENT.types)
_TRIAL = "INSERT INTO events (names) SELECT defaults WHERE 0".replace("names", ", ".join(CURRENT.names)).replace(
    "defaults", ", ".join(f"defaultValueOfTypeName('{type_}')" for type_ in _TYPES)
)
#: Needed only if a view behind the table fails: see ``remember_ids.sql``.
_IDS_TRIAL = "INSERT INTO client_ids (id, received_at) SELECT toUInt128(0), now64(3, 'UTC') WHERE 0"
_TABLES_SQL = statement("tables")
_ROW_POLICIES_SQL = statement("row_policies")
#: No later try will succeed until a person mends it.
_FINAL = (ACCESS_DENIED, READONLY, SETTING_CONSTRAINT_VIOLATION)
_NEEDED = (
    ("non_replicated_deduplication_window", 1000, "without it, a batch that is tried again may be stored twice"),
    ("fsync_after_insert", 1, "without it, a power cut of ClickHouse may lose events that it has confirmed"),
    ("fsync_part_directory", 1, "without it, a power cut of ClickHouse may lose events that it has confirmed"),
)


class Asked(Protocol):
    """What the checks need of the store. Both raise StoreError."""

    async def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]: ...

    async def try_insert(self, sql: str) -> None: ...


async def check(store: Asked) -> tuple[str, ...]:
    """Return warnings. Raises Misconfigured if the user lacks a right, Retryable if ClickHouse does not answer."""
    untried: list[str] = []
    plans = {table: await _tried(store.query(sql), untried) for table, sql in _READS.items()}
    await _tried(store.try_insert(_TRIAL), untried)
    # The plan shows none for a table without parts, and system.row_policies needs a right.
    hidden = {table for (table,) in await _asked(store, _ROW_POLICIES_SQL)}
    hidden |= {table for table, plan in plans.items() if re.search("row.level filter", str(plan), re.IGNORECASE)}
    tables = {name: about for name, *about in await _asked(store, _TABLES_SQL)}
    untried += await _lost_right(store)
    return (*untried, *_hidden_rows(hidden), *_lost_settings(tables), *_lost_view(tables))


async def _tried(statement: Awaitable[Any], untried: list[str]) -> Any:
    try:
        return await statement
    except StoreError as error:
        if error.code in _FINAL or not error.code:
            raise
        untried.append(f"a check whether ClickHouse takes and finds events failed: {error}")


async def _lost_right(store: Asked) -> list[str]:
    try:
        await store.try_insert(_IDS_TRIAL)
    except StoreError as error:
        if not error.code:
            raise
        return [f"if a view behind the table fails, events with ids must wait: {error}"]
    return []


async def _asked(store: Asked, sql: str) -> list[tuple[Any, ...]]:
    """The answer, or nothing if ClickHouse refuses the question."""
    try:
        return await store.query(sql)
    except StoreError as error:
        if not error.code:
            raise
        _log.debug("can't be checked: %s", error)
        return []


def _hidden_rows(tables: set[str]) -> list[str]:
    """A row policy can't be overruled."""
    return [
        f"a row policy hides rows of the table {table} from the service:"
        " statistics are too low, and an event sent again may be stored twice"
        for table in sorted(tables)
    ]


def _lost_settings(tables: dict[str, Any]) -> list[str]:
    """Lost because somebody changed them, or made the table anew."""
    lost = []
    for table, (engine, *_) in sorted(tables.items(), reverse=True):
        if not engine.startswith(("MergeTree", "ReplacingMergeTree")):
            continue  # other engines remember tokens by default, and have replicas instead of syncs
        for name, least, risk in _NEEDED:
            found = re.search(rf"\b{name} = (\d+)", engine)
            if found is None or int(found[1]) < least:
                lost.append(f"the table {table} should have the setting {name} = {least} or more: {risk}")
    return lost


def _lost_view(tables: dict[str, Any]) -> list[str]:
    """Without the right to see the view, its table shows that it exists, but not where it writes."""
    risk = "an event sent again may be stored twice; run analytics migrate"
    engine, has_view, _ = tables.get("events", ("", 1, 1))
    _, _, fills_ids = tables.get("client_ids_view", ("", 1, 1))
    if "MergeTree" in engine and not has_view:
        return [f"the table events has no view client_ids_view: {risk}"]
    return [] if fills_ids else [f"the view client_ids_view does not fill the table client_ids: {risk}"]
