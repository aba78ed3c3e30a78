"""``analytics quarantine``: list, show, retry and drop what the quarantine holds, whether the service runs or not."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.cli.parsers import GROUP, Commands, add_command
from service.errors import StartError
from service.spool.quarantine_commands import EntryResult, QuarantineCommands
from service.spool.quarantine_entry import Entry

#: Bytes of a damaged stretch that ``show`` prints.
SHOWN_BYTES = 4096
_EXAMPLE = "01a21da779a1-1ceece0343a80021.7.json"


_Action = Callable[[QuarantineCommands, argparse.Namespace], int | None]
_Run = Callable[[_Action], Callable[[argparse.Namespace], Any]]


def add(commands: Commands, data: Callable[[], Path]) -> None:
    """Add the command. ``data`` is the data folder, found when the command runs."""

    def run(function: _Action) -> Callable[[argparse.Namespace], Any]:
        def guarded(options: argparse.Namespace) -> int | None:
            quarantine = QuarantineCommands(data())
            try:
                return function(quarantine, options)
            except BrokenPipeError:  # the reader of our output has gone
                raise
            except OSError as error:
                raise StartError(f"the quarantine can't be read or written: {error}") from None

        return guarded

    parser = add_command(
        commands,
        "quarantine",
        "look at the rows that ClickHouse refuses, retry or drop them",
        "Look at the rows that ClickHouse refuses for good and at damaged bytes; retry or drop them.\n"
        "Works whether the service runs or not. Run it as the same user and in the same folder.",
        "analytics quarantine list",
    )
    actions = parser.add_subparsers(**GROUP)
    _add_reading(actions, run)
    _add_changing(actions, run)


def _add_reading(actions: Commands, run: _Run) -> None:
    listing = add_command(
        actions,
        "list",
        "a line for each: name, time, code, reason, event_name",
        "A line for each entry: its name, its time, ClickHouse's code and reason, the event's name.",
        "analytics quarantine list --json",
    )
    listing.add_argument("--json", action="store_true", help="as JSON lines")
    listing.set_defaults(run=run(_list))
    show = add_command(
        actions,
        "show",
        "one entry in full; the size and the beginning of damaged bytes",
        f"Show an entry in full; of damaged bytes, the size and the first {SHOWN_BYTES} in hexadecimal.",
        f"analytics quarantine show {_EXAMPLE}",
    )
    show.add_argument("name", metavar="NAME", help="as `list` shows it")
    show.set_defaults(run=run(_show))


def _add_changing(actions: Commands, run: _Run) -> None:
    for name, summary, description, example in (
        (
            "retry",
            "send rows back to ClickHouse",
            "Send rows back to ClickHouse: a running service takes them within a second, a stopped one when it starts.",
            "analytics quarantine retry --all",
        ),
        (
            "drop",
            "delete entries for good, after printing their names",
            "Delete entries for good, after printing their names.",
            f"analytics quarantine drop {_EXAMPLE}",
        ),
    ):
        action = add_command(actions, name, summary, description, example)
        which = action.add_mutually_exclusive_group(required=True)
        which.add_argument("--all", action="store_true", help="all entries")
        which.add_argument("names", nargs="*", default=[], metavar="NAME", help="as `list` shows it")
        action.set_defaults(action=name, run=run(_change))


def _list(quarantine: QuarantineCommands, options: argparse.Namespace) -> None:
    entries = quarantine.entries()
    for entry in entries:
        try:
            line = _line(entry)
        except FileNotFoundError:  # retried or dropped meanwhile
            continue
        print(json.dumps(line) if options.json else "\t".join(_plain(line[name]) for name in _COLUMNS))
    if not entries:
        print(f"{quarantine.folder} is empty", file=sys.stderr)


_COLUMNS = ("name", "time", "code", "reason", "event_name")


def _line(entry: Entry) -> dict[str, Any]:
    found = entry.path.stat()
    line: dict[str, Any] = {
        "name": entry.path.name,
        "time": datetime.fromtimestamp(found.st_mtime, UTC).isoformat(),
        "code": None,
    }
    line |= {"reason": f"damaged: {found.st_size} bytes", "event_name": None, "tries": None, "bytes": found.st_size}
    if entry.damaged:
        return line
    try:
        document = entry.document()
    except ValueError as error:
        return line | {"reason": f"can't be read: {error}"}
    named = {name: document[name] for name in ("time", "code", "reason", "tries") if name in document}
    return line | named | {"event_name": document["values"].get("event_name")}


def _plain(value: object) -> str:
    """Safe on a terminal and in one column: values of clients may contain anything."""
    text = "-" if value is None else str(value)
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "replace").decode() for one in text)


def _show(quarantine: QuarantineCommands, options: argparse.Namespace) -> None:
    [entry] = quarantine.entries([options.name])
    if not entry.damaged:
        try:
            print(json.dumps(entry.document(), indent=1))
            return
        except ValueError as error:
            print(f"can't be read: {error}", file=sys.stderr)
    with entry.path.open("rb") as file:
        data = file.read(SHOWN_BYTES)
    size = entry.path.stat().st_size
    print(f"{options.name}: {size} bytes" + (f", of which the first {len(data)}" if size > len(data) else ""))
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        text = "".join(chr(one) if 32 <= one < 127 else "." for one in part)
        print(f"{start:08x}  {part.hex(' '):47}  {text}")


def _change(quarantine: QuarantineCommands, options: argparse.Namespace) -> int:
    action = options.action
    names = None if options.all else options.names
    results: Iterator[EntryResult] = quarantine.retry(names) if action == "retry" else quarantine.drop(names)
    done = problems = 0
    for name, problem in results:
        done, problems = done + (not problem), problems + bool(problem)
        print(f"analytics: {name}: {problem}" if problem else name, file=sys.stderr if problem else None, flush=True)
    if action == "retry" and done:
        print(f"{done} on their way back: the service takes them within a second, or when it starts", file=sys.stderr)
    if action == "drop" or not done:
        print(f"{done} {'dropped' if action == 'drop' else 'to retry'}", file=sys.stderr)
    return 1 if problems else 0
