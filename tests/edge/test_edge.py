"""What no HTTP library would send. Each has its status and its close; none gets a 500, memory, or a traceback."""

import json
from collections.abc import Iterator

import pytest

from tests.support.service import BATCH, EVENTS, Service
from tests.support.wire import BODY, connect, exchange, head, post, read_to_end, resident_bytes, statuses

#: ClickHouse plays no part here.
NOWHERE = "http://127.0.0.1:1/analytics"
#: Another request, behind one whose end is in doubt. It must not be answered.
SMUGGLED = head(method="GET", path="/livez")
LAST_CHUNK = b"0\r\n\r\n"
CHUNK = b"16\r\n" + BODY + b"\r\n"
CLOSE = "Connection: close"
MEMORY = 48 * 2**20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, int]]:
    """One service for all tests of this file, and the memory that it took at first."""
    service = Service(
        tmp_path_factory.mktemp("edge"),
        ANALYTICS_CLICKHOUSE_DSN=NOWHERE,
        ANALYTICS_MAX_BODY_BYTES=100_000,
        ANALYTICS_BODY_TIMEOUT=1,
        ANALYTICS_HEADER_TIMEOUT=1,
    ).start()
    assert service.post({"event_name": "first"}).status == 200
    yield service, resident_bytes(service)
    service.end()


@pytest.fixture
def service(running: tuple[Service, int]) -> Iterator[Service]:
    """The service; after the test it must be as well as before."""
    service, memory = running
    yield service
    assert service.post({"event_name": "still here"}).status == 200
    assert resident_bytes(service) < memory + MEMORY
    log = service.log()
    assert "Traceback" not in log
    assert '"level": "error"' not in log
    assert '"status": 500' not in log


def chunked(*parts: bytes, coding: str = "chunked", lines: tuple[str, ...] = (CLOSE,)) -> bytes:
    return head(f"Transfer-Encoding: {coding}", *lines) + b"".join(parts)


def with_length(length: str) -> bytes:
    return head(f"Content-Length: {length}") + BODY + SMUGGLED


#: Where one reader may see another end, or another request, than the next: refused and closed, nothing behind is read.
MALFORMED = {
    "length and chunks": head("Content-Length: 5", "Transfer-Encoding: chunked") + LAST_CHUNK + SMUGGLED,
    "chunks and length": head("Transfer-Encoding: chunked", "Content-Length: 5") + LAST_CHUNK + SMUGGLED,
    "two lengths": head("Content-Length: 22", "Content-Length: 22") + BODY + SMUGGLED,
    "two different lengths": head("Content-Length: 22", "Content-Length: 5") + BODY + SMUGGLED,
    **{f"length {one!r}": with_length(one) for one in ("22, 22", "+22", "2_2", "-1", "0x16", "", "\xb2\xb2", "9" * 30)},
    "unknown coding": chunked(LAST_CHUNK, coding="xchunked"),
    "chunked twice": chunked(LAST_CHUNK, coding="chunked, chunked"),
    "chunked is not last": chunked(LAST_CHUNK, coding="chunked, identity"),
    "packed coding": chunked(CHUNK, LAST_CHUNK, coding="gzip, chunked", lines=()),
    "identity coding": chunked(CHUNK, LAST_CHUNK, coding="identity, chunked", lines=()),
    "two codings": chunked(LAST_CHUNK, lines=("Transfer-Encoding: chunked",)),
    "vertical tab before the coding": chunked(LAST_CHUNK, coding="\x0bchunked"),
    "chunks in HTTP/1.0": head("Transfer-Encoding: chunked", version="1.0") + CHUNK + LAST_CHUNK,
    "lines end in LF": post().replace(b"\r\n", b"\n"),
    "one line ends in LF": post(BODY, "X: 1").replace(b"X: 1\r\n", b"X: 1\n"),
    "folded header": post(BODY, "X: a\r\n b"),
    "folded first header": post().replace(b"Host", b" Host"),
    "NUL in a value": post(BODY, "X: a\0b"),
    "NUL in a name": post(BODY, "X\0: b"),
    "bare CR": post(BODY, "X: a\rb"),
    "control character": post(BODY, "X: a\x01b"),
    "blanks before a control character": head("X: " + " " * 3000 + "\x01", method="GET", path="/livez", token="no"),
    "tabs before a control character": head("X: " + "\t" * 3000 + "\x01", method="GET", path="/livez", token="no"),
    "a token behind blanks": head(f"X: Bearer{' ' * 3000}x\x01").replace(b"X:", b"Authorization:"),
    "space before the colon": post(BODY, "X : b"),
    "no name": post(BODY, ": b"),
    "no colon": post(BODY, "xyz"),
    "no host": post().replace(b"Host: x\r\n", b""),
    "two hosts": post(BODY, "Host: y"),
    "header of 9 kB": post(BODY, "X: " + "a" * 9000),
    "70 headers": post(BODY, *(f"X{index}: a" for index in range(70))),
    "16 MB of headers": head(*(f"X{index}: {'a' * 8000}" for index in range(2000))),
    "URL of 5 kB": head(path=f"{EVENTS}?{'a' * 5000}"),
    "URL of 1 MB": head(path=f"{EVENTS}?{'a' * 10**6}"),
    "line without an end": b"A" * 10**6,
    "header without an end": b"GET / HTTP/1.1\r\n" + b"A" * 10**6,
    "method of 5 kB": head(method="A" * 5000),
    "no URL": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "URL with half an address": b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "URL with no port that is": b"GET http://x:99999999/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "URL that is no ASCII": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/1.9": head(version="1.9"),
    "HTTP/2.0": head("Content-Length: 22", version="2.0") + BODY,
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
    "every byte": bytes(range(256)),
    "chunk size is no number": chunked(b"zz\r\n", BODY, b"\r\n", LAST_CHUNK),
    "chunk size is negative": chunked(b"-1\r\n", BODY, b"\r\n", LAST_CHUNK),
    "chunk size in C": chunked(b"0x16\r\n", BODY, b"\r\n", LAST_CHUNK),
    "chunk size with a space": chunked(b"16 \r\n", BODY, b"\r\n", LAST_CHUNK),
    "chunk size too large": chunked(b"F" * 17 + b"\r\n", BODY, b"\r\n", LAST_CHUNK),
    "chunk longer than its size": chunked(b"5\r\n", BODY, b"\r\n", LAST_CHUNK),
    "second chunk malformed": chunked(CHUNK, b"zz\r\n\r\n", LAST_CHUNK, lines=()),
    "chunks end in LF": chunked(b"16\n", BODY, b"\n0\n\n"),
    "CR in a chunk extension": chunked(b"16;a\rb\r\n", BODY, b"\r\n", LAST_CHUNK),
    "LF in a chunk extension": chunked(b"16;a\nb\r\n", BODY, b"\r\n", LAST_CHUNK),
    "200 trailers": chunked(CHUNK, b"0\r\n", b"X: y\r\n" * 200, b"\r\n"),
    "trailer of 1 MB": chunked(CHUNK, b"0\r\nX: ", b"y" * 10**6, b"\r\n\r\n"),
    "length as a trailer": chunked(CHUNK, b"0\r\nContent-Length: 5\r\n\r\n"),
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused_once_and_the_connection_closed(service: Service, request_: bytes) -> None:
    received = exchange(service, [request_])
    assert received.split()[1] == b"400"
    assert isinstance(json.loads(received.partition(b"\r\n\r\n")[2])["detail"], str), "one answer, in JSON"


STRANGE = {
    "empty lines before": (b"\r\n" * 5 + post(BODY, CLOSE), [200]),
    "HTTP/1.0": (post().replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
    "HTTP/1.0 without a host": (post().replace(b"HTTP/1.1\r\nHost: x", b"HTTP/1.0"), [200]),
    "header that is no ASCII": (post(BODY, "X: \xff", CLOSE), [200]),
    "absolute URL": (post(BODY, CLOSE).replace(b"/api", b"http://elsewhere/api", 1), [200]),
    "one-byte chunks": (chunked(*(b"1\r\n%c\r\n" % byte for byte in BODY), LAST_CHUNK), [200]),
    "99,000 one-byte chunks": (chunked(b"1\r\n \r\n" * 99_000, LAST_CHUNK), [422]),
    "101,000 one-byte chunks": (chunked(b"1\r\n \r\n" * 101_000, LAST_CHUNK), [413]),
    "a trailer": (chunked(CHUNK, b"0\r\nX: y\r\n\r\n"), [200]),
    "a chunk extension": (chunked(b"16;a=b\r\n", BODY, b"\r\n", LAST_CHUNK), [200]),
    "a chunk extension of 1 MB": (chunked(b"16;a=" + b"b" * 10**6 + b"\r\n", BODY, b"\r\n", LAST_CHUNK), [200]),
    "no body": (head(CLOSE), [422]),
    "a body of a GET": (head("Content-Length: 200000", CLOSE, method="GET", path="/livez") + b"x" * 200_000, [200]),
    "Expect of something else": (post(BODY, "Expect: something", CLOSE), [200]),
    "Expect": (post(BODY, "Expect: 100-continue", CLOSE), [100, 200]),
    "Expect without token": (head("Expect: 100-continue", "Content-Length: 22", CLOSE, token="no"), [401]),
    "Expect with a large body": (head("Expect: 100-continue", "Content-Length: 2000000", CLOSE), [413]),
    "CONNECT": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [404]),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [404]),
    "TRACE": (head(CLOSE, method="TRACE", path="/livez"), [405]),
    "HEAD": (head(CLOSE, method="HEAD", path="/livez"), [200]),
    "a path out of the folder": (head(CLOSE, method="GET", path="/docs/../../../etc/passwd"), [404]),
    "an encoded path out of the folder": (head(CLOSE, method="GET", path="/docs/%2e%2e/%2e%2e/etc/passwd"), [404]),
    "a path of half an address": (head(CLOSE, method="GET", path="//["), [404]),
    "a request behind a close": (post(BODY, CLOSE) + SMUGGLED, [200]),
    "garbage behind a request": (post() + b"garbage\r\n\r\n", [200, 400]),
    "garbage behind forty requests": (
        head(method="GET", path="/livez") * 20 + post(BODY, "Content-Encoding: identity") * 20 + b"garbage\r\n\r\n",
        [200] * 40 + [400],
    ),
    "garbage behind a request in chunks": (chunked(CHUNK, LAST_CHUNK, lines=()) + b"garbage\r\n\r\n", [200, 400]),
    "a request behind an upgrade": (post(BODY, "Connection: Upgrade", "Upgrade: h2c") + post(BODY, CLOSE), [200, 200]),
}


@pytest.mark.parametrize(("request_", "expected"), STRANGE.values(), ids=STRANGE)
def test_what_is_strange_and_whole_is_answered(service: Service, request_: bytes, expected: list[int]) -> None:
    assert statuses(exchange(service, [request_])) == expected


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"5\r\n" + BODY + b"\r\n"])
def test_malformed_chunks_are_refused_at_once_also_if_they_come_after_the_head(service: Service, chunk: bytes) -> None:
    with connect(service) as connection:
        connection.sendall(head("Transfer-Encoding: chunked", "Expect: 100-continue"))
        assert statuses(connection.recv(65536)) == [100]
        connection.sendall(chunk)
        received = read_to_end(connection)
    assert statuses(received) == [400]
    assert b"The body's chunks are malformed" in received


def test_two_thousand_pipelined_requests_are_answered_in_order(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(
            b"".join(post(BODY, f"X-Request-ID: n-{index}") for index in range(2000)) + post(BODY, CLOSE)
        )
        received = read_to_end(connection)
    assert statuses(received) == [200] * 2001
    assert [int(part.split(b"\r\n")[0]) for part in received.split(b"X-Request-ID: n-")[1:]] == list(range(2000))


def test_a_flood_of_malformed_requests_is_one_line_in_a_while(service: Service) -> None:
    before = service.log().count("\n")
    for _ in range(200):
        assert statuses(exchange(service, [b"garbage\r\n\r\n"])) == [400]
    assert service.log().count("\n") - before <= 3


@pytest.mark.parametrize("path", [EVENTS, BATCH])
def test_every_json_answer_names_the_service_and_may_not_be_kept_or_guessed(service: Service, path: str) -> None:
    received = [exchange(service, [post(body, CLOSE).replace(EVENTS.encode(), path.encode())]) for body in (BODY, b"x")]
    received += [
        exchange(service, [head(CLOSE, method="GET", path="/livez")]),
        exchange(service, [post(BODY, CLOSE, "Host: y")]),
    ]
    for one in received:
        headers = one.partition(b"\r\n\r\n")[0]
        assert b"\r\nServer: analytics" in headers
        assert b"\r\nX-Content-Type-Options: nosniff" in headers
        assert b"\r\nCache-Control: no-store" in headers
        assert b"aiohttp" not in headers
