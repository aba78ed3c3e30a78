"""Takes connections, as many as there is room for, and ends those that are overdue or idle for long.

The accepting is ours because asyncio's has no cap: it goes on until the process has no descriptor left, also none
for the spool, and then logs a traceback every second.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial

from aiohttp import web

from service.edge.basic_connection import BasicConnection
from service.edge.connection import IDLE, OVERDUE, Connection
from service.edge.context import Context
from service.edge.fast_path import DirectConnection
from service.edge.fast_path_context import fast_path_context
from service.edge.internals import missing_internals
from service.edge.lingering import Lingering
from service.edge.sockets import BACKLOG
from service.errors import StartError
from service.part import Part, Tasks, cancel
from service.telemetry.load import ConnectionLoad
from service.telemetry.logs import Seldom
from service.worker import ALONE, CONNECTIONS, Worker

#: Connections taken in one turn of the event loop, so that a flood of them leaves turns to requests.
ACCEPTS_PER_TURN = 64
#: Descriptors that we ask the system for, where it grants so many.
DESCRIPTORS = 65_536
#: Descriptors for all but connections: the spool, and ClickHouse with its many files. Of a small limit, half.
RESERVED_DESCRIPTORS = 1024
#: Of the clients that are refused for lack of room, so many at a time are given the time to take their answer.
REFUSED_LINGERING_MAX = 16
_DETAIL = b'{"detail":"Too many connections"}'
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: analytics\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Cache-Control: no-store\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
) % (len(_DETAIL), _DETAIL)
_log = logging.getLogger(__name__)


async def connection_factory(server: web.Server, context: Context, worker: Worker = ALONE) -> Callable[[], Connection]:
    """What makes the connections of a server: with the fast path, unless something is missing that it needs."""
    missing = await missing_internals()
    if not missing:
        return partial(DirectConnection, server, context.load, fast_path_context(context))
    if worker.number == 0:  # the others find the same
        _log.warning(
            "aiohttp or Python has no %s here: the service takes events without the fast path, which costs more",
            ", ".join(missing),
        )
    return partial(BasicConnection, server, context.load)


def connections_limit(wanted: int) -> int:
    """How many connections there may be: ``wanted``, or if that is 0 what the limit of descriptors allows.

    Raises that limit as far as the system lets us. Raises StartError if there can't be so many as wanted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    granted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < granted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    descriptors = DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    most = descriptors - min(RESERVED_DESCRIPTORS, descriptors // 2)
    if wanted > most:
        raise StartError(
            f"ANALYTICS_MAX_CONNECTIONS is {wanted}, but {descriptors} file descriptors are enough for {most}:"
            " raise the limit (ulimit -n), or set fewer connections"
        )
    return wanted or most


class Listener(Part):
    """The listening sockets of a server, which are bound, and the watch over its connections.

    ``worker`` has the cap together with its siblings.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        server: web.Server,
        connect: Callable[[], Connection],
        load: ConnectionLoad,
        max_connections: int,
        header_timeout: float,
        worker: Worker = ALONE,
    ) -> None:
        self._worker = worker
        self._server = server
        self._connect = connect
        self._load = load
        self._max_connections = max_connections
        self._header_timeout = header_timeout
        self._sockets = list(sockets)
        self._paused: list[socket.socket] = []  # the system had no descriptor or no memory for a connection
        self._starting: set[asyncio.Task[None]] = set()
        self._refused = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._full, self._no_resource, self._overdue = Seldom(_log), Seldom(_log), Seldom(_log)

    def start(self, tasks: Tasks) -> None:
        """Listen. Raises OSError."""
        for one in self._sockets:
            one.listen(BACKLOG)
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            loop.add_reader(one, self._accept, one)
        self._tasks = [tasks.create_task(self._watch(), name="listener")]

    async def drain(self, seconds: float) -> None:
        """Take those who are connected already and wait to be taken, and then no more; those that there are stay."""
        for one in self._sockets:
            asyncio.get_running_loop().remove_reader(one)
            for _ in range(BACKLOG // ACCEPTS_PER_TURN + 1):
                self._accept(one)
            one.close()
        self._sockets.clear()
        self._paused.clear()
        if self._starting:
            await asyncio.wait(self._starting)

    async def close(self) -> None:
        """Watch no more."""
        await cancel(self._tasks)

    # -- accepting --------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._no_resource(logging.ERROR, "no connection can be taken for a moment: %s", error.strerror)
                asyncio.get_running_loop().remove_reader(listening)
                self._paused.append(listening)
                return
            client.setblocking(False)
            if (
                self._load.connections + self._worker.publish(CONNECTIONS, self._load.connections)
                < self._max_connections
            ):
                task = asyncio.create_task(self._serve(self._connect(), client))
                self._starting.add(task)
                task.add_done_callback(self._starting.discard)
            else:
                self._refuse(client)

    async def _serve(self, connection: Connection, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, client)
        except OSError:  # gone again
            client.close()
            self._load.connections -= 1

    def _refuse(self, client: socket.socket) -> None:
        self._load.count_closed("too_many")
        self._full(logging.WARNING, "refused a connection: there are %d, as many as may be", self._max_connections)
        with contextlib.suppress(OSError):
            client.send(_REFUSAL)
            if self._refused < REFUSED_LINGERING_MAX:
                self._refused += 1
                task = asyncio.create_task(self._linger(client))
                self._starting.add(task)
                task.add_done_callback(self._starting.discard)
                return
            client.recv(65536)  # a close with bytes unread would be a reset, and the client miss the answer
        client.close()

    async def _linger(self, client: socket.socket) -> None:
        lingering = Lingering(self._header_timeout, self._parted)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: lingering, client)
        except OSError:  # gone again
            client.close()
            self._parted()

    def _parted(self) -> None:
        self._refused -= 1

    # -- the watch --------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._header_timeout / 4, self._load.keepalive_timeout / 4))
            self._worker.publish(CONNECTIONS, self._load.connections)
            self._close_outstayed()
            self._resume()

    def _close_outstayed(self) -> None:
        now = time.monotonic()
        connections = [one for one in self._server.connections if isinstance(one, Connection)]
        overdue = 0
        for one in connections:
            why = one.outstayed(now, self._header_timeout)
            if why == OVERDUE:
                overdue += 1
                one.abort()
            elif why == IDLE:
                one.force_close()
            if why:
                self._load.count_closed(why)
        if overdue:
            self._overdue(logging.INFO, "closed %d connections that sent or took their bytes too slowly", overdue)

    def _resume(self) -> None:
        """Accept again where the system had no room for a connection a moment ago."""
        paused, self._paused = self._paused, []
        for one in paused:
            asyncio.get_running_loop().add_reader(one, self._accept, one)
