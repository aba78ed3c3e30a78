"""``analytics columns``: add, list, fill and drop columns out of ``properties``."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from service.cli.parsers import GROUP, add_command
from service.config import Settings
from service.errors import StartError, StoreError
from service.spool.data_dir import DataDir
from service.store import columns
from service.store.dsn import parse_dsn

if TYPE_CHECKING:  # the driver takes long to load, and only a command that runs needs it
    from service.store.store import Store

#: Seconds between two looks at how far ClickHouse is, and between two lines where no terminal shows them.
LOOKS, LINES = 0.2, 10.0


def add(commands: Any, settings: Callable[[], Settings]) -> None:
    """Add the command. ``settings`` are read when it runs."""

    def run(function: Callable[["Store", argparse.Namespace], Awaitable[None]]) -> Callable[[argparse.Namespace], None]:
        return lambda options: asyncio.run(_with_store(settings(), lambda store: function(store, options)))

    parser = add_command(
        commands,
        "columns",
        "columns of the table that ClickHouse fills from properties",
        "Columns of the table that ClickHouse fills from properties with every insert.",
        "analytics columns list",
    )
    actions = parser.add_subparsers(**GROUP)
    adding = add_command(
        actions,
        "add",
        "add one; each insert fills it, and rows from before are read by it too",
        "Add a column. Each insert fills it; of rows from before, it is read from their properties until it is filled.",
        "analytics columns add symbol 'LowCardinality(String)' --fill",
    )
    adding.add_argument("name", help="of the column, and of the property unless --path names another")
    adding.add_argument("type", help=columns.TYPES_HELP.replace("%", "%%"))
    adding.add_argument("--path", help="of the property: symbol, order.price, $.order.price or $['a key with.dots']")
    adding.add_argument(
        "--fill", action="store_true", help="write it down for rows from before, so that it is fast there"
    )
    adding.set_defaults(run=run(_add))
    listing = add_command(
        actions,
        "list",
        "name, type, path, share of rows that have it written down, bytes on disk",
        "A line for each column: name, type, path, share of rows that have it written down, bytes on disk.",
        "analytics columns list --json",
    )
    listing.add_argument("--json", action="store_true", help="as JSON lines")
    listing.set_defaults(run=run(_list))
    for name, function, text in (
        ("fill", _fill, "write one down for rows from before it"),
        ("drop", _drop, "drop one; the properties stay as they are"),
    ):
        action = add_command(actions, name, text, f"{text.capitalize()}.", f"analytics columns {name} symbol")
        action.add_argument("name", help="as `list` shows it")
        action.set_defaults(run=run(function))


async def _with_store(settings: Settings, function: Callable[["Store"], Awaitable[None]]) -> None:
    from service.store.store import Store

    target = parse_dsn(settings.clickhouse_dsn.get_secret_value(), settings.data_dir.absolute() / "clickhouse")
    data = None
    if target.embedded:
        try:
            data = DataDir(settings.data_dir)
        except StartError as error:
            hint = "while the service runs, nobody else can open the embedded ClickHouse"
            raise StartError(f"{error}; {hint}: stop it, run this, start it again") from None
        data.use_private_temporary_folder()
    store = Store(target, migrating=settings.migrate == "on")
    try:
        await store.prepare()
        await function(store)
    except StoreError as error:
        raise StartError(str(error)) from None
    finally:
        await store.close()
        if data:
            data.close()


async def _add(store: "Store", options: argparse.Namespace) -> None:
    await columns.add_column(store, options.name, options.type, options.path)
    print(f"added {options.name}: ClickHouse fills it with each insert")
    if options.fill:
        await _fill(store, options)


async def _list(store: "Store", options: argparse.Namespace) -> None:
    found = await columns.list_columns(store)
    for one in found:
        share = f"{100 * one.rows / one.of:.0f} %" if one.of else "-"
        print(json.dumps(one._asdict()) if options.json else "\t".join((*one[:3], share, str(one.bytes))))
    if not found:
        print("no column out of properties", file=sys.stderr)


async def _drop(store: "Store", options: argparse.Namespace) -> None:
    await columns.drop_column(store, options.name)
    print(f"dropped {options.name}: properties stay as they are")


async def _fill(store: "Store", options: argparse.Namespace) -> None:
    name, started = options.name, time.monotonic()
    await columns.fill_column(store, name)
    terminal, told = sys.stderr.isatty(), started
    async for state in columns.fill_states(store, name):
        if state.problem:
            raise StartError(f"{name} is not filled: {state.problem}; ClickHouse tries again by itself")
        now = time.monotonic()
        if terminal or now - told >= LINES:
            told = now
            line = _progress(name, state, now - started)
            print(f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
        await asyncio.sleep(LOOKS)
    if terminal:
        print(file=sys.stderr)
    print(f"filled {name}: {state.of:,} rows in {time.monotonic() - started:.1f} s")


def _progress(name: str, state: columns.FillState, seconds: float) -> str:
    """For people: how far, how fast, how long still."""
    share = state.done / state.of if state.of else 0.0
    left = f", {seconds / share - seconds:.0f} s left" if share else ""
    rate = f", {state.done / seconds:,.0f} rows/s" if seconds else ""
    return f"filling {name}: {100 * share:.0f} % of {state.of:,} rows{rate}{left}"
