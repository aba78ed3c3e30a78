"""What the profile of the database user says bends neither an answer nor an insert."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from schemas.parse import parse_batch
from schemas.payload import Rows
from schemas.rows import CURRENT, make_rows
from schemas.statements import statement
from service.errors import Misconfigured, StoreError
from service.store.dsn import parse_dsn
from service.store.settings import LIMITS
from service.store.store import Store
from tests.support.clickhouse import ClickHouseServer

NOW = time.time_ns() // 1000
#: Each of these was seen to bend something when it was not overruled. Small blocks let a limit cut few rows too.
SMALL = {"max_block_size": 50, "max_threads": 1}
BENT: dict[str, dict[str, Any]] = {
    "limit": {"limit": 100},
    "limit of one": {"limit": 1},
    "offset": {"offset": 1},
    "additional_result_filter": {"additional_result_filter": "1 = 0"},
    "additional_table_filters of events": {"additional_table_filters": "{'events': 'category = ''auth'''}"},
    "additional_table_filters of ids": {"additional_table_filters": "{'client_ids': 'id % 2 = 0'}"},
    "read_overflow_mode": {"max_rows_to_read": 100, "read_overflow_mode": "break", **SMALL},
    "read_overflow_mode by bytes": {"max_bytes_to_read": 100, "read_overflow_mode": "break", **SMALL},
    "read_overflow_mode_leaf": {"max_rows_to_read_leaf": 100, "read_overflow_mode_leaf": "break", **SMALL},
    "group_by_overflow_mode any": {"max_rows_to_group_by": 1, "group_by_overflow_mode": "any", **SMALL},
    "group_by_overflow_mode break": {"max_rows_to_group_by": 1, "group_by_overflow_mode": "break", **SMALL},
    "sort_overflow_mode": {"max_rows_to_sort": 1, "sort_overflow_mode": "break", **SMALL},
    "result_overflow_mode": {"max_result_rows": 1, "result_overflow_mode": "break", **SMALL},
    "result_overflow_mode by bytes": {"max_result_bytes": 1, "result_overflow_mode": "break", **SMALL},
    "set_overflow_mode": {"max_rows_in_set": 1, "set_overflow_mode": "break", **SMALL},
    "distinct_overflow_mode": {"max_rows_in_distinct": 1, "distinct_overflow_mode": "break", **SMALL},
    **{f"{name} that throws": {name: 1} for name in LIMITS},
    "use_query_cache": {"use_query_cache": 1, "query_cache_ttl": 3600},
    "use_query_cache of system tables": {"use_query_cache": 1, "query_cache_system_table_handling": "save"},
    "empty_result_for_aggregation_by_empty_set": {"empty_result_for_aggregation_by_empty_set": 1},
    "aggregate_functions_null_for_empty": {"aggregate_functions_null_for_empty": 1},
    "nulls": {"group_by_use_nulls": 1, "join_use_nulls": 1, "transform_null_in": 1, "data_type_default_nullable": 1},
    "final": {"final": 1},
    "prefer_column_name_to_alias": {"prefer_column_name_to_alias": 1},
    "session_timezone": {"session_timezone": "Asia/Tokyo"},
    "apply_deleted_mask": {"apply_deleted_mask": 0},
    "enable_global_with_statement": {"enable_global_with_statement": 0},
    "force_index_by_date": {"force_index_by_date": 1},
    "force_primary_key": {"force_primary_key": 1},
    "force_optimize_projection": {"force_optimize_projection": 1},
    "force_optimize_projection_name": {"force_optimize_projection_name": "by_nothing"},
    "extremes": {"extremes": 1},
    "small blocks": {"max_block_size": 1},
    "parallel replicas": {"enable_parallel_replicas": 1, "max_parallel_replicas": 3},
    "compatibility": {"compatibility": "24.1"},
    "compatibility with a server of long ago": {"compatibility": "21.1"},
    "materialized_views_ignore_errors": {"materialized_views_ignore_errors": 1},
}  # fmt: skip
#: What a profile holds fast, so that it can't be overruled: the reason names it.
HELD: dict[str, dict[str, Any]] = {
    "limit": {"limit": 1000},
    "use_query_cache": {"use_query_cache": 1},
    "read_overflow_mode": {"read_overflow_mode": "break"},
    "max_block_size": {"max_block_size": 100},
    "async_insert": {"async_insert": 1},
}
#: The same of values that do no harm.
HARMLESS: dict[str, dict[str, Any]] = {
    "a limit on time": {"max_execution_time": 30},
    "limits that are high": {"max_rows_to_read": 10**9, "max_result_rows": 10**6},
    "limits with a floor": {"max_rows_to_read": 10**9, "max_result_rows": 10**6},
    "what the service sends itself": {"limit": 0, "use_query_cache": 0, "async_insert": 0},
}
_USER = "<{0}><password/><networks><ip>::/0</ip></networks><profile>{0}</profile></{0}>"


def _profile(name: str, settings: dict[str, Any], held: str = "") -> str:
    inside = "".join(f"<{one}>{value}</{one}>" for one, value in settings.items())
    return f"<{name}>{inside}{held}</{name}>"


def _names(prefix: str, of: dict[str, Any]) -> dict[str, str]:
    return {one: f"{prefix}{number}" for number, one in enumerate(of)}


BENT_USERS, HELD_USERS = _names("bent", BENT), _names("held", HELD | HARMLESS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A server with a user for each bad profile, and a table with three thousand events in many parts."""
    server = ClickHouseServer(tmp_path_factory.mktemp("profiles") / "server", with_users=True)
    profiles = [_profile(BENT_USERS[name], settings) for name, settings in BENT.items()]
    for name, settings in (HELD | HARMLESS).items():
        how = "<min>1000</min>" if "floor" in name else "<const/>"
        held = "".join(f"<{one}>{how}</{one}>" for one in settings)
        profiles.append(_profile(HELD_USERS[name], settings, f"<constraints>{held}</constraints>"))
    users = [_USER.format(one) for one in ("default", *BENT_USERS.values(), *HELD_USERS.values())]
    server.users = (
        f"<clickhouse><profiles><default/>{''.join(profiles)}</profiles><users>{''.join(users)}</users></clickhouse>"
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def plain(server: ClickHouseServer) -> AsyncIterator[Store]:
    store = _store(server, "default", migrating=True)
    await store.prepare()
    if not await store.query("SELECT 1 FROM events LIMIT 1"):
        for number in range(10):
            await store.insert(_batch(f"first-{number}", 300), f"first-{number}")
        await store.command("DELETE FROM events WHERE event_name = 'e5'")
    yield store
    await store.close()


def _store(server: ClickHouseServer, user: str, *, migrating: bool = False) -> Store:
    return Store(parse_dsn(server.dsn("analytics", user), Path("unused")), migrating=migrating)


def _ids(batch: str, size: int) -> list[int]:
    return [UUID(int=(hash(batch) & 0xFFFF_FFFF) << 64 | number, version=4).int for number in range(size)]


def _batch(name: str, size: int) -> Rows:
    """Events with ids of the client, each third number of each session missing."""
    ids = _ids(name, size)
    events = [
        {
            "event_name": f"e{number % 12}",
            "category": ("auth", "error", "trading", "system")[number % 4],
            "session_id": f"s{number % 2}",
            "sequence": 1 + number // 2 * 3,
            "event_id": str(UUID(int=ids[number])),
        }
        for number in range(size)
    ]
    bodies = [json.dumps({"events": events[start : start + 100]}).encode() for start in range(0, size, 100)]
    return Rows(CURRENT, [make_rows(parse_batch(body), source="t", received_at=NOW) for body in bodies])


async def _answers(store: Store) -> dict[str, Any]:
    def sql(name: str) -> str:
        return statement(name)

    span = {"start_us": NOW - 3_600_000_000, "now_us": NOW + 1}
    by_bucket = {**span, "bucket_us": 60_000_000}
    return {
        "stats": await store.query(sql("stats"), {"now_us": NOW + 1}),
        "activity": await store.query(sql("activity"), by_bucket),
        "top_names": await store.query(sql("top_names"), span),
        "loss": await store.query(sql("loss"), {"session_id": "s0"}),
        "loss of nothing": await store.query(sql("loss"), {"session_id": "nobody"}),
        "ids": sorted(await store.query("SELECT id FROM client_ids")),
    }


@pytest.mark.parametrize("name", BENT)
async def test_a_profile_bends_neither_an_answer_nor_an_insert(
    server: ClickHouseServer, plain: Store, name: str
) -> None:
    store = _store(server, BENT_USERS[name])
    await store.prepare()
    before = await _answers(plain)
    assert await _answers(store) == before
    for _ in range(2):
        await store.insert(_batch(name, 300), name)
    found = await store.query("SELECT id FROM client_ids WHERE id IN {ids:Array(UInt128)}", {"ids": _ids(name, 300)})
    assert {one for (one,) in found} == set(_ids(name, 300))
    after = await _answers(plain)
    assert len(after["ids"]) == len(before["ids"]) + 300
    assert sum(total for _, total, *_ in after["stats"]) == sum(total for _, total, *_ in before["stats"]) + 300
    assert await _answers(store) == after, "old answers, perhaps out of a cache"
    await store.close()


@pytest.mark.parametrize("name", BENT)
async def test_migrations_are_applied_whatever_the_profile_says(server: ClickHouseServer, name: str) -> None:
    user = BENT_USERS[name]
    store = Store(parse_dsn(server.dsn(f"new_{user}", user), Path("unused")), migrating=True)
    assert await store.prepare()
    assert await store.prepare() == []
    await store.command(f"DROP DATABASE new_{user}")
    await store.close()


@pytest.mark.parametrize("name", HELD)
async def test_a_setting_that_a_profile_holds_fast_is_named(server: ClickHouseServer, plain: Store, name: str) -> None:
    store = _store(server, HELD_USERS[name])
    with pytest.raises(Misconfigured, match=rf"(?i)setting {name} should not be changed.*let the profile .* allow it"):
        await store.prepare()
    await store.close()


@pytest.mark.parametrize("name", HARMLESS)
async def test_a_setting_that_is_held_fast_and_does_no_harm_is_left_alone(
    server: ClickHouseServer, plain: Store, name: str
) -> None:
    store = _store(server, HELD_USERS[name])
    await store.prepare()
    assert await _answers(store) == await _answers(plain)
    await store.insert(_batch(name, 300), name)
    await store.close()


class Switches:
    """All settings of the engine that are on or off: which of them, turned, bend an answer or an insert."""

    def __init__(self, asking: Store, inserting: Store, before: object) -> None:
        self._asking = asking
        self._inserting = inserting
        self._clients = [store._engine._client for store in (asking, inserting)]  # type: ignore[attr-defined]
        self._before = before
        self._inserted = 0
        self.bent: list[str] = []
        self.refused: list[str] = []

    async def try_all(self, defaults: dict[str, int]) -> None:
        """Turn many at a time; those that bend something, or that are refused, are then found by halving."""
        names = list(defaults)
        for start in range(0, len(names), 32):
            await self._look(names[start : start + 32], defaults)

    async def _look(self, names: list[str], defaults: dict[str, int]) -> None:
        bends = await self._bends(names, defaults)
        if bends is not False and len(names) > 1:
            await self._look(names[: len(names) // 2], defaults)
            await self._look(names[len(names) // 2 :], defaults)
        elif bends is not False:
            (self.bent if bends else self.refused).extend(names)

    async def _bends(self, names: list[str], defaults: dict[str, int]) -> bool | None:
        """Whether these bend something; None if ClickHouse or the driver refuses."""
        try:
            self._set({name: 1 - defaults[name] for name in names})
            if await _answers(self._asking) != self._before:
                return True
            for _ in range(2):
                await self._inserting.insert(_batch(names[0] + names[-1], 20), names[0] + names[-1])
        except StoreError:
            return None
        finally:
            self._set({name: defaults[name] for name in names})
            was = self._inserted
            [(self._inserted,)] = await self._inserting.query("SELECT count() FROM client_ids")
        return self._inserted != was + 20

    def _set(self, values: dict[str, int]) -> None:
        for (name, value), client in product(values.items(), self._clients):
            client.set_client_setting(name, value)


async def test_no_switch_of_the_engine_bends_an_answer_or_an_insert_without_a_word(
    server: ClickHouseServer, plain: Store
) -> None:
    """All settings that are on or off, many at a time. One that ends in an error may do so: that is told."""
    target = parse_dsn(server.dsn("switches"), Path("unused"))
    inserting = Store(target, migrating=True)
    await inserting.prepare()
    for table in ("events", "client_ids"):  # there is no need to wait for the disk
        await inserting.command(f"ALTER TABLE {table} MODIFY SETTING fsync_after_insert = 0, fsync_part_directory = 0")
    plain._engine._client.set_client_setting("max_block_size", 50)  # type: ignore[attr-defined]
    found = await plain.query(
        "SELECT name, default FROM system.settings WHERE type = 'Bool' AND tier = 'Production' ORDER BY name"
    )
    defaults = {str(name): int(default not in ("0", "false")) for name, default in found}
    assert len(defaults) > 500
    switches = Switches(plain, inserting, await _answers(plain))
    await switches.try_all(defaults)
    assert not switches.bent
    assert len(switches.refused) < 20, switches.refused
    await inserting.close()
