"""Where SQL is answered: on a port of its own if there is one, and on a socket in the data folder."""

import contextlib
import logging
import os
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from service.api.sql import READ_ONLY, answer, ping
from service.edge.body import leave_expect
from service.edge.connection import Connection
from service.edge.context import CONTEXT, Context
from service.edge.listener import Listener
from service.edge.sockets import cannot_listen, event_address, sql_address
from service.part import Part, Tasks
from service.spool.data_dir import SQL_SOCKET, DataDir
from service.store.read_only import ReadOnly
from service.telemetry.load import ConnectionLoad

#: Analysts have few connections; a tool may have some dozens.
MAX_CONNECTIONS = 256
#: Queries may stand in the address.
LINE_MAX_BYTES = 2**17
#: Seconds of a stop for answers to queries that were just cancelled.
STOP_TIMEOUT = 1.0
_log = logging.getLogger(__name__)


class SqlConnection(Connection):
    """A connection whose end is the end of its query: nobody is there to read the answer."""

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed: so do we, and the handler is cancelled."""
        self.ended = True
        return False


@web.middleware
async def _middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the connection as busy; whatever goes wrong inside is an answer."""
    connection: Any = request.protocol
    connection.begin(request)
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = web.Response(status=error.status, text=f"Code: 1000. DB::Exception: {error.reason}.\n")
    except ConnectionError:
        raise
    except Exception:
        _log.exception("unexpected error")
        response = web.Response(status=500, text="Code: 1001. DB::Exception: Internal error; the log says more.\n")
    finally:
        connection.end()
    if request.app[CONTEXT].leaving.is_set():
        response.force_close()
    return response


class SqlServer(Part):
    """Answers queries on bound sockets, and on one in the data folder if that is given. Raises StartError."""

    def __init__(
        self, context: Context, read_only: ReadOnly, sockets: Sequence[socket.socket], data: DataDir | None
    ) -> None:
        self._settings = context.settings
        self._read_only = read_only
        self._sockets = list(sockets)
        self._data = data
        app = web.Application(middlewares=[_middleware], client_max_size=self._settings.max_body_bytes)
        app[CONTEXT], app[READ_ONLY] = context, read_only
        app.router.add_get("/ping", ping)
        app.router.add_get("/", answer)
        app.router.add_post("/", answer, expect_handler=leave_expect)
        # A client that leaves cancels its handler, and so its query.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=STOP_TIMEOUT)
        self._load = ConnectionLoad(
            self._settings.max_inflight_bytes, self._settings.keepalive_timeout, self._settings.body_timeout
        )
        self._listener: Listener | None = None
        self._folder_fd = -1

    async def open(self) -> None:
        """Make the server."""
        await self._runner.setup()

    def start(self, tasks: Tasks) -> None:
        """Listen. Raises StartError."""
        assert self._runner.server  # noqa: S101  # setup has made it
        connect = partial(
            SqlConnection, self._runner.server, self._load, max_line_size=LINE_MAX_BYTES, max_field_size=2**14
        )
        timeout = self._settings.header_timeout
        try:
            bound = [*self._sockets, *([self._bind(self._data)] if self._data else [])]
            self._listener = Listener(bound, self._runner.server, connect, self._load, MAX_CONNECTIONS, timeout)
            self._listener.start(tasks)
        except OSError as error:
            place = sql_address(self._settings) or event_address(self._settings)
            raise cannot_listen(place, error) from None

    def _bind(self, data: DataDir) -> socket.socket:
        """A socket for those who may read the folder."""
        # By the descriptor: the path of a socket may have 107 bytes, and that of a folder more.
        self._folder_fd = os.open(data.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            os.remove(SQL_SOCKET, dir_fd=self._folder_fd)
        own = socket.socket(socket.AF_UNIX)
        own.setblocking(False)
        path = f"/proc/self/fd/{self._folder_fd}/{SQL_SOCKET}"
        try:
            own.bind(path)
            Path(path).chmod(0o600)  # before it listens
        except OSError:
            own.close()
            raise
        return own

    async def drain(self, seconds: float) -> None:
        """Take no more queries, and cancel those that run."""
        if self._listener:
            await self._listener.drain(seconds)
        await self._read_only.close()

    async def close(self) -> None:
        """Close all connections, and the socket in the data folder."""
        if self._folder_fd >= 0:
            folder_fd, self._folder_fd = self._folder_fd, -1
            with contextlib.suppress(OSError):  # the next start removes it
                os.remove(SQL_SOCKET, dir_fd=folder_fd)
            with contextlib.suppress(OSError):  # of a disk that fails: it is closed all the same
                os.close(folder_fd)
        await self._read_only.close()
        await self._runner.cleanup()
        if self._listener:
            await self._listener.close()
