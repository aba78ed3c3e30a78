"""Every disk call of a short life of the service fails once, in every way: `make sweep`.

A life starts on what an earlier one left (a sealed segment, an open one with a torn tail, rows on their way back from
the quarantine), takes some requests, of which one holds a row that ClickHouse refuses, inserts them, and is stopped.
One life shows the calls that there are. Then, for each call and each effect (``tests/support/disk_calls.py``), another
life meets it, and a last one, without faults, finds what it left. Whatever happened:

- the life ended in time, by itself with 0, with 1 and one line that says why, or by the kill that was the fault;
- each request got 200, or a 503 that says that nothing was kept;
- every acknowledged event is in the table once, or in the quarantine if ClickHouse refuses it; no refused one is
  there, or on a disk that takes no more writes at most once; one of unknown outcome at most once, and nothing else.

    make sweep                     all of it
    make sweep SEED=7 SECONDS=20   in an order of the seed's, for so long
"""

import argparse
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import service.pipeline.lane
from schemas.payload import EncodedRows, Rows, encode_header
from schemas.rows import CURRENT
from service.errors import Rejected
from service.spool.quarantine import Quarantine
from service.spool.quarantine_commands import QuarantineCommands
from service.spool.segment import new_name
from service.spool.spool import Spool
from tests.support import wait_until
from tests.support.checks import assert_refused
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.disk_calls import EFFECTS, READS, WRITES, Call, Fault, calls_in
from tests.support.forked import ForkedService
from tests.support.load import check_set
from tests.support.quarantine import POISON
from tests.support.rows import encoded, rows_of

LIFE_SECONDS = 20.0
#: What the life posts, request by request; a segment holds four events.
REQUESTS = (["a"], ["b", "c", "d"], ["e", "f", "poison", "g"], ["h"])
ROWS_OF_A_SEGMENT = 4


class Sent(NamedTuple):
    """The events of a life by what became of them, by the names in ``session_id``."""

    acknowledged: set[str]
    refused: set[str]
    unknown: set[str]


class Sweep:
    """Lives on one table, each on a folder of its own below ``folder``."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self._folder = folder
        self._dsn = dsn
        self._lives = 0
        # In the service too, which is forked from this process: what waits for seconds would only take time.
        service.pipeline.lane.BACKOFF_MAX = 0.1
        first = self._service()
        first.start()
        assert first.stop() == 0
        query(dsn, POISON.replace("session_id", "splitByChar(' ', session_id)[2]"))

    def life(self, fault: Fault, strace: Path | None = None) -> tuple[Path, list[Call]]:
        """A life that meets the fault and one after it; the data folder, and the calls of the first.

        AssertionError says what is wrong. ``strace`` gets what strace sees of the first life.
        """
        service = self._service()
        service.fault, service.strace = fault, strace
        name = service.folder.name
        sent = Sent(_leave_behind(service.data, name), set(), set())
        try:
            code = self._live(service, name, sent)
            calls = calls_in(service.calls)
            _check_end(code, fault, len(calls), service.log())
            service.fault, service.strace = Fault(), None
            service.start()
            wait_until(lambda: not _pending(service.data), LIFE_SECONDS, lambda: f"pending: {_pending(service.data)}")
            assert service.stop() == 0
        finally:
            service.end()
        if fault.effect == "dead":  # what was written could not be cut off again
            sent.unknown.update(sent.refused)
            sent.refused.clear()
        self._check(service.data, name, sent)
        return service.data, calls

    def _service(self) -> ForkedService:
        self._lives += 1
        return ForkedService(
            self._folder / f"life{self._lives}",
            ANALYTICS_CLICKHOUSE_DSN=self._dsn,
            ANALYTICS_BATCH_SIZE=ROWS_OF_A_SEGMENT,
            ANALYTICS_FLUSH_INTERVAL=600,
            ANALYTICS_SHUTDOWN_TIMEOUT=1,
        )

    def _live(self, service: ForkedService, name: str, sent: Sent) -> int:
        """Start it, send all requests, stop it; its exit code."""
        service.start(wait=False)
        process = service.process
        assert process
        wait_until(lambda: process.poll() is not None or service.listens(), LIFE_SECONDS, service.log)
        for number, words in enumerate(REQUESTS):
            names = {f"{name} {word}" for word in words}
            if process.poll() is not None:
                break  # nothing of it has left
            events = [{"event_name": "sweep", "session_id": one} for one in sorted(names)]
            try:
                answer = service.post(events[0]) if number == 0 else service.post_batch(events)
            except ConnectionError:  # cut off; no answer in time is an error
                sent.unknown.update(names)
                continue
            if answer.status != 200:
                assert_refused(answer)
            (sent.acknowledged if answer.status == 200 else sent.refused).update(names)
        process.send_signal(signal.SIGTERM)
        code = process.wait(LIFE_SECONDS)
        if service.tracer:
            service.tracer.wait(LIFE_SECONDS)
        return code

    def _check(self, data: Path, name: str, sent: Sent) -> None:
        rows = query(self._dsn, f"SELECT session_id FROM events WHERE startsWith(session_id, '{name} ')")
        aside = [json.loads(path.read_bytes())["values"]["session_id"] for path in (data / "quarantine").glob("*.json")]
        check_set(sent.acknowledged, sent.refused, sent.unknown, [one for (one,) in rows] + aside)
        assert set(aside) <= {f"{name} poison"}, aside


def _leave_behind(data: Path, name: str) -> set[str]:
    """What an earlier life left in the data folder; the names of its events."""
    for folder in (data, data / "spool", data / "quarantine", data / "retry"):
        folder.mkdir(parents=True)
    names = iter(f"{name} before-{number}" for number in range(100))
    left: set[str] = set()

    def rows(count: int) -> EncodedRows:
        events = [{"event_name": "sweep", "session_id": next(names)} for _ in range(count)]
        left.update(event["session_id"] for event in events)
        return encoded(rows_of(*events)).parts[0]

    quarantine = Quarantine(data)
    for _ in range(2):
        quarantine.put(new_name(1), 0, Rows(CURRENT, [rows(1)]), Rejected("no", 469))
    assert not [one.problem for one in QuarantineCommands(data).retry(None) if one.problem]
    spool = Spool(data / "spool", data / "quarantine", encode_header(CURRENT))
    spool.append(rows(2))
    assert spool.seal()
    spool.append(rows(3))
    [path] = (data / "spool").glob("*.open")
    with path.open("ab") as file:
        file.write(b"\xf5EVF torn")
    return left


def _check_end(code: int, fault: Fault, calls: int, log: str) -> None:
    """An exit code that the fault explains, and at 1 a line that says why."""
    expected = {0, 1}
    if fault.effect.startswith("kill"):  # if there were so many calls
        expected = {-signal.SIGKILL} if calls >= fault.number > 0 else {0}
    assert code in expected, f"exit code {code}"
    if code == 1:
        assert "\nTraceback" not in log, log[-3000:]
        assert log.splitlines()[-1].startswith("analytics: "), log[-3000:]


def _pending(data: Path) -> list[str]:
    """The files that hold events, or did: not what a kill between two deletions has left."""
    kept = [path.name for folder in ("retry", "spool") for path in (data / folder).iterdir()]
    return [name for name in kept if name.endswith((".retry", ".open", ".sealed")) and not name.startswith(".")]


def points(calls: list[Call]) -> list[Fault]:
    """Each effect on each of the calls: half a write where something is written; what changes nothing only fails."""
    return [
        Fault(number, effect)
        for number, call in enumerate(calls, 1)
        for effect in (("EIO",) if call.name in READS else EFFECTS)
        if effect != "half" or call.name in WRITES
    ]


@contextmanager
def swept(folder: Path) -> Iterator[Sweep]:
    """A sweep on a ClickHouse server of its own."""
    server = ClickHouseServer(folder / "clickhouse").start()
    try:
        yield Sweep(folder, server.dsn("sweep"))
    finally:
        server.stop()


def run(sweep: Sweep, seed: int | None = None, seconds: float | None = None) -> str:
    """Meet all faults, or, in an order of the seed's, as many as the time allows; the report."""
    _, calls = sweep.life(Fault())
    todo = points(calls)
    if seed is not None:
        random.Random(seed).shuffle(todo)
    deadline = time.monotonic() + (seconds or float("inf"))
    met: Counter[str] = Counter()
    failures = []
    for fault in todo:
        if time.monotonic() > deadline:
            break
        try:
            _, made = sweep.life(fault)
            met[fault.effect if fault.number <= len(made) else "not met"] += 1
        except Exception as error:  # noqa: BLE001 - the other faults are tried too
            failures.append(f"{fault}, in a life without it {calls[fault.number - 1]}: {error!r}")
            print(failures[-1], file=sys.stderr, flush=True)
    assert not failures, "\n".join(failures)
    return f"{len(calls)} calls, {met.total()} of {len(todo)} faults: {dict(sorted(met.items()))}; lost 0, twice 0"


def main() -> None:
    """The command behind `make sweep`."""
    parser = argparse.ArgumentParser(description="every disk call of a short life fails once, in every way")
    parser.add_argument("--seed", type=int, help="shuffle by this")
    parser.add_argument("--seconds", type=float, help="end after so long")
    parser.add_argument("--fault", nargs=2, metavar=("NUMBER", "EFFECT"), help="only this one")
    parser.add_argument("--strace", type=Path, metavar="LOG", help="no fault: what strace sees of a life; its calls")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    logging.disable()  # of this process: the service configures its own
    try:
        with swept(folder) as sweep:
            if arguments.strace:
                data, calls = sweep.life(Fault(), arguments.strace)
                print(json.dumps({"data": str(data), "calls": calls}))
            elif arguments.fault:
                number, effect = arguments.fault
                sweep.life(Fault(int(number), effect))
            else:
                print(run(sweep, arguments.seed, arguments.seconds))
    except AssertionError as error:
        sys.exit(f"FAILED, see {folder}, seed {arguments.seed}: {error}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
