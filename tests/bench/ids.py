"""How long looking up the ids of a batch takes, by how many are known: ``make bench-ids IDS=100000000``.

Random ids (version 4), each of which lies somewhere else, beside ids of version 7, which lie together by their time.
They are made inside ClickHouse, in the table of the service's own migrations, in parts as merges leave them: each half
of the one before. Then the service's own look-up asks for 10,000 ids that are not there, the usual case.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from service.store.dsn import parse_dsn
from service.store.store import Store
from tests.bench.targets import markdown
from tests.support.clickhouse import ClickHouseServer, query

OUTPUT = Path("build/bench-ids.json")
BATCH = 10_000
#: Rows of the largest part that is made, for the sake of memory.
LARGEST_PART = 100_000_000
#: Milliseconds since 1970 at which the ids of version 7 begin, and how far they reach.
FIRST, DAY = 1_795_996_800_000, 86_400_000
_RANDOM = "bitOr(bitShiftLeft(toUInt128(number * {step} + rand64(1) % {step}), 64), toUInt128(rand64(2)))"
_ORDERED = (
    "bitOr(bitShiftLeft(toUInt128({first} + intDiv(number * {day}, {rows})), 80),"
    " bitOr(bitShiftLeft(toUInt128(7), 76), toUInt128(rand64(2))))"
)


def fill(dsn: str, expression: str, rows: int) -> None:
    """Make so many ids."""
    query(dsn, "SYSTEM STOP MERGES client_ids")
    while rows:
        size = min(max(rows // 2, BATCH), LARGEST_PART, rows)
        made = expression.format(step=(1 << 64) // size, rows=size, first=FIRST, day=DAY)
        query(
            dsn,
            f"INSERT INTO client_ids (id, received_at) SELECT {made}, now64(3) FROM numbers({size})"
            f" SETTINGS max_threads = 1, min_insert_block_size_rows = {size}, max_insert_block_size = {size}",
            timeout=1200,
        )
        rows -= size


def unknown(version: int) -> list[int]:
    """A batch of ids that are not there: of version 7, of the same minute, as a batch of events has them."""
    if version == 4:
        return [random.getrandbits(128) for _ in range(BATCH)]
    start = FIRST + random.randrange(DAY - 60_000)
    return [(start + random.randrange(60_000)) << 80 | 7 << 76 | random.getrandbits(64) for _ in range(BATCH)]


async def measure(folder: Path, counts: list[int], rounds: int) -> list[dict[str, Any]]:
    """The seconds of a look-up, for each number of ids and each version."""
    server = ClickHouseServer(folder / "clickhouse").start()
    rows = []
    try:
        for count in counts:
            stores = {
                version: Store(parse_dsn(server.dsn(f"v{version}_{count}"), folder), migrating=True)
                for version in (7, 4)
            }
            took: dict[int, list[float]] = {7: [], 4: []}
            for version, store in stores.items():
                await store.prepare()
                fill(server.dsn(f"v{version}_{count}"), _RANDOM if version == 4 else _ORDERED, count)
                await store.known_ids(unknown(version), DAY / 1000)  # loads the index
            for _ in range(rounds):
                for version, store in stores.items():
                    ids = unknown(version)
                    started = time.perf_counter()
                    assert len(await store.known_ids(ids, DAY / 1000)) < 10
                    took[version].append(time.perf_counter() - started)
            seven, four = median(took[7]), median(took[4])
            rows.append(
                {"ids": count, "random ÷ ordered": four / seven, "ordered_ms": seven * 1000, "random_ms": four * 1000}
            )
            for version, store in stores.items():
                await store.close()
                query(server.dsn("default"), f"DROP DATABASE v{version}_{count} SYNC")
    finally:
        server.stop()
    return rows


def main() -> None:
    """The command behind `make bench-ids`."""
    parser = argparse.ArgumentParser(description="look-ups of ids at size")
    parser.add_argument("--ids", default="1000000,10000000", help="how many, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = [int(one) for one in arguments.ids.split(",")]
        rows = asyncio.run(measure(Path(folder), counts, arguments.rounds))
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(rows, indent=1))
    shown = [[f"{row['ids']:,}", *(f"{row[name]:.1f}" for name in list(row)[1:])] for row in rows]
    print(markdown(["ids in the table", "random ÷ ordered", "ordered, ms", "random, ms"], shown))


if __name__ == "__main__":
    main()
