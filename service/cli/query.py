"""``analytics query``: SQL on a terminal. A running service answers, by its data folder; else ClickHouse itself."""

import argparse
import asyncio
import contextlib
import http.client
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from service.cli.parsers import add_command
from service.config import Settings
from service.errors import SqlError, StartError
from service.spool.data_dir import SQL_SOCKET, DataDir
from service.store.dsn import Target, parse_dsn

#: By the ending of the file.
FORMATS = {
    "parquet": "Parquet", "csv": "CSVWithNames", "tsv": "TabSeparatedWithNames", "json": "JSON",
    "ndjson": "JSONEachRow", "jsonl": "JSONEachRow", "arrow": "Arrow", "arrows": "ArrowStream", "orc": "ORC",
    "avro": "Avro", "native": "Native", "md": "Markdown", "xml": "XML", "sql": "SQLInsert",
    "txt": "PrettyCompactMonoBlock",
}  # fmt: skip
COMPRESSIONS = {"gz": "gzip", "zst": "zstd", "lz4": "lz4"}
ON_TERMINAL, ELSEWHERE = "PrettyCompactMonoBlock", "TabSeparated"
_CHUNK_BYTES, _LAST_BYTES = 2**18, 2**14


class _Wanted(NamedTuple):
    text: str
    parameters: dict[str, str]
    format: str
    compression: str


def add(commands: Any, settings: Callable[[], Settings]) -> None:
    """Add the command. ``settings`` are read when it runs."""
    parser = add_command(
        commands,
        "query",
        "ask SQL, read only, whether the service runs or not",
        "Ask SQL, read only: the service that runs on the data folder, else the database itself.",
        'analytics query "SELECT count() FROM events"',
    )
    parser.add_argument(
        "sql", nargs="?", default="-", metavar="SQL", help="the query; by default it is read from stdin"
    )
    parser.add_argument(
        "--format", help="a format of ClickHouse; by default a table on a terminal, elsewhere TabSeparated"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write there; its ending says the format, as in day.parquet, day.csv.gz",
    )
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a value for {NAME:Type}; may be given again"
    )
    parser.add_argument("--dsn", help="ask this ClickHouse, and no running service")
    parser.set_defaults(run=lambda options: _query(options, settings()))


def _query(options: argparse.Namespace, settings: Settings) -> int:
    wanted = _wanted(options)
    if options.dsn is None and (connection := _connect(settings.data_dir / SQL_SOCKET)):
        chunks = _of_service(connection, wanted)
        with _open(options.output) as write:
            for chunk in chunks:
                write(chunk)
        return 0
    dsn = options.dsn or settings.clickhouse_dsn.get_secret_value()
    target = parse_dsn(dsn, settings.data_dir.absolute() / "clickhouse")
    return asyncio.run(_ask_directly(settings, target, wanted, options.output))


def _wanted(options: argparse.Namespace) -> _Wanted:
    text = sys.stdin.read() if options.sql == "-" else options.sql
    pairs = [one.partition("=") for one in options.param]
    if wrong := [name for name, found, _ in pairs if not (found and name.isidentifier())]:
        raise StartError(f"--param should be NAME=VALUE, and not {wrong[0]!r}")
    format_, compression = options.format, ""
    if options.output:
        endings = options.output.name.lower().split(".")[1:]
        if endings and endings[-1] in COMPRESSIONS:
            compression = COMPRESSIONS[endings.pop()]
        format_ = format_ or FORMATS.get(endings[-1] if endings else "")
        if not format_:
            raise StartError(f"the ending of {options.output} says no format: use --format, or .{', .'.join(FORMATS)}")
    on_terminal = not options.output and os.isatty(1)
    return _Wanted(
        text,
        {name: value for name, _, value in pairs},
        format_ or (ON_TERMINAL if on_terminal else ELSEWHERE),
        compression,
    )


@contextlib.contextmanager
def _open(output: Path | None) -> Iterator[Callable[[bytes], Any]]:
    """Where to write. A file appears when it is whole, and not at all if the query fails."""
    if output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("xb") as file:
                yield file.write
            part.replace(output)
        except OSError as error:
            raise StartError(f"{output} can't be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)


# -- a running service ----------------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    """HTTP to the socket in the data folder."""

    def __init__(self, wire: socket.socket) -> None:
        super().__init__("localhost")
        self.sock = wire


def _connect(path: Path) -> http.client.HTTPConnection | None:
    wire = socket.socket(socket.AF_UNIX)
    try:
        # By the descriptor: the path of a socket may have 107 bytes, and that of a folder more.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            wire.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        wire.close()
        return None
    except OSError as error:
        wire.close()
        raise StartError(f"the service can't be asked by {path} ({error.strerror})") from None
    return _Connection(wire)


def _of_service(connection: http.client.HTTPConnection, wanted: _Wanted) -> Iterator[bytes]:
    fields = {"default_format": wanted.format, **{f"param_{name}": value for name, value in wanted.parameters.items()}}
    headers = {"Content-Type": "text/plain"}
    if wanted.compression:
        fields["enable_http_compression"], headers["Accept-Encoding"] = "1", wanted.compression
    last = tag = b""
    try:
        connection.request("POST", f"/?{urlencode(fields)}", wanted.text.encode(), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise StartError(answer.read().decode(errors="replace").strip())
        tag = f"__exception__\r\n{answer.headers['X-ClickHouse-Exception-Tag']}\r\n".encode()
        while chunk := answer.read1(_CHUNK_BYTES):
            last = (last + chunk)[-_LAST_BYTES:]
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        if tag and tag in last:  # as ClickHouse says that it fails in the middle of an answer
            raise StartError(last.rpartition(tag)[2].decode(errors="replace").partition("\n")[0]) from None
        raise StartError(f"the service broke off its answer ({type(error).__name__}): see its log") from None
    finally:
        connection.close()


# -- ClickHouse itself ----------------------------------------------------------------------------


async def _ask_directly(settings: Settings, target: Target, wanted: _Wanted, output: Path | None) -> int:
    from service.store.read_only import ReadOnly
    from service.store.sql_query import SqlQuery

    data = _take(settings, target) if target.embedded else None
    read_only = ReadOnly(target, settings, 1)
    try:
        query = SqlQuery(wanted.text, wanted.parameters, {}, wanted.format, compression=wanted.compression)
        async with read_only.run(query) as result:
            chunks: AsyncIterator[bytes] = result.chunks()
            with _open(output) as write:
                async for chunk in chunks:
                    write(chunk)
    except SqlError as error:
        raise StartError(str(error)) from None
    except ConnectionResetError:
        raise StartError("ClickHouse broke off its answer: see its log") from None
    finally:
        await read_only.close()
        if data:
            data.close()
    return 0


def _take(settings: Settings, target: Target) -> DataDir | None:
    """Hold the data folder while its ClickHouse is open here: it takes one process."""
    folder = target.folder
    if folder is None or not folder.exists():
        raise StartError(f"there is no ClickHouse in {folder}: run `analytics serve` first, or say where by --dsn")
    if folder.parent.absolute() != settings.data_dir.absolute():
        return None
    data = DataDir(settings.data_dir)
    data.use_private_temporary_folder()
    return data
