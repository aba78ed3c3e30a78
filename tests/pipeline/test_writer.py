"""The writer on a real spool: what a returned ``add`` promises, what makes a batch, what is refused."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas.parse import ParsedBatch, ParsedEvent
from schemas.payload import EncodedRows, encode_header
from schemas.rows import CURRENT, make_rows
from service.errors import SpoolFailed, SpoolFull, Stopping
from service.pipeline.writer import MEMORY_ONLY_MAX_BYTES, BatchWriter, Limits
from service.spool.segment import Segment
from service.spool.spool import Spool
from service.telemetry.metrics import Metrics
from service.telemetry.status import Status
from tests.support.rows import decoded

pytestmark = pytest.mark.quick

LIMITS = Limits(batch_rows=10, batch_bytes=1 << 20, flush_interval=60, spool_max_bytes=1 << 20)


class Sealed:
    """Stands where the flusher is: takes the sealed segments, and inserts nothing."""

    def __init__(self) -> None:
        self.batches: list[tuple[Segment, list[EncodedRows] | None, bool]] = []
        self.arrived = asyncio.Event()
        self.memory_only_bytes = 0

    def submit(
        self, segment: Segment, rows: list[EncodedRows] | None, *, accepted_at: float, keep: bool = False
    ) -> None:
        self.batches.append((segment, rows, keep))
        self.arrived.set()

    def seconds_to_free(self, size: int) -> float:
        return 42.0


class Rig:
    def __init__(self, folder: Path) -> None:
        (folder / "spool").mkdir(parents=True)
        self.spool = Spool(folder / "spool", folder / "quarantine", encode_header(CURRENT))
        self.sealed = Sealed()
        self.status = Status("spool")
        self.metrics = Metrics()
        self.writer = BatchWriter(self.spool, self.sealed, LIMITS, self.status, self.metrics)  # type: ignore[arg-type]

    def limit(self, **changed: Any) -> None:
        self.writer.limits = Limits(**{**LIMITS.__dict__, **changed})

    def on_disk(self) -> list[str]:
        """Names of all events that are on disk, oldest first."""
        segments = Spool(self.spool.folder, self.spool.quarantine, b"").recover()
        return [row[1] for segment in segments for row in decoded(*self.spool.read(segment).parts)]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "data")
    await rig.writer.probe()
    rig.writer.start(asyncio)
    yield rig
    await rig.writer.drain(1)
    await rig.writer.close()


def rows(*names: str) -> EncodedRows:
    return make_rows(ParsedBatch([ParsedEvent(name, properties="{}") for name in names]), source="t", received_at=1)


async def test_a_returned_add_is_on_disk(rig: Rig) -> None:
    await rig.writer.add(rows("a", "b"), 10)
    assert rig.on_disk() == ["a", "b"]
    assert rig.writer.open_rows == 2


async def test_all_that_wait_share_one_sync(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs, sync = [], os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (syncs.append(fd), sync(fd)))
    rig.limit(batch_rows=1000)
    await asyncio.gather(*(rig.writer.add(rows(f"e{number}"), 10) for number in range(100)))
    assert len(rig.on_disk()) == 100
    assert len(syncs) <= 3, "a group of one and the rest, not one for each"


async def test_a_full_batch_is_sealed_and_holds_what_was_asked_for(rig: Rig) -> None:
    await asyncio.gather(*(rig.writer.add(rows(f"e{number}"), 10) for number in range(25)))
    assert [segment.rows for segment, *_ in rig.sealed.batches] == [10, 10]
    assert rig.writer.open_rows == 5
    names = [row[1] for _, batch, _ in rig.sealed.batches for row in decoded(*batch or [])]
    assert names == [f"e{number}" for number in range(20)]


async def test_a_request_is_never_cut_in_two(rig: Rig) -> None:
    await rig.writer.add(rows(*"abcdefg"), 10)
    await rig.writer.add(rows(*"hijklmn"), 10)
    assert [segment.rows for segment, *_ in rig.sealed.batches] == [14]


async def test_bytes_seal_a_batch(rig: Rig) -> None:
    rig.limit(batch_bytes=2000)
    await rig.writer.add(rows("n" * 100), 10)
    assert rig.sealed.batches == []
    await rig.writer.add(rows(*["n" * 100] * 9), 10)
    assert [segment.rows for segment, *_ in rig.sealed.batches] == [10]


async def test_age_seals_a_batch_and_counts_from_its_first_event(rig: Rig) -> None:
    rig.limit(flush_interval=0.3)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        rig.sealed.arrived.clear()
        started = loop.time()
        await rig.writer.add(rows("first"), 10)
        await rig.writer.add(rows("second"), 10)
        async with asyncio.timeout(10):
            await rig.sealed.arrived.wait()
        assert loop.time() - started >= 0.29
    assert [segment.rows for segment, *_ in rig.sealed.batches] == [2, 2]


async def test_a_full_spool_refuses_before_anything_changes(rig: Rig) -> None:
    rig.limit(spool_max_bytes=5000)
    assert rig.writer.unavailable_reason() is None
    with pytest.raises(SpoolFull) as refused:
        await rig.writer.add(rows("a"), 5000)
    assert refused.value.headers == {"Retry-After": "42"}
    assert refused.value.status == 503
    assert rig.on_disk() == []
    await rig.writer.add(rows("b"), 10)
    assert rig.on_disk() == ["b"]
    rig.limit(spool_max_bytes=2000)
    assert rig.writer.unavailable_reason() == SpoolFull.detail


async def test_events_on_their_way_to_disk_count_as_room_taken(rig: Rig) -> None:
    rig.limit(spool_max_bytes=100_000)
    outcomes = await asyncio.gather(*(rig.writer.add(rows("x"), 1000) for _ in range(200)), return_exceptions=True)
    refused = [one for one in outcomes if one is not None]
    assert refused
    assert all(isinstance(one, SpoolFull) for one in refused)
    assert len(rig.on_disk()) == 200 - len(refused)


async def test_a_failed_sync_fails_the_group_seals_the_file_and_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.writer.add(rows("kept"), 10)
    sync, fails = os.fdatasync, [True]

    def failing(fd: int) -> None:
        if fails.pop() if fails else False:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(SpoolFailed):
        await rig.writer.add(rows("refused"), 10)
    assert rig.writer.unavailable_reason() == "the spool can't be written: Input/output error"
    [(segment, batch, keep)] = rig.sealed.batches
    assert (segment.rows, [row[1] for row in decoded(*batch or [])], keep) == (1, ["kept"], False)
    await rig.writer.add(rows("after"), 10)
    assert rig.writer.unavailable_reason() is None
    assert rig.on_disk() == ["kept", "after"]


async def test_a_disk_that_fails_and_deletes_nothing_fails_the_group_and_not_those_after_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that has turned read-only: the file of which nothing was acknowledged stays, for recovery to delete."""

    def failing(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        for name in ("fdatasync", "unlink"):
            patch.setattr(os, name, failing)
        for number in range(2):
            async with asyncio.timeout(10):
                with pytest.raises(SpoolFailed):
                    await rig.writer.add(rows(f"refused-{number}"), 10)
    await rig.writer.add(rows("after"), 10)
    assert rig.on_disk() == ["after"]


async def test_rows_that_cannot_be_written_fail_their_group_and_no_other(rig: Rig) -> None:
    """A bug; it must not stop the service."""
    bad = EncodedRows("no bytes", 1)  # type: ignore[arg-type]
    with pytest.raises(SpoolFailed):
        await rig.writer.add(bad, 10)
    await rig.writer.add(rows("fine"), 10)
    assert rig.on_disk() == ["fine"]
    assert rig.writer.unavailable_reason() is None


async def test_health_recovers_without_traffic_once_the_disk_does(rig: Rig) -> None:
    moved = rig.spool.folder.with_name("moved")
    rig.spool.folder.rename(moved)
    with pytest.raises(SpoolFailed):
        await rig.writer.add(rows("x"), 10)
    await rig.writer.probe()
    assert rig.writer.unavailable_reason() == "the spool can't be written: No such file or directory"
    moved.rename(rig.spool.folder)
    await rig.writer.probe()
    assert rig.writer.unavailable_reason() is None


async def test_a_waiter_that_is_cut_off_does_not_harm_its_group(rig: Rig) -> None:
    tasks = [asyncio.create_task(rig.writer.add(rows(f"e{number}"), 10)) for number in range(5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcomes].count(asyncio.CancelledError) == 1
    assert set(rig.on_disk()) >= {"e0", "e1", "e3", "e4"}


async def test_draining_takes_no_more_but_finishes_who_waits_and_seals(rig: Rig) -> None:
    waiting = [asyncio.create_task(rig.writer.add(rows(f"e{number}"), 10)) for number in range(25)]
    await asyncio.sleep(0)
    await rig.writer.drain(1)
    await asyncio.gather(*waiting)
    assert sum(segment.rows for segment, *_ in rig.sealed.batches) == 25
    assert list(rig.spool.folder.glob("*.open")) == []
    with pytest.raises(Stopping):
        await rig.writer.add(rows("late"), 10)


async def test_a_segment_outgrows_its_bytes_by_one_request_at_most(rig: Rig) -> None:
    rig.limit(batch_rows=10_000, batch_bytes=20_000, spool_max_bytes=1 << 30)
    await asyncio.gather(*(rig.writer.add(rows(f"e{number}" + "x" * 3000), 10) for number in range(100)))
    assert len(rig.on_disk()) == 100
    sizes = [segment.size for segment, *_ in rig.sealed.batches]
    assert len(sizes) >= 12
    assert max(sizes) < 20_000 + 3500


@pytest.mark.parametrize("call", ["close", "fstat", "rename", "unlink", "stat", "ftruncate", "pwrite"])
@pytest.mark.parametrize("broken", [False, True], ids=["a good group", "a group that fails"])
async def test_a_disk_call_that_fails_while_a_segment_is_sealed_leaves_nobody_waiting(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, call: str, broken: bool
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    kept = set()
    for number in range(12):  # the batch of ten is sealed in between
        if number == 6 and broken:
            monkeypatch.setattr(os, "fdatasync", failing)
        if number == 6:
            monkeypatch.setattr(os, call, failing)
        try:
            async with asyncio.timeout(10):
                await rig.writer.add(rows(f"e{number}"), 10)
            kept.add(f"e{number}")
        except SpoolFailed:
            assert rig.writer.unavailable_reason() == "the spool can't be written: Input/output error"
    monkeypatch.undo()
    await rig.writer.add(rows("after"), 10)
    await rig.writer.probe()
    assert rig.writer.unavailable_reason() is None
    await rig.writer.drain(1)
    names = [row[1] for _, batch, _ in rig.sealed.batches for row in decoded(*batch or [])]
    assert sorted(names) == sorted({*kept, "after"})
    for segment, batch, _ in rig.sealed.batches:
        assert [row[1] for row in decoded(*rig.spool.read(segment).parts)] == [row[1] for row in decoded(*batch or [])]


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), OSError(errno.EIO, "of a call that nobody thought of")])
@pytest.mark.parametrize("where", ["seal", "submit", "observe"])
async def test_what_fails_unexpectedly_ends_the_writer_and_all_who_wait_and_come_get_a_true_answer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    owner = {"seal": rig.spool, "submit": rig.sealed, "observe": rig.metrics.group_events}[where]
    monkeypatch.setattr(owner, where, fails)
    async with asyncio.timeout(10):
        names = [f"e{number}" for number in range(30)]
        outcomes = await asyncio.gather(*(rig.writer.add(rows(one), 10) for one in names), return_exceptions=True)
        [task] = rig.writer._tasks
        await asyncio.wait([task])
        assert task.exception() is error
        kept = [name for name, outcome in zip(names, outcomes, strict=True) if outcome is None]
        assert kept == names[:10], "one batch"
        assert {type(outcome) for outcome in outcomes[10:]} == {SpoolFailed}
        assert rig.on_disk() == kept
        assert rig.writer.unavailable_reason() == Stopping.detail
        with pytest.raises(Stopping):
            await rig.writer.add(rows("late"), 10)


async def test_a_commit_that_ends_nobody_knows_how_promises_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    for name in ("append", "seal"):
        monkeypatch.setattr(rig.spool, name, fails)
    with pytest.raises(SpoolFailed) as refused:
        await rig.writer.add(rows("e"), 10)
    assert refused.value.detail == "The service has failed, and it is not known whether the events were kept"


async def test_what_can_be_read_back_is_not_kept_in_memory_and_what_can_not_is_bounded(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that flaps while ClickHouse is away: each failure seals a segment."""
    sync, read_bytes = os.fdatasync, Path.read_bytes

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for number, unreadable in enumerate((False, True)):
        monkeypatch.setattr(os, "fdatasync", sync)
        await rig.writer.add(rows(f"kept-{number}"), 10)
        monkeypatch.setattr(os, "fdatasync", failing)
        monkeypatch.setattr(Path, "read_bytes", failing if unreadable else read_bytes)
        with pytest.raises(SpoolFailed):
            await rig.writer.add(rows("refused"), 10)
    assert [keep for *_, keep in rig.sealed.batches] == [False, True]
    monkeypatch.undo()
    await rig.writer.probe()
    assert rig.writer.unavailable_reason() is None
    rig.sealed.memory_only_bytes = MEMORY_ONLY_MAX_BYTES + 1
    assert rig.writer.unavailable_reason() == SpoolFailed.detail
    with pytest.raises(SpoolFailed):
        await rig.writer.add(rows("x"), 10)
