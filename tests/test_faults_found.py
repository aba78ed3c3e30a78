"""Bugs that the fault tests found. Each of these fails until the service is mended; then it moves to its own kind."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support import wait_until
from tests.support.checks import check, drained, sessions
from tests.support.clickhouse import USERS, ClickHouseServer
from tests.support.disk import Disk
from tests.support.load import Load
from tests.support.proxy import Proxy
from tests.support.service import Service, patched
from tests.support.strace import injection

Make = Callable[..., Service]


def test_a_profile_that_turns_deduplication_off_makes_no_event_come_twice(
    make_service: Make, own_server: ClickHouseServer
) -> None:
    """Row 47: an INSERT must carry its own deduplicate_insert=enable and insert_deduplicate=1."""
    own_server.stop()
    off = "<default><deduplicate_insert>disable</deduplicate_insert></default></profiles>"
    own_server.users = USERS.replace("<default/></profiles>", off)
    own_server.start()
    proxy = Proxy(own_server.port).open()
    dsn = own_server.dsn("analytics", "writer", "right")
    service = make_service(proxy.dsn(dsn)).start()
    try:
        with Load(service, batch=20) as load:
            proxy.fates.append("cut-answer")
            wait_until(lambda: not proxy.fates)
            load.wait_for_more(100)
        check(service, load, dsn)
    finally:
        proxy.close()


def test_a_batch_that_can_not_be_deleted_is_counted_once(
    make_disk: Callable[..., Disk], make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    """Row 18: on a read-only disk two batches take turns, and ``Totals`` remembers only the last token."""
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=10)
    disk = make_disk(service.data)
    service.start(prefix=patched("service.flusher.BACKOFF_MAX = 0.1"))
    proxy.refuse()
    for _ in range(2):
        assert service.post_batch([{"event_name": "e"}] * 10).status == 200
    disk.turn_read_only()
    proxy.open()
    wait_until(lambda: len(proxy.met) >= 6)
    wait_until(lambda: service.stats()["total_events"] == 20)
    assert service.stats()["buffer_status"]["events_flushed_total"] == 20


def test_events_that_were_refused_stay_refused_though_their_file_could_not_be_cut(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    """Row 17: sync and cut fail, then the process dies. "Nothing of this request was kept" was not true."""
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600).start()
    proxy.refuse()
    assert service.post({"event_name": "e", "session_id": "kept"}).status == 200
    command = injection("fdatasync,ftruncate", "1+", "error=EIO")
    with subprocess.Popen([*command, "-p", str(service.process.pid)]):  # it ends with the service
        tasks = Path(f"/proc/{service.process.pid}/task")
        wait_until(lambda: all("TracerPid:\t0" not in (one / "status").read_text() for one in tasks.iterdir()))
        assert service.post({"event_name": "e", "session_id": "refused"}).status == 503
        service.kill()
    proxy.open()
    service.start()
    drained(service)
    assert sessions(server_dsn) == ["kept"]
