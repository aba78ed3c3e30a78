"""The process that serves: what is started in which order, and stopped on a signal."""

import asyncio
import gc
import logging
import signal
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from service import __version__, tokens
from service.api.connection import LOAD
from service.api.direct import DirectConnection
from service.api.listener import Listener, connections_limit, require_c_parser
from service.app import announce_stop, create_app, direct_way
from service.config import Settings, variable
from service.datadir import DataDir
from service.dsn import parse_dsn
from service.errors import StartError, StoreError
from service.store import Store

_log = logging.getLogger(__name__)
#: Seconds of a stop for requests under way: they take milliseconds, and only stalled clients need longer.
STOP_CONNECTIONS_TIMEOUT = 5.0
#: Seconds of a stop in which clients that are sending get a last answer, which tells them to go elsewhere.
LAST_ANSWERS_TIMEOUT = 0.5
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # what one can paste for "every address"


async def run(settings: Settings, data: DataDir, known: Mapping[bytes, tokens.Token], made: dict[str, str]) -> int:
    """Take events on a locked data folder until stopped. Raises StartError.

    ``made`` are the access tokens that were made just now, by scope.
    """
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
        load = app[LOAD]
        connect = partial(DirectConnection, runner.server, load, direct_way(app))
        listener = Listener(runner.server, connect, load, max_connections, settings.header_timeout)
        try:
            port = await listener.start(settings.host, settings.port)
        except OSError as error:
            raise StartError(
                f"can't listen on {settings.host} port {settings.port} ({error.strerror or error}):"
                f" stop what holds it, or set {variable('port')} or {variable('host')}"
            ) from None
        gc.collect()
        gc.freeze()  # what is there now is there for good: collections need not look at it
        _say_ready(settings, data, target.shown, _url(settings.host, port), made)
        await stop.wait()
        _log.info("stopping: no new connections; what is not inserted in time stays on disk")
        announce_stop(app, settings.shutdown_timeout)
        listener.close()
        await _wait_for_clients(runner, min(LAST_ANSWERS_TIMEOUT, settings.shutdown_timeout / 2))
    except StoreError as error:
        raise store_refused(error) from None
    finally:
        await runner.cleanup()
    return 0


def store_refused(error: StoreError) -> StartError:
    """What ends a start on which ClickHouse refused us."""
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
        f"  curl {url}{settings.path_prefix} -H 'Authorization: Bearer {token}' -d '{{\"event_name\":\"hello\"}}'"
        if made
        else f'  curl {url}{settings.path_prefix} -H "Authorization: Bearer $TOKEN" -d \'{{"event_name":"hello"}}\'',
    ]
    print("\n".join(lines), flush=True)
