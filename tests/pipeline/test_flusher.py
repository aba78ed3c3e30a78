"""The flusher on a real spool. ClickHouse is a script here: each of its moods in an order of our choosing."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from schemas.parse import ParsedBatch, ParsedEvent
from schemas.payload import EncodedRows, Header, Rows, encode_header, encode_rows
from schemas.rows import CURRENT, make_rows
from service.errors import Rejected, Retryable
from service.pipeline import lane
from service.pipeline.dedup_lock import DedupLock
from service.pipeline.flusher import RETRY_AFTER_UNKNOWN, SEGMENTS_IN_MEMORY, Flusher, FlusherStore
from service.pipeline.totals import Totals
from service.spool.quarantine import Quarantine
from service.spool.segment import Segment
from service.spool.spool import Spool
from service.store.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.status import Status
from service.worker import ALONE
from tests.support.fake_clickhouse import FakeClickHouse, Script
from tests.support.rows import decoded

pytestmark = pytest.mark.quick

#: A segment written by the version before payloads were flat.
FORMAT_1 = Path(__file__).parents[1] / "segments" / "format-1"


class Rig:
    def __init__(self, folder: Path) -> None:
        (folder / "spool").mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.spool = Spool(folder / "spool", folder / "quarantine", encode_header(CURRENT))
        self.clickhouse = FakeClickHouse()
        self.status = Status("clickhouse")
        self.flusher = self.make_flusher(self.clickhouse)

    def make_flusher(self, store: FlusherStore) -> Flusher:
        return Flusher(
            self.spool,
            store,
            Totals(self.folder),
            self.status,
            lock=DedupLock(self.folder / "in-flight", ALONE),
            quarantine=Quarantine(self.folder),
            metrics=Metrics(),
            data=self.folder,
            dedup_window=86_400,
        )

    def seal(self, *names: str) -> tuple[Segment, list[EncodedRows]]:
        batch = ParsedBatch([ParsedEvent(name, properties="{}") for name in names])
        rows = make_rows(batch, source="t", received_at=1)
        self.spool.append(rows)
        segment = self.spool.seal()
        assert segment
        return segment, [rows]

    def seal_both_kinds(self, name: str) -> tuple[Segment, list[EncodedRows]]:
        groups = [
            make_rows(ParsedBatch([ParsedEvent(name, properties="{}", event_id=one)]), source="t", received_at=1)
            for one in (None, uuid4())
        ]
        self.spool.append(*groups)
        segment = self.spool.seal()
        assert segment
        return segment, groups

    async def drained(self) -> None:
        await self.flusher.drain(20)
        assert self.flusher.pending_rows == 0
        assert list(self.spool.folder.iterdir()) == []

    def quarantined(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_bytes()) for path in sorted((self.folder / "quarantine").glob("*.json"))]


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(lane, "BACKOFF_MAX", 0.05)
    rig = Rig(tmp_path)
    yield rig
    await rig.flusher.close()


def rejecting(*bad: str) -> Script:
    def script(names: list[str], token: str) -> None:
        if found := set(bad) & set(names):
            raise Rejected(f"no place for {sorted(found)}", 117)

    return script


async def test_batches_go_in_order_and_their_files_with_them(rig: Rig) -> None:
    for number in range(5):
        rig.flusher.submit(*rig.seal(f"a{number}", f"b{number}"))
    assert rig.flusher.pending_rows == 10
    rig.flusher.start(asyncio)
    await rig.drained()
    assert rig.clickhouse.names == [f"{letter}{number}" for number in range(5) for letter in "ab"]
    assert rig.flusher.totals.flushed == 10
    assert rig.status.ok


async def test_what_is_on_disk_and_what_is_in_memory_are_inserted_alike(rig: Rig) -> None:
    for _ in range(2):
        segment, rows = rig.seal("x", "y")
        rig.flusher.submit(segment, rows if not rig.clickhouse.calls else None)
    rig.flusher.start(asyncio)
    await rig.drained()
    assert [names for _, names in rig.clickhouse.calls] == [["x", "y"], ["x", "y"]]


async def test_memory_holds_a_few_batches_however_many_wait(rig: Rig) -> None:
    for _ in range(10):
        rig.flusher.submit(*rig.seal("x"))
    held = [one for one in rig.flusher._pending.values() if one.batches[0].parts is not None]
    assert len(held) == SEGMENTS_IN_MEMORY
    rig.flusher.start(asyncio)
    await rig.drained()
    rig.flusher.submit(*rig.seal("y"))
    assert next(iter(rig.flusher._pending.values())).batches[0].parts is not None, "room again"
    await rig.drained()


async def test_a_retryable_failure_tries_the_same_rows_with_the_same_token_until_it_passes(rig: Rig) -> None:
    failures = 7

    def script(names: list[str], token: str) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise Retryable("gone")

    rig.clickhouse.script = script
    segment, rows = rig.seal("a", "b")
    rig.flusher.submit(segment, rows)
    rig.flusher.start(asyncio)
    await rig.drained()
    assert rig.clickhouse.calls == [(segment.name, ["a", "b"])] * 8
    assert rig.status.ok


async def test_while_clickhouse_is_away_the_state_says_why(rig: Rig) -> None:
    away = asyncio.Event()

    def script(names: list[str], token: str) -> None:
        away.set()
        raise Retryable("connection refused")

    rig.clickhouse.script = script
    rig.flusher.submit(*rig.seal("a"))
    rig.flusher.start(asyncio)
    await away.wait()
    await asyncio.sleep(0)
    assert (rig.status.ok, rig.status.reason) == (False, "connection refused")
    assert rig.flusher.seconds_to_free(10**6) == RETRY_AFTER_UNKNOWN
    rig.clickhouse.script = lambda names, token: None
    await rig.drained()


@pytest.mark.parametrize("bad", [["e0"], ["e99"], ["e37", "e38"], ["e0", "e50", "e99"], [f"e{n}" for n in range(100)]])
async def test_bad_rows_end_alone_in_the_quarantine_and_cost_no_other(rig: Rig, bad: list[str]) -> None:
    rig.clickhouse.script = rejecting(*bad)
    names = [f"e{number}" for number in range(100)]
    segment, rows = rig.seal(*names)
    rig.flusher.submit(segment, rows)
    rig.flusher.submit(*rig.seal("next"))
    rig.flusher.start(asyncio)
    await rig.drained()
    assert rig.clickhouse.names == [name for name in names if name not in bad] + ["next"]
    documents = rig.quarantined()
    ids = [row[0].hex() for row in decoded(*rows)]
    assert [one["values"]["event_name"] for one in sorted(documents, key=lambda one: one["row"])] == bad
    assert all(one["token"] == segment.name and one["code"] == 117 and "no place" in one["reason"] for one in documents)
    assert all(one["values"]["event_id"] == ids[one["row"]] for one in documents)
    assert rig.flusher.totals.flushed == 101 - len(bad)
    assert len(rig.clickhouse.calls) <= 4 + 2 * len(bad) * 8


async def test_no_row_comes_twice_if_the_table_is_mended_and_we_die_in_the_middle_of_halving(tmp_path: Path) -> None:
    """Kill the flusher at each of its calls in turn; start again with a ClickHouse that now takes everything."""
    names = [f"e{number}" for number in range(16)]
    for deaths in range(1, 14):
        rig = Rig(tmp_path / str(deaths))
        calls = 0
        died = asyncio.Event()

        def script(names: list[str], token: str, deaths: int = deaths, died: asyncio.Event = died) -> None:
            nonlocal calls
            calls += 1
            if calls == deaths:
                died.set()
                raise Retryable("killed here")
            rejecting("e5")(names, token)

        rig.clickhouse.script = script
        rig.flusher.submit(*rig.seal(*names))
        rig.flusher.start(asyncio)
        finished = asyncio.create_task(rig.flusher.drain(20))
        await asyncio.wait([asyncio.create_task(died.wait()), finished], return_when=asyncio.FIRST_COMPLETED)
        await rig.flusher.close()

        again = Rig(tmp_path / str(deaths))
        again.clickhouse.table = rig.clickhouse.table
        for segment in again.spool.recover():
            again.flusher.submit(segment, None)
        again.flusher.start(asyncio)
        await again.drained()
        await again.flusher.close()
        stored = again.clickhouse.names + [one["values"]["event_name"] for one in again.quarantined()]
        assert sorted(stored) == sorted(names), f"died at call {deaths}"


async def test_a_segment_written_by_a_version_with_other_columns_is_inserted_as_it_says(rig: Rig) -> None:
    old = Header(("event_id", "event_name"), ("UUID", "String"))
    spool = Spool(rig.spool.folder, rig.spool.quarantine, encode_header(old))
    spool.append(encode_rows([(b"0" * 16, "ancient")], old.types))
    segment = spool.seal()
    assert segment
    rig.flusher.submit(segment, None)
    rig.flusher.start(asyncio)
    await rig.drained()
    assert rig.clickhouse.names == ["ancient"]


async def test_a_segment_that_was_deleted_by_hand_does_not_stop_the_others(rig: Rig) -> None:
    segment, _ = rig.seal("gone")
    segment.path.unlink()
    rig.flusher.submit(segment, None)
    rig.flusher.submit(*rig.seal("there"))
    rig.flusher.start(asyncio)
    await rig.drained()
    assert rig.clickhouse.names == ["there"]


async def test_a_segment_of_both_kinds_of_rows_that_was_deleted_by_hand_is_done_with_once(rig: Rig) -> None:
    segment, _ = rig.seal_both_kinds("gone")
    segment.path.unlink()
    rig.flusher.submit(segment, None)
    rig.flusher.submit(*rig.seal("here"))
    rig.flusher.start(asyncio)
    await rig.drained()
    assert rig.clickhouse.names == ["here"]
    assert not any(one._queue for one in rig.flusher._lanes.values())


@pytest.mark.parametrize("header", [b"", CURRENT], ids=["damaged", "whole"])
async def test_rows_that_nobody_can_tell_since_their_header_is_damaged_are_kept_and_count_as_lost(
    rig: Rig, caplog: pytest.LogCaptureFixture, header: object
) -> None:
    """They are of a version with other columns."""
    rig.spool.header = encode_header(Header(CURRENT.names[:-2], CURRENT.types[:-2]))
    [row] = decoded(*rig.seal("old")[1])
    rows = encode_rows([row[:-2]], CURRENT.types[:-2])
    rig.spool.append(rows)
    segment = rig.spool.seal()
    assert segment
    content = segment.path.read_bytes()
    if not header:
        segment.path.write_bytes(content.replace(b"event_name", b"event-name"))
    for path in rig.spool.folder.iterdir():
        path.unlink() if path != segment.path else None
    rig.flusher.submit(segment, None)
    rig.flusher.start(asyncio)
    await rig.drained()
    damaged = sorted((rig.folder / "quarantine").glob("*.damaged"))
    if header:
        assert rig.clickhouse.names == ["old"]
        assert not damaged
    else:
        assert rig.clickhouse.names == []
        assert damaged[0].read_bytes() == content.replace(b"event_name", b"event-name")
        assert "its 1 events can't be read" in caplog.text


async def test_a_batch_whose_tries_take_long_leaves_at_least_half_of_the_time_to_others(rig: Rig) -> None:
    for number in range(12):
        rig.flusher.submit(*rig.seal(f"slow{number}"))
    came = asyncio.Event()

    async def insert(rows: Rows, token: str, *, past_views: bool = False) -> None:
        if rows.decode()[0][1].startswith("slow"):
            await asyncio.sleep(0.1)
            raise Retryable("no answer", may_run=True)
        rig.clickhouse.take(rows, token, past_views=past_views)
        came.set()

    rig.clickhouse.insert = insert  # type: ignore[method-assign]
    rig.flusher.start(asyncio)
    for name in ("first", "second", "third"):
        rig.flusher.submit(*rig.seal(name))
        async with asyncio.timeout(20):
            await came.wait()
        came.clear()
    assert rig.clickhouse.names == ["first", "second", "third"]


async def test_the_total_survives_a_restart_and_counts_a_replayed_segment_once(rig: Rig) -> None:
    segment, rows = rig.seal("a", "b", "c")
    copy = segment.path.read_bytes()
    rig.flusher.submit(segment, rows)
    rig.flusher.start(asyncio)
    await rig.drained()
    segment.path.write_bytes(copy)  # as if we had died before the file was deleted
    again = Rig(rig.folder)
    assert again.flusher.totals.flushed == 3
    assert again.flusher.totals.last_flush
    again.flusher.submit(segment, None)
    again.flusher.start(asyncio)
    await again.drained()
    await again.flusher.close()
    assert again.flusher.totals.flushed == 3


async def test_retry_after_follows_the_rate_at_which_batches_drain(rig: Rig) -> None:
    for _ in range(3):
        rig.flusher.submit(*rig.seal("x" * 90))
    rig.flusher.start(asyncio)
    await rig.drained()
    assert 0 < rig.flusher.seconds_to_free(1000) < rig.flusher.seconds_to_free(10**6)


async def test_a_segment_of_the_format_before_is_inserted_like_any_other(rig: Rig, store: Store) -> None:
    for segment in FORMAT_1.iterdir():
        shutil.copy(segment, rig.spool.folder)
    [segment] = rig.spool.recover()
    rig.flusher = rig.make_flusher(store)
    rig.flusher.submit(segment, None)
    rig.flusher.start(asyncio)
    await rig.drained()
    assert await store.query("SELECT count(), uniqExact(event_id), countIf(id_origin = 'client') FROM events") == [
        (22, 22, 21)
    ]
    first = await store.query(
        "SELECT toString(event_id), properties, toUnixTimestamp64Micro(timestamp) FROM events"
        " WHERE event_name = 'first'"
    )
    assert first == [("01940000-0000-7000-8000-0123456789ab", '{"a":0.10,"b":"é漢🙂"}', -2_208_988_799_999_999)]


async def test_what_is_in_memory_only_is_counted_until_it_is_inserted(rig: Rig) -> None:
    segments = [rig.seal(f"e{number}") for number in range(5)]
    for segment, parts in segments:
        segment.path.unlink()
        rig.flusher.submit(segment, parts, keep=True)
    assert rig.flusher.memory_only_bytes == sum(segment.size for segment, _ in segments)
    rig.flusher.start(asyncio)
    await rig.drained()
    assert rig.clickhouse.names == [f"e{number}" for number in range(5)]
    assert rig.flusher.memory_only_bytes == 0
