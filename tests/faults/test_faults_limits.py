"""At the limits: ClickHouse loses power after its OK, memory is capped, more clients than can be served."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from uuid import uuid4

import pytest

from tests.machine import find
from tests.support import wait_until
from tests.support.checks import check, drained, sessions
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.disk import Disk
from tests.support.load import Load
from tests.support.proxy import Proxy
from tests.support.service import Service

Make = Callable[..., Service]
MakeDisk = Callable[..., Disk]
MEMORY = 256 * 2**20


@pytest.fixture
def server(make_disk: MakeDisk, tmp_path: Path) -> Iterator[ClickHouseServer]:
    """A ClickHouse server on the folder ``server``, which the test may put on a disk before it starts it."""
    server = ClickHouseServer(tmp_path / "server")
    yield server
    if server.started:
        server.resume()
        server.stop()


def flushed(service: Service) -> int:
    """How many events the service has seen confirmed."""
    count: int = service.stats()["buffer_status"]["events_flushed_total"]
    return count


def power_cut(server: ClickHouseServer, disk: Disk) -> None:
    """ClickHouse and its disk are gone at one moment; then both are back."""
    server.pause()  # else it would live to tell of errors that no client can see
    disk.cut_power()
    server.kill()
    disk.unmount()
    disk.repair()
    disk.mount()
    server.start()


def peak(service: Service) -> int:
    """The most bytes of memory that the service ever had, as the kernel counts them."""
    assert service.process
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def test_a_power_cut_of_clickhouse_right_after_its_ok_loses_nothing(
    make_disk: MakeDisk, make_service: Make, server: ClickHouseServer
) -> None:
    disk = make_disk(server.folder, megabytes=1024)
    server.start()
    dsn = server.dsn("analytics")
    service = make_service(dsn, ANALYTICS_FLUSH_INTERVAL=0.05, ANALYTICS_BATCH_SIZE=100).start()
    with Load(service, pause=0.01) as load:
        for _ in range(4):
            load.wait_for_more(200)
            before = flushed(service)
            wait_until(lambda: flushed(service) > before)  # noqa: B023
            power_cut(server, disk)
            load.wait_for_more(1)
    check(service, load, dsn)


def test_an_id_that_clickhouse_confirmed_before_its_power_cut_is_recognised_after_it(
    make_disk: MakeDisk, make_service: Make, server: ClickHouseServer
) -> None:
    disk = make_disk(server.folder, megabytes=1024)
    server.start()
    dsn = server.dsn("analytics")
    service = make_service(dsn, ANALYTICS_FLUSH_INTERVAL=0.05).start()
    event = {"event_name": "e", "event_id": str(uuid4())}
    assert service.post(event).status == 200
    wait_until(lambda: flushed(service) == 1)
    power_cut(server, disk)
    assert query(dsn, "SELECT count() FROM events") == [[1]]
    assert service.post(event).status == 200
    drained(service)
    assert query(dsn, "SELECT count() FROM events") == [[1]]


def test_a_power_cut_of_clickhouse_before_its_ok_is_heard_doubles_nothing(
    make_disk: MakeDisk, make_service: Make, server: ClickHouseServer
) -> None:
    """ClickHouse keeps the row and forgets the token, which it never syncs: before another try we look for the row."""
    disk = make_disk(server.folder, megabytes=1024)
    server.start()
    dsn = server.dsn("analytics")
    proxy = Proxy(server.port).open()
    service = make_service(proxy.dsn(dsn), ANALYTICS_FLUSH_INTERVAL=0.05).start()
    try:
        proxy.fates.append("cut-answer, refuse")
        assert service.post({"event_name": "e", "session_id": "s"}).status == 200
        wait_until(lambda: proxy.refuses)
        assert sessions(dsn) == ["s"]
        power_cut(server, disk)
        assert sessions(dsn) == ["s"]
        proxy.open()
        drained(service)
        assert sessions(dsn) == ["s"]
    finally:
        proxy.close()


def test_clickhouse_starts_after_a_power_cut_right_after_many_merges(
    make_disk: MakeDisk, make_service: Make, server: ClickHouseServer
) -> None:
    """It does not sync what it merges, and by itself does not start with more than 100 parts that are spoilt."""
    disk = make_disk(server.folder, megabytes=1024)
    server.start()
    dsn = server.dsn("analytics")
    service = make_service(dsn, ANALYTICS_FLUSH_INTERVAL=0.05).start()
    event = {"event_name": "e", "event_id": str(uuid4())}
    assert service.post(event).status == 200
    drained(service)
    for _ in range(110):
        for table in ("events", "client_ids"):
            query(dsn, f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1 SETTINGS insert_deduplicate = 0")
            query(dsn, f"OPTIMIZE TABLE {table} FINAL")
    [[rows]] = query(dsn, "SELECT count() FROM events")
    power_cut(server, disk)
    assert query(dsn, "SELECT count() FROM events") == [[rows]]
    assert service.post(event).status == 200
    drained(service)
    assert query(dsn, "SELECT count() FROM events") == [[rows]]


def test_the_service_gets_by_with_256_mb_under_full_load_while_clickhouse_is_away(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    """The kernel gives it no more: beyond, it would fail for lack of memory, as it would be killed in a container."""
    service = make_service(proxy.dsn(server_dsn)).start(prefix=(find("prlimit"), f"--data={MEMORY}"))
    with Load(service, clients=8, batch=50, text=500) as load:
        load.wait_for_more(5000)
        proxy.refuse()
        end = time.monotonic() + 12
        wait_until(lambda: time.monotonic() > end, 20)
        proxy.open()
        load.wait_for_more(5000)
    print(f"{len(load.acknowledged)} events, peak {peak(service) // 2**20} MB")
    assert not load.refused | load.unknown
    check(service, load, server_dsn)
    assert service.process
    assert service.process.poll() is None
    assert peak(service) < MEMORY
    assert "MemoryError" not in service.log()


def test_more_clients_than_can_be_served_get_200_or_a_quick_503_and_nothing_acknowledged_is_lost(
    make_service: Make, server: ClickHouseServer
) -> None:
    server.start()
    dsn = server.dsn("analytics")
    service = make_service(dsn, ANALYTICS_SPOOL_MAX_BYTES=2_000_000).start()
    server.pause()
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(service, clients=30, batch=20, name=name)) for name in ("a", "b", "c")]

        def refusals() -> int:
            return sum(len(load.refused) for load in loads)

        wait_until(lambda: refusals() >= 100_000, 30)
        server.resume()
        for load in loads:
            load.wait_for_more(1000)
    answers = [answer for load in loads for answer in load.answers]
    assert len(answers) * 20 == sum(len(load.acknowledged | load.refused) for load in loads), "each was answered"
    assert not any(load.unknown for load in loads)
    assert {status for status, _, _ in answers} == {200, 503}
    assert all(int(again or 0) >= 1 for status, again, _ in answers if status == 503)
    accepted, refused = (median(took for status, _, took in answers if status == kind) for kind in (200, 503))
    print(f"{accepted:.3f} s, {refused:.3f} s, peak {peak(service) // 2**20} MB, {Counter(a[0] for a in answers)}")
    assert refused < 3 * accepted
    assert peak(service) < MEMORY
    drained(service)
    stored = sessions(dsn)
    for load in loads:
        load.check(name for name in stored if name.startswith(f"{load.name}-"))
    assert service.stats()["total_events"] == len(stored)
