"""The process that serves: what is started in which order, and stopped on a signal."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial

from aiohttp import web

from service.config import Settings, variable
from service.edge import access_tokens as tokens
from service.edge.fast_path import DirectConnection, direct_way
from service.edge.listener import Listener, connections_limit, require_c_parser
from service.edge.sockets import Sockets, cannot_listen, event_address
from service.errors import StartError, StoreError
from service.server.app import create_app
from service.server.parts import Parts
from service.server.sql import SqlServer
from service.spool.data_dir import DataDir
from service.store.dsn import Target
from service.store.read_only import ReadOnly
from service.store.store import Store
from service.telemetry.load import ConnectionLoad
from service.worker import ALONE, Worker

_log = logging.getLogger(__name__)
#: Seconds of a stop for requests under way: they take milliseconds, and only stalled clients need longer.
STOP_CONNECTIONS_TIMEOUT = 5.0
#: Seconds of a stop in which clients that are sending get a last answer, which tells them to go elsewhere.
LAST_ANSWERS_TIMEOUT = 0.5
#: Seconds of the stop of a worker whose parent is gone: what waits to be started in its place needs the data folder.
ORPHANED_TIMEOUT = 1.0


async def run(
    settings: Settings,
    data: DataDir,
    known: Mapping[bytes, tokens.AccessToken],
    target: Target,
    sockets: Sockets,
    tell: Callable[[str], None],
    worker: Worker = ALONE,
    parent: int = -1,
) -> int:
    """Take events on a locked data folder until stopped. Raises StartError.

    ``tell`` gets "ready" when events are taken, and "leaving" when they soon are no more. ``parent`` is a descriptor
    that can be read when the parent is gone.
    """
    require_c_parser()
    max_connections = connections_limit(settings.max_connections)
    if target.embedded:
        data.use_private_temporary_folder()
    store = Store(target, migrating=settings.migrate == "on")
    parts = Parts(settings, data, known, store, worker)
    sql = SqlServer(parts.context, ReadOnly(target, settings, settings.sql_max_queries))
    runner = web.AppRunner(
        create_app(parts.context),
        handler_cancellation=False,  # a client that leaves must not abort a commit
        shutdown_timeout=min(STOP_CONNECTIONS_TIMEOUT, settings.shutdown_timeout / 2),
    )
    stop = Stop(settings.shutdown_timeout)
    stop.watch(parent)
    try:
        await parts.start()
        await runner.setup()
        assert runner.server  # noqa: S101  # setup makes it
        load = parts.context.load
        connect = partial(DirectConnection, runner.server, load, direct_way(parts.context))
        shared = worker if settings.max_connections else ALONE  # else each process has descriptors of its own
        listener = Listener(runner.server, connect, load, max_connections, settings.header_timeout, shared)
        try:
            listener.start(sockets.events)
            await sql.start(sockets.sql, data if worker.number == 0 else None)
        except OSError as error:
            raise cannot_listen(event_address(settings), error) from None
        gc.collect()
        gc.freeze()  # what is there now is there for good: collections need not look at it
        gc.enable()
        tell("ready")
        await stop.begins()
        _log.info("stopping: no new connections; what is not inserted in time stays on disk")
        if stop.orphaned:
            data.sign()  # the parent, which is gone, can't be found and asked to stop
        tell("leaving")
        parts.announce_stop(stop.seconds)
        await sql.close()
        await listener.close()
        await _wait_for_clients(load, min(LAST_ANSWERS_TIMEOUT, stop.seconds / 2))
    except StoreError as error:
        raise store_refused(error) from None
    finally:
        await sql.close()
        await runner.cleanup()
        await parts.close()
    return 0


def store_refused(error: StoreError) -> StartError:
    """What ends a start on which ClickHouse refused us."""
    hint = f"; check {variable('clickhouse_dsn')}" if error.code else ""  # without code, the words are our own
    return StartError(f"{error}{hint}")


class Stop:
    """What makes this process stop, and how many seconds it has for that."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.orphaned = False
        self._event = asyncio.Event()

    def watch(self, parent: int) -> None:
        """Look out for a signal, and for the end of the parent."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._event.set)
        if parent >= 0:
            loop.add_reader(parent, self._on_orphaned, parent)
        if os.getpid() == 1:  # of a container: orphans are ours, and one that has ended stays until it is waited for
            loop.add_signal_handler(signal.SIGCHLD, _reap)

    async def begins(self) -> None:
        """Wait for it."""
        await self._event.wait()

    def _on_orphaned(self, parent: int) -> None:
        asyncio.get_running_loop().remove_reader(parent)
        if not self._event.is_set():
            _log.error("the parent process is gone")
            self.orphaned, self.seconds = True, min(self.seconds, ORPHANED_TIMEOUT)
            self._event.set()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def _wait_for_clients(load: ConnectionLoad, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while load.connections:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.02)
    except TimeoutError:
        pass  # they are idle
