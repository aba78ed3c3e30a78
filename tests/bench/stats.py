"""Statistics at size, and bytes on disk: ``make bench-stats ROWS=1000000,10000000``.

The rows are made inside ClickHouse, of 90 days, in the table that the service's migrations made. Then
``/stats`` is asked by one client again and again, and ``/loss`` for one session after the other. What one event
takes on disk is measured with events as they come, made into rows by the service's own code, inserted in its
batches, and merged. At last a group by one property is asked for, from the text and from a column out of properties.

Each size has a table of its own, and all are asked in turn in each round, so that what else the machine does meets
all of them. ``--tables`` keeps them: making 100 million rows takes minutes.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from typing import Any

import service.store
from schemas.parse import parse_batch
from schemas.payload import EncodedRows, Rows
from schemas.rows import CURRENT, make_rows
from service.store.dsn import parse_dsn
from service.store.store import Store
from tests.bench.corpus import batch_bodies
from tests.bench.properties import compare
from tests.bench.targets import SEED, clickhouse, markdown, percentiles, stay_on_load_core
from tests.bench.targets import service as running
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.service import LOSS, READ, STATS

OUTPUT = Path("build/bench-stats.json")
ROWS_PER_INSERT = 1_000_000
#: Seconds that such an insert may take.
INSERT_TIMEOUT = 600.0
ROWS_PER_BATCH = 10_000
SESSIONS_ASKED = 1000
#: Rows spread over the last 90 days; names with a long tail, each in one category; ids in the order of time.
_FILL = """
INSERT INTO events (* EXCEPT segment) WITH
    toUInt32(180 * pow((cityHash64(number) % 1000000) / 1000000, 3)) AS name
SELECT
    generateUUIDv7(),
    concat('name_', toString(name)) AS event_name,
    arrayElement(['page_view', 'user_action', 'trading', 'auth', 'error'], name % 5 + 1) AS category,
    arrayElement(['low', 'medium', 'high'], cityHash64(number, 2) % 3 + 1) AS priority,
    concat('{{"symbol":"S', toString(cityHash64(number, 6) % 500), '","price":',
        toString(cityHash64(number, 3) % 100000), ',"n":', toString(number), '}}') AS properties,
    now64(6) - toIntervalMicrosecond(({stop} - number) * intDiv(7776000000000, {stop})) AS timestamp,
    toDateTime64(timestamp, 3, 'UTC') AS received_at,
    hex(cityHash64(intDiv(number, 20))) AS session_id,
    concat('https://app.example.com/markets/', toString(cityHash64(number, 4) % 500)) AS page_url,
    '' AS referrer,
    concat('Mozilla/5.0 (X11; Linux x86_64) Chrome/', toString(cityHash64(number, 5) % 40)) AS user_agent,
    'web' AS client_id, 'bench' AS source, 'server' AS id_origin,
    number % 20 + 1 AS sequence, NULL AS clock_skew,
    concat('u-', toString(intDiv(number, 100))) AS user_id
FROM numbers({start}, {count})
SETTINGS max_partitions_per_insert_block = 0
"""


async def fill(dsn: str, folder: Path, rows: int) -> None:
    """Add rows to the table until it has so many, and let it merge."""
    service.store.store.QUERY_TIMEOUT = INSERT_TIMEOUT
    store = Store(parse_dsn(dsn, folder), migrating=True)
    await store.prepare()
    start = int((await store.query("SELECT count() FROM events"))[0][0])
    while start < rows:
        count = min(ROWS_PER_INSERT, rows - start)
        await store.command(_FILL.format(start=start, count=count, stop=rows))
        start += count
    # A table that has grown in days has merged.
    while (await store.query("SELECT count() FROM system.merges"))[0][0]:  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    await store.close()


def sessions(dsn: str, rows: int) -> list[str]:
    """Some of the sessions of a table of so many rows, as ``_FILL`` names them, from all over its time."""
    found = query(
        dsn, f"SELECT hex(cityHash64(intDiv(cityHash64(number) % {rows}, 20))) FROM numbers({SESSIONS_ASKED})"
    )
    return [session for (session,) in found]


def ask(port: int, seconds: float, paths: Iterable[str]) -> list[float]:
    """How long each of many requests takes, one after the other on one connection, for these paths in turn."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    times: list[float] = []
    end = time.perf_counter() + seconds
    for path in cycle(paths):
        if time.perf_counter() > end and len(times) >= 20:
            break
        started = time.perf_counter()
        connection.request("GET", path, headers={"Authorization": f"Bearer {READ}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        times.append(time.perf_counter() - started)
    connection.close()
    return times[len(times) // 10 :]  # the first ones warm up


def place(folder: Path, server: ClickHouseServer, name: str, size: int) -> tuple[str, Path]:
    """The DSN of a table of so many rows, and the folder that an embedded ClickHouse has it in."""
    dsn = server.dsn(f"stats_{size}") if name == "server" else "chdb://"
    return dsn, folder / f"{name}-{size}" / "data" / "clickhouse"


def measure(
    folder: Path, sizes: list[int], rounds: int, seconds: float, server: ClickHouseServer, name: str
) -> list[dict[str, Any]]:
    """The times of ``/stats`` and ``/loss`` at each size."""
    dsns = {size: place(folder, server, name, size)[0] for size in sizes}
    for size in sizes:
        # a process of its own: an embedded ClickHouse has one folder for as long as the process lives
        dsn, data = place(folder, server, name, size)
        arguments = ["--fill", str(size), "--dsn", dsn, "--tables", str(data)]
        subprocess.run([sys.executable, "-m", "tests.bench.stats", *arguments], check=True)
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for size, dsn in dsns.items():
            with running(folder, f"{name}-{size}", dsn) as target:
                assert target.service
                total = target.service.stats()["total_events"]
                assert total == size, f"{total} of {size} rows"
                of_sessions = [f"{LOSS}?session_id={one}" for one in sessions(server.dsn("default"), size)]
                for route, paths in (("/stats", [STATS]), ("/loss", of_sessions)):
                    times.setdefault((route, size), []).extend(ask(target.port, seconds, paths))
    return [
        {"store": name, "route": route, "rows": size, **dict(zip(("p50", "p99"), percentiles(found), strict=True))}
        for (route, size), found in times.items()
    ]


async def bytes_per_event(dsn: str, folder: Path, events: int) -> dict[str, float]:
    """What an event takes on disk once merged: of the table, and as JSON from the client."""
    store = Store(parse_dsn(dsn, folder), migrating=True)
    await store.prepare()
    parts: list[EncodedRows] = []
    sent = 0
    for number, body in enumerate(batch_bodies(events // 100, SEED)):
        sent += len(body)
        parts.append(make_rows(parse_batch(body), source="bench", received_at=1_790_000_000_000_000 + number * 5000))
        if sum(map(len, parts)) >= ROWS_PER_BATCH:
            await store.insert(Rows(CURRENT, parts), f"bench-{number}")
            parts = []
    if parts:
        await store.insert(Rows(CURRENT, parts), "bench-last")
    await store.command("OPTIMIZE TABLE events FINAL")
    of_table = "database = currentDatabase() AND table = 'events' AND active"
    sums = "sum(bytes_on_disk), sum(secondary_indices_compressed_bytes), sum(rows)"
    [(disk, indexes, count)] = await store.query(f"SELECT {sums} FROM system.parts WHERE {of_table}")
    columns = await store.query(
        f"SELECT column, sum(column_data_compressed_bytes) AS size FROM system.parts_columns WHERE {of_table}"
        " GROUP BY column ORDER BY size DESC"
    )
    await store.close()
    by_column = {f"column {name}": size / count for name, size in columns}
    return {
        "sent as JSON": sent / count,
        "on disk": disk / count,
        "indexes": indexes / count,
    } | by_column


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000000,10000000", help="sizes of the table, separated by commas, growing")
    parser.add_argument("--seconds", type=float, default=3, help="of asking, each route at each size in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", nargs="+", choices=("server", "embedded"), default=["server", "embedded"])
    parser.add_argument("--events", type=int, default=200_000, help="events of which the bytes on disk are counted")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--fill", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dsn", help=argparse.SUPPRESS)
    parser.add_argument("--tables", type=Path, help="folder of the tables, kept for another time; else a temporary one")
    args = parser.parse_args()
    if args.fill:
        asyncio.run(fill(args.dsn, args.tables, args.fill))
        return

    stay_on_load_core()
    sizes = sorted(int(one) for one in args.rows.split(","))
    latencies: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = args.tables.absolute() if args.tables else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with clickhouse(folder) as server:
            for store in args.stores:
                latencies += measure(folder, sizes, args.rounds, args.seconds, server, store)
                for size in sizes:
                    compared.append({"store": store} | compare(*place(folder, server, store, size)))
            disk = asyncio.run(bytes_per_event(server.dsn("disk"), folder, args.events))
            query(server.dsn("default"), "DROP DATABASE disk")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    found = {"stats": latencies, "bytes_per_event": disk, "properties": compared}
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(["store", "route", "rows", "p50, ms", "p99, ms", "p99 ÷ that of the smallest"], _rows(latencies)))
    print()
    print(markdown(["an event", "bytes"], [[text, f"{size:,.1f}"] for text, size in disk.items()]))
    print()
    head = [
        "store",
        "rows",
        "from the text, s",
        "from the column, s",
        "text ÷ column",
        "filled in, s",
        "bytes a row",
    ]
    print(markdown(head, [_compared(one) for one in compared]))


def _compared(one: dict[str, Any]) -> list[str]:
    times = [f"{one['text']:.3f}", f"{one['column']:.3f}", f"{one['text'] / one['column']:.1f}", f"{one['filled']:.1f}"]
    return [one["store"], f"{one['rows']:,}", *times, f"{one['bytes']:.2f}"]


def _rows(latencies: list[dict[str, Any]]) -> list[list[str]]:
    smallest: dict[tuple[str, str], float] = {}
    rows = []
    for one in sorted(latencies, key=lambda one: (one["store"], one["route"], one["rows"])):
        ratio = one["p99"] / smallest.setdefault((one["store"], one["route"]), one["p99"])
        times = [f"{one['p50'] * 1e3:.1f}", f"{one['p99'] * 1e3:.1f}"]
        rows.append([one["store"], one["route"], f"{one['rows']:,}", *times, f"{ratio:.2f}"])
    return rows


if __name__ == "__main__":
    main()
