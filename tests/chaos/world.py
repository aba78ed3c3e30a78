"""What the faults befall: the service, behind a proxy ClickHouse, each on a disk of its own; and who else writes."""

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from tests.support import wait_until
from tests.support.checks import drained
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.disk import Disk
from tests.support.proxy import Proxy
from tests.support.service import Service, patched
from tests.support.workers import segments, wait_for_all

#: The name of events on which the view throws, and how the name of a session begins that the constraint refuses.
THROWS, POISON = "throws", "poison-"
#: The ``source`` of rows that are not ours.
OTHER = "other"
#: Seconds. Backoff is shortened, so that there are more tries to go wrong; and an insert is given up while it may still
#: run. By RUNS_AT_MOST it must have ended: the longest pause and the latest body are shorter.
RUNS_AT_MOST, LATE_BODY = 15, 6
IMPATIENT = patched(
    "service.store.store.INSERT_TIMEOUT = 2.0; service.pipeline.lane.BACKOFF_MAX = 0.5;"
    " service.pipeline.view_filler.BACKOFF_MAX = 1.0;"
    f" import service.pipeline.inserter; service.pipeline.inserter.RUNS_AT_MOST = {RUNS_AT_MOST}"
)
#: A view that does not throw, whose target is not filled twice as long as it remembers tokens.
SEEN = (
    "CREATE TABLE chaos_seen (session_id String, source String) ENGINE = MergeTree ORDER BY session_id"
    " SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1,"
    " max_suspicious_broken_parts = 100000",
    "CREATE MATERIALIZED VIEW chaos_seen_view TO chaos_seen AS SELECT session_id, source FROM events",
    "CREATE TABLE chaos_thrown (x UInt8) ENGINE = Null",
)


class World:
    """The machines: ``begin`` starts all, ``settle`` waits until nothing is on its way, ``end`` leaves nothing."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.server = ClickHouseServer(folder / "clickhouse")
        self.proxy = Proxy(self.server.port, late=LATE_BODY)
        self.dsn = self.server.dsn("analytics")
        dsn = self.proxy.dsn(self.dsn)
        self.service = Service(folder / "service", ANALYTICS_CLICKHOUSE_DSN=dsn, ANALYTICS_SHUTDOWN_TIMEOUT=3)
        self.service.environment |= settings
        self.spool_disk = Disk("ext4", self.service.data, megabytes=256)
        self.server_disk = Disk("ext4", self.server.folder, megabytes=2048)
        self.faults: Counter[str] = Counter()
        #: While the spool's disk takes no writes, what was refused may have been kept.
        self.disk_broken = False
        #: Whether a worker of this life was killed, with its counts.
        self.counts_lost = False

    def begin(self, workers: int, window: int, rules: list[str]) -> None:
        """Mount and start it all, with so many tokens remembered, and with these rules for the table."""
        self.spool_disk.mount()
        self.server_disk.mount()
        self.server.start()
        self.proxy.open()
        self.start_service(workers)
        wait_for_all(self.service)
        query(self.dsn, f"ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = {window}")
        for statement in (*SEEN, *rules):
            query(self.dsn, statement)

    def start_service(self, workers: int | None = None) -> None:
        """Start it, with shrunk constants, and perhaps another number of workers."""
        if workers:
            self.service.environment["ANALYTICS_WORKERS"] = str(workers)
        self.counts_lost = False
        self.service.start(prefix=IMPATIENT)

    def kill_service(self) -> None:
        """kill -9 all of it, and wait until nothing of it holds the disk."""
        self.service.end()
        wait_until(lambda: not _alive(self.service.process.pid if self.service.process else 0), 20)

    def signal_service(self, number: signal.Signals) -> None:
        """To the workers and their parent."""
        assert self.service.process
        os.killpg(self.service.process.pid, number)

    def ask(self, sql: str, seconds: float = 10) -> bool:
        """Tell ClickHouse something, past the proxy; whether it said yes."""
        try:
            query(self.dsn, sql, seconds)
        except (OSError, RuntimeError):
            return False
        return True

    def revive(self) -> None:
        """Start ClickHouse if it died: this version aborts when a connection is reset in the middle of an INSERT."""
        if self.server.died:
            self.faults["clickhouse_aborted"] += 1
            self.server.start()

    def settle(self) -> None:
        """Wait until all that was acknowledged is where it belongs, and no file is left on the way there."""
        self.proxy.fates.clear()
        self.revive()
        query(self.dsn, "DROP VIEW IF EXISTS chaos_throws")
        drained(self.service, 240)
        wait_for_all(self.service)
        retry = self.service.data / "retry"
        wait_until(
            lambda: not segments(self.service) and not any(retry.iterdir()), 60, lambda: self.service.log()[-3000:]
        )
        drained(self.service, 60)

    def quarantined(self) -> list[str]:
        """The name of each event in the quarantine."""
        found = (self.service.data / "quarantine").glob("*.json")
        return [json.loads(path.read_bytes())["values"]["session_id"] for path in found]

    def end(self) -> None:
        """Stop it all, whatever state it is in."""
        if self.service.process and self.service.process.poll() is None:
            self.signal_service(signal.SIGCONT)
            self.kill_service()
        self.proxy.close()
        if self.server.started:
            self.server.resume()
            self.server.kill()
        self.spool_disk.unmount()
        self.server_disk.unmount()


class OtherWriter(threading.Thread):
    """Inserts rows that are not ours, with tokens of its own: 20 times a minute, far from half a window of 100."""

    EVERY = 3.0

    def __init__(self, world: World, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._ended = stop

    def run(self) -> None:
        while not self._ended.wait(self.EVERY):
            self._world.faults["other_inserts"] += insert_others(self._world, 1)


def insert_others(world: World, count: int) -> bool:
    """So many INSERTs of a row each, in one statement; whether ClickHouse said yes."""
    return world.ask(
        "INSERT INTO events (event_id, event_name, session_id, timestamp, received_at, source, id_origin)"
        f" SELECT generateUUIDv4(), 'chaos', 'other', now(), now(), '{OTHER}', 'server' FROM numbers({count})"
        " SETTINGS max_block_size = 1, min_insert_block_size_rows = 1, min_insert_block_size_bytes = 1,"
        f" max_threads = 1, max_insert_threads = 1, insert_deduplication_token = '{OTHER}-{time.time_ns()}'",
        seconds=30,
    )


def _alive(group: int) -> bool:
    """Whether a thread of that group still runs; processes that have ended may wait for their parent."""
    for stat in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == group and state not in "ZX":
            return True
    return False
