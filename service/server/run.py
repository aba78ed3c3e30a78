"""The process that serves: it starts the parts in order, and stops them on a signal or a failure."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Mapping

from service.config import Settings, variable
from service.edge.access_tokens import AccessToken
from service.edge.sockets import Sockets
from service.errors import FAILED, StartError, StoreError
from service.server.http import HttpServer
from service.server.lifecycle import Lifecycle
from service.server.parts import Parts
from service.server.sql import SqlServer
from service.spool.data_dir import DataDir
from service.store.dsn import Target
from service.store.read_only import ReadOnly
from service.store.store import Store
from service.worker import ALONE, Worker

_log = logging.getLogger(__name__)
#: Seconds in which a worker stops whose parent has died: the next start needs the data folder.
ORPHANED_TIMEOUT = 1.0
#: Seconds that a process in which a part has failed gets for last answers; and until it ends, whatever hangs.
FAILED_TIMEOUT, FAILED_MAX = 1.0, 10


async def run(
    settings: Settings,
    data: DataDir,
    known: Mapping[bytes, AccessToken],
    target: Target,
    sockets: Sockets,
    report: Callable[[str], None],
    worker: Worker = ALONE,
    parent: int = -1,
) -> int:
    """Take events on a locked data folder until stopped. Returns the exit code, or FAILED. Raises StartError.

    ``report`` is called with "ready" when events are taken, and with "leaving" when a stop begins. ``parent`` is a
    descriptor that becomes readable when the parent has died.
    """
    if target.embedded:
        data.use_private_temporary_folder()
    store = Store(target, migrating=settings.migrate == "on")
    parts = Parts(settings, data, known, store, worker)
    server = HttpServer(parts.context, sockets.events, worker)
    sql = SqlServer(
        parts.context,
        ReadOnly(target, settings, settings.sql_max_queries),
        sockets.sql,
        data if worker.number == 0 else None,
    )
    stop = Stop(settings.shutdown_timeout)
    stop.watch(parent)
    life = Lifecycle([*parts.in_order(), server, sql], stop.on_failure)
    try:
        parts.recover()
        await life.start()
        gc.collect()
        gc.freeze()  # what exists now stays: collections need not look at it
        gc.enable()
        report("ready")
        await stop.begins()
        parts.context.leaving.set()  # readiness is off, while requests in progress are still answered
        _log.info("stopping: no new connections; what is not inserted in time stays on disk")
        if stop.orphaned:
            data.sign()  # the lock file names the dead parent, whom nobody can ask to stop
        report("leaving")
    except StoreError as error:
        raise store_refused(error) from None
    finally:
        await life.stop(stop.seconds if parts.context.leaving.is_set() else 0)
    return FAILED if life.failed else 0


def store_refused(error: StoreError) -> StartError:
    """The error that ends a start because ClickHouse refuses us."""
    hint = f"; check {variable('clickhouse_dsn')}" if error.code else ""  # without a code, the words are our own
    return StartError(f"{error}{hint}")


class Stop:
    """What makes this process stop, and how many seconds it has for that."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.orphaned = False
        self._event = asyncio.Event()

    def watch(self, parent: int) -> None:
        """Watch for a signal, and for the end of the parent."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._event.set)
        if parent >= 0:
            loop.add_reader(parent, self._on_orphaned, parent)
        if os.getpid() == 1:  # in a container we inherit orphans, and must wait for those that have ended
            loop.add_signal_handler(signal.SIGCHLD, _reap)

    async def begins(self) -> None:
        """Wait until a stop begins."""
        await self._event.wait()

    def on_failure(self) -> None:
        """A part has failed: stop, and leave to the next start whatever can wait."""
        signal.signal(signal.SIGALRM, lambda *_: os._exit(FAILED))
        signal.alarm(FAILED_MAX)
        self.seconds = min(self.seconds, FAILED_TIMEOUT)
        self._event.set()

    def _on_orphaned(self, parent: int) -> None:
        asyncio.get_running_loop().remove_reader(parent)
        if not self._event.is_set():
            _log.error("the parent process has died")
            self.orphaned, self.seconds = True, min(self.seconds, ORPHANED_TIMEOUT)
            self._event.set()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
