"""A version of aiohttp or Python without the private names that we use: the service says so and takes events."""

import json
import socket
from collections.abc import Callable

import pytest

from service.edge.internals import missing_internals
from tests.support import wait_until
from tests.support.metrics import scrape
from tests.support.service import Service, patched
from tests.support.wire import BODY, connect, exchange, head, post, read_to_end, statuses

NOWHERE = "http://127.0.0.1:1/analytics"
LIVEZ = head(method="GET", path="/livez")
CHUNKED = head("Transfer-Encoding: chunked")
SAID = "takes events without the fast path"


def renamed(name: str) -> str:
    """Statements that give an attribute of aiohttp's connections another name, as its next version may."""
    return (
        "import inspect, re, aiohttp.base_protocol as base, aiohttp.web_protocol as ours;"
        f"new = lambda module: re.sub(r'\\b{name}\\b', 'a_new_name', inspect.getsource(module));"
        "[exec(compile(new(one), one.__file__, 'exec'), one.__dict__) for one in (base, ours)];"
        "import aiohttp.web, aiohttp.web_server;"
        "aiohttp.web.RequestHandler = aiohttp.web_server.RequestHandler = ours.RequestHandler"
    )


AWAY = {
    **{name: renamed(name) for name in ("_waiter", "_messages", "_close", "_buffer_paused", "_max_msg_queue_size")},
    "_request_count": "import aiohttp.web_protocol as ours; del ours.RequestHandler._request_count",
    "max_size": "import asyncio.selector_events as ours; del ours._SelectorTransport.max_size",
}


async def test_nothing_is_missing_in_the_versions_that_we_know() -> None:
    assert await missing_internals() == []


@pytest.mark.parametrize(("name", "statements"), AWAY.items(), ids=AWAY)
def test_events_are_taken_where_a_private_name_is_gone_and_the_log_says_so_once(
    make_service: Callable[..., Service], name: str, statements: str
) -> None:
    service = make_service(NOWHERE, ANALYTICS_HEADER_TIMEOUT=1, ANALYTICS_BODY_TIMEOUT=2)
    service.start(prefix=patched(statements))
    kinds = [
        (post(), 200),
        (post(b"{}"), 422),
        (LIVEZ, 200),
        (CHUNKED + b"16\r\n" + BODY + b"\r\n0\r\n\r\n", 200),
        (head("Content-Length: 22", token="no") + BODY, 401),
    ]
    with connect(service) as connection:  # one after the other
        for request, status in kinds * 2:
            connection.sendall(request)
            assert statuses(connection.recv(65536)) == [status]
    with connect(service) as connection:  # at once, by a client that then closes its side
        connection.sendall(b"".join(request for request, _ in kinds * 20))
        connection.shutdown(socket.SHUT_WR)
        assert statuses(read_to_end(connection)) == [status for _, status in kinds * 20]
    with connect(service) as connection:  # cut short
        connection.sendall(post(BODY, "Content-Encoding: identity")[:-3])
        connection.shutdown(socket.SHUT_WR)
        assert statuses(read_to_end(connection)) == [400]
    assert statuses(exchange(service, [post(), b"garbage\r\n\r\n"]))[-1:] == [400]
    assert exchange(service, [post()[:30]]) == b"", "half a head is closed in time"
    lines = [json.loads(line) for line in service.log().splitlines() if SAID in line]
    assert [line["level"] for line in lines] == ["warning"]
    assert name in lines[0]["message"]
    wait_until(lambda: scrape(service).get("analytics_connections") <= 1)
    assert service.stop() == 0
    assert "Traceback" not in service.log()
