"""The HTTP server: aiohttp's application behind our own listener."""

import asyncio
import socket
from collections.abc import Callable, Sequence

from aiohttp import web

from service.edge.connection import Connection
from service.edge.context import Context
from service.edge.internals import require_c_parser
from service.edge.listener import Listener, connection_factory, connections_limit
from service.edge.sockets import cannot_listen, event_address
from service.part import Part, Tasks
from service.server.app import create_app
from service.worker import ALONE, Worker

#: Seconds that a stop gives requests in progress: they take milliseconds, and only stalled clients need longer.
STOP_CONNECTIONS_TIMEOUT = 5.0
#: Seconds that a stop gives clients that are sending: they get a last answer, which closes their connection.
LAST_ANSWERS_TIMEOUT = 0.5


class HttpServer(Part):
    """Answers on bound sockets. Raises StartError."""

    def __init__(self, context: Context, sockets: Sequence[socket.socket], worker: Worker) -> None:
        require_c_parser()
        settings = context.settings
        self._context = context
        self._sockets = sockets
        self._worker = worker
        self._max_connections = connections_limit(settings.max_connections)
        self._runner = web.AppRunner(
            create_app(context),
            handler_cancellation=False,  # a client that leaves must not abort a commit
            shutdown_timeout=min(STOP_CONNECTIONS_TIMEOUT, settings.shutdown_timeout / 2),
        )
        self._connect: Callable[[], Connection] | None = None
        self._listener: Listener | None = None

    async def open(self) -> None:
        """Create the server."""
        await self._runner.setup()
        assert self._runner.server  # noqa: S101  # setup has made it
        self._connect = await connection_factory(self._runner.server, self._context, self._worker)

    def start(self, tasks: Tasks) -> None:
        """Listen. Raises StartError."""
        server, connect, context = self._runner.server, self._connect, self._context
        assert server  # noqa: S101  # ``open`` has made both
        assert connect  # noqa: S101
        # Without a cap of all, each process has descriptors of its own.
        sharing = self._worker if context.settings.max_connections else ALONE
        timeout = context.settings.header_timeout
        self._listener = Listener(self._sockets, server, connect, context.load, self._max_connections, timeout, sharing)
        try:
            self._listener.start(tasks)
        except OSError as error:
            raise cannot_listen(event_address(context.settings), error) from None

    async def drain(self, seconds: float) -> None:
        """Stop listening, and give clients that are sending a last answer."""
        if not self._listener:
            return
        await self._listener.drain(seconds)
        try:
            async with asyncio.timeout(min(LAST_ANSWERS_TIMEOUT, seconds / 2)):
                while self._context.load.connections:  # noqa: ASYNC110  # there is no event for it
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass  # the rest are idle

    async def close(self) -> None:
        """Close all connections; those with requests in progress after their answer."""
        await self._runner.cleanup()
        if self._listener:
            await self._listener.close()
