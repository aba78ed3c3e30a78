"""The ``analytics`` command."""

import argparse
import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping

from service import __version__
from service.cli import banner, token
from service.cli import columns as cli_columns
from service.cli import quarantine as cli_quarantine
from service.cli import query as cli_query
from service.cli.parsers import GROUP, add_command
from service.config import PORT_MAX, WORKERS_MAX, Settings, load, variable
from service.edge import access_tokens, sockets
from service.errors import FAILED, StartError, StoreError, start_refused
from service.server import supervisor
from service.spool import rebalance
from service.spool.data_dir import DataDir
from service.store.dsn import Target, parse_dsn
from service.telemetry import logs

_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code.

    0, 1 if it failed (one line on standard error), 2 for a wrong call, FAILED for a bug (which the log has).
    """
    logs.open_standard_streams()
    options = make_parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except StartError as error:
        logs.complain(f"analytics: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        logs.complain(f"analytics: {start_refused(error)}")
        return 1
    except Exception:
        _log.critical("the command failed", exc_info=True)
        return FAILED
    finally:
        logs.flush()


def make_parser() -> argparse.ArgumentParser:
    """The command line, with all commands."""
    parser = argparse.ArgumentParser(
        prog="analytics",
        description="Takes events over HTTP, writes them to disk before it answers, and inserts them into ClickHouse.",
        epilog="example:\n  analytics serve\n\n"
        "Settings come from the environment or a .env file in the current folder:\n\n" + _settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__, help="print the version and exit")
    commands = parser.add_subparsers(**GROUP)

    serve = add_command(
        commands,
        "serve",
        "take events until stopped (Ctrl-C or SIGTERM)",
        "Take events over HTTP until stopped (Ctrl-C or SIGTERM).\n"
        "The first start makes two access tokens and shows them, once.",
        "analytics serve --host 0.0.0.0 --port 9000",
    )
    serve.add_argument("--host", type=_host, help=f"address to listen on; wins over {variable('host')}")
    serve.add_argument("--port", type=_whole(0, PORT_MAX), help=f"port to listen on; wins over {variable('port')}")
    serve.add_argument(
        "--workers",
        type=_whole(1, WORKERS_MAX),
        metavar="N",
        help=f"processes that take events; wins over {variable('workers')}",
    )
    serve.set_defaults(run=_serve)
    migrate = add_command(
        commands,
        "migrate",
        "create or upgrade the tables in ClickHouse, and end",
        f"Create or upgrade the tables in ClickHouse, print what was applied, and end.\n"
        f"A start does the same, unless {variable('migrate')} is off.",
        f"{variable('clickhouse_dsn')}=http://admin:password@host:8123/analytics analytics migrate",
    )
    migrate.set_defaults(run=_migrate)
    version = add_command(commands, "version", "print the version", "Print the version.", "analytics version")
    version.set_defaults(run=lambda _: print(__version__))

    token.add(commands, _settings)
    cli_query.add(commands, _settings)
    cli_quarantine.add(commands, lambda: _settings().data_dir.absolute())
    cli_columns.add(commands, _settings)
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if text.isdecimal() and least <= int(text[:20]) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")

    return number


def _host(text: str) -> str:
    if text:
        return text
    raise argparse.ArgumentTypeError("an empty text is no address")


def _settings_help() -> str:
    lines = []
    for field, info in Settings.model_fields.items():
        default = info.get_default()
        shown = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        lines.append(f"  {variable(field)}\n      {info.description} (default: {shown or 'none'})")
    return "\n".join(lines)


def _settings(**options: object) -> Settings:
    settings, warnings = load(**options)
    logs.configure(settings.log_level, settings.log_format)
    for warning in warnings:
        _log.warning(warning)
    return settings


# -- serve ------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    settings = _settings(host=options.host, port=options.port, workers=options.workers)
    count = settings.workers
    target = parse_dsn(settings.clickhouse_dsn.get_secret_value(), settings.data_dir.absolute() / "clickhouse")
    supervisor.require_server(count, target)
    data = DataDir(settings.data_dir)
    try:
        known, first = token.known_or_first(settings, data)
        rebalance.adopt(data.folder, count)
        if count > 1:
            data.make_worker_folders(count)

        def greet(port: int, sql_port: int) -> None:
            if first:
                token.hand_over(first, settings, data)
            made = first if os.isatty(1) else {}
            banner.greet(settings, port, sql_port, data=data.folder, store=target.shown, made=made)

        if count > 1:
            return supervisor.Supervisor(settings, data, known, target, greet).run()
        return _serve_alone(settings, data, known, target, greet)
    finally:
        data.close()


def _serve_alone(
    settings: Settings,
    data: DataDir,
    known: Mapping[bytes, access_tokens.AccessToken],
    target: Target,
    greet: Callable[[int, int], None],
) -> int:
    listening = sockets.bind(settings)
    gc.disable()  # saves a fifth of the time to load what follows; the server enables it when it is ready
    # Imported here, so that `analytics token`, `--help` and a start that fails answer at once.
    from service.server.run import run

    def report(message: str) -> None:
        if message == "ready":
            greet(listening.port, listening.sql_port)

    return asyncio.run(run(settings, data, known, target, listening, report))


# -- migrate -----------------------------------------------------------------------------------


def _migrate(options: argparse.Namespace) -> int:
    settings = _settings()
    return asyncio.run(_migrate_now(settings))


async def _migrate_now(settings: Settings) -> int:
    from service.server.run import store_refused
    from service.store.store import Store

    target = parse_dsn(settings.clickhouse_dsn.get_secret_value(), settings.data_dir.absolute() / "clickhouse")
    data = DataDir(settings.data_dir) if target.embedded else None
    if data:
        data.use_private_temporary_folder()
    store = Store(target, migrating=True)
    try:
        applied = await store.prepare()
    except StoreError as error:
        raise store_refused(error) from None
    finally:
        await store.close()
        if data:
            data.close()
    print("\n".join(f"applied {one}" for one in applied) or "nothing to do: all migrations and views are there")
    return 0
