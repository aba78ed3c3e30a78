"""How connections end: no answer gets lost, no client is kept waiting, and nobody else notices."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support import wait_until
from tests.support.metrics import scrape
from tests.support.service import BATCH, READ, STATS, WRITE, Service
from tests.support.wire import BODY, connect, exchange, head, open_files, post, read_to_end, resident_bytes, statuses

NOWHERE = "http://127.0.0.1:1/analytics"
CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"
LONG = "Content-Length: 200000"
#: What must not be taken for a request, where it is the body of one.
INNER = head(method="GET", path="/livez")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without ClickHouse, and a second's patience for heads."""
    service = Service(
        tmp_path_factory.mktemp("endings"),
        ANALYTICS_CLICKHOUSE_DSN=NOWHERE,
        ANALYTICS_MAX_BODY_BYTES=500_000,
        ANALYTICS_MAX_INFLIGHT_BYTES=600_000,
        ANALYTICS_HEADER_TIMEOUT=1,
        ANALYTICS_BODY_TIMEOUT=8,
    ).start()
    yield service
    service.end()
    log = service.log()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
    assert '"level": "error"' not in log
    assert "unfinished heads" not in log


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose only writer has sent too much already."""
    service = Service(
        tmp_path_factory.mktemp("limited"), ANALYTICS_CLICKHOUSE_DSN=NOWHERE, ANALYTICS_RATE_LIMIT=0.001
    ).start()
    assert service.post_batch([{"event_name": "x"}] * 100).status == 200
    yield service
    service.end()


# -- before the whole body has come -----------------------------------------------------------

#: Heads that are answered while their bodies are still to come.
EARLY = {
    "401": (head(LONG, token="no"), 401),
    "401 chunked": (head(CHUNKED, token="no"), 401),
    "401 of a batch": (head(LONG, token="no", path=BATCH), 401),
    "401 of a beacon": (head(LONG, path=f"{BATCH.removesuffix('batch')}beacon"), 401),
    "401 in HTTP/1.0": (head(LONG, token="no", version="1.0"), 401),
    "401 in HTTP/1.0, kept": (head(LONG, "Connection: keep-alive", token="no", version="1.0"), 401),
    "401 packed": (head(LONG, "Content-Encoding: gzip", token="no"), 401),
    "401 for one who waits": (head(LONG, "Expect: 100-continue", token="no"), 401),
    "403": (head(LONG, token=READ), 403),
    "403 chunked": (head(CHUNKED, token=READ), 403),
    "404": (head(LONG, path="/nowhere"), 404),
    "404 chunked": (head(CHUNKED, path="/nowhere"), 404),
    "405": (head(LONG, method="PUT"), 405),
    "405 chunked": (head(CHUNKED, method="DELETE"), 405),
    "413": (head("Content-Length: 6000000"), 413),
    "413 of a batch": (head("Content-Length: 6000000", path=BATCH), 413),
    "413 in HTTP/1.0, kept": (head("Content-Length: 6000000", "Connection: keep-alive", version="1.0"), 413),
    "417": (head(LONG, "Expect: something", path="/nowhere"), 417),
    "400, two lengths": (head(LONG, LONG), 400),
    "400, a header that is none": (head(LONG, "X : a"), 400),
    "400, chunks in HTTP/1.0": (head(CHUNKED, version="1.0"), 400),
    "400, another coding": (head("Transfer-Encoding: gzip, chunked"), 400),
    "400, a key that is none": (head(LONG, CHUNKED), 400),
    "200 of a GET": (head(LONG, method="GET", path="/livez"), 200),
    "200 of a GET, chunked": (head(CHUNKED, method="GET", path="/livez"), 200),
    "a preflight": (head(LONG, method="OPTIONS"), 405),
}


def begin_of_body(request: bytes) -> bytes:
    return b"2710\r\n" + INNER if b"chunked" in request else INNER


@pytest.mark.parametrize(("request_", "status"), EARLY.values(), ids=EARLY)
def test_an_answer_before_the_whole_body_is_the_last_one(service: Service, request_: bytes, status: int) -> None:
    with connect(service) as connection:
        connection.sendall(request_ + begin_of_body(request_))
        received = connection.recv(65536)
        with contextlib.suppress(ConnectionError):
            connection.sendall(INNER * 100)
        received += read_to_end(connection)
    assert statuses(received) == [status]
    assert b"\r\nConnection: close\r\n" in received


def test_an_answer_to_one_who_sends_too_much_is_the_last_one_while_the_body_is_to_come(limited: Service) -> None:
    for request in (head(LONG, "Content-Encoding: identity"), head(CHUNKED), head("Expect: 100-continue", LONG)):
        received = exchange(limited, [request + begin_of_body(request)])
        assert statuses(received) == [429]
        assert b"\r\nConnection: close\r\n" in received
    with connect(limited) as connection:
        for _ in range(3):
            connection.sendall(post(BODY, "Content-Encoding: identity"))
            assert statuses(connection.recv(65536)) == [429], "kept, since all of it was there"


def test_an_answer_for_lack_of_room_is_the_last_one_while_the_body_is_to_come(service: Service) -> None:
    with connect(service) as first:
        first.sendall(head("Content-Length: 450000", "Expect: 100-continue"))
        assert statuses(first.recv(65536)) == [100]
        for request in (head(LONG), head(LONG, path=BATCH), head(LONG, "Content-Encoding: gzip")):
            received = exchange(service, [request + begin_of_body(request)])
            assert statuses(received) == [503]
            assert b"\r\nConnection: close\r\n" in received


@pytest.mark.parametrize(("request_", "status"), [EARLY[name] for name in ("401", "401 chunked", "404", "413")])
def test_an_answer_whose_whole_body_has_come_keeps_the_connection(
    service: Service, request_: bytes, status: int
) -> None:
    if status == 413:
        body = b" " * 600_000
        request_ = head(CHUNKED) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    elif b"chunked" in request_:
        request_ += b"16\r\n" + BODY + b"\r\n0\r\n\r\n"
    else:
        request_ = request_.replace(b"200000", b"22") + BODY
    with connect(service) as connection:
        for _ in range(1 if status == 413 else 5):
            connection.sendall(request_)
            assert statuses(connection.recv(65536)) == [status]


MUCH = 60_000_000


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head(f"Content-Length: {MUCH}", token="no"), 401),
        (head(f"Content-Length: {MUCH}", token="no", version="1.0"), 401),
        (head(f"Content-Length: {MUCH}"), 413),
        (head(f"Content-Length: {MUCH}", path="/nowhere"), 404),
        (head(f"Content-Length: {MUCH}", "X : a"), 400),
        (head(CHUNKED) + b"%x\r\n" % MUCH, 413),
        (head(CHUNKED, token="no") + b"%x\r\n" % MUCH, 401),
    ],
)
def test_the_answer_arrives_at_a_client_that_sends_60_mb_before_it_reads(
    service: Service, request_: bytes, status: int
) -> None:
    memory, piece = resident_bytes(service), bytes(2**20)
    with connect(service) as connection:
        connection.sendall(request_)
        for _ in range(MUCH // len(piece)):
            connection.sendall(piece)
            assert resident_bytes(service) < memory + 16 * 2**20
        received = read_to_end(connection)
    assert statuses(received) == [status]
    assert b"\r\nConnection: close\r\n" in received


def test_a_connection_too_many_gets_its_answer_though_it_sends_first(make_service: Callable[..., Service]) -> None:
    service = make_service(NOWHERE, ANALYTICS_MAX_CONNECTIONS=1).start()
    with connect(service) as taken:
        taken.sendall(post())
        assert statuses(taken.recv(65536)) == [200]
        for _ in range(10):
            assert statuses(exchange(service, [post(bytes(10**6))])) == [503]


def test_clients_that_were_refused_and_go_on_sending_disturb_nobody_and_are_closed(service: Service) -> None:
    before, memory = open_files(service), resident_bytes(service)
    chunked = head(CHUNKED, CLOSE) + b"7530\r\n" + b" " * (30_000 - 22) + BODY + b"\r\n0\r\n\r\n"
    old = head("Content-Length: 30000", version="1.0") + b" " * (30_000 - 22) + BODY
    with ExitStack() as stack:
        refused = [stack.enter_context(connect(service)) for _ in range(6)]
        senders = [
            threading.Thread(target=send_all, args=[one, head("Content-Length: 5590000", token="no") + bytes(5590000)])
            for one in refused
        ]
        for sender in senders:
            sender.start()
        for _ in range(20):
            assert statuses(exchange(service, [chunked])) == [200]
            assert statuses(exchange(service, [old])) == [200]
            assert resident_bytes(service) < memory + 32 * 2**20
        for sender in senders:
            sender.join()
        assert [statuses(one.recv(65536)) for one in refused] == [[401]] * 6
        wait_until(lambda: open_files(service) <= before)  # though they stay
    assert "unfinished heads" not in service.log()


def test_many_bodies_at_once_are_no_unfinished_heads(make_service: Callable[..., Service]) -> None:
    service = make_service(NOWHERE).start()
    assert service.process
    before, space = open_files(service), 60_000
    request = head(CHUNKED, CLOSE) + b"%x\r\n%s\r\n0\r\n\r\n" % (space + len(BODY), b" " * space + BODY)
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(service, 30)) for _ in range(350)]  # 21 MB
        # Less a few: what the service had open before, such as its tries of ClickHouse, may be closed by now.
        wait_until(lambda: open_files(service) >= before + len(connections) - 10)
        service.process.send_signal(signal.SIGSTOP)  # so that it finds all of them in one turn
        for connection in connections:
            connection.sendall(request)
        service.process.send_signal(signal.SIGCONT)
        assert {tuple(statuses(read_to_end(one))) for one in connections} == {(200,)}
    assert "unfinished heads" not in service.log()


def send_all(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        connection.sendall(data)


def test_a_client_that_was_refused_and_drips_is_closed_when_the_time_for_a_body_is_over(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(head("Content-Length: 5590000", token="no"))
        assert statuses(connection.recv(65536)) == [401]

        def is_closed() -> bool:
            try:
                connection.sendall(b" ")
            except ConnectionError:
                return True
            return False

        wait_until(is_closed, 30)


# -- the client closes its side ---------------------------------------------------------------

CHUNKS = b"16\r\n" + BODY + b"\r\n0\r\n\r\n"
INVALID = b'{"events":[7]}'
SENT = {
    "an event": (post(), [200]),
    "a batch": (head("Content-Length: 35", path=BATCH) + b'{"events":[' + BODY + b"]}", [200]),
    "an event in HTTP/1.0": (post().replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
    "an event in HTTP/1.0, kept": (
        post(BODY, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
        [200],
    ),
    "an event that closes": (post(BODY, CLOSE), [200]),
    "an event in chunks": (head(CHUNKED) + CHUNKS, [200]),
    "an event aiohttp's way": (post(BODY, "Content-Encoding: identity"), [200]),
    "a batch of which nothing is valid": (
        head(f"Content-Length: {len(INVALID)}", "Prefer: handling=lenient", path=BATCH) + INVALID,
        [200],
    ),
    "a GET": (head(method="GET", path="/livez"), [200]),
    "a large file": (head(method="GET", path="/docs/swagger-ui-bundle.js"), [200]),
    "401": (post().replace(WRITE.encode(), b"no"), [401]),
    "404": (head(method="GET", path="/nowhere"), [404]),
    "422": (post(b"{}"), [422]),
    "413": (head("Content-Length: 600000") + bytes(600_000), [413]),
    "what is no HTTP": (b"garbage\r\n\r\n", [400]),
    "many events": (post() * 100, [200] * 100),
    "many GETs": (INNER * 100, [200] * 100),
    "many of all kinds": ((post() + INNER + post(b"{}") + head(CHUNKED) + CHUNKS) * 30, [200, 200, 422, 200] * 30),
    "an event and half a head": (post() + b"POST /api", [200]),
    "a GET and half a head": (INNER + b"POST /api", [200]),
    "nothing": (b"", []),
    "half a head": (b"POST /api", []),
    "half a body": (post()[:-3], [400]),
    "half a body aiohttp's way": (post(BODY, "Content-Encoding: identity")[:-3], [400]),
    "half a chunk": (head(CHUNKED) + CHUNKS[:10], [400]),
    "no last chunk": (head(CHUNKED) + CHUNKS[:-5], [400]),
    "half a body that is refused": (post().replace(WRITE.encode(), b"no")[:-3], [401]),
    "an event and half another": (post() + post()[:-3], [200, 400]),
    "a GET and half an event": (INNER + post()[:-3], [200, 400]),
}


@pytest.mark.parametrize(("sent", "expected"), SENT.values(), ids=SENT)
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "a moment later"])
def test_one_who_closes_its_side_gets_its_answers_and_then_a_close(
    service: Service, sent: bytes, expected: list[int], apart: bool
) -> None:
    with connect(service, 6) as connection:
        connection.sendall(sent)
        if apart:
            assert service.get("/livez").status == 200  # by then it has what was sent
        connection.shutdown(socket.SHUT_WR)
        received = read_to_end(connection)
    assert statuses(received) == expected


@pytest.mark.parametrize("request_", [post(), INNER, post(b"{}"), head(CHUNKED) + CHUNKS])
def test_one_who_closes_its_side_just_when_it_has_its_answer_gets_a_close(service: Service, request_: bytes) -> None:
    for _ in range(300):
        with connect(service, 6) as connection:
            connection.sendall(request_)
            assert connection.recv(65536)
            connection.shutdown(socket.SHUT_WR)
            assert read_to_end(connection) == b""


# -- idle -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that keeps idle connections for less time than it gives heads."""
    service = Service(
        tmp_path_factory.mktemp("impatient"),
        ANALYTICS_CLICKHOUSE_DSN=NOWHERE,
        ANALYTICS_KEEPALIVE_TIMEOUT=1,
        ANALYTICS_HEADER_TIMEOUT=6,
    ).start()
    yield service
    service.end()


@pytest.mark.parametrize(
    "request_",
    [
        post(),
        INNER,
        post(BODY, "Content-Encoding: identity"),
        head(CHUNKED) + CHUNKS,
        post(b"{}"),
        head(method="GET", path=STATS, token="no"),
        post() + INNER,
        INNER + post(),
    ],
)
def test_an_idle_client_is_closed_in_time_and_nothing_bad_is_said_of_it(impatient: Service, request_: bytes) -> None:
    idle, overdue = closed(impatient, "idle"), closed(impatient, "overdue")
    with connect(impatient) as begun, connect(impatient) as connection:
        begun.sendall(b"POST ")
        connection.sendall(request_)
        assert statuses(read_to_end(connection))
        begun.sendall(post()[5:])
        assert statuses(begun.recv(65536)) == [200], "it had more time"
    assert closed(impatient, "idle") > idle
    assert closed(impatient, "overdue") == overdue
    assert "slowly" not in impatient.log()


def test_a_client_that_never_sends_is_closed_and_nothing_bad_is_said_of_it(service: Service) -> None:
    idle = closed(service, "idle")
    with connect(service) as connection:
        assert read_to_end(connection) == b""
    assert closed(service, "idle") > idle


def closed(service: Service, reason: str) -> float:
    return scrape(service).get("analytics_connections_closed_total", default=0, reason=reason)
