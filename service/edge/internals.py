"""What we use of aiohttp that it does not promise."""

from aiohttp import http_parser, web

from service.errors import StartError


def require_c_parser() -> None:
    """Raise StartError where aiohttp would parse in Python: slower, and the one that the known attacks were on."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise StartError(
            "aiohttp runs without its C parser: take AIOHTTP_NO_EXTENSIONS out of the environment if it is set,"
            " else install aiohttp from a wheel"
        )


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
