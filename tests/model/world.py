"""The world of the model: workers that are killed and started in any number, disks that fail, clients that send again.

The workers are the service's own ``Flusher``, ``Spool``, ``DedupLock`` and ``adopt`` on real files. ``check`` says what
must be so when all has come to rest: each acknowledged event is once in the table or in the quarantine.
"""

import asyncio
import contextlib
import errno
import itertools
import json
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock
from uuid import UUID

from schemas.parse import ParsedBatch, ParsedEvent
from schemas.payload import encode_header
from schemas.rows import CURRENT, make_rows
from service.pipeline.dedup_lock import WAITING, DedupLock, last_note
from service.pipeline.flusher import Flusher
from service.pipeline.totals import Totals
from service.spool import spool as spool_module
from service.spool.data_dir import spool_of, worker_folder
from service.spool.quarantine import Quarantine
from service.spool.rebalance import adopt
from service.spool.spool import Spool
from service.telemetry.metrics import Metrics
from service.telemetry.status import Status
from service.worker import SharedCounters, Worker
from tests.model.clickhouse import BAD, QUARTER, Clickhouse
from tests.model.virtual_loop import VirtualLoop

WORKERS_MAX = 3
#: Steps in which a worker that has something to insert has sent some INSERTs.
STEPS_TO_FLIGHT = 200
#: How many ids clients make: of few, many are sent again and soon all are known.
IDS = (6, 60)
#: Times of receipt, in two months.
MONTHS = (1_795_996_800_000_000, 1_796_601_600_000_000)


class World:
    """Actions are the public methods; each may come at any time. ``folder`` is empty and on a disk."""

    def __init__(self, folder: Path) -> None:
        self.loop = VirtualLoop()
        self.clickhouse = Clickhouse(self.loop.time)
        self.acknowledged: set[str] = set()
        self.ids: set[int] = set()
        self.read_only = False
        self._data = folder
        self._numbers = itertools.count()
        self._last: dict[int, tuple[str, list[int | None], int]] = {}  # what each worker has got last
        self._alive: dict[int, tuple[Spool, Flusher]] = {}
        self._deleted: dict[Path, bytes] = {}  # since the folder was last synced
        self._patches = contextlib.ExitStack()
        self._patch()
        for name in ("spool", "quarantine"):
            (folder / name).mkdir(parents=True)
        self.start(1)

    def close(self) -> None:
        """End what still runs."""
        for number in list(self._alive):
            self.kill(number)
        self._patches.close()
        self.loop.close()

    # -- actions ------------------------------------------------------------------------------

    def post(self, worker: int, names: str, ids: list[int | None], month: int = 0) -> None:
        """A worker acknowledges events, and seals them. ``names``: their first letters. ``ids``: those of clients."""
        number = worker % self._count
        if number not in self._alive or self.read_only:
            return
        self._last[number] = names, ids, month
        spool, flusher = self._alive[number]
        events = [
            ParsedEvent(
                f"{name}{next(self._numbers)}", properties="{}", event_id=None if one is None else UUID(int=one)
            )
            for name, one in zip(names, ids, strict=False)
        ]
        times = (MONTHS[month % 2], MONTHS[(month + 1) % 2]) if month > 1 else (MONTHS[month],) * 2
        middle = len(events) // 2
        groups = [
            make_rows(ParsedBatch([event]), source="t", received_at=times[index >= middle])
            for index, event in enumerate(events)
        ]
        with self._running():
            spool.append(*sorted(groups, key=lambda one: one.with_ids))
            segment = spool.seal()
        assert segment
        self.acknowledged |= {event.event_name for event in events if event.event_id is None}
        self.ids |= {event.event_id.int for event in events if event.event_id is not None}
        with self._running():
            flusher.submit(segment, groups, accepted_at=self.loop.time())

    def run(self, steps: int) -> None:
        """Let the workers go on for a while."""
        for _ in range(steps):
            if not self.loop.step():
                return

    def wait(self, seconds: float) -> None:
        """Let the workers go on for so long."""
        passed: list[bool] = []
        self.loop.call_later(seconds, passed.append, True)
        while not passed:  # the loop's time would not tell: sums of fractions are not exact
            self.loop.step()

    def fates(self, fates: list[str]) -> None:
        """What becomes of the next INSERTs."""
        self.clickhouse.fates.extend(fates)

    def land(self, index: int) -> None:
        """An INSERT that nobody heard of comes into the table."""
        if self.clickhouse.late:
            self.clickhouse.land(index)

    def forget(self, quarters: int) -> None:
        """Other writers push our tokens out, or begin to."""
        for _ in range(quarters):
            self.wait(QUARTER)
            self.clickhouse.forget()

    def mend(self) -> None:
        """A person alters the table: it takes all rows by now. (Not while an INSERT is on its way.)"""
        if not self.clickhouse.late:
            self.clickhouse.mended = True

    def cut_clickhouse_power(self) -> None:
        """ClickHouse is gone at once, and back."""
        self.clickhouse.cut_power()

    def disk(self, *, read_only: bool) -> None:
        """The disk takes no writes, or takes them again."""
        self.read_only = read_only

    def kill(self, worker: int) -> None:
        """kill -9 of a worker; what it has sent is on its way still."""
        if worker % WORKERS_MAX in self._alive:
            _, flusher = self._alive.pop(worker % WORKERS_MAX)
            for task in flusher._tasks:
                task.cancel()
            for _ in range(3):
                self.loop.step()
            flusher._lock.close()
            if self.read_only and not self._alive:
                # The one case that docs/durability.md leaves: no disk could note what was in flight, and no worker is
                # left who knows it. Here, ClickHouse drops it, and has the ids of what it stored while the view failed.
                self.clickhouse.late.clear()
                stored = {int.from_bytes(one, "big") for _, one, *_ in self.clickhouse.table}
                self.clickhouse.ids |= self.ids & stored

    def kill_in_flight(self, done: int, *, anew: bool, again: int) -> None:
        """Let so many INSERTs be done, then kill -9 the worker that sent the next one, which is on its way.

        ``anew``: it is started anew at once. ``again``: so many of the events that it has got last are sent again, to
        another worker: those with ids.
        """
        self.clickhouse.fates.clear()
        self.clickhouse.fates.extend(["fine"] * done + ["hangs"])
        for _ in range(STEPS_TO_FLIGHT):
            if self.clickhouse.waiting or not self.loop.step():
                break
        for number, (_, flusher) in list(self._alive.items()):
            if any(task in self.clickhouse.waiting for task in flusher._tasks):
                self.kill(number)
                if anew:
                    self.restart(number)
                names, ids, month = self._last.get(number, ("", [], 0))
                if sent := [(name, one) for name, one in zip(names, ids, strict=False) if one is not None][-again:]:
                    self.post(number + 1, "".join(name for name, _ in sent), [one for _, one in sent], month)

    def start(self, count: int) -> None:
        """kill -9 of all, and a start with so many workers on a disk that was mended."""
        for number in list(self._alive):
            self.kill(number)
        self.read_only = False
        self._count = count
        for number in range(1, count):
            (worker_folder(self._data, number) / "spool").mkdir(parents=True, exist_ok=True)
        adopt(self._data, count)
        self._counters = SharedCounters(count, [WAITING], last_note(self._data / "in-flight")) if count > 1 else None
        for number in range(count):
            self.restart(number)

    def restart(self, worker: int) -> None:
        """A worker that was killed is started anew."""
        number = worker % WORKERS_MAX
        if number in self._alive or number >= self._count or self.read_only:
            return
        spool = Spool(spool_of(self._data, number), self._data / "quarantine", encode_header(CURRENT))
        owner = Worker(number, self._count, self._counters)
        flusher = Flusher(
            spool, self.clickhouse, Totals(self._data, owner), Status("clickhouse"),
            lock=DedupLock(self._data / "in-flight", owner), quarantine=Quarantine(self._data), metrics=Metrics(),
            data=self._data, dedup_window=86_400,
        )  # fmt: skip
        self._alive[number] = spool, flusher
        with self._running():
            for segment in spool.recover():
                flusher.submit(segment, None)
            flusher.start(asyncio)

    def cut_power(self, chance: random.Random) -> None:
        """The machine's power: all workers are gone, and so are deletions that were not synced."""
        for path, content in self._deleted.items():
            if chance.random() < 0.5 and not path.exists():
                path.write_bytes(content)
        self._deleted.clear()
        self.start(self._count)

    # -- the end ------------------------------------------------------------------------------

    def settle(self) -> None:
        """No more faults: all comes to rest. AssertionError if it does not."""
        self.clickhouse.fates.clear()
        self.read_only = False
        while self.clickhouse.late:
            self.land(0)
        for number in range(self._count):
            self.restart(number)
        for _ in range(20_000):
            if not any(flusher.pending_rows for _, flusher in self._alive.values()):
                break
            self.run(10)
        pending = {number: flusher.pending_rows for number, (_, flusher) in self._alive.items()}
        assert not any(pending.values()), f"pending for good: {pending}"

    def check(self) -> None:
        """Each acknowledged event once."""
        quarantined = [json.loads(path.read_bytes())["values"] for path in (self._data / "quarantine").glob("*.json")]
        stored = Counter(self.clickhouse.names)
        aside = Counter(one["event_name"] for one in quarantined)
        twice = {name for name, count in (stored + aside).items() if count > 1}
        assert not twice, f"twice: {sorted(twice)}"
        lost = self.acknowledged - stored.keys() - aside.keys()
        assert not lost, f"lost: {sorted(lost)}"
        by_id = Counter(int.from_bytes(one, "big") for _, one, *_ in self.clickhouse.table)
        assert not {one for one in self.ids if by_id[one] > 1}, "an id is stored twice"
        ids_aside = {int(UUID(one["event_id"])) for one in quarantined}
        assert not self.ids - by_id.keys() - ids_aside, "an id is lost"
        assert all(one["event_name"].startswith(BAD) for one in quarantined), "a good event in the quarantine"

    # -- inside -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        asyncio.events._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio.events._set_running_loop(None)

    def _patch(self) -> None:
        """Let the disk be cut off, and time be the loop's."""
        unlink, sync = Path.unlink, spool_module.fsync_folder

        def forgetful_unlink(path: Path, missing_ok: bool = False) -> None:
            self._check_disk()
            if path.suffix == ".sealed" and path.exists():
                self._deleted[path] = path.read_bytes()
            unlink(path, missing_ok)

        def forgetful_sync(folder: Path) -> None:
            self._deleted = {path: content for path, content in self._deleted.items() if path.parent != folder}
            sync(folder)

        def checked(owner: object, name: str) -> None:
            real = getattr(owner, name)

            def call(*args: object, **kwargs: object) -> object:
                self._check_disk()
                return real(*args, **kwargs)

            self._patches.enter_context(mock.patch.object(owner, name, call))

        self._patches.enter_context(mock.patch.object(Path, "unlink", forgetful_unlink))
        self._patches.enter_context(mock.patch.object(spool_module, "fsync_folder", forgetful_sync))
        for owner, name in ((os, "pwrite"), (os, "write"), (Path, "rename"), (Path, "write_text")):
            checked(owner, name)
        self._patches.enter_context(mock.patch.object(os, "fsync", return_value=None))  # the model's disk is quick
        self._patches.enter_context(mock.patch.object(os, "fdatasync", return_value=None))
        self._patches.enter_context(mock.patch.object(time, "monotonic", self.loop.time))
        self._patches.enter_context(mock.patch.object(time, "time_ns", lambda: int(self.loop.time() * 1e9)))  # noqa: PT008
        self._patches.enter_context(mock.patch.object(secrets, "token_hex", lambda _: f"{next(self._numbers):016x}"))  # noqa: PT008
        self._patches.enter_context(mock.patch.object(random, "uniform", lambda low, high: high))

    def _check_disk(self) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "Read-only file system")
