"""The ``analytics`` command."""

import argparse
import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from service import __version__
from service.cli import banner as greeting
from service.cli import quarantine as cli_quarantine
from service.cli import query as cli_query
from service.config import WORKERS_MAX, Settings, load, variable
from service.edge import access_tokens as tokens
from service.edge import sockets
from service.errors import StartError, StoreError, start_refused
from service.server import supervisor as workers
from service.spool import rebalance as leftovers
from service.spool.data_dir import DataDir
from service.spool.disk import replace_durably
from service.store.dsn import Target, parse_dsn
from service.telemetry import logs

_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code.

    0, 1 if it failed (one line on standard error), 2 for a wrong call, 70 for a bug (the log has its traceback).
    """
    logs.open_standard_streams()
    options = _parser().parse_args(arguments)
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
        return 70
    finally:
        logs.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="analytics",
        description="Takes events over HTTP, keeps them on disk before it says yes, and inserts them into ClickHouse.",
        epilog="Settings come from the environment or a .env file in the current folder:\n\n" + _settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="take events until stopped (Ctrl-C or SIGTERM)")
    serve.add_argument(
        "--workers", type=_workers, metavar="N", help=f"processes that take events; wins over {variable('workers')}"
    )
    serve.set_defaults(run=_serve)
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
    new.add_argument(
        "--origin", action="append", default=[], help="in browsers, only for pages of this origin; may be given again"
    )
    new.set_defaults(run=_token_new)
    listing = actions.add_parser("list", help="names, scopes and origins of the tokens in the file")
    listing.set_defaults(run=_token_list)
    revoke = actions.add_parser("revoke", help="take a token out of the file; a running service needs a restart")
    revoke.add_argument("--name", required=True)
    revoke.set_defaults(run=_token_revoke)

    cli_query.add(commands, _settings)
    cli_quarantine.add(commands, lambda: _settings().data_dir.absolute())
    return parser


def _workers(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= WORKERS_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {WORKERS_MAX}")


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
    if options.workers:
        settings = settings.model_copy(update={"workers": options.workers})
    count = settings.workers
    target = parse_dsn(settings.clickhouse_dsn.get_secret_value(), settings.data_dir.absolute() / "clickhouse")
    workers.require_server(count, target)
    data = DataDir(settings.data_dir)
    try:
        known, made = _tokens(settings, data)
        leftovers.adopt(data.folder, count)
        if count > 1:
            data.make_worker_folders(count)

        def greet(port: int, sql_port: int) -> None:
            greeting.greet(settings, port, sql_port, data.folder, target.shown, made if os.isatty(1) else {})

        if count > 1:
            return workers.Supervisor(settings, data, known, target, greet).run()
        return _serve_alone(settings, data, known, target, greet)
    finally:
        data.close()


def _serve_alone(
    settings: Settings,
    data: DataDir,
    known: Mapping[bytes, tokens.AccessToken],
    target: Target,
    greet: Callable[[int, int], None],
) -> int:
    listening = sockets.bind(settings)
    gc.disable()  # a fifth of the time of loading what follows; the server enables it when it is ready
    # Imported here: `analytics token` and `--help` answer at once without it, and so does a start that can't be.
    from service.server import run as server

    def tell(report: str) -> None:
        if report == "ready":
            greet(listening.port, listening.sql_port)

    return asyncio.run(server.run(settings, data, known, target, listening, tell))


def _tokens(settings: Settings, data: DataDir) -> tuple[Mapping[bytes, tokens.AccessToken], dict[str, str]]:
    """The known tokens, and those that were made just now because there were none."""
    known = tokens.from_environment(settings.write_tokens.get_secret_value(), settings.read_tokens.get_secret_value())
    path = settings.tokens_file or data.tokens
    made: dict[str, str] = {}
    if settings.tokens_file or path.exists():
        known |= tokens.from_file(path)
    if not known:
        made = {scope: tokens.create(path, f"first-{scope}", [scope]) for scope in tokens.SCOPES}
        known = tokens.from_file(path)
        _show(made, data.first_tokens)  # at once: should this start fail, the next one makes none
    return known, made


def _show(made: Mapping[str, str], path: Path) -> None:
    """On a terminal show the access tokens; what is no terminal may be collected, and then they go into a file."""
    if os.isatty(1):
        for scope, token in made.items():
            logs.say(f"{scope} token, shown only now: {token}")
        return
    try:
        replace_durably(path, "".join(f"{scope} {token}\n" for scope, token in made.items()).encode())
    except OSError as error:
        raise StartError(
            f"{path} can't be written ({error.strerror}): make access tokens by `analytics token new`"
        ) from None
    logs.say(f"the first access tokens are in {path}, which nobody else can read: take them, and delete it")


# -- migrate and token ------------------------------------------------------------------------


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
    print("\n".join(f"applied {one.name}" for one in applied) or "nothing to do: all migrations are applied")
    return 0


def _tokens_path(settings: Settings) -> Path:
    return settings.tokens_file or settings.data_dir.absolute() / "tokens.json"


def _token_new(options: argparse.Namespace) -> None:
    path = _tokens_path(_settings())
    print(tokens.create(path, options.name, options.scope, options.origin))
    print(f"Shown only now; its hash is in {path}. A running service takes it after a restart.", file=sys.stderr)


def _token_list(options: argparse.Namespace) -> None:
    path = _tokens_path(_settings())
    for token in tokens.from_file(path).values():
        print(*(token.name, ",".join(sorted(token.scopes)), *sorted(token.origins)), sep="\t")


def _token_revoke(options: argparse.Namespace) -> None:
    path = _tokens_path(_settings())
    tokens.revoke(path, options.name)
    print("Revoked; a running service refuses it after a restart.", file=sys.stderr)
