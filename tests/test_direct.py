"""POSTs that go past aiohttp: what is read of a head means the same there, and nobody can tell the ways apart."""

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from schemas.payload import EncodedRows
from service.config import Settings
from service.edge import access_tokens as tokens
from service.edge import sockets
from service.edge.connection import OPTIONS, Connection
from service.edge.fast_path import DirectConnection, direct_way
from service.edge.framing import UNKNOWN, follow
from service.edge.listener import Listener
from service.edge.request_head import REMEMBERED, Heads
from service.pipeline.rate_limit import RateLimit
from service.server.app import create_app
from service.server.parts import Parts
from service.spool.data_dir import DataDir
from service.spool.spool import Spool
from service.store.dsn import parse_dsn
from service.store.store import Store
from tests.support.service import BATCH, EVENTS, WRITE, Service
from tests.support.wire import BODY, connect, exchange, head, post, resident_bytes, statuses

KNOWN = tokens.from_environment(WRITE, "reader")
NOWHERE = "http://127.0.0.1:1/analytics"
ROUTES = {EVENTS: True, BATCH: False}
USUAL = head("Content-Length: 22").removesuffix(b"\r\n\r\n")


# -- heads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["User-Agent: curl/7.88.1", "Accept: */*", "Content-Type: application/x-www-form-urlencoded"],
        ["Accept: */*", "Accept-Encoding: gzip, deflate", "User-Agent: Python/3.11", "Connection: keep-alive"],
        ["User-Agent: Mozilla/5.0 (X11)", 'sec-ch-ua: "Chromium";v="156"', "Sec-Fetch-Mode: cors", "Cookie: a=b; c"],
        ["Prefer: handling=lenient", "X-Request-ID: mine", "Idempotency-Key: order-7", "X-Forwarded-For: 1.2.3.4"],
        ["Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEAAEAA", "Upgrade: h2c", "User-Agent: Java/21"],
        ["Connection: Keep-Alive , upgrade,", "Upgrade: websocket, TLS/1.0", "Proxy-Connection: keep-alive"],
    ],
)  # fmt: skip
def test_the_heads_of_usual_clients_are_read(lines: list[str]) -> None:
    found = Heads(ROUTES, KNOWN).read(head("Content-Length: 22", *lines).removesuffix(b"\r\n\r\n"))
    assert found
    assert (found.single, found.length, found.source) == (True, 22, next(iter(KNOWN.values())).name)
    assert found.lenient == ("Prefer: handling=lenient" in lines)
    assert (found.key, found.request_id) == (("order-7", "mine") if "X-Request-ID: mine" in lines else (None, None))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        head("Content-Length: 22", path=f"{EVENTS}/"),
        head("Content-Length: 22", path=f"{EVENTS}?a=b"),
        head("Content-Length: 22", method="PUT"),
        head("Content-Length: 22", version="1.0"),
        head("Content-Length: 22", token="no"),
        head("Content-Length: 22", token="reader"),
        head("Content-Length: 22", "Content-Length: 22"),
        head("Content-Length: +22"),
        head("Content-Length: 22", "Transfer-Encoding: chunked"),
        head("Content-Length: 22", "Expect: 100-continue"),
        head("Content-Length: 22", "Content-Encoding: gzip"),
        head("Content-Length: 22", "Connection: close"),
        head("Content-Length: 22", "Connection: close, x"),
        head("Content-Length: 22", "Connection: keep-alive, CLOSE"),
        head("Content-Length: 22", "Connection: keep-alive", "Connection: close"),
        head("Content-Length: 22", "Connection: keep-alive", "Proxy-Connection: close"),
        head("Content-Length: 22", "Connection: te"),
        head("Content-Length: 22", "Upgrade: h2c", "Upgrade: websocket"),
        head("Content-Length: 22", "Idempotency-Key: with space"),
        head("Content-Length: 22", "X: a", " folded"),
        head("Content-Length: 22", "X : a"),
        head("Content-Length: 22", "X: a\nY: b"),
        head("Content-Length: 22", *(f"X{index}: a" for index in range(80))),
        USUAL.replace(b"Host: x\r\n", b"") + b"\r\n\r\n",
        USUAL.replace(b"\r\n", b"\n") + b"\r\n\r\n",
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_aiohttp(block: bytes) -> None:
    assert Heads(ROUTES, KNOWN).read(block.removesuffix(b"\r\n\r\n")) is None


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"Host: x",
                b"Connection: keep-alive",
                b"Connection: close",
                b"Connection: Upgrade, HTTP2-Settings",
                b"Connection: keep-alive, x",
                b"Connection: Upgrade, close",
                b"Proxy-Connection: close",
                b"Proxy-Connection: Keep-Alive",
                b"Upgrade: h2c",
                b"upgrade:websocket",
                b"Content-Length: 22",
                b"content-length:22 ",
                b"Authorization: Bearer " + WRITE.encode(),
                b"Accept: */*",
                b"Cookie: \x80",
                b"X:",
                b"Prefer: a, b",
                b"X-Request-ID: 1",
                b"Transfer-Encoding: identity",
                b"Content-Length: 022",
                b"TE: trailers",
                b"Expect: x",
            ]
        ),
        st.binary(max_size=20),
        st.tuples(st.text("aB-_.!1", min_size=1, max_size=5), st.text(" \ta;,\x80\xff", max_size=9)).map(
            lambda pair: ":".join(pair).encode("latin-1")
        ),
    ),
    max_size=8,
)


@given(LINES, st.booleans())
def test_a_head_that_is_read_means_the_same_to_aiohttp(lines: list[bytes], usual: bool) -> None:
    block = b"\r\n".join([USUAL, *lines] if usual else [USUAL.partition(b"\r\n")[0], *lines])
    found = Heads(ROUTES, KNOWN).read(block)
    if found is None:
        return
    loop = asyncio.new_event_loop()
    try:
        limits = {name: OPTIONS[name] for name in ("max_line_size", "max_field_size", "max_headers")}
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False, **limits)
        given, due = follow(block + b"\r\n\r\n" + b"x" * found.length, 0)
        messages, upgraded, tail = parser.feed_data(given)
    finally:
        loop.close()
    [(message, payload)] = messages
    assert due == 0
    assert not upgraded
    assert not message.upgrade
    assert not tail
    assert payload.is_eof()
    assert payload.total_bytes == found.length
    assert (message.method, message.path, message.chunked, message.compression) == ("POST", EVENTS, False, None)
    assert not message.should_close
    assert message.headers.getall("Authorization") == [f"Bearer {WRITE}"]
    assert message.headers.get("X-Request-ID") == found.request_id


def test_what_is_remembered_is_bounded_and_means_the_same_again() -> None:
    heads = Heads(ROUTES, KNOWN)
    for length in range(REMEMBERED + 10):
        block = USUAL.replace(b"22", b"%d" % length)
        first, again = heads.read(block), heads.read(block)
        assert first == again
        assert first
        assert first.length == length
    assert len(heads._remembered) <= REMEMBERED
    assert heads.read(USUAL + b"\r\nX-Request-ID: 1") != heads.read(USUAL + b"\r\nX-Request-ID: 2")


# -- the borders between requests -------------------------------------------------------------

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LONG = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n"
OFFER = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize(
    ("data", "given", "due"),
    [
        (GET, GET, 0),
        (GET * 3, GET * 3, 0),
        (GET + LONG + b"\r\n" + GET, GET + LONG + b"\r\n" + GET, 30 - len(GET)),
        (LONG + OFFER + b"\r\n" + b"Upgrade: h2c\r\n" * 2 + b"xx" + GET, None, 0),
        (LONG + b"UPGRADE:websocket\r\n" + OFFER + b"\r\n", LONG + b"Connection: Upgrade\r\n\r\n", 30),
        (GET + GET[:-2], GET + GET[:-2], UNKNOWN),
        (GET.replace(b"GET / ", b"CONNECT x:1 ") + GET, None, UNKNOWN),
        (LONG.replace(b"30", b"3x") + b"\r\n", None, UNKNOWN),
        (LONG.replace(b"Content-Length: 30", b"Transfer-Encoding: chunked") + b"\r\n", None, UNKNOWN),
        (LONG + b"X: a\r\n Upgrade: h2c\r\n" + OFFER + b"\r\n", None, UNKNOWN),
        (LONG + b"X: a\nUpgrade: h2c\r\n" + OFFER + b"\r\n", None, UNKNOWN),
        (b"Upgrade: h2c\r\n" + GET, b"Upgrade: h2c\r\n" + GET, 0),
        (b"\r\nUpgrade: h2c\r\n" + GET, None, UNKNOWN),
    ],
)
def test_requests_are_followed_and_offers_to_upgrade_left_out(data: bytes, given: bytes | None, due: int) -> None:
    if due == 0 and given is None:
        given = data.replace(b"Upgrade: h2c\r\n\r\n", b"\r\n", 1)
    assert follow(data, 0) == (data if given is None else given, due)


@given(
    st.lists(st.sampled_from([GET, LONG + b"\r\n" + GET, LONG + OFFER + b"\r\n" + b"u" * 30]), max_size=6), st.data()
)
def test_requests_are_followed_however_they_are_cut(requests: list[bytes], data: st.DataObject) -> None:
    """A cut in a head loses track; anywhere else it makes no difference."""
    whole = b"".join(requests)
    cut = data.draw(st.integers(0, len(whole)))
    first, due = follow(whole[:cut], 0)
    if due == UNKNOWN:
        return
    second, due = follow(whole[cut:], due)
    assert (first + second, due) == follow(whole, 0)


# -- connections ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without ClickHouse."""
    folder = tmp_path_factory.mktemp("direct")
    service = Service(
        folder,
        ANALYTICS_CLICKHOUSE_DSN=NOWHERE,
        ANALYTICS_HEADER_TIMEOUT=1,
        ANALYTICS_CORS_ORIGINS="https://shop.example",
    ).start()
    yield service
    assert service.stop() == 0
    log = service.log()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]


def read_answers(connection: socket.socket, count: int) -> list[tuple[int, CIMultiDict[str], bytes]]:
    """So many answers, none of them more."""
    answers = []
    file = connection.makefile("rb")
    for _ in range(count):
        status = int(file.readline().split()[1])
        headers: CIMultiDict[str] = CIMultiDict()
        while (line := file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers.add(name, value)
        answers.append((status, headers, file.read(int(headers["Content-Length"]))))
    return answers


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Prefer: handling=lenient", "X-Request-ID: mine"],
        ["Origin: https://shop.example", "Prefer: handling=lenient", "X-Request-ID: mine"],
        ["Origin: https://other.example"],
    ],
)
@pytest.mark.parametrize(("path", "body"), [(EVENTS, BODY), (BATCH, b'{"events":[' + BODY + b"]}")])
def test_an_answer_is_the_same_on_both_ways(service: Service, path: str, body: bytes, lines: list[str]) -> None:
    usual = head(f"Content-Length: {len(body)}", *lines, path=path) + body
    other = head(f"Content-Length: {len(body)}", *lines, "Content-Encoding: identity", path=path) + body
    with connect(service) as connection:
        connection.sendall(usual)
        [(status, headers, said)] = read_answers(connection, 1)
        connection.sendall(other)
        [(other_status, other_headers, other_said)] = read_answers(connection, 1)
    assert (status, sorted(headers)) == (other_status, sorted(other_headers))
    differ = {"Date"} if "X-Request-ID: mine" in lines else {"Date", "X-Request-ID"}
    assert {name: one for name, one in headers.items() if name not in differ} == {
        name: one for name, one in other_headers.items() if name not in differ
    }
    values = re.compile(rb'"(event_id|timestamp)":"[^"]+"')
    assert values.sub(b"", said) == values.sub(b"", other_said)
    assert len(values.findall(said)) == len(values.findall(other_said)) > 0


def test_a_request_may_come_in_any_two_pieces(service: Service) -> None:
    request = post()
    with connect(service) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(len(request) - len(BODY), len(request)):
            connection.sendall(request[:cut])
            connection.sendall(request[cut:])
            assert [status for status, _, _ in read_answers(connection, 1)] == [200]
    for cut in range(1, len(request) - len(BODY), 17):
        with connect(service) as connection:
            connection.sendall(request[:cut])
            connection.sendall(request[cut:])
            assert [status for status, _, _ in read_answers(connection, 1)] == [200]


def test_pipelined_requests_of_all_kinds_are_answered_in_order(service: Service) -> None:
    kinds = [
        (post(), 200),
        (post(b"no"), 422),
        (head(method="GET", path="/livez"), 200),
        (post(BODY, "Content-Encoding: identity"), 200),
        (head("Content-Length: 2", path="/nowhere") + b"{}", 404),
        (head("Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY), 200),
    ]
    order = [kinds[(index * index + index // 3) % len(kinds)] for index in range(60)]
    sent = b"".join(request for request, _ in order)
    with connect(service) as connection:
        sender = threading.Thread(target=connection.sendall, args=[sent])
        sender.start()
        answers = read_answers(connection, len(order))
        sender.join()
    assert [status for status, _, _ in answers] == [status for _, status in order]


def test_what_is_sent_far_ahead_waits_in_the_socket(service: Service) -> None:
    requests = post() * 5000  # 700 kB
    with connect(service) as connection:
        sender = threading.Thread(target=connection.sendall, args=[requests])
        sender.start()
        answers = read_answers(connection, 5000)
        sender.join()
    assert {status for status, _, _ in answers} == {200}
    assert len({said for _, _, said in answers}) == 5000


def in_chunks(*lines: str) -> bytes:
    return head("Transfer-Encoding: chunked", *lines) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


def test_thousands_of_requests_that_are_answered_at_once_are_answered_in_order(service: Service) -> None:
    memory = resident_bytes(service)
    invalid = [b'{"events":[7]}', b'{"events":[{"event_name":""},8]}']
    none = [head(f"Content-Length: {len(body)}", "Prefer: handling=lenient", path=BATCH) + body for body in invalid]
    kinds = [(none[0], 200), (none[1], 200), (post(b"{}"), 422), (post().replace(WRITE.encode(), b"no"), 401)]
    order = [kinds[0]] * 3000 + [kinds[index * index % 4] for index in range(3000)] + [(post(), 200)]
    with connect(service, 60) as connection:
        sender = threading.Thread(target=connection.sendall, args=[b"".join(request for request, _ in order)])
        sender.start()
        answers = read_answers(connection, len(order))
        sender.join()
    assert [status for status, _, _ in answers] == [status for _, status in order]
    assert b"Event accepted" in answers[-1][2]
    assert resident_bytes(service) < memory + 32 * 2**20


KEEP = "Connection: keep-alive"
OPTIONS_OF_CONNECTION = {
    "keep-alive": True,
    "Keep-Alive, x": True,
    "x, CLOSE": False,
    "close, keep-alive": False,
    "keep-alive,close": False,
    "closed": True,
    "Upgrade, HTTP2-Settings": True,
    "upgrade, close": False,
    "": True,
    ", ,": True,
}


@pytest.mark.parametrize("name", ["Connection", "Proxy-Connection"])
@pytest.mark.parametrize(("options", "kept"), OPTIONS_OF_CONNECTION.items())
def test_a_connection_is_kept_or_closed_alike_on_both_ways(
    service: Service, name: str, options: str, *, kept: bool
) -> None:
    ways: list[tuple[str, list[str]]] = [("1.1", []), ("1.1", ["Content-Encoding: identity"]), ("1.0", [KEEP])]
    for version, more in ways:
        lines = [*more, f"{name}: {options}"]
        request = head(f"Content-Length: {len(BODY)}", *lines, version=version) + BODY
        with connect(service) as connection:
            connection.sendall(request)
            [(status, headers, _)] = read_answers(connection, 1)
            assert status == 200
            assert (headers.get("Connection") == "close") == (not kept), (version, lines)
            if kept:
                connection.sendall(request)
                assert [status for status, _, _ in read_answers(connection, 1)] == [200]
            else:
                assert connection.recv(1) == b""


def test_of_several_connection_headers_each_counts(service: Service) -> None:
    for lines in (["keep-alive", "close"], ["close", "keep-alive"], ["x", "close"]):
        for more in ([], ["Content-Encoding: identity"]):
            received = exchange(service, [post(BODY, *(f"Connection: {one}" for one in lines), *more)])
            assert statuses(received) == [200]
            assert b"\r\nConnection: close\r\n" in received


OFFERS = {
    "of Java": ["Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEAAEAAAAIAAAAB", "Upgrade: h2c"],
    "of a WebSocket": [
        "Connection: upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: eA==",
        "Sec-WebSocket-Version: 13",
    ],
    "of TLS": ["Upgrade: TLS/1.0, HTTP/2.0", "Connection: keep-alive, Upgrade"],
    "twice": ["Upgrade: h2c", "upgrade: websocket", "Connection: Upgrade"],
    "without a connection": ["Upgrade: h2c"],
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_an_offer_to_upgrade_is_ignored_and_the_connection_kept(service: Service, offer: list[str]) -> None:
    large = b'{"event_name":"e","properties":{"a":"' + b"a" * 200_000 + b'"}}'
    kinds = [
        (post(BODY, *offer), 200),
        (post(large, *offer), 200),
        (post(BODY, *offer, "Content-Encoding: identity"), 200),
        (post(large, *offer, "Content-Encoding: identity"), 200),
        (post(b"{}", *offer), 422),
        (head(*offer, method="GET", path="/livez"), 200),
        (in_chunks(*offer), 200),
        (post(BODY), 200),
    ]
    with connect(service) as connection:  # one after the other
        for request, status in kinds * 2:
            connection.sendall(request)
            assert [status for status, _, _ in read_answers(connection, 1)] == [status]
    kinds = [(request, status) for request, status in kinds if b"chunked" not in request]
    with connect(service) as connection:  # all at once
        sender = threading.Thread(target=connection.sendall, args=[b"".join(request for request, _ in kinds * 5)])
        sender.start()
        answers = read_answers(connection, len(kinds) * 5)
        sender.join()
    assert [status for status, _, _ in answers] == [status for _, status in kinds * 5]


def test_half_a_head_behind_a_request_is_closed_in_time(service: Service) -> None:
    assert statuses(exchange(service, [post() + b"POST /api"], 20)) == [200]


# -- which way --------------------------------------------------------------------------------


class Desk:
    """A service in this process, which counts what aiohttp is given."""

    def __init__(self, parts: Parts, runner: web.AppRunner, port: int) -> None:
        self.parts, self.runner, self.load, self.port = parts, runner, parts.context.load, port
        self.left_to_aiohttp: list[bytes] = []


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    data = DataDir(tmp_path / "data")
    settings = Settings(flush_interval=0.1, host="127.0.0.1", port=0)
    bound = sockets.bind(settings)
    parts = Parts(settings, data, KNOWN, Store(parse_dsn(NOWHERE, tmp_path), migrating=False))
    await parts.start()
    runner = web.AppRunner(create_app(parts.context))
    await runner.setup()
    assert runner.server
    load = parts.context.load
    connect_ = partial(DirectConnection, runner.server, load, direct_way(parts.context))
    listener = Listener(runner.server, connect_, load, 10, 1.0)
    listener.start(bound.events)
    desk = Desk(parts, runner, bound.port)
    received = Connection.data_received

    def spy(self: Connection, data: bytes) -> None:
        desk.left_to_aiohttp.append(data)
        received(self, data)

    monkeypatch.setattr(Connection, "data_received", spy)
    yield desk
    await listener.close()
    await runner.cleanup()
    await parts.close()
    data.close()
    assert load.bytes == 0


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def client(desk: Desk) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", desk.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def ask(client: Client, *parts: bytes) -> int:
    """The status of the answer to a request in parts."""
    reader, writer = client
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)  # the desk's turn
    answer = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].split()[0]))
    return int(answer.split()[1])


async def test_events_go_past_aiohttp_also_after_it_had_the_connection(desk: Desk) -> None:
    packed = post(BODY, "Content-Encoding: identity")
    async with client(desk) as one:
        for parts in ([post()], [post()[:-3], post()[-3:]], [post(BODY, "Upgrade: h2c", "Connection: Upgrade")]):
            assert await ask(one, *parts) == 200
        assert not desk.left_to_aiohttp
        offering = post(BODY, "Content-Encoding: identity", "Upgrade: h2c", "Connection: Upgrade")
        get = head(method="GET", path="/livez")
        for parts in ([packed], [packed[:-3], packed[-3:]], [get], [offering], [in_chunks()], [post(b"{}")]):
            assert await ask(one, *parts) == (422 if parts == [post(b"{}")] else 200)
            assert desk.left_to_aiohttp
            desk.left_to_aiohttp.clear()
            assert await ask(one, post()) == 200
            assert not desk.left_to_aiohttp, parts


async def test_what_the_disk_refuses_is_charged_to_nobody_on_either_way(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Spool, *groups: EncodedRows) -> None:
        raise OSError(5, "Input/output error")

    intake = desk.parts.context.intake
    intake.rate_limit = RateLimit(1e-9)  # a hundred, once
    events = b'{"events":[%s]}' % b",".join([BODY] * 60)
    full = head(f"Content-Length: {len(events)}", path=BATCH) + events
    ways = [full, full.replace(b"Host", b"Content-Encoding: identity\r\nHost")]
    async with client(desk) as one:
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "append", refuse)
            assert [await ask(one, way) for way in ways * 3] == [503] * 6
        assert [await ask(one, way) for way in [ways[0], ways[1], ways[0], ways[1]]] == [200, 200, 429, 429]


async def test_requests_of_which_nothing_is_kept_are_answered_one_after_the_other_on_this_way(desk: Desk) -> None:
    body = b'{"events":[7]}'
    request = head(f"Content-Length: {len(body)}", "Prefer: handling=lenient", path=BATCH) + body
    async with client(desk) as (reader, writer):
        writer.write(request * 1000 + post())
        received = b""
        while len(statuses(received)) <= 1000:
            received += await reader.read(2**16)
    assert statuses(received) == [200] * 1001
    assert not desk.left_to_aiohttp


async def test_a_client_that_closes_its_side_between_its_answer_and_the_wait_for_the_next_request_gets_a_close(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Connection.finish_response

    async def finish_and_hear_the_end(self: Connection, *args: Any) -> Any:
        done = await finish(self, *args)
        assert self.eof_received(), "as the event loop calls it then"
        return done

    monkeypatch.setattr(Connection, "finish_response", finish_and_hear_the_end)
    async with client(desk) as (reader, writer):
        writer.write(head(method="GET", path="/livez"))
        async with asyncio.timeout(5):
            assert statuses(await reader.read()) == [200]


async def test_a_client_gone_in_the_middle_of_a_body_leaves_nothing_behind(desk: Desk) -> None:
    async with client(desk) as (_, writer):
        writer.write(post()[:-3])
        await until(lambda: desk.load.bytes == len(BODY))
    await until(lambda: desk.load.bytes == 0)
    assert not desk.left_to_aiohttp


async def test_what_is_under_way_at_a_stop_is_answered_and_its_connection_closed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, append = threading.Event(), Spool.append

    def slowly(self: Spool, *groups: EncodedRows) -> None:
        assert held.wait(20)
        append(self, *groups)

    monkeypatch.setattr(Spool, "append", slowly)
    async with client(desk) as (under_way, one), client(desk) as (gathering, two), client(desk) as (idle, _):
        one.write(post())
        two.write(post()[:-3])
        await until(lambda: desk.load.bytes == 2 * len(BODY))
        desk.parts.announce_stop(10)
        stopping = asyncio.create_task(desk.runner.cleanup())
        assert await idle.read() == b""
        two.write(post()[-3:])
        held.set()
        for reader in (under_way, gathering):
            received = await reader.read()
            assert statuses(received) == [200]
            assert b"Connection: close" in received
        await stopping
    assert not desk.left_to_aiohttp


async def test_a_disk_that_refuses_is_said_on_this_way_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Spool, *groups: EncodedRows) -> None:
        raise OSError(5, "Input/output error")

    async with client(desk) as one:
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "append", refuse)
            assert await ask(one, post()) == 503
        assert await ask(one, post()) == 200
    assert not desk.left_to_aiohttp


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)
