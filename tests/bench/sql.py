"""Single POSTs beside full scans of the table by the SQL port: ``make bench-sql``.

Events are posted at a rate, whatever the answers do, without and with a client that asks for one full scan after the
other, in turn. A time counts from the moment at which the event was due.
"""

import argparse
import asyncio
import json
import threading
import time
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.corpus import single_bodies
from tests.bench.latency import Generator
from tests.bench.stats import fill
from tests.bench.targets import SEED, clickhouse, markdown, percentiles
from tests.support.service import Service
from tests.support.sql import Door

OUTPUT = Path("build/bench-sql.json")
SCAN = (
    "SELECT event_name, uniqExact(session_id), sum(length(properties)),"
    " sum(cityHash64(page_url, user_agent, properties)) FROM events GROUP BY event_name"
)


class Scans:
    """A client that asks for one full scan after the other."""

    def __init__(self, door: Door) -> None:
        self.seconds: list[float] = []
        self._door = door
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Scans":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.perf_counter()
            self._door.value(SCAN)
            self.seconds.append(time.perf_counter() - started)


async def posts(port: int, args: argparse.Namespace) -> list[float]:
    """The times of single events."""
    generator = Generator(port, args.connections)
    await generator.connect()
    await generator.run(args.rate, args.seconds, single_bodies(2000, SEED), [])
    return generator.latencies


def measure(dsn: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Times without and with scans, of all rounds together."""
    service = Service(folder, ANALYTICS_CLICKHOUSE_DSN=dsn, ANALYTICS_SQL_PORT=0)
    place = service.data / "clickhouse"
    asyncio.run(fill(dsn, place, args.rows))
    service.start()
    try:
        door = Door(service, "", "")
        alone: list[float] = []
        beside: list[float] = []
        scans: list[float] = []
        asyncio.run(posts(service.port, args))  # the first ones are slower
        for _ in range(args.rounds):
            alone += asyncio.run(posts(service.port, args))
            with Scans(door) as client:
                beside += asyncio.run(posts(service.port, args))
            scans += client.seconds
        return {
            "alone": dict(zip(("p50", "p99"), percentiles(alone), strict=True)),
            "beside": dict(zip(("p50", "p99"), percentiles(beside), strict=True)),
            "scan": scans,
        }
    finally:
        service.end()


def main() -> None:
    """Measure on both kinds of ClickHouse, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    args = parser.parse_args()
    found = {}
    with TemporaryDirectory() as folder:
        found["embedded"] = measure("chdb://", Path(folder) / "embedded", args)
        with clickhouse(Path(folder)) as server:
            found["server"] = measure(server.dsn("analytics"), Path(folder) / "server-service", args)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps({"arguments": vars(args), **found}, indent=1))
    rows = []
    for name, one in found.items():
        times = [f"{1000 * one[part][cut]:.2f}" for part in ("alone", "beside") for cut in ("p50", "p99")]
        rows.append([name, *times, f"{fmean(one['scan']):.2f}"])
    print(markdown(["ClickHouse", "p50, ms", "p99, ms", "p50 beside a scan", "p99 beside a scan", "a scan, s"], rows))


if __name__ == "__main__":
    main()
