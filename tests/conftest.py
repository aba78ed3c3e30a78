"""Fixtures: a real ClickHouse server for the session, databases of their own, real service processes."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings

from service.store.dsn import Target, parse_dsn
from service.store.store import Store
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.disk import Disk
from tests.support.proxy import Proxy
from tests.support.service import Service

settings.register_profile("default", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("default")

#: Fixtures that start something which takes its time: a ClickHouse, a service, a disk.
STARTERS = {"clickhouse", "own_server", "make_service", "make_disk", "embedded_folder"}


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if STARTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("starts")


@pytest.fixture(autouse=True)
def quick_tests_start_nothing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``make quick`` runs needs neither a ClickHouse server nor a browser, and no process of the service."""
    if not request.node.get_closest_marker("quick") or request.node.get_closest_marker("starts"):
        return

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a quick test starts no server, service or browser: mark it with `starts`")

    for place in ("clickhouse.ClickHouseServer.start", "service.Service.start", "browser.open_browser"):
        monkeypatch.setattr(f"tests.support.{place}", refuse)


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A ClickHouse server: maps a database name to a DSN. ANALYTICS_TEST_CLICKHOUSE_DSN names another one to use."""
    if given := os.environ.get("ANALYTICS_TEST_CLICKHOUSE_DSN"):
        yield lambda database: f"{given.rstrip('/').rsplit('/', 1)[0] if given.count('/') > 2 else given}/{database}"
        return
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse") / "server").start()
    yield server.dsn
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """A ClickHouse server that the test may kill, or start with other ``users``."""
    server = ClickHouseServer(tmp_path / "own-server", with_users=True).start()
    yield server
    server.stop()


@pytest.fixture
def server_dsn(clickhouse: Callable[[str], str]) -> Iterator[str]:
    """The DSN of a database that does not exist yet, on the ClickHouse server."""
    database = f"test_{uuid4().hex[:12]}"
    yield clickhouse(database)
    query(clickhouse("default"), f"DROP DATABASE IF EXISTS {database}")


@pytest.fixture(params=["server", "embedded"])
def dsn(request: pytest.FixtureRequest) -> str:
    """Each kind of ClickHouse in turn."""
    return "chdb://" if request.param == "embedded" else str(request.getfixturevalue("server_dsn"))


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes service processes, each on a folder of its own, and ends those that still run."""
    made: list[Service] = []

    def make(dsn: str = "chdb://", **environment: object) -> Service:
        folder = tmp_path / f"service-{len(made)}"
        made.append(Service(folder, ANALYTICS_CLICKHOUSE_DSN=dsn, **environment))
        return made[-1]

    yield make
    for service in made:
        service.end()


@pytest.fixture
def service(make_service: Callable[..., Service], server_dsn: str) -> Service:
    """A running service on the ClickHouse server."""
    return make_service(server_dsn).start()


@pytest.fixture
def any_service(make_service: Callable[..., Service], dsn: str) -> Service:
    """A running service on each kind of ClickHouse in turn."""
    return make_service(dsn).start()


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """Makes disks, mounted, and unmounts them. Ask for it before ``make_service``, so that services end first."""
    made: list[Disk] = []

    def make(folder: Path, kind: str = "ext4", megabytes: int = 16, inodes: int | None = None) -> Disk:
        made.append(Disk(kind, folder, megabytes, inodes))
        return made[-1].mount()

    yield make
    for disk in made:
        disk.unmount()


@pytest.fixture
def proxy(clickhouse: Callable[[str], str]) -> Iterator[Proxy]:
    """A proxy in front of the ClickHouse server: what makes it be away and back without harm to other tests."""
    proxy = Proxy(int(clickhouse("default").split(":")[-1].split("/")[0])).open()
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def embedded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine takes one folder a process."""
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(params=["server", "embedded"])
def target(request: pytest.FixtureRequest, embedded_folder: Path) -> Target:
    """A database that does not exist yet, on each kind."""
    if request.param == "server":
        return parse_dsn(request.getfixturevalue("server_dsn"), embedded_folder)
    return parse_dsn("chdb://", embedded_folder)._replace(database=f"test_{uuid4().hex[:12]}")


@pytest.fixture
async def store(target: Target) -> AsyncIterator[Store]:
    store = Store(target, migrating=True)
    await store.prepare()
    yield store
    await store.command(f"DROP DATABASE {target.database}")
    await store.close()
