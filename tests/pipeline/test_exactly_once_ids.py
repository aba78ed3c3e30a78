"""Rows with ids that clients made: once through kills, other numbers of workers, outages and look-ups that fail."""

import contextlib
import http.client
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.checks import drained, wait_for_health
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.faults import IMPATIENT, events, names_of, stored, wait_until_stored, wrong_clock
from tests.support.proxy import Proxy
from tests.support.quarantine import POISON, Rig
from tests.support.service import HEALTH, Service
from tests.support.workers import pids, posting_to, segments

Make = Callable[..., Service]


def post_to_all(service: Service, batch: list[dict[str, str]], times: int = 8) -> None:
    """Each on a connection of its own, so that every worker gets some."""
    for _ in range(times):
        assert service.post_batch(batch).status == 200


def posted(service: Service, batch: list[dict[str, str]]) -> bool:
    """Whether it was acknowledged: the kernel gives some connections to a worker that is dying."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return service.post_batch(batch).status == 200
    return False


def worker_of(service: Service, segment: str) -> int:
    """The number of the worker in whose spool a segment is."""
    folder = segments(service)[segment].parent.parent
    return int(folder.name) if folder.parent.name == "workers" else 0


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_worker_that_is_killed_while_it_halves_makes_no_id_come_twice(
    make_service: Make, server_dsn: str, proxy: Proxy, at: int
) -> None:
    """The ids are sent again to the other worker, before and after the one that died is there again."""
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_WORKERS=2).start(prefix=IMPATIENT)
    query(server_dsn, POISON)
    batch = events(*sorted(names_of(5)), "poison", *sorted(names_of(3, 5)), ids="all")
    proxy.fates += [*["pass"] * at, "late-body"]
    assert service.post_batch(batch).status == 200
    wait_until(lambda: "late-body" in proxy.met)
    [segment] = segments(service)
    os.kill(pids(service)[worker_of(service, segment)], signal.SIGKILL)
    post_to_all(service, [event for event in batch if event["session_id"] != "poison"])
    drained(service)
    wait_until(lambda: proxy.late == proxy.met.count("late-body"))
    assert stored(server_dsn) == Counter(names_of(8))


def test_a_worker_that_is_killed_behind_the_first_of_its_ranges_lets_nobody_in_between(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    """The other has the ids at once; the first ranges are in the table, and the last is on its way."""
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_WORKERS=2).start(prefix=IMPATIENT)
    query(server_dsn, POISON)
    batch = events("poison", *sorted(names_of(8)), ids="all")
    proxy.fates += [*["pass"] * 6, "late-body"]
    with posting_to(service, 0) as post_to_one, posting_to(service, 1) as post_to_other:
        post_to_one(batch)
        wait_until(lambda: "late-body" in proxy.met)
        os.kill(pids(service)[0], signal.SIGKILL)
        post_to_other(batch[1:])
    drained(service)
    wait_until(lambda: proxy.late == proxy.met.count("late-body"))
    assert stored(server_dsn) == Counter(names_of(8))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2)])
def test_a_kill_of_all_during_an_insert_and_another_number_of_workers_make_no_id_come_twice(
    make_service: Make, server_dsn: str, proxy: Proxy, before: int, after: int
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_WORKERS=before).start()
    batch = events(*sorted(names_of(20)), ids="all")
    proxy.refuse()
    post_to_all(service, batch)
    proxy.fates.append("late-body")
    proxy.open()
    wait_until(lambda: "late-body" in proxy.met)
    service.kill()
    service.environment["ANALYTICS_WORKERS"] = str(after)
    service.start()
    post_to_all(service, batch)
    drained(service)
    wait_until(lambda: proxy.late == 1)
    assert stored(server_dsn) == Counter(names_of(20))


@pytest.mark.parametrize("before", [2, 3])
def test_older_batches_of_the_adopter_do_not_overtake_the_insert_that_was_on_its_way(
    make_service: Make, server_dsn: str, proxy: Proxy, before: int
) -> None:
    """The last worker's INSERT is on its way, and is no more; the first has most of its ids, from before."""
    service = make_service(
        proxy.dsn(server_dsn), ANALYTICS_WORKERS=before, ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=20
    ).start()
    batch = events(*sorted(names_of(20)), ids="all")
    proxy.fates.append("late-body")
    with posting_to(service, 0) as post_to_first, posting_to(service, before - 1) as post_to_last:
        post_to_first(batch[:19])
        post_to_last(batch)
        wait_until(lambda: "late-body" in proxy.met)
        service.kill()
    service.environment["ANALYTICS_WORKERS"] = str(before - 1)
    service.start()
    drained(service)
    wait_until(lambda: proxy.late == 1)
    assert stored(server_dsn) == Counter(names_of(20))


def test_a_worker_that_dies_at_an_insert_and_can_not_start_again_stops_nobody(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_WORKERS=2).start(prefix=IMPATIENT)
    spool = service.data / "workers" / "1" / "spool"
    for number in range(20):  # until it is worker 1 that is at an INSERT
        proxy.fates.append("hang")
        assert service.post_batch(events(f"dead-{number}", ids="all")).status == 200
        wait_until(lambda: "hang" in proxy.met)
        if any(path.suffix == ".sealed" for path in spool.iterdir()):
            break
        proxy.met.clear()
        drained(service)
    pid = pids(service)[1]
    away = spool.rename(spool.with_name("away"))
    spool.write_text("nobody can list this")
    os.kill(pid, signal.SIGKILL)
    names = names_of(20)
    for name in sorted(names):
        event = events(name, ids="all")
        wait_until(lambda event=event: posted(service, event))
    wait_until(lambda: names <= set(stored(server_dsn)), 30, lambda: service.log()[-2000:])
    assert wait_for_health(service, "degraded")["workers"] == {"answering": 1, "silent": [1]}
    service.kill()
    spool.unlink()
    away.rename(spool)
    service.start()
    drained(service)
    assert stored(server_dsn) == Counter(names | {f"dead-{one}" for one in range(number + 1)})


def test_an_id_is_recognised_by_another_instance_once_the_first_events_insert_is_confirmed(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    first, second = make_service(server_dsn).start(), make_service(proxy.dsn(server_dsn)).start()
    batch = events(*sorted(names_of(20)), ids="all")
    assert first.post_batch(batch).status == 200
    drained(first)  # confirmed
    proxy.refuse()
    assert second.post_batch(batch).status == 200
    second.kill()
    second.start()
    assert second.post_batch(batch[::-1]).status == 200
    proxy.open()
    drained(second)
    assert stored(server_dsn) == Counter(names_of(20))


def test_ids_count_from_their_insert_however_long_clickhouse_was_away(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn)).start()
    query(server_dsn, "SYSTEM STOP MERGES client_ids")  # what is expired shows at once all the same
    service.stop()
    proxy.refuse()
    honest = service.environment.copy()
    service.environment |= wrong_clock(-9)
    batch = events(*sorted(names_of(20)), ids="all")
    for _ in range(2):
        assert service.start().post_batch(batch).status == 200
        service.kill()
    service.environment = honest
    query(server_dsn, "SYSTEM START MERGES client_ids")
    service.start()
    assert service.post_batch(batch).status == 200
    proxy.open()
    for _ in range(2):
        drained(service)
        query(server_dsn, "OPTIMIZE TABLE client_ids FINAL")
        assert service.post_batch(batch).status == 200
    drained(service)
    assert stored(server_dsn) == Counter(names_of(20))


def test_ids_of_old_entries_of_the_quarantine_count_from_their_insert(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn).start()
    rig = Rig(service, server_dsn)
    service.stop()
    honest = service.environment.copy()
    service.environment |= wrong_clock(-9)
    service.start()
    names = [f"poison-{number}" for number in range(10)]
    batch = events(*names, ids="all")
    assert service.post_batch(batch).status == 200
    rig.settle(10)
    service.kill()
    service.environment = honest
    service.start()
    rig.mend()
    assert rig.command("retry", "--all").returncode == 0
    rig.settle(0)
    drained(service)
    query(server_dsn, "OPTIMIZE TABLE client_ids FINAL")
    assert service.post_batch(batch).status == 200
    drained(service)
    assert stored(server_dsn) == Counter(names)


LONG = {"characters": "x" * 200_000, "newlines": "\n" * 70_000, "quotes": "'\\\t" * 60_000}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("again", ["tried again", "started again"])
def test_no_field_is_so_long_that_its_batch_is_not_found_again(
    make_service: Make, server_dsn: str, proxy: Proxy, kind: str, again: str
) -> None:
    """In each field that may be as long; the last in the batch."""
    service = make_service(proxy.dsn(server_dsn)).start()
    batch = events(*sorted(names_of(20)), ids="mixed")
    for number, field in enumerate(("session_id", "page_url", "referrer", "user_agent", "properties")):
        text: object = {"key": LONG[kind]} if field == "properties" else LONG[kind]
        batch.append({"event_name": "e", "session_id": f"long{number}", field: text})  # type: ignore[dict-item]
    proxy.fates.append("cut-answer, refuse" if again == "started again" else "cut-answer")
    assert service.post_batch(batch).status == 200
    if again == "started again":
        wait_until(lambda: proxy.refuses)
        service.kill()
        proxy.open()
        service.start()
    drained(service)
    assert stored(server_dsn) == Counter(event["session_id"] for event in batch)


def test_a_look_up_that_fails_makes_rows_with_ids_wait_and_sends_none_to_the_quarantine(
    make_service: Make, own_server: ClickHouseServer
) -> None:
    dsn = own_server.dsn("analytics")
    service = make_service(dsn).start()
    old, new = (events(*sorted(names), ids="all") for names in (names_of(50), names_of(50, 50)))
    assert service.post_batch(old).status == 200
    drained(service)
    parts = query(dsn, "SELECT path FROM system.parts WHERE active AND table = 'client_ids' AND database = 'analytics'")
    files = {path: path.read_bytes() for (part,) in parts for path in Path(part).glob("*.bin")}
    assert files
    for path, content in files.items():
        path.write_bytes(content[: len(content) // 3])
    for cache in ("MARK", "UNCOMPRESSED", "INDEX MARK", "INDEX UNCOMPRESSED", "MMAP"):
        query(dsn, f"SYSTEM DROP {cache} CACHE")  # what it has read of them
    assert service.post_batch([*old[25:], *new[:25]]).status == 200
    assert service.post_batch(new[25:]).status == 200
    assert service.post_batch(events(*sorted(names_of(10, 100)))).status == 200
    wait_until(lambda: len(stored(dsn)) == 60, 20, lambda: f"{stored(dsn)} {service.log()[-3000:]}")
    reason = json.dumps(wait_for_health(service, "degraded")["clickhouse"])
    assert "code" in reason, reason
    assert service.get(HEALTH).json["quarantine"]["events"] == 0
    for path, content in files.items():
        path.write_bytes(content)
    wait_until_stored(service, dsn, names_of(110), 40)
    drained(service)
    assert service.get(HEALTH).json["quarantine"]["events"] == 0
