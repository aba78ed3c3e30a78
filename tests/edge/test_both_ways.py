"""The same bytes get the same answers on the fast path and on aiohttp's way, however they are cut and interleaved."""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.edge.connection import Connection
from service.edge.fast_path import COMMITTING, GATHERING, DirectConnection
from service.edge.fast_path_context import fast_path_context
from tests.support.desk import Desk, open_desk, until
from tests.support.service import BATCH, STATS
from tests.support.wire import BODY, head, post

PACKED = gzip.compress(BODY)
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"16\r\n" + BODY + b"\r\n0\r\n\r\n"
OFFER = ("Connection: Upgrade", "Upgrade: h2c")
LIVEZ = head(method="GET", path="/livez")


def batch(body: bytes, *lines: str) -> bytes:
    return head(f"Content-Length: {len(body)}", *lines, path=BATCH) + body


#: Each is one request, or what stands where one should.
REQUESTS = {
    "an event": post(),
    "an event with a name of its own": post(BODY, "X-Request-ID: mine"),
    "an event with a key": post(BODY, "Idempotency-Key: order-7"),
    "an event in blanks": post(b" " * 70_000 + BODY),
    "a large event": post(b'{"event_name":"e","properties":{"a":"' + b"a" * 300_000 + b'"}}'),
    "a batch": batch(b'{"events":[' + BODY + b"," + BODY + b"]}"),
    "a batch in part": batch(b'{"events":[' + BODY + b",8]}", "Prefer: handling=lenient"),
    "a batch of nothing": batch(b'{"events":[7]}', "Prefer: handling=lenient"),
    "an event that is none": post(b"{}"),
    "what is no JSON": post(b"no"),
    "empty lines and an offer in a body": post(b"{\r\n\r\nPOST / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n"),
    "no body": head("Content-Length: 0"),
    "no length": head(),
    "a page of another origin": post(BODY, "Origin: https://other.example"),
    "a wrong token": head("Content-Length: 22", token="no") + BODY,
    "a token to read": head("Content-Length: 22", token="reader") + BODY,
    "in chunks": head(CHUNKED) + CHUNKS,
    "in chunks with a wrong token": head(CHUNKED, token="no") + CHUNKS,
    "in chunks with a trailer": head(CHUNKED) + CHUNKS[:-2] + b"X: y\r\n\r\n",
    "in chunks that are none": head(CHUNKED) + b"zz\r\n\r\n",
    "in gzip": post(PACKED, "Content-Encoding: gzip"),
    "in gzip that is none": post(BODY, "Content-Encoding: gzip"),
    "in a coding that is none": post(BODY, "Content-Encoding: identity"),
    "with a wait": post(BODY, "Expect: 100-continue"),
    "an offer": post(BODY, *OFFER),
    "an offer aiohttp's way": post(BODY, *OFFER, "Content-Encoding: identity"),
    "an offer of a websocket": head("Connection: Upgrade", "Upgrade: websocket", method="GET", path="/livez"),
    "an offer in chunks": head(CHUNKED, *OFFER) + CHUNKS,
    "the last one": post(BODY, "Connection: close"),
    "of long ago": post().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "of long ago, kept": post(BODY, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a GET": LIVEZ,
    "a GET with a body": head("Content-Length: 22", method="GET", path="/livez") + BODY,
    "a GET without the right": head(method="GET", path=STATS, token="no"),
    "nowhere": head("Content-Length: 2", path="/nowhere") + b"{}",
    "another method": head("Content-Length: 22", method="PUT") + BODY,
    "a tunnel": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an empty line": b"\r\n",
    "two empty lines": b"\r\n\r\n",
    "two lengths": head("Content-Length: 22", "Content-Length: 22") + BODY,
    "length and chunks": head("Content-Length: 22", CHUNKED) + BODY,
    "a folded header": post(BODY, "X: a\r\n b"),
    "lines that end in LF": post().replace(b"\r\n", b"\n"),
    "too many headers": post(BODY, *(f"X{number}: a" for number in range(70))),
    "no HTTP": b"garbage\r\n\r\n",
    "forty events": post() * 40,
    "forty GETs": LIVEZ * 40,
}  # fmt: skip
ODD_LINES = st.lists(
    st.one_of(
        st.sampled_from(["Connection: keep-alive", "Connection: x, close", "TE: trailers", "Proxy-Connection: close"]),
        st.sampled_from(["Content-Length: 022", "Content-Length : 22", "Host: y", "Expect: x"]),
        st.sampled_from(["Upgrade: h2c", "Cookie:"]),
        st.tuples(st.text("aB-_.!1", min_size=1, max_size=5), st.text(" \ta;,\x80\xff", max_size=9)).map(":".join),
    ),
    max_size=4,
)  # fmt: skip
ODD = ODD_LINES.map(lambda lines: post(BODY, *lines))
STREAM = st.lists(
    st.one_of(st.sampled_from(list(REQUESTS.values())), ODD, st.binary(min_size=1, max_size=12)), min_size=1, max_size=6
).map(b"".join)


@st.composite
def cut(draw: st.DrawFn) -> list[bytes]:
    """The parts of a stream, whose last part may be missing."""
    stream = draw(STREAM)
    places = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=5)))
    parts = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    if len(parts) > 1 and draw(st.booleans()):
        parts.pop()
    return [part for part in parts if part]


@st.composite
def plays(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """Which connection sends what, one after the other."""
    streams = [iter(parts) for parts in draw(st.lists(cut(), min_size=1, max_size=3))]
    sent: list[tuple[int, bytes]] = []
    waiting = list(range(len(streams)))
    while waiting:
        number = draw(st.sampled_from(waiting))
        part = next(streams[number], None)
        if part is None:
            waiting.remove(number)
        else:
            sent.append((number, part))
    return sent


class Watched(Connection):
    """A connection that counts the bytes it is given by the socket."""

    seen = 0

    def data_received(self, data: bytes) -> None:
        self.seen += len(data)
        super().data_received(data)

    def waits(self) -> bool:
        """Whether nothing goes on until the client sends something, or closes its side."""
        if self.transport is None:
            return True
        state = getattr(self, "_state", None)
        if state is COMMITTING or self._to_aiohttp or self._messages:
            return False
        if state is GATHERING or self.is_between_requests():
            return True
        return self._request is not None and not self._request.content.is_eof()


class WatchedDirect(Watched, DirectConnection):
    """One with the fast path."""


class Client:
    """A client of one way, which sees both ends of its connection."""

    def __init__(self, port: int, made: list[Watched]) -> None:
        self._port, self._made = port, made
        self.received = bytearray()
        self._sent = 0

    async def open(self) -> None:
        count = len(self._made)
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        await until(lambda: len(self._made) > count and self._made[-1].transport is not None)
        self.service = self._made[-1]
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while part := await reader.read(2**16):
                self.received += part
        except ConnectionError:
            pass

    async def send(self, part: bytes) -> None:
        """Send it, and wait until the service has it, if it reads."""
        if self.service.transport is None:
            return  # it reads no more
        self._writer.write(part)
        self._sent += len(part)
        await until(self.has_sent)

    def has_sent(self) -> bool:
        transport = self.service.transport
        return transport is None or self.service.seen == self._sent or not transport.is_reading()

    async def outcome(self) -> "Outcome":
        """Whether the service keeps the connection, and what it has answered by the time we have closed our side."""
        await until(lambda: self.service.waits() and self.has_sent())
        stays_open = self.service.transport is not None
        if stays_open:
            self._writer.write_eof()
        await self._reading
        self._writer.close()
        return Outcome(stays_open, answers_in(bytes(self.received)))


class Answer(NamedTuple):
    """An answer without what differs from time to time."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Outcome(NamedTuple):
    """What became of a connection."""

    stays_open: bool
    answers: list[Answer]


def answers_in(received: bytes) -> list[Answer]:
    """The answers; AssertionError if there is anything else."""
    answers = []
    while received:
        block, found, received = received.partition(b"\r\n\r\n")
        assert found, block
        first, *lines = block.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines), lines
        length = int(headers.get("Content-Length", 0))
        body, received = received[:length], received[length:]
        assert len(body) == length
        headers.pop("Date", None)
        if headers.get("X-Request-ID") != "mine":
            headers.pop("X-Request-ID", None)
        body = re.sub(rb'"(event_id|timestamp)":"[^"]+"', b"", body)
        answers.append(Answer(int(first.split()[1]), sorted(headers.items()), body))
    return answers


async def play(port: int, made: list[Watched], sent: list[tuple[int, bytes]]) -> list[Outcome]:
    """Send that, and see what becomes of each connection."""
    clients = [Client(port, made) for _ in range(1 + max((number for number, _ in sent), default=0))]
    for one in clients:
        await one.open()
    for number, part in sent:
        await clients[number].send(part)
    return [await one.outcome() for one in clients]


class Ways(NamedTuple):
    """The ports of both ways, and the connections that were made on each."""

    fast: tuple[int, list[Watched]]
    aiohttp: tuple[int, list[Watched]]


@pytest.fixture
async def ways(tmp_path: Path) -> AsyncIterator[Ways]:
    async with open_desk(tmp_path, Desk) as desk:
        context = fast_path_context(desk.parts.context)
        fast: list[Watched] = []
        aiohttp: list[Watched] = []

        def connect_fast() -> Connection:
            fast.append(WatchedDirect(desk.server, desk.load, context))
            return fast[-1]

        def connect_aiohttp() -> Connection:
            aiohttp.append(Watched(desk.server, desk.load))
            return aiohttp[-1]

        yield Ways((desk.listen(connect_fast, 60), fast), (desk.listen(connect_aiohttp, 60), aiohttp))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(plays())
async def test_the_same_bytes_are_answered_alike_on_both_ways(ways: Ways, sent: list[tuple[int, bytes]]) -> None:
    fast, aiohttp = await asyncio.gather(play(*ways.fast, sent), play(*ways.aiohttp, sent))
    assert fast == aiohttp


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_each_kind_of_request_is_answered_alike_on_both_ways_beside_others(ways: Ways, request_: bytes) -> None:
    for sent in (
        [(0, request_ + post())],
        [(0, post() + request_), (0, post())],
        [(0, request_[:-1]), (0, request_[-1:] + post())],
        [(0, request_[:10]), (0, request_[10:] + post())],
    ):
        fast, aiohttp = await asyncio.gather(play(*ways.fast, sent), play(*ways.aiohttp, sent))
        assert fast == aiohttp
