"""Compare ways to insert rows into ClickHouse with clickhouse-connect: ``make bench-insert``.

Every method starts from the same rows (ids of 16 bytes, times as integers, the rest text), and runs in a process of
its own, so that CPU time and memory are its own. Turning rows into what is sent is part of the cost, but with
``payload``: those are the bytes that the spool has. CPU is process time, which hardly depends on what else the machine
does: compare the ratios, not the figures.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver import options

from schemas.payload import EncodedRows, encode_rows, to_columns
from schemas.rows import CURRENT, Row
from service.store.dsn import parse_dsn
from service.store.migrations import shipped
from tests.support.clickhouse import ClickHouseServer

Insert = Callable[[list[Row], str, EncodedRows | None], Awaitable[Any]]
Command = Callable[[str], Awaitable[Any]]
METHODS = (
    "server-columns server-payload server-uuids server-lz4 server-rows server-arrow server-sync"
    " embedded-columns embedded-payload embedded-arrow"
)


def make_rows(count: int, seed: int) -> list[Row]:
    """Varied rows; the same seed gives the same ones."""
    rng = random.Random(seed)
    agents = [f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/{90 + n}.0 Safari/537.36" for n in range(40)]
    rows: list[Row] = []
    for number in range(count):
        when = 1_790_000_000_000_000 + seed * 1_000_000 + number * 97
        properties = {"symbol": rng.choice(("BTC-USD", "ETH-USD")), "qty": rng.random(), "n": number, "side": "buy"}
        rows.append((
            rng.randbytes(16), f"order_placed_{rng.randrange(30)}", rng.choice(("trading", "page_view", "auth")),
            rng.choice(("low", "medium", "high")), json.dumps(properties), when, when // 1000 + 5,
            f"s-{rng.getrandbits(64):016x}", f"https://trade.example/app/markets/{rng.randrange(500)}",
            f"https://trade.example/{rng.randrange(20)}", rng.choice(agents), "web", "api",
            "server", number, None, f"u-{rng.randrange(2000)}",
        ))  # fmt: skip
    return rows


def arrow_table(rows: list[Row]) -> Any:
    """Rows as an Arrow table of one chunk."""
    import pyarrow

    kinds = {"UUID": pyarrow.binary(16), "DateTime64(6, 'UTC')": pyarrow.timestamp("us", "UTC")}
    kinds |= {"DateTime64(3, 'UTC')": pyarrow.timestamp("ms", "UTC")}
    kinds |= {"UInt32": pyarrow.uint32(), "Nullable(Int64)": pyarrow.int64()}
    columns = zip(zip(*rows, strict=True), CURRENT.types, strict=True)
    arrays = [pyarrow.array(column, kinds.get(kind, pyarrow.string())) for column, kind in columns]
    return pyarrow.table(arrays, list(CURRENT.names))


def arguments(style: str, token: str) -> dict[str, Any]:
    """What a context is made of; ``service/store/engines.py`` does the same."""
    return {
        "table": "events",
        "column_names": CURRENT.names,
        "column_type_names": CURRENT.types,
        "column_oriented": style != "rows",
        "settings": {"async_insert": 0, "insert_deduplication_token": token},
    }


def fill(context: Any, rows: list[Row], style: str) -> Any:
    """Put the rows into a context, in the form that the style asks for."""
    context.req_block_size = 1 << 30
    columns = to_columns(rows, CURRENT.types)
    if style == "uuids":
        columns[0] = [uuid.UUID(int=one) for one in columns[0]]
    context.data = list(zip(*columns, strict=True)) if style == "rows" else columns
    return context


async def open_server(style: str, dsn: str) -> tuple[Insert, Command, Callable[[], Awaitable[Any]]]:
    """The asynchronous client of a server."""
    server = parse_dsn(dsn, Path("unused")).server | {"compress": "lz4" if style == "lz4" else False}
    client = await clickhouse_connect.get_async_client(**server)

    async def insert(rows: list[Row], token: str, encoded: EncodedRows | None) -> Any:
        known = arguments(style, token)
        if style == "arrow":
            table = await asyncio.to_thread(arrow_table, rows)
            return await client.insert_arrow("events", table, settings=known["settings"])
        if encoded:
            return await client.raw_insert("events", CURRENT.names, encoded.payload, known["settings"], "MsgPack")
        context = await client.create_insert_context(**known)
        return await client.insert(context=await asyncio.to_thread(fill, context, rows, style))

    return insert, client.command, client.close


async def open_on_thread(
    style: str, connect: Callable[[], Any]
) -> tuple[Insert, Command, Callable[[], Awaitable[Any]]]:
    """A synchronous client, of a server or embedded, that lives on one thread."""
    thread = ThreadPoolExecutor(1)
    run = partial(asyncio.get_running_loop().run_in_executor, thread)
    client = await run(connect)

    def insert(rows: list[Row], token: str, encoded: EncodedRows | None) -> Any:
        known = arguments(style, token)
        if style == "arrow":
            return client.insert_arrow("events", arrow_table(rows), settings=known["settings"])
        if encoded:
            return client.raw_insert("events", CURRENT.names, encoded.payload, known["settings"], "MsgPack")
        return client.insert(context=fill(client.create_insert_context(**known), rows, style))

    return partial(run, insert), partial(run, client.command), partial(run, client.close)


async def watch_loop(lags: list[float]) -> None:
    """Note how late a timer of 2 ms fires."""
    while True:
        start = time.perf_counter()
        await asyncio.sleep(0.002)
        lags.append(time.perf_counter() - start - 0.002)


async def measure(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Insert some batches by one method; what they cost a row, in microseconds and more."""
    options.np = options.pd = None  # as in service/store/engines.py
    engine, style = method.split("-")
    if method == "server-sync":
        server = parse_dsn(args.dsn, Path("unused")).server
        insert, command, close = await open_on_thread(
            style, lambda: clickhouse_connect.get_client(**server, autogenerate_session_id=False)
        )
    elif engine == "server":
        insert, command, close = await open_server(style, args.dsn)
    else:
        path = str(Path(args.folder) / method)
        insert, command, close = await open_on_thread(
            style, lambda: clickhouse_connect.get_client(interface="chdb", path=path)
        )
    for table in ("client_ids_view", "client_ids", "events"):
        await command(f"DROP TABLE IF EXISTS {table}")
    for migration in shipped():
        await command(migration.sql)
    encode = partial(encode_rows, types=CURRENT.types) if style == "payload" else lambda rows: None
    rows = make_rows(args.rows, 0)
    await insert(rows, f"{method}-0", encode(rows))
    elapsed, making, lags = 0.0, 0.0, [0.0]
    client, remote = time.process_time(), cpu_seconds(args.server_pid)
    for number in range(1, args.batches + 1):
        start = time.thread_time()
        rows = make_rows(args.rows, number)
        encoded = encode(rows)
        making += time.thread_time() - start
        watcher = asyncio.create_task(watch_loop(lags))
        begin = time.perf_counter()
        await insert(rows, f"{method}-{number}", encoded)
        elapsed += time.perf_counter() - begin
        watcher.cancel()
    each = 1e6 / (args.rows * args.batches)
    client, remote = time.process_time() - client - making, cpu_seconds(args.server_pid) - remote
    content = str(await command("SELECT count(), sum(cityHash64(*)) FROM events"))
    await close()
    return {
        "client": client * each,
        "server": remote * each,
        "rate": 1e6 / each / elapsed,
        "lag": max(lags) * 1e3,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "content": content,
    }


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run each method in a process of its own, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Compare ways to insert rows into ClickHouse.")
    parser.add_argument("--rows", type=int, default=10_000, help="rows in a batch")
    parser.add_argument("--batches", type=int, default=25)
    parser.add_argument("--methods", nargs="+", default=METHODS.split())
    for hidden in ("--child", "--dsn", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--server-pid", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(asyncio.run(measure(args.child, args))))
        return
    with tempfile.TemporaryDirectory() as folder:
        server = ClickHouseServer(Path(folder) / "server").start()
        known = ["--dsn", server.dsn("default"), "--folder", folder, "--server-pid", str(server.pid)]
        print("| method | client µs/row | ratio | server µs/row | rows/s | longest loop lag, ms | peak RSS, MB |")
        print("|---|---|---|---|---|---|---|")
        first: dict[str, Any] = {}
        for method in args.methods:
            command = [sys.executable, "-m", "tests.bench.insert", *sys.argv[1:], "--child", method, *known]
            got = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            first = first or got
            assert got["content"] == first["content"], f"{method} stored something else"
            print(
                f"| {method} | {got['client']:.2f} | {got['client'] / first['client']:.2f} | {got['server']:.2f} "
                f"| {got['rate']:,.0f} | {got['lag']:.0f} | {got['peak']:.0f} |",
                flush=True,
            )
        server.stop()


if __name__ == "__main__":
    main()
