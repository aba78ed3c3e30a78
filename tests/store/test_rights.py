"""The rights of the ClickHouse user: those that the docs name are enough, and each that is missing is named."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.errors import Misconfigured
from service.store.columns import add_column, drop_column, fill_column, fill_states, list_columns
from service.store.dsn import parse_dsn
from service.store.store import Store
from service.store.views import make_views, shipped_views
from tests.cli.test_start import refused, run
from tests.support import wait_until
from tests.support.checks import wait_for_health
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.rows import count, insert, rows_of
from tests.support.service import Service, patched

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
EAGER = patched("service.pipeline.lane.BACKOFF_MAX_MISCONFIGURED = 0.5; service.store.store.CHECKED_EVERY = 0.2")
ID = "0197f2a0-0000-7000-8000-000000000001"


def documented(row: str) -> list[str]:
    """The statements that the docs name in this row of the table."""
    section = DOCS.read_text("utf-8").split("## Rights of the ClickHouse user")[1]
    [line] = [one for one in section.splitlines() if one.startswith("|") and row in one.split("|")[1]]
    return re.findall(r"`(GRANT [^`]+)`", line)


MIGRATING, SERVING = documented("ANALYTICS_MIGRATE=on"), documented("ANALYTICS_MIGRATE=off")
COLUMNS, READING = documented("analytics columns"), documented("analysts")


def users(**grants: list[str]) -> str:
    """Users without passwords, with these statements' rights and no others."""
    made = "".join(
        f"<{name}><password/><networks><ip>::/0</ip></networks><profile>default</profile>"
        f"<grants>{''.join(f'<query>{one}</query>' for one in granted)}</grants></{name}>"
        for name, granted in grants.items()
    )
    everything = "<default><password/><networks><ip>::/0</ip></networks><profile>default</profile></default>"
    return f"<clickhouse><profiles><default/></profiles><users>{everything}{made}</users></clickhouse>"


def without(right: str, table: str) -> list[str]:
    """What a service needs, but for one right."""
    split = [
        f"GRANT {one.strip()} ON {on}"
        for statement in SERVING
        for rights, on in [statement.removeprefix("GRANT ").split(" ON ")]
        for one in rights.split(",")
    ]
    left = [one for one in split if one != f"GRANT {right} ON {table}"]
    assert len(left) == len(split) - 1, split
    return left


MISSING = {
    "no_insert": ("INSERT", "analytics.events"),
    "no_events": ("SELECT", "analytics.events"),
    "no_ids": ("SELECT", "analytics.client_ids"),
}


def store_of(server: ClickHouseServer, user: str, *, migrating: bool = False) -> Store:
    return Store(parse_dsn(server.dsn("analytics", user), Path("unused")), migrating=migrating)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    server = ClickHouseServer(tmp_path_factory.mktemp("rights") / "server", with_users=True)
    lacking = {name: without(*right) for name, right in MISSING.items()}
    no_drop = [one.replace("DROP VIEW, ", "") for one in MIGRATING]
    more = {"columns": SERVING + COLUMNS, "reader": READING, "no_drop": no_drop}
    server.users = users(migrator=MIGRATING, server=SERVING, nobody=["GRANT SELECT ON other.*"], **lacking, **more)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def migrated(server: ClickHouseServer) -> ClickHouseServer:
    store = store_of(server, "migrator", migrating=True)
    await store.prepare()
    await store.close()
    return server


async def test_the_rights_that_the_docs_name_are_enough_to_migrate_and_to_serve(
    make_service: Callable[..., Service], migrated: ClickHouseServer
) -> None:
    for user, migrate in (("migrator", "on"), ("server", "off")):
        service = make_service(migrated.dsn("analytics", user), ANALYTICS_MIGRATE=migrate).start()
        before = service.stats()["total_events"]
        event_id = ID.replace("0001", "000a" if user == "migrator" else "000b")
        event = {"event_name": "e", "session_id": "s", "sequence": 1, "event_id": event_id}
        for _ in range(2):
            assert service.post(event).status == 200
            service.wait_for_total(before + 1)
        assert service.get("/api/v1/analytics/loss?session_id=s").status == 200
        health = service.get("/api/v1/analytics/health").json
        assert health["clickhouse"]["ok"]
        assert "warnings" not in health
        assert service.stop() == 0
        assert "WARNING" not in service.log(), service.log()


@pytest.mark.parametrize("user", MISSING)
async def test_a_right_that_is_missing_is_named_with_the_statement_that_mends_it(
    migrated: ClickHouseServer, tmp_path: Path, user: str
) -> None:
    right, table = MISSING[user]
    store = store_of(migrated, user)
    with pytest.raises(Misconfigured) as missing:
        await store.prepare()
    assert str(missing.value) == f"a right is missing: GRANT {right} ON {table} TO <user> (code 497)"
    await store.close()
    dsn = migrated.dsn("analytics", user)
    line = refused(run(tmp_path, "serve", ANALYTICS_PORT=0, ANALYTICS_MIGRATE="off", ANALYTICS_CLICKHOUSE_DSN=dsn))
    assert f"GRANT {right} ON {table} TO <user>" in line


def test_a_user_who_may_not_migrate_is_told_which_right_is_missing(migrated: ClickHouseServer, tmp_path: Path) -> None:
    dsn = migrated.dsn("analytics", "server")
    line = refused(run(tmp_path, "serve", ANALYTICS_PORT=0, ANALYTICS_CLICKHOUSE_DSN=dsn))
    assert "GRANT CREATE TABLE ON analytics.migrations TO <user>" in line


async def test_the_rights_that_the_docs_name_are_enough_for_columns_and_for_analysts(
    migrated: ClickHouseServer,
) -> None:
    store = store_of(migrated, "columns")
    await store.prepare()
    await add_column(store, "symbol", "String")
    await fill_column(store, "symbol")
    assert [state.problem async for state in fill_states(store, "symbol")][-1] == ""
    assert [one.name for one in await list_columns(store)] == ["symbol"]
    await drop_column(store, "symbol")
    await store.close()
    reader = migrated.dsn("analytics", "reader")
    week = "since = today() - 7, until = now64(6)"
    for what in ("events", f"sessions({week})", f"orders({week})"):
        assert len(query(reader, f"SELECT count() FROM {what}")) == 1
    with pytest.raises(RuntimeError, match="Not enough privileges"):
        query(reader, "INSERT INTO events (event_name) VALUES ('e')")


async def test_a_view_is_renewed_with_the_rights_that_the_docs_name_and_without_them_the_rest_goes_on(
    migrated: ClickHouseServer, caplog: pytest.LogCaptureFixture
) -> None:
    newer = [view._replace(version=view.version + 1) for view in shipped_views()]
    for user, made in (("no_drop", []), ("migrator", newer)):
        store = store_of(migrated, user, migrating=True)
        await store.prepare()
        assert await make_views(store, newer) == made
        await store.close()
    assert "the view sessions is not made: a right is missing: GRANT DROP VIEW ON analytics.sessions TO" in caplog.text


async def test_trying_the_rights_inserts_nothing(migrated: ClickHouseServer) -> None:
    admin, store = store_of(migrated, "default"), store_of(migrated, "server")
    await admin.prepare()
    await insert(admin, rows_of({"event_name": "e", "event_id": ID}), "t")
    before, parts = await count(admin), migrated.query("SELECT count() FROM system.parts")
    await store.prepare()
    assert await count(admin) == before
    assert migrated.query("SELECT count() FROM system.parts") == parts
    await admin.close()
    await store.close()


@pytest.mark.parametrize("right", MISSING.values(), ids=" ON ".join)
def test_a_right_that_is_taken_away_shows_in_health_without_names_until_it_is_back(
    make_service: Callable[..., Service], own_server: ClickHouseServer, right: tuple[str, str]
) -> None:
    def restart(granted: list[str]) -> None:
        own_server.stop()
        own_server.users = users(migrator=MIGRATING, somebody=granted)
        own_server.start()

    restart(SERVING)
    make_service(own_server.dsn("analytics", "migrator")).start().stop()
    service = make_service(own_server.dsn("analytics", "somebody"), ANALYTICS_MIGRATE="off").start(prefix=EAGER)
    restart(without(*right))
    reason = "ClickHouse says no: the user lacks rights (code 497; the log says more)"
    wait_until(lambda: wait_for_health(service, "degraded")["clickhouse"]["reason"] == reason)
    assert "a right is missing: GRANT {} ON {} TO <user> (code 497)".format(*right) in service.log()
    assert "somebody" not in str(service.get("/api/v1/analytics/health").json)
    assert service.post({"event_name": "e", "event_id": ID}).status == 200
    restart(SERVING)
    wait_for_health(service, "ok")
    wait_until(lambda: query(own_server.dsn("analytics"), "SELECT count() FROM events") == [[1]])


async def test_a_right_that_the_maker_of_the_view_lost_is_named(own_server: ClickHouseServer) -> None:
    """Where a view has the rights of its maker, these count for what it writes."""
    own_server.stop()
    own_server.users = users(maker=MIGRATING, server=SERVING)
    own_server.start()
    store = store_of(own_server, "maker", migrating=True)
    await store.prepare()
    await store.close()
    own_server.query("ALTER TABLE analytics.client_ids_view MODIFY SQL SECURITY DEFINER DEFINER = maker")
    own_server.stop()
    own_server.users = users(maker=["GRANT SELECT ON analytics.events"], server=SERVING)
    own_server.start()
    store = store_of(own_server, "server")
    with pytest.raises(Misconfigured, match=r"GRANT INSERT ON analytics\.client_ids TO <user>"):
        await store.prepare()
    await store.close()
