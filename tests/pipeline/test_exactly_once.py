"""Exactly once where it was not: tokens that ClickHouse has forgotten, disks that fail, power cuts, old entries."""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.checks import drained
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.disk import Disk
from tests.support.faults import (
    IMPATIENT,
    backlog,
    events,
    names_of,
    others_insert,
    short_memory,
    stored,
    wait_until_stored,
)
from tests.support.metrics import scrape
from tests.support.proxy import Proxy
from tests.support.quarantine import POISON, Rig
from tests.support.service import Service
from tests.support.strace import injection

Make = Callable[..., Service]
MakeDisk = Callable[..., Disk]


def cut_power(service: Service, server: ClickHouseServer, disks: list[Disk]) -> None:
    """The machine is gone at one moment, and its disks and ClickHouse are back."""
    assert service.process
    os.killpg(service.process.pid, signal.SIGSTOP)
    server.pause()
    for disk in disks:
        disk.cut_power()
    service.kill()
    server.kill()
    for disk in disks:
        disk.unmount()
        disk.repair()
        disk.mount()
    server.start()


@pytest.mark.parametrize(("workers", "ids"), [(1, "none"), (2, "mixed")])
def test_a_power_cut_of_the_machine_while_a_backlog_drains_doubles_nothing(
    make_disk: MakeDisk, make_service: Make, tmp_path: Path, workers: int, ids: str
) -> None:
    """Spool and ClickHouse are on two disks: deletions of segments are undone, and tokens are forgotten."""
    server = ClickHouseServer(tmp_path / "server")
    disks = [make_disk(server.folder, megabytes=512)]
    server.start()
    proxy, dsn = Proxy(server.port).open(), server.dsn("analytics")
    service = make_service(
        proxy.dsn(dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=10, ANALYTICS_WORKERS=workers
    )
    disks.append(make_disk(service.data, megabytes=32))
    service.start()
    try:
        proxy.refuse()
        names = backlog(service, 20, ids)
        for at_least in (1, 100):
            proxy.open()
            wait_until(lambda at_least=at_least: len(stored(dsn)) >= at_least)
            proxy.refuse()
            cut_power(service, server, disks)
            service.start()
        proxy.open()
        drained(service)
        assert stored(dsn) == Counter(names)
    finally:
        service.end()
        proxy.close()
        server.stop()


@pytest.mark.parametrize(("workers", "ids"), [(1, "none"), (2, "mixed"), (2, "all")])
def test_a_disk_that_is_read_only_stops_no_insert_and_what_it_kept_is_stored_once(
    make_disk: MakeDisk, make_service: Make, server_dsn: str, proxy: Proxy, workers: int, ids: str
) -> None:
    """There are more segments than ClickHouse remembers tokens, and none of them can be deleted."""
    service = make_service(
        proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=10, ANALYTICS_WORKERS=workers
    )
    disk = make_disk(service.data)
    service.start()
    short_memory(server_dsn)
    proxy.refuse()
    names = backlog(service, 12, ids)
    service.kill()  # with several workers some segments are open still
    service.start()
    disk.turn_read_only()
    proxy.open()
    wait_until_stored(service, server_dsn, names)
    service.kill()
    disk.unmount()
    disk.repair()
    disk.mount()
    service.environment["ANALYTICS_WORKERS"] = str(3 - workers)
    service.start()
    drained(service)
    assert stored(server_dsn) == Counter(names)


@pytest.mark.parametrize("ids", ["none", "mixed"])
def test_a_bad_row_whose_quarantine_has_no_room_makes_no_other_come_twice(
    make_disk: MakeDisk, make_service: Make, server_dsn: str, ids: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_BATCH_SIZE=40)
    disk = make_disk(service.data / "quarantine", "tmpfs", 1)
    service.start()
    query(server_dsn, POISON)
    short_memory(server_dsn)
    disk.fill()
    names = names_of(39)
    assert service.post_batch(events(*sorted(names)[:30], "poison", *sorted(names)[30:], ids=ids)).status == 200

    def tries() -> int:
        return service.log().count("will be tried again")

    wait_until(tries)
    for _ in range(2):
        others_insert(server_dsn)
        seen = tries()
        wait_until(lambda seen=seen: tries() > seen)
    assert set(stored(server_dsn)) <= names
    disk.clear()
    drained(service)
    assert stored(server_dsn) == Counter(names)
    assert len(list((service.data / "quarantine").glob("*.json"))) == 1


@pytest.mark.parametrize("months", [4, 28], ids=["120 segments of days", "10 years"])
def test_entries_of_any_age_come_back_from_the_quarantine(make_service: Make, server_dsn: str, months: int) -> None:
    """They are in over 100 partitions of one table or another, which ClickHouse does not take in one INSERT."""
    service = make_service(server_dsn)
    rig = Rig(service.start(), server_dsn)
    names = [f"poison-{number}" for number in range(130)]
    for half in (names[:65], names[65:]):
        assert service.post_batch(events(*half, ids="all")).status == 200
    rig.settle(130, 90)  # some 260 INSERTs, one after the other
    step = 86_400_000 * (1 if months == 4 else months)
    for number, path in enumerate(sorted(rig.folder.iterdir())):
        text = path.read_text()
        received = text.split('"received_at": ')[1].split(",")[0]
        path.write_text(text.replace(f'"received_at": {received}', f'"received_at": {int(received) - number * step}'))
    rig.mend()
    for _ in range(2):
        assert rig.command("retry", "--all").returncode == 0
        rig.settle(0)
        drained(service)
    assert stored(server_dsn) == Counter(names)


@pytest.mark.parametrize(
    ("call", "number", "running"),
    [
        *(("fsync", number, True) for number in range(2, 7)),
        ("unlink", 5, False),
        ("unlink", 6, False),
        ("rename", 1, True),
    ],
)
def test_one_failed_call_of_the_disk_hides_no_event_that_comes_back_and_counts_none_as_lost(
    make_service: Make, server_dsn: str, call: str, number: int, running: bool
) -> None:
    service = make_service(server_dsn, PYTHONDONTWRITEBYTECODE=1)
    rig = Rig(service.start(), server_dsn)
    names = [f"poison-{one}" for one in range(5)]
    rig.post(*names)
    rig.settle(5)
    rig.mend()
    service.stop()
    if not running:
        assert rig.command("retry", "--all").returncode == 0
    service.start(prefix=injection(call, number, "error=EIO"))
    if running:
        assert rig.command("retry", "--all").returncode == 0
    rig.settle(0)
    drained(service)
    assert stored(server_dsn) == Counter(names)
    balance = scrape(service).balance()
    assert (balance["lost"], balance["pending"], balance["flushed"]) == (0, 0, 5)


@pytest.mark.parametrize("damage", ["zeroed", "cut"])
def test_a_sealed_file_without_sense_is_told_and_kept_and_its_rows_count_as_lost(
    make_service: Make, server_dsn: str, proxy: Proxy, damage: str
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=10).start()
    proxy.refuse()
    backlog(service, 5, "mixed")
    hit = sorted((service.data / "spool").glob("*.sealed"))[3]
    hit.write_bytes(bytes(hit.stat().st_size) if damage == "zeroed" else b"")
    proxy.open()
    drained(service)
    assert stored(server_dsn) == Counter(names_of(30) | names_of(10, 40))
    assert scrape(service).balance()["lost"] == 10
    assert f"{hit} lacks 10 of its 10 events: they are lost" in service.log()
    assert len(list((service.data / "quarantine").glob("*.damaged"))) == (damage == "zeroed")
    assert "Traceback" not in service.log()


def test_a_backlog_of_the_mixed_kinds_survives_kills_at_random_moments(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    chance = random.Random(7)
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=10)
    service.start(prefix=IMPATIENT)
    query(server_dsn, POISON)
    short_memory(server_dsn)
    names: set[str] = set()
    for round_ in range(4):
        proxy.refuse()
        sent = names_of(60, 100 * round_)
        batch = sorted(sent)
        chance.shuffle(batch)
        assert service.post_batch(events(*batch[:40], f"poison-{round_}", *batch[40:], ids="mixed")).status == 200
        names |= sent
        proxy.open()
        reached = chance.randrange(50)
        wait_until(lambda reached=reached, names=names: len(names & stored(server_dsn).keys()) >= len(names) - reached)
        service.kill()
        others_insert(server_dsn)
        service.environment["ANALYTICS_WORKERS"] = str(chance.randint(1, 3))
        service.start(prefix=IMPATIENT)
    drained(service)
    assert stored(server_dsn) == Counter(names)
    assert len(list((service.data / "quarantine").glob("*.json"))) == 4
