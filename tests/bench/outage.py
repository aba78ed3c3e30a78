"""ClickHouse away for long, a kill -9 in the middle, and back: ``make bench-outage SECONDS=1200``.

Full load for so long with ClickHouse stopped, and the memory of the service each second. Then kill -9 and a start on
the backlog: how long until it takes events. Then ClickHouse comes back, and the backlog drains under live traffic.

At the end every acknowledged event must be in the table once, and none may have come before an older one: the run
fails if not. wrk stops while each connection waits for an answer: those events are stored or not.
The backlog is in the folder for temporary files (TMPDIR). Batches at full load make 30 MB of it a second and core.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from service.pipeline.writer import TAKEN_UNTIL
from tests.bench.targets import KINDS, Kind, Target, markdown, on_server_core, stay_on_load_core, write_scripts, wrk
from tests.support import wait_until
from tests.support.checks import drained
from tests.support.clickhouse import ClickHouseServer, free_port, query
from tests.support.load import Load
from tests.support.service import Service

OUTPUT = Path("build/bench-outage.json")
#: Live traffic while the backlog drains.
LIVE = {"clients": 2, "batch": 20, "pause": 0.05, "name": "live"}
_LIVE = "startsWith(session_id, 'live-')"
#: Requests that wait at one time go to disk in one group, whichever came first: milliseconds, generously.
GROUP_MS = 1000
#: A query of a hundred million rows may take long.
QUERY_SECONDS = 600
#: The share of the free disk that the spool may take: from 80 % of it on, events of low priority are refused.
SHARE_OF_DISK = 0.8
#: So many unique ids are counted at once: ClickHouse needs 32 bytes or more for each.
IDS_AT_ONCE = 20_000_000
#: So many looks at the table are compared with its end.
LOOKS_COMPARED = 50


class Look(NamedTuple):
    """The table on its way: the latest time of receipt in milliseconds, and how many rows are clearly older."""

    latest: int
    older: int


@contextmanager
def memory_of(target: Target, every: float) -> Iterator[list[int]]:
    """The resident memory in bytes, sampled every so many seconds meanwhile."""
    samples, stop = [target.rss()], threading.Event()

    def sample() -> None:
        while not stop.wait(every):
            samples.append(target.rss())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def outage(target: Target, kind: Kind, script: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Full load while ClickHouse is away."""
    assert target.service
    with memory_of(target, min(1.0, args.seconds / 30)) as memory:
        found = wrk(target, script, args.seconds, args.connections)
    third = max(1, len(memory) // 3)
    return {
        "seconds": found["seconds"],
        "acknowledged": found["requests"] * kind.events,
        "under_way": args.connections * kind.events,
        "p99_ms": found["p99_ms"],
        "rss_first_third": median(memory[:third]),
        "rss_last_third": median(memory[-third:]),
        "rss_most": max(memory),
        **_spool(target.service),
    }


def _spool(service: Service) -> dict[str, int]:
    sizes = [path.stat().st_size for path in (service.data / "spool").iterdir() if path.name != "probe"]
    return {"backlog_bytes": sum(sizes), "backlog_segments": len(sizes)}


def restart(service: Service) -> tuple[Target, dict[str, Any]]:
    """kill -9 and a start on the backlog: seconds until the first event is acknowledged, and until it is ready."""
    service.kill()
    began = time.monotonic()
    service.start(wait=False, prefix=on_server_core())
    wait_until(lambda: _answers(service, "POST"), 600)
    taken = time.monotonic() - began
    wait_until(lambda: _answers(service, "GET"), 600)
    ready = time.monotonic() - began
    assert service.process
    target = Target("server", service.process.pid, service.port, service)
    return target, {"first_event_seconds": taken, "ready_seconds": ready, "rss": target.rss()}


def _answers(service: Service, method: str) -> bool:
    try:
        if method == "GET":
            return service.get("/readyz").status == 200
        return service.post({"event_name": "first", "session_id": "first"}).status == 200
    except OSError:  # it does not listen yet
        return False


def drain(target: Target, dsn: str, restarted_at: float) -> dict[str, Any]:
    """The backlog drains under live traffic; at the end the live events are checked, and the order of all."""
    assert target.service
    looks: list[Look] = []
    began = time.monotonic()
    with memory_of(target, 1.0) as memory, Load(target.service, **LIVE) as load:  # type: ignore[arg-type]
        while not looks or looks[-1].latest < restarted_at * 1000:  # the live ones are the last
            started = time.monotonic()
            looks.append(look(dsn))
            time.sleep(max(0.5, 5 * (time.monotonic() - started)))  # a large table takes long to look at
        seconds = time.monotonic() - began
        load.wait_for_more(100)
    drained(target.service, 120)
    assert not load.refused | load.unknown, f"{len(load.refused)} refused, {len(load.unknown)} unknown"
    names = query(dsn, f"SELECT session_id FROM events WHERE {_LIVE}", QUERY_SECONDS)
    load.check(name for (name,) in names)
    return {
        "seconds": seconds,
        "live_acknowledged": len(load.acknowledged),
        "rss_most": max(memory),
        **compare(dsn, looks),
    }


def look(dsn: str) -> Look:
    """How far it is."""
    older = f"countIf(received_at < latest - toIntervalMillisecond({GROUP_MS}))"
    sql = f"WITH (SELECT max(received_at) FROM events) AS latest SELECT toUnixTimestamp64Milli(latest), {older}"
    [[latest, rows]] = query(dsn, f"{sql} FROM events", QUERY_SECONDS)
    return Look(latest, rows)


def compare(dsn: str, looks: list[Look]) -> dict[str, int]:
    """At each look, all that is older than what was there by then must have been there too."""
    some = looks[:: len(looks) // LOOKS_COMPARED + 1]
    for one in some:
        cut = f"fromUnixTimestamp64Milli({one.latest - GROUP_MS}, 'UTC')"
        [[older]] = query(dsn, f"SELECT count() FROM events WHERE received_at < {cut}", timeout=QUERY_SECONDS)
        assert older == one.older, f"{older - one.older} events came after later ones, at {one}"
    return {"looks": len(some)}


def count(dsn: str) -> dict[str, int]:
    """Rows and ids of the whole table, and how many are neither live nor the first after the restart."""
    sql = f"SELECT count(), countIf(session_id != 'first' AND NOT {_LIVE}) FROM events"
    [[rows, backlog]] = query(dsn, sql, QUERY_SECONDS)
    slices = rows // IDS_AT_ONCE + 1
    ids = 0
    for number in range(slices):
        of_slice = f"SELECT uniqExact(event_id) FROM events WHERE cityHash64(event_id) % {slices} = {number}"
        ids += query(dsn, of_slice, timeout=QUERY_SECONDS)[0][0]
    return {"rows": rows, "ids": ids, "backlog": backlog}


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it. AssertionError if an event is lost, twice, or out of order."""
    kind = next(one for one in KINDS if one.name == args.kind)
    script = write_scripts(folder)[kind.name]
    server = ClickHouseServer(folder / "clickhouse").start()
    service = Service(folder / "service", ANALYTICS_CLICKHOUSE_DSN=server.dsn("bench"), ANALYTICS_FLUSH_INTERVAL="1.0")
    most = args.spool_max_bytes or int(shutil.disk_usage(folder).free * SHARE_OF_DISK)
    service.environment |= {"ANALYTICS_PORT": str(free_port()), "ANALYTICS_SPOOL_MAX_BYTES": str(most)}
    try:
        service.start(prefix=on_server_core())
        assert service.process
        server.stop()
        result = {"outage": outage(Target("server", service.process.pid, service.port, service), kind, script, args)}
        print(f"outage: {result['outage']}", flush=True)
        if result["outage"]["backlog_bytes"] > min(TAKEN_UNTIL.values()) * most:
            sys.exit("the spool came near its cap, so events were shed: take fewer seconds, or a larger disk")
        restarted_at = time.time()
        target, result["restart"] = restart(service)
        print(f"restart: {result['restart']}", flush=True)
        server.start()
        result["drain"] = drain(target, server.dsn("bench"), restarted_at)
        result["stored"] = stored = count(server.dsn("bench"))
        acknowledged, under_way = result["outage"]["acknowledged"], result["outage"]["under_way"]
        assert stored["ids"] == stored["rows"], f"{stored['rows'] - stored['ids']} events are stored twice"
        assert acknowledged <= stored["backlog"] <= acknowledged + under_way, result
        assert service.stop() == 0
        return result
    finally:
        service.end()
        server.stop()


def mega(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1e6:,.0f}"


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    outage, restart, drain, stored = (result[name] for name in ("outage", "restart", "drain", "stored"))
    rows = [
        ["ClickHouse away, full load", f"{outage['seconds']:,.0f} s"],
        ["events acknowledged meanwhile", f"{outage['acknowledged']:,}"],
        ["backlog", f"{outage['backlog_bytes'] / 1e9:,.2f} GB in {outage['backlog_segments']:,} segments"],
        ["RSS, first → last third", f"{mega(outage['rss_first_third'])} → {mega(outage['rss_last_third'])} MB"],
        ["kill -9; start → first event acknowledged", f"{restart['first_event_seconds']:.2f} s"],
        ["start → ready", f"{restart['ready_seconds']:.2f} s"],
        ["RSS when ready, the most while draining", f"{mega(restart['rss'])}, {mega(drain['rss_most'])} MB"],
        ["backlog drained, under live traffic", f"{drain['seconds']:,.0f} s"],
        ["live events acknowledged meanwhile", f"{drain['live_acknowledged']:,}"],
        ["stored of the backlog; twice; out of order", f"{stored['backlog']:,}; {stored['rows'] - stored['ids']}; 0"],
    ]  # fmt: skip
    return markdown(["", "measured"], rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200, help="of the outage")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], default="batch", help="of the load")
    parser.add_argument("--spool-max-bytes", type=int, help="default: four fifths of the free disk")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    stay_on_load_core()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        result = measure(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
