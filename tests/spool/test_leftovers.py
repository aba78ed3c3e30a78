"""What workers left behind, and what they share: adopted whole wherever it is killed, and never taken for another's."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.errors import RateLimited
from service.pipeline.rate_limit import RateLimit
from service.pipeline.totals import Totals
from service.spool.data_dir import DataDir, spool_of
from service.spool.format import FILE_MAGIC, encode_frame
from service.spool.rebalance import adopt, rows_in
from service.worker import SharedCounters, Worker, taken_with

pytestmark = pytest.mark.quick

NAMES = [f"0193{number:08x}-{number:016x}" for number in range(12)]


class Killed(BaseException):
    """What a kill -9 is here: nothing after it is done."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Kills at the n-th call that changes the disk, counted from now."""
    left = [0]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                raise Killed
            return function(*arguments, **options)

        return call

    def kill(number: int) -> None:
        left[0] = number

    for owner, name in ((os, "fsync"), (os, "write"), (Path, "rename"), (Path, "unlink"), (Path, "touch")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return kill


def leave(data: Path) -> dict[str, str]:
    """What three workers may leave: sealed and open segments, one with splits; by name what its splits say."""
    holder = DataDir(data)
    holder.make_worker_folders(3)
    holder.close()
    splits = {}
    for number, name in enumerate(NAMES):
        spool = spool_of(data, number % 3)
        content = FILE_MAGIC + encode_frame(b"rows", 7)
        (spool / (f"{name}.open" if number > 8 else f"{name}.7.sealed")).write_bytes(content)
        if number in (1, 4):
            (spool / f"{name}.splits").write_bytes(b"\n0-%d;" % number)
            splits[name] = f"{0}-{number}"
    (spool_of(data, 2) / "of-somebody.txt").touch()
    return splits


def whole(data: Path, splits: dict[str, str]) -> dict[str, int]:
    """Which worker has each segment: in one place, with its splits, and none of them lost."""
    found = {}
    for number in range(3):
        for path in spool_of(data, number).iterdir():
            if path.suffix in (".open", ".sealed"):
                name = path.name.split(".")[0]
                assert name not in found
                found[name] = number
                if name in splits:
                    assert splits[name] in path.with_name(f"{name}.splits").read_text()
    assert sorted(found) == NAMES
    return found


@pytest.mark.parametrize(("first", "then"), [(1, 1), (1, 2), (2, 1), (1, 3), (2, 3)])
def test_adopting_can_be_killed_anywhere(tmp_path: Path, kill_at: Callable[[int], None], first: int, then: int) -> None:
    for number in range(1, 1000):
        data = tmp_path / str(number)
        splits = leave(data)
        kill_at(number)
        try:
            adopt(data, first)
            break
        except Killed:
            whole(data, splits)
        finally:
            kill_at(0)
        adopt(data, then)
        assert max(whole(data, splits).values()) < then
    assert number > 5
    assert max(whole(data, splits).values()) < first
    assert (spool_of(data, 2) / "of-somebody.txt").exists()
    gone = spool_of(data, 2)
    assert [path.name for path in gone.iterdir()] == ["of-somebody.txt"]


def test_rows_of_a_worker_that_is_silent_are_counted_on_disk(tmp_path: Path) -> None:
    leave(tmp_path)
    assert [rows_in(spool_of(tmp_path, number)) for number in range(3)] == [28, 28, 28]


def test_totals_hold_whatever_the_number_of_workers(tmp_path: Path) -> None:
    leave(tmp_path)
    now = datetime.now(UTC)
    for number in range(3):
        Totals(tmp_path, Worker(number, 3)).add(NAMES[number], 10 + number, now)
    assert [Totals(tmp_path, Worker(number, 3)).flushed for number in range(3)] == [10, 11, 12]
    assert [Totals(tmp_path, Worker(number, 2)).flushed for number in range(2)] == [22, 11]
    alone = Totals(tmp_path)
    assert (alone.flushed, alone.last_flush) == (33, now)
    alone.add(NAMES[2], 12, now)  # counted by worker 2 before it died, and adopted since it was not deleted
    assert alone.flushed == 33
    alone.add(NAMES[3], 5, now)
    assert Totals(tmp_path, Worker(0, 2)).flushed + Totals(tmp_path, Worker(1, 2)).flushed == 38


# -- what workers share -------------------------------------------------------------------------


def test_the_rate_of_an_access_token_is_one_for_all_workers() -> None:
    now = 0.0
    counters = SharedCounters(3, [taken_with("web")])
    limits = [RateLimit(10, lambda: now, Worker(number, 3, counters)) for number in range(3)]
    sent, turn = 0, 0
    while now < 1000:
        turn += 1
        limit = limits[turn % 7 % 3]
        try:
            limit.check("web")
        except RateLimited as refused:
            now += float(refused.headers["Retry-After"])
            continue
        limit.take("web", 1 + turn * 7 % 100)
        sent += 1 + turn * 7 % 100
    assert 0.9 * 10 * 1000 <= sent <= 10 * 1000 + 3 * 200
    anew = RateLimit(10, lambda: now, Worker(1, 3, counters))
    anew.check("web")  # one that is started anew owes nothing for what was long ago
