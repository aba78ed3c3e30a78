"""The lock under which rows with ids are inserted: one worker at a time, none after a death, and what is in flight."""

import asyncio
import os
from pathlib import Path

import pytest

from service.pipeline.dedup_lock import WAITING, DedupLock, last_note
from service.worker import ALONE, SharedCounters, Worker

pytestmark = pytest.mark.quick

TOKEN = "0193a0b1c2d3-0123456789abcdef-10-20"


def locks(path: Path, count: int) -> list[DedupLock]:
    counters = SharedCounters(count, [WAITING], last_note(path))
    return [DedupLock(path, Worker(number, count, counters)) for number in range(count)]


async def test_one_worker_has_the_lock_and_each_gets_its_turn(tmp_path: Path) -> None:
    holders: list[int] = []
    inside = 0

    async def work(number: int, lock: DedupLock) -> None:
        nonlocal inside
        for _ in range(5):
            async with lock.held():
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1
                holders.append(number)

    await asyncio.gather(*(work(number, lock) for number, lock in enumerate(locks(tmp_path / "in-flight", 3))))
    assert {number: holders.count(number) for number in range(3)} == {0: 5, 1: 5, 2: 5}
    assert holders[:5] != [holders[0]] * 5, "none has all its turns first"


async def test_a_worker_that_dies_in_its_turn_stops_nobody_and_what_it_sent_stays_known(tmp_path: Path) -> None:
    path = tmp_path / "in-flight"
    lock, other = locks(path, 2)
    pid = os.fork()
    if not pid:
        try:
            theirs = DedupLock(path, lock._worker)
            assert theirs._take()
            theirs.begin(TOKEN)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)  # noqa: ASYNC222  # it ends at once
    async with asyncio.timeout(10), other.held():
        assert other.in_flight == TOKEN
        other.end()
    async with lock.held():
        assert lock.in_flight == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_in_flight_is_known_after_the_death_of_all(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "in-flight"
    lock = locks(path, workers)[0]
    lock.begin(TOKEN)
    for count in (1, 2):
        assert all(one.in_flight == TOKEN for one in locks(path, count))
    assert DedupLock(path, ALONE).in_flight == TOKEN
    lock.end()
    assert DedupLock(path, ALONE).in_flight == ""


def test_a_disk_that_takes_no_writes_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = locks(tmp_path / "in-flight", 2)

    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "pwrite", fail)
    first.begin(TOKEN)
    assert second.in_flight == TOKEN, "the workers share it in memory"
    second.end()
    assert first.in_flight == ""


async def test_a_file_that_is_deleted_while_workers_run_neither_gives_two_the_lock_nor_hides_what_is_in_flight(
    tmp_path: Path,
) -> None:
    path = tmp_path / "in-flight"
    first, second = locks(path, 2)
    path.unlink()
    async with first.held():
        first.begin(TOKEN)
        anew = DedupLock(path, second._worker)  # a worker that is started in place of one that died
        assert not anew._take()
        assert anew.in_flight == TOKEN
    assert DedupLock(path, ALONE).in_flight == TOKEN


def test_each_try_of_an_insert_is_told_from_the_one_before(tmp_path: Path) -> None:
    first, second = locks(tmp_path / "in-flight", 2)
    first.begin(TOKEN)
    before = second.attempt
    first.begin(TOKEN)
    assert second.in_flight == TOKEN
    assert second.attempt != before
