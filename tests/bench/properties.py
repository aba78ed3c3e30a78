"""What a column out of ``properties`` is worth: a group by one property, read from the text and from a column.

A part of ``make bench-stats``. It runs in a process of its own, since an embedded ClickHouse has one folder a process.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from service.store.columns import add_column, drop_column, fill_column, fill_states, list_columns
from service.store.dsn import parse_dsn
from service.store.store import Store

#: Seconds that one query may take.
TIMEOUT = 600.0
ASKED = 5
_QUERY = "SELECT {symbol} AS one, count() FROM events GROUP BY one"


def compare(dsn: str, tables: Path) -> dict[str, Any]:
    """Seconds of the query from the text and from a column, and of writing the column down."""
    arguments = [sys.executable, "-m", "tests.bench.properties", "--dsn", dsn, "--tables", str(tables)]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def _compare(dsn: str, tables: Path) -> dict[str, Any]:
    store = Store(parse_dsn(dsn, tables), migrating=False)
    await store.prepare()
    if any(one.name == "symbol" for one in await list_columns(store)):
        await drop_column(store, "symbol")
    text, from_text = await _median(store, "JSONExtractString(properties, 'symbol')")
    started = time.perf_counter()
    await add_column(store, "symbol", "LowCardinality(String)")
    await fill_column(store, "symbol")
    async for _ in fill_states(store, "symbol"):
        await asyncio.sleep(0.1)
    filled = time.perf_counter() - started
    column, from_column = await _median(store, "symbol")
    assert from_text == from_column
    [one] = await list_columns(store)
    await store.close()
    return {"rows": one.of, "text": text, "column": column, "filled": filled, "bytes": one.bytes / one.of}


async def _median(store: Store, symbol: str) -> tuple[float, list[tuple[Any, ...]]]:
    times = []
    rows: list[tuple[Any, ...]] = []
    for _ in range(ASKED):
        started = time.perf_counter()
        rows = await store.query(_QUERY.format(symbol=symbol), None, TIMEOUT)
        times.append(time.perf_counter() - started)
    return statistics.median(times), sorted(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--tables", type=Path, required=True)
    args = parser.parse_args()
    print(json.dumps(asyncio.run(_compare(args.dsn, args.tables))))
