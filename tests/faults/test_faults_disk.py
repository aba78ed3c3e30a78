"""Disks that are full, broken or slow, for real: 503 and no promise, nothing acknowledged lost, no restart needed."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.checks import assert_refused, check, drained, sessions, wait_for_health
from tests.support.disk import Disk
from tests.support.load import Load
from tests.support.proxy import Proxy
from tests.support.service import HEALTH, Service
from tests.support.strace import injection

Make = Callable[..., Service]
MakeDisk = Callable[..., Disk]
EVENT = {"event_name": "e", "session_id": "by hand"}


@pytest.mark.parametrize(("kind", "megabytes"), [("tmpfs", 2), ("ext4", 8)])
def test_a_full_disk_refuses_says_so_and_takes_events_again_once_there_is_room(
    make_disk: MakeDisk, make_service: Make, server_dsn: str, proxy: Proxy, kind: str, megabytes: int
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_BATCH_SIZE=2000)
    disk = make_disk(service.data, kind, megabytes)
    service.start()
    disk.fill(leave=600_000)
    proxy.refuse()
    with Load(service, batch=50) as load:
        wait_until(lambda: load.refused, 30)
    assert load.acknowledged
    # Full by our own backlog: a group that did not fit left nothing behind, and smaller ones may fit still.
    disk.fill()
    wait_until(lambda: service.post(EVENT | {"session_id": "x" * 200}).status == 503)
    assert_refused(service.post_batch([EVENT] * 100))
    health = wait_for_health(service, "failing")
    assert "No space left" in health["spool"]["reason"]
    assert service.get("/readyz").status == 503
    assert service.get("/livez").status == 200
    proxy.open()
    wait_for_health(service, "ok", 30)  # draining makes room
    drained(service)
    disk.fill()  # full by others
    wait_for_health(service, "failing")
    with Load(service, batch=50, name="more") as more:
        wait_until(lambda: more.refused)
        disk.clear()
        wait_for_health(service, "ok")
        more.wait_for_more(500)
    drained(service)
    assert not [line for line in service.log().splitlines() if "Traceback" in line]
    stored = sessions(server_dsn)
    load.check(name for name in stored if name.startswith("event-"))
    more.check(name for name in stored if name.startswith("more-"))


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_no_event_is_lost_or_doubled_while_the_disk_fills_and_empties_again_and_again(
    make_disk: MakeDisk, make_service: Make, server_dsn: str, kind: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_BATCH_SIZE=500)
    disk = make_disk(service.data, kind, 8)
    service.start()
    with Load(service, batch=20) as load:
        for leave in (0, 10_000, 100):
            load.wait_for_more(200)
            refused = len(load.refused)
            disk.fill(leave)
            wait_until(lambda refused=refused: len(load.refused) > refused)
            disk.clear()
        load.wait_for_more(200)
    check(service, load, server_dsn)


def test_a_disk_without_inodes_refuses_and_takes_events_again_once_there_are_some(
    make_disk: MakeDisk, make_service: Make, server_dsn: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_BATCH_SIZE=200)
    disk = make_disk(service.data, inodes=64)
    service.start()
    with Load(service, batch=20) as load:
        load.wait_for_more(500)
        disk.use_up_inodes()
        wait_until(lambda: load.refused)
        wait_until(lambda: service.get(HEALTH).json["status"] == "failing")
        disk.clear()
        wait_until(lambda: service.get(HEALTH).json["status"] == "ok")
        load.wait_for_more(500)
    check(service, load, server_dsn)


@pytest.mark.parametrize("when", ["4", "4..5", "1..30"])
def test_a_failed_sync_fails_its_group_alone_and_is_never_tried_again(
    make_service: Make, server_dsn: str, tmp_path: Path, when: str
) -> None:
    calls = tmp_path / "strace.log"
    service = make_service(server_dsn).start(prefix=injection("fdatasync", when, "error=EIO", calls))
    with Load(service) as load:
        wait_until(lambda: load.refused)
        load.wait_for_more(300)
    assert service.get(HEALTH).json["status"] == "ok"
    assert "Input/output error" in service.log()
    check(service, load, server_dsn)
    service.kill()
    synced = re.findall(r"fdatasync\(\d+<(.*\.open)[^>]*>\) += (\S+)", calls.read_text())
    failed = {path for path, result in synced if result == "-1"}
    assert failed
    for path in failed:
        assert [result for name, result in synced if name == path][-1] == "-1", "synced again after a failure"


def test_a_disk_that_syncs_no_more_refuses_everything_and_what_was_kept_still_arrives(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_BATCH_SIZE=100)
    # The probe's fsync is on the same thread as the writer's.
    service.start(prefix=injection("fdatasync,fsync", "30+", "error=EIO"))
    proxy.refuse()
    with Load(service) as load:
        wait_until(lambda: load.refused)
        refused = len(load.refused)
        wait_until(lambda: len(load.refused) > refused + 500)
    assert_refused(service.post(EVENT))
    assert service.get(HEALTH).json["status"] == "failing"
    assert "Input/output error" in service.get(HEALTH).json["spool"]["reason"]
    proxy.open()
    check(service, load, server_dsn)
    assert_refused(service.post(EVENT))
    service.kill()
    service.start()  # on a disk that was mended
    assert service.post(EVENT).status == 200
    load.acknowledged.add("by hand")
    check(service, load, server_dsn)


def test_a_disk_that_turns_read_only_refuses_and_what_was_kept_arrives_once(
    make_disk: MakeDisk, make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=300)
    disk = make_disk(service.data)
    service.start()
    proxy.refuse()
    with Load(service) as load:
        load.wait_for_more(350)
        disk.turn_read_only()
        wait_until(lambda: load.refused)
    assert_refused(service.post(EVENT))
    wait_for_health(service, "failing")
    proxy.open()
    # Nothing can be deleted: what is stored stays on disk, and the next start inserts it again, under its token.
    wait_until(lambda: len(set(sessions(server_dsn))) >= len(load.acknowledged), 60)
    load.check(sessions(server_dsn))
    assert service.process.poll() is None
    service.kill()
    disk.unmount()
    disk.repair()
    disk.mount()
    service.start()
    drained(service)
    load.check(sessions(server_dsn))
    assert service.post(EVENT).status == 200


def test_syncs_of_50_ms_make_larger_groups_and_not_less_throughput(
    make_service: Make, server_dsn: str, tmp_path: Path
) -> None:
    calls = tmp_path / "strace.log"
    service = make_service(server_dsn).start(prefix=injection("fdatasync", "1+", "delay_enter=50000", calls))
    with Load(service, clients=24, batch=1) as load:
        load.wait_for_more(1000)
    check(service, load, server_dsn)
    service.kill()
    syncs = calls.read_text().count("fdatasync(")
    assert len(load.acknowledged) > 6 * syncs, "requests share syncs"
    assert not load.refused


def test_a_sync_that_hangs_for_seconds_delays_posts_and_nothing_else(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn).start(prefix=injection("fdatasync", "20..21", "delay_enter=2000000"))
    with Load(service) as load:
        seen = 0

        def stands_still() -> bool:
            nonlocal seen
            before, seen = seen, len(load.acknowledged)
            for path in (HEALTH, "/livez"):
                assert service.send("GET", path, timeout=1.5).status == 200
            return 0 < before == seen

        wait_until(stands_still)
        load.wait_for_more(200)
    assert not load.refused | load.unknown
    check(service, load, server_dsn)


def test_a_batch_that_is_stored_and_can_not_be_deleted_is_neither_inserted_nor_counted_again(
    make_disk: MakeDisk, make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=10)
    disk = make_disk(service.data)
    service.start()
    proxy.refuse()
    for _ in range(2):
        assert service.post_batch([EVENT] * 10).status == 200
    disk.turn_read_only()
    proxy.open()
    service.wait_for_total(20)
    wait_until(lambda: service.log().count("is stored but can't be deleted") == 2)
    status = service.stats()["buffer_status"]
    assert (status["events_flushed_total"], status["events_pending"]) == (20, 0)


def test_events_that_were_refused_stay_refused_though_their_file_could_not_be_cut(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
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
