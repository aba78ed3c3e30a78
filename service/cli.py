"""The ``analytics`` command."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from service import __version__, cli_quarantine, logs, tokens
from service.config import Settings, load, variable
from service.datadir import DataDir
from service.dsn import parse_dsn
from service.errors import StartError, StoreError

_log = logging.getLogger(__name__)
#: Seconds of a stop for requests under way: they take milliseconds, and only stalled clients need longer.
STOP_CONNECTIONS_TIMEOUT = 5.0
#: Seconds of a stop in which clients that are sending get a last answer, which tells them to go elsewhere.
LAST_ANSWERS_TIMEOUT = 0.5
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # what one can paste for "every address"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 if it failed (one line on standard error), or 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except StartError as error:
        print(f"analytics: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="analytics",
        description="Takes events over HTTP, keeps them on disk before it says yes, and inserts them into ClickHouse.",
        epilog="Settings come from the environment or a .env file in the current folder:\n\n" + _settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    commands.add_parser("serve", help="take events until stopped (Ctrl-C or SIGTERM)").set_defaults(run=_serve)
    migrate = commands.add_parser("migrate", help="create or upgrade the tables in ClickHouse, and end")
    migrate.set_defaults(run=_migrate)
    commands.add_parser("version", help="print the version").set_defaults(run=lambda _: print(__version__))

    token = commands.add_parser("token", help="make, list and revoke access tokens")
    actions = token.add_subparsers(title="commands", metavar="COMMAND", required=True)
    new = actions.add_parser("new", help="make a token and show it, this once; a running service needs a restart")
    new.add_argument("--name", required=True, help="who will use it; the column source of its events has this name")
    new.add_argument(
        "--scope", required=True, action="append", choices=tokens.SCOPES, help="write posts events, read reads stats"
    )
    new.set_defaults(run=_token_new)
    listing = actions.add_parser("list", help="names and scopes of the tokens in the file")
    listing.set_defaults(run=_token_list)
    revoke = actions.add_parser("revoke", help="take a token out of the file; a running service needs a restart")
    revoke.add_argument("--name", required=True)
    revoke.set_defaults(run=_token_revoke)

    cli_quarantine.add(commands, lambda: _settings().data_dir.absolute())
    return parser


def _settings_help() -> str:
    lines = []
    for field, info in Settings.model_fields.items():
        default = info.get_default()
        shown = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        lines.append(f"  {variable(field)}\n      {info.description} (default: {shown or 'none'})")
    return "\n".join(lines)


def _settings() -> Settings:
    settings, warnings = load()
    logs.configure(settings.log_level, settings.log_format)
    for warning in warnings:
        _log.warning(warning)
    return settings


# -- serve ------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    settings = _settings()
    data = DataDir(settings.data_dir)
    try:
        known, made = _tokens(settings, data)
        return asyncio.run(_run(settings, data, known, made))
    finally:
        data.close()


def _tokens(settings: Settings, data: DataDir) -> tuple[Mapping[bytes, tokens.Token], dict[str, str]]:
    """The known tokens, and those that were made just now because there were none."""
    known = tokens.from_environment(settings.write_tokens.get_secret_value(), settings.read_tokens.get_secret_value())
    path = settings.tokens_file or data.tokens
    made: dict[str, str] = {}
    if settings.tokens_file or path.exists():
        known |= tokens.from_file(path)
    if not known:
        made = {scope: tokens.create(path, f"first-{scope}", [scope]) for scope in tokens.SCOPES}
        known = tokens.from_file(path)
        for scope, token in made.items():  # at once: should this start fail, the next one makes none
            print(f"{scope} token, shown only now: {token}", flush=True)
    return known, made


async def _run(settings: Settings, data: DataDir, known: Mapping[bytes, tokens.Token], made: dict[str, str]) -> int:
    # Imported late: `analytics token` and `--help` answer at once without them.
    from service.api.connection import Load
    from service.api.listener import Listener, connections_limit, require_c_parser
    from service.app import announce_stop, create_app
    from service.store import Store

    require_c_parser()
    max_connections = connections_limit(settings.max_connections)
    target = parse_dsn(settings.clickhouse_dsn.get_secret_value(), data.clickhouse)
    if target.embedded:
        data.use_private_temporary_folder()
    store = Store(target, migrating=settings.migrate == "on")
    app = create_app(settings, data, known, store)
    runner = web.AppRunner(
        app,
        handler_cancellation=False,  # a client that leaves must not abort a commit
        shutdown_timeout=min(STOP_CONNECTIONS_TIMEOUT, settings.shutdown_timeout / 2),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await runner.setup()
        assert runner.server  # noqa: S101  # setup makes it
        load = Load(settings.max_inflight_bytes)
        listener = Listener(runner.server, load, max_connections, settings.header_timeout)
        try:
            port = await listener.start(settings.host, settings.port)
        except OSError as error:
            raise StartError(
                f"can't listen on {settings.host} port {settings.port} ({error.strerror or error}):"
                f" stop what holds it, or set {variable('port')} or {variable('host')}"
            ) from None
        _say_ready(settings, data, target.shown, _url(settings.host, port), made)
        await stop.wait()
        _log.info("stopping: no new connections; what is not inserted in time stays on disk")
        announce_stop(app, settings.shutdown_timeout)
        listener.close()
        await _wait_for_clients(runner, min(LAST_ANSWERS_TIMEOUT, settings.shutdown_timeout / 2))
    except StoreError as error:
        raise _store_refused(error) from None
    finally:
        await runner.cleanup()
    return 0


def _store_refused(error: StoreError) -> StartError:
    hint = f"; check {variable('clickhouse_dsn')}" if error.code else ""  # without code, the words are our own
    return StartError(f"{error}{hint}")


async def _wait_for_clients(runner: web.AppRunner, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while runner.server and runner.server.connections:  # noqa: ASYNC110  # aiohttp has no event for it
                await asyncio.sleep(0.02)
    except TimeoutError:
        pass  # they are idle


def _url(host: str, port: int) -> str:
    shown = _REACHABLE.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _say_ready(settings: Settings, data: DataDir, store: str, url: str, made: dict[str, str]) -> None:
    lines = [
        f"Analytics {__version__} takes events at {url}",
        f"  data       {data.folder}",
        f"  ClickHouse {store}",
        f"  reference  {url}/docs",
    ]
    token = made.get("write", "$TOKEN")
    lines += [
        "Send an event:",
        f"  curl {url}/api/v1/analytics -H 'Authorization: Bearer {token}' -d '{{\"event_name\":\"hello\"}}'"
        if made
        else f'  curl {url}/api/v1/analytics -H "Authorization: Bearer $TOKEN" -d \'{{"event_name":"hello"}}\'',
    ]
    print("\n".join(lines), flush=True)


# -- migrate and token ------------------------------------------------------------------------


def _migrate(options: argparse.Namespace) -> int:
    settings = _settings()
    return asyncio.run(_migrate_now(settings))


async def _migrate_now(settings: Settings) -> int:
    from service.store import Store

    target = parse_dsn(settings.clickhouse_dsn.get_secret_value(), settings.data_dir.absolute() / "clickhouse")
    data = DataDir(settings.data_dir) if target.embedded else None
    if data:
        data.use_private_temporary_folder()
    store = Store(target, migrating=True)
    try:
        applied = await store.prepare()
    except StoreError as error:
        raise _store_refused(error) from None
    finally:
        await store.close()
        if data:
            data.close()
    print("\n".join(f"applied {one.name}" for one in applied) or "nothing to do: all migrations are applied")
    return 0


def _tokens_path(settings: Settings) -> Path:
    return settings.tokens_file or settings.data_dir.absolute() / "tokens.json"


def _token_new(options: argparse.Namespace) -> None:
    path = _tokens_path(_settings())
    print(tokens.create(path, options.name, options.scope))
    print(f"Shown only now; its hash is in {path}. A running service takes it after a restart.", file=sys.stderr)


def _token_list(options: argparse.Namespace) -> None:
    path = _tokens_path(_settings())
    for token in tokens.from_file(path).values():
        print(f"{token.name}\t{','.join(sorted(token.scopes))}")


def _token_revoke(options: argparse.Namespace) -> None:
    path = _tokens_path(_settings())
    tokens.revoke(path, options.name)
    print("Revoked; a running service refuses it after a restart.", file=sys.stderr)
