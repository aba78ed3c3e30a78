"""What we use of aiohttp and asyncio that they do not promise: all of it is here, and is looked for at the start.

Where something is missing, the service does without the fast path: see service/edge/basic_connection.py.
"""

import asyncio
import contextlib
import inspect
import socket

from aiohttp import http_parser, web

from service.errors import StartError

#: Attributes of aiohttp's connections, and of asyncio's transports.
OF_CONNECTIONS = (
    "_buffer_paused",
    "_close",
    "_max_msg_queue_size",
    "_messages",
    "_request_count",
    "_upgraded",
    "_waiter",
    "writing_paused",
)
OF_TRANSPORTS = ("max_size",)
#: The parameters of the method of aiohttp's connections that we override.
FINISH_RESPONSE = ["request", "resp", "start_time"]


def require_c_parser() -> None:
    """Raise StartError where aiohttp would parse in Python: slower, and the one that the known attacks were on."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise StartError(
            "aiohttp runs without its C parser: take AIOHTTP_NO_EXTENSIONS out of the environment if it is set,"
            " else install aiohttp from a wheel"
        )


async def missing_internals() -> list[str]:
    """The names that are not there, looked for on a connection of its own; none with the versions that we know."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            transport, connection = await loop.connect_accepted_socket(_connection, ours)
        except AttributeError as error:  # aiohttp itself misses it
            ours.close()
            return [name for name in OF_CONNECTIONS if not hasattr(web.RequestHandler, name)] or [str(error)]
        missing = [name for name in OF_CONNECTIONS if not hasattr(connection, name)]
        missing += [name for name in OF_TRANSPORTS if not hasattr(transport, name)]
        parameters = list(inspect.signature(getattr(connection, "finish_response", _nothing)).parameters)
        if parameters != FINISH_RESPONSE:
            missing.append("finish_response")
        with contextlib.suppress(AttributeError):
            connection.force_close()
        transport.close()
    return missing


def _connection() -> web.RequestHandler:
    return web.RequestHandler(web.Server(_no_answer), loop=asyncio.get_running_loop())


async def _no_answer(request: web.BaseRequest) -> web.StreamResponse:
    raise web.HTTPNotFound


def _nothing() -> None:
    pass


class Handler(web.RequestHandler):
    """aiohttp's side of a connection, which also tells what it has."""

    __slots__ = ()

    def is_between_requests(self) -> bool:
        """Whether it waits for a request, having been given none that is not answered."""
        waiter = self._waiter
        return not self._request_count or (waiter is not None and not waiter.done())

    def has_queued_requests(self) -> bool:
        """Whether it has requests behind the one that it answers."""
        return bool(self._messages)

    def has_room(self) -> bool:
        """Whether its queue takes one more. When there is room again, it calls ``data_received`` with no bytes."""
        return len(self._messages) < self._max_msg_queue_size

    def fail_unfinished(self, current: web.BaseRequest | None) -> bool:
        """Whether its parser has met an error: then the body that came in front of it, if it is not whole, is refused.

        aiohttp would wait for the rest of it, and answer the error afterwards.
        """
        if not self._messages or not hasattr(self._messages[-1][0], "exc"):
            return False
        body = None if current is None else current.content
        if len(self._messages) > 1:
            body = self._messages[-2][1]
        if body is not None and not body.is_eof():
            body.set_exception(web.RequestPayloadError("what comes next is no part of it"))
        return True

    def has_whole_requests(self, current: web.BaseRequest | None) -> bool:
        """Whether no body is unfinished of what it has; ``current`` is the request that a handler has, if any."""
        if self._buffer_paused or self._close or self._upgraded:
            return False  # there may be more that it has not looked at
        if self._messages:
            return bool(self._messages[-1][1].is_eof())
        return self.is_between_requests() if current is None else current.content.is_eof()
