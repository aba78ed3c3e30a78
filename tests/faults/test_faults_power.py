"""Power cuts, and files that are damaged, deleted or not ours: what was acknowledged and still exists arrives once."""

import os
import random
import shutil
import signal
from collections.abc import Callable

import pytest

from tests.cli.test_start import NOWHERE
from tests.support import seed_of, wait_until
from tests.support.checks import assert_refused, check, drained, sessions, wait_for_health
from tests.support.clickhouse import query
from tests.support.disk import Disk
from tests.support.load import Load
from tests.support.metrics import scrape
from tests.support.proxy import Proxy
from tests.support.service import Service

Make = Callable[..., Service]
MakeDisk = Callable[..., Disk]


def events(count: int, name: str = "s") -> list[dict[str, str]]:
    return [{"event_name": "e", "session_id": f"{name}{number}"} for number in range(count)]


def power_cut(service: Service, disk: Disk) -> None:
    """Process and disk are gone at one moment; then both are back."""
    os.killpg(service.process.pid, signal.SIGSTOP)  # else it would live to tell of errors that no client can see
    disk.cut_power()
    service.kill()
    disk.unmount()
    disk.mount()


@pytest.mark.parametrize("away", [False, True], ids=["while it inserts", "while ClickHouse is away"])
def test_a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged(
    make_disk: MakeDisk, make_service: Make, server_dsn: str, proxy: Proxy, away: bool
) -> None:
    seed = seed_of("POWER")
    print(f"seed {seed}")
    chance = random.Random(seed)
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=0.05, ANALYTICS_BATCH_SIZE=60)
    disk = make_disk(service.data, megabytes=64)
    service.start()
    with Load(service) as load:
        for _ in range(5):
            if away:
                proxy.refuse()
            load.wait_for_more(chance.randint(1, 400))
            power_cut(service, disk)
            if away:
                proxy.open()
            service.start()
    drained(service)
    stored = sessions(server_dsn)
    load.check(stored)
    assert service.stats()["total_events"] == len(stored)


def test_a_power_cut_right_after_the_first_event_of_a_segment_loses_it_not(
    make_disk: MakeDisk, make_service: Make, server_dsn: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=600)
    disk = make_disk(service.data)
    for number in range(4):
        service.start()
        assert service.post({"event_name": "e", "session_id": str(number)}).status == 200
        power_cut(service, disk)
    service.start()
    wait_until(lambda: sorted(sessions(server_dsn)) == ["0", "1", "2", "3"])


def test_a_flipped_bit_in_a_sealed_segment_costs_its_frame_which_goes_to_the_quarantine(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=30).start()
    proxy.refuse()
    for start in range(0, 300, 10):
        assert service.post_batch(events(300)[start : start + 10]).status == 200
    sealed = sorted((service.data / "spool").glob("*.sealed"))
    assert len(sealed) == 10
    data = sealed[6].read_bytes()  # events 180 to 209 in three frames; not in memory any more
    place = data.index(b"s195")
    sealed[6].write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    proxy.open()
    drained(service)
    hit = {f"s{number}" for number in range(190, 200)}
    assert sorted(sessions(server_dsn)) == sorted({f"s{number}" for number in range(300)} - hit)
    [kept] = (service.data / "quarantine").iterdir()
    assert all(name.encode() in kept.read_bytes() for name in hit - {"s195"})
    assert "is damaged from byte" in service.log()
    assert list((service.data / "spool").iterdir()) == []


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


#: By what happens to an open segment of events 0 to 49, each in a frame of its own: which of them that costs.
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], set[int]]] = {
    "bits in the middle": (lambda data: flip(flip(data, data.index(b"s7")), data.index(b"s25")), {7, 25}),
    "a bit in the last": (lambda data: flip(data, data.index(b"s49")), {49}),
    "the header": (lambda data: flip(data, 30), set()),
    "zeros over the last": (
        lambda data: data[: data.rindex(b"\xf5EVF")] + bytes(len(data) - data.rindex(b"\xf5EVF")),
        {49},
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_damage_in_an_open_segment_costs_is_counted_as_lost_and_kept_in_the_quarantine(
    make_service: Make, server_dsn: str, damage: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=600).start()
    for event in events(50):
        assert service.post(event).status == 200
    service.kill()
    [path] = (service.data / "spool").glob("*.open")
    spoil, costs = DAMAGE[damage]
    path.write_bytes(spoil(path.read_bytes()))
    service.start()
    drained(service)
    assert sorted(sessions(server_dsn)) == sorted(f"s{number}" for number in set(range(50)) - costs)
    page = scrape(service)
    assert page.balance()["lost"] == len(costs)
    assert page.get("analytics_events_recovered_total") == 50
    wait_until(lambda: scrape(service).get("analytics_quarantine_damaged_files") >= 1)
    assert "is damaged from byte" in service.log()
    assert list((service.data / "spool").iterdir()) == []


@pytest.mark.parametrize("left", [0.0, "a frame's end"])
def test_what_is_cut_from_a_sealed_segment_is_named_in_the_log_and_counted_as_lost(
    make_service: Make, server_dsn: str, left: float | str
) -> None:
    service = make_service(NOWHERE, ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=50).start()
    for event in events(50):
        assert service.post(event).status == 200
    service.kill()
    [path] = (service.data / "spool").glob("*.sealed")
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"\xf5EVF") if isinstance(left, str) else int(len(data) * left)])
    service.environment["ANALYTICS_CLICKHOUSE_DSN"] = server_dsn
    service.start()
    drained(service)
    stored = len(sessions(server_dsn))
    assert stored == {0.0: 0, "a frame's end": 49}.get(left, stored)
    assert 0 <= stored < 50
    assert scrape(service).balance()["lost"] == 50 - stored
    assert f"lacks {50 - stored} of its 50 events: they are lost" in service.log()


def test_a_wiped_spool_gives_no_token_a_second_time(make_service: Make, server_dsn: str) -> None:
    """A counter that starts anew would make ClickHouse drop what comes after the wipe, silently."""
    service = make_service(server_dsn, ANALYTICS_BATCH_SIZE=10).start()
    for number in range(3):
        assert service.post_batch(events(40, f"{number}-")).status == 200
        drained(service)
        service.kill()
        shutil.rmtree(service.data)
        service.start()
    assert sorted(sessions(server_dsn)) == sorted(f"{a}-{b}" for a in range(3) for b in range(40))


def test_a_spool_that_is_wiped_under_a_running_service_makes_it_refuse_and_a_restart_mends_it(
    make_service: Make, server_dsn: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=600).start()
    assert service.post_batch(events(1, "before")).status == 200
    shutil.rmtree(service.data / "spool")
    assert_refused(service.post_batch(events(1, "refused")))
    assert_refused(service.post_batch(events(1, "refused")))
    wait_for_health(service, "failing")
    wait_until(lambda: sessions(server_dsn) == ["before0"])  # it was in memory still
    service.stop()
    service.start()
    assert service.post_batch(events(1, "after")).status == 200
    service.stop()
    assert sorted(sessions(server_dsn)) == ["after0", "before0"]


def test_a_segment_deleted_by_hand_is_named_in_the_log_and_stops_no_other(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=10).start()
    proxy.refuse()
    for start in range(0, 100, 10):
        assert service.post_batch(events(100)[start : start + 10]).status == 200
    victim = sorted((service.data / "spool").glob("*.sealed"))[7]
    victim.unlink()
    proxy.open()
    drained(service)
    assert sorted(sessions(server_dsn)) == sorted(f"s{number}" for number in range(100) if not 70 <= number < 80)
    assert f"{victim} was deleted by someone else: its 10 events are lost" in service.log()
    assert service.stats()["buffer_status"]["events_flushed_total"] == 90
    assert service.post_batch(events(1, "next")).status == 200


def test_a_segment_of_another_format_stops_the_start_and_is_left_alone(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=600).start()
    assert service.post_batch(events(5)).status == 200
    service.kill()
    [ours] = (service.data / "spool").glob("*.open")
    theirs = ours.with_name("0123456789ab-0123456789abcdef.5.sealed")
    theirs.write_bytes(b"EVSPOOL4" + b"whatever")
    service.start(wait=False)
    assert service.process.wait(30) == 1
    assert "start the version that wrote it, let it drain, then upgrade" in service.log()
    assert theirs.read_bytes() == b"EVSPOOL4" + b"whatever"
    theirs.unlink()
    service.start()
    drained(service)
    assert len(sessions(server_dsn)) == 5


def test_strange_files_in_the_spool_are_named_and_left_alone(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn).start()
    service.kill()
    (service.data / "spool" / "notes.txt").write_text("mine")
    (service.data / "spool" / "folder").mkdir()
    service.start()
    with Load(service) as load:
        load.wait_for_more(50)
    check(service, load, server_dsn)
    assert "unknown file notes.txt in the spool" in service.log()
    assert (service.data / "spool" / "notes.txt").read_text() == "mine"
    assert (service.data / "spool" / "folder").is_dir()
    assert query(server_dsn, "SELECT count() FROM events") == [[len(load.acknowledged)]]
