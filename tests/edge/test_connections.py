"""Clients that are slow, many, or gone: each bound on time, bytes and connections holds, and is let go again."""

import contextlib
import gzip
import select
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.service import Service
from tests.support.wire import connect, exchange, head, open_files, post, read_to_end, resident_bytes, statuses

NOWHERE = "http://127.0.0.1:1/analytics"
BIG = 100_000
UNFINISHED = head(f"Content-Length: {BIG}")
CLOSE = "Connection: close"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests of time and bytes. Two large bodies leave no room for a third."""
    service = Service(
        tmp_path_factory.mktemp("connections"),
        ANALYTICS_CLICKHOUSE_DSN=NOWHERE,
        ANALYTICS_MAX_BODY_BYTES=BIG,
        ANALYTICS_MAX_INFLIGHT_BYTES=BIG * 5 // 2,
        ANALYTICS_BODY_TIMEOUT=2,
        ANALYTICS_HEADER_TIMEOUT=1,
    ).start()
    yield service
    service.end()
    log = service.log()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
    assert '"status": 500' not in log


def drip(connection: socket.socket, byte: bytes, seconds: float = 20) -> bytes:
    """Send the byte again and again until the service closes; what it said."""
    deadline = time.monotonic() + seconds
    received = b""
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError):
            connection.sendall(byte)
        if select.select([connection], [], [], 0.05)[0]:
            try:
                part = connection.recv(65536)
            except ConnectionError:
                return received
            if not part:
                return received
            received += part
    raise AssertionError(f"held for {seconds} s, having said {received!r}")


# -- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent", [b"", b"POST /api", head()[:-4], b"\r\n" * 1000], ids=["nothing", "line", "head", "CRLF"]
)
def test_a_connection_without_a_whole_head_is_closed(service: Service, sent: bytes) -> None:
    assert exchange(service, [sent], 20) == b""


def test_a_dripped_head_is_closed(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(head()[:-4] + b"\r\nX: ")
        assert drip(connection, b"a") == b""


def test_a_dripped_head_after_an_answer_is_closed(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(post())
        assert statuses(connection.recv(65536)) == [200]
        connection.sendall(head()[:-4] + b"\r\nX: ")
        assert drip(connection, b"a") == b""


def test_a_connection_that_has_had_an_answer_may_be_idle_for_longer(service: Service) -> None:
    with connect(service) as kept, connect(service) as fresh:
        for _ in range(2):
            kept.sendall(post())
            assert statuses(kept.recv(65536)) == [200]
            assert read_to_end(fresh) == b"", "closed after the header timeout"


@pytest.mark.parametrize("framing", ["Content-Length: 90000", "Transfer-Encoding: chunked"])
def test_a_dripped_body_is_given_up(service: Service, framing: str) -> None:
    with connect(service) as connection:
        connection.sendall(head(framing) + (b"FFFF\r\n" if "chunked" in framing else b""))
        received = drip(connection, b" ")
    assert statuses(received) == [408]
    assert b"Connection: close" in received


def test_a_client_that_pipelines_and_takes_no_answer_is_closed_and_costs_no_memory(service: Service) -> None:
    memory = resident_bytes(service)
    requests = head(method="GET", path="/livez") * 2000
    with connect(service) as connection:
        connection.setblocking(False)

        def is_cut() -> bool:
            try:
                connection.send(requests)
            except BlockingIOError:
                assert resident_bytes(service) < memory + 16 * 2**20
            except ConnectionError:
                return True
            return False

        wait_until(is_cut, 30)


def test_five_hundred_idle_connections_are_closed_and_disturb_nobody(service: Service) -> None:
    before, memory = open_files(service), resident_bytes(service)
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(connect(service))
        assert service.post({"event_name": "x"}).status == 200
        wait_until(lambda: open_files(service) <= before)
        assert resident_bytes(service) < memory + 16 * 2**20


def test_hoarded_heads_are_bounded_in_memory_and_usual_ones_are_taken(service: Service) -> None:
    memory = resident_bytes(service)
    large = head(*(f"X{index}: {'a' * 7000}" for index in range(56)))[:-4]
    with ExitStack() as stack:
        for _ in range(300):  # 117 MB
            connection = stack.enter_context(connect(service))
            with contextlib.suppress(ConnectionError):
                connection.sendall(large)
            assert resident_bytes(service) < memory + 100 * 2**20
        assert service.post({"event_name": "x"}).status == 200
    assert "unfinished heads" in service.log()


# -- bytes ------------------------------------------------------------------------------------


@contextlib.contextmanager
def two_unfinished(service: Service) -> Iterator[list[socket.socket]]:
    """Two large bodies that are on their way, and known to be."""
    with connect(service) as first, connect(service) as second:
        for connection in (first, second):
            connection.sendall(head(f"Content-Length: {BIG}", "Expect: 100-continue"))
            assert statuses(connection.recv(65536)) == [100]
        yield [first, second]


def refused_for_bytes(service: Service) -> bool:
    with connect(service) as connection:
        connection.sendall(head(f"Content-Length: {BIG}", "Expect: 100-continue"))
        received = connection.recv(65536)
    assert statuses(received) in ([100], [503])
    return statuses(received) == [503]


def test_a_body_over_the_budget_is_refused_before_it_is_sent_and_small_ones_are_taken(service: Service) -> None:
    with two_unfinished(service):
        with connect(service) as third:
            third.sendall(UNFINISHED)
            received = third.recv(65536)
        assert statuses(received) == [503]
        assert b"\r\nRetry-After: 1\r\n" in received
        assert b"nothing of this request was kept" in received
        assert service.post({"event_name": "x"}).status == 200


def test_a_body_in_chunks_counts_as_it_comes(service: Service) -> None:
    with two_unfinished(service):
        chunk = b"EA60\r\n" + b" " * 60_000 + b"\r\n"
        assert statuses(exchange(service, [head("Transfer-Encoding: chunked", CLOSE) + chunk])) == [503]


def test_a_packed_body_counts_as_unpacked(service: Service) -> None:
    with two_unfinished(service):
        packed = gzip.compress(b" " * 60_000)
        assert statuses(exchange(service, [post(packed, "Content-Encoding: gzip", CLOSE)])) == [503]


def test_bytes_are_free_again_when_the_clients_are_gone_and_that_is_no_error(service: Service) -> None:
    with two_unfinished(service):
        assert refused_for_bytes(service)
    wait_until(lambda: not refused_for_bytes(service))
    assert '"level": "error"' not in service.log()


def test_bytes_are_free_again_when_the_time_is_up(service: Service) -> None:
    with two_unfinished(service) as connections:
        assert refused_for_bytes(service)
        for connection in connections:
            assert statuses(read_to_end(connection)) == [408]
        assert not refused_for_bytes(service)


@pytest.mark.parametrize(
    "bad", [post(b" " * BIG), post(b"x" * BIG, "Content-Encoding: gzip"), head("Transfer-Encoding: chunked") + b"zz"]
)
def test_bytes_are_free_again_after_an_error(service: Service, bad: bytes) -> None:
    for _ in range(5):
        with connect(service) as connection:
            connection.sendall(bad + b"\r\n" * 2)
            assert statuses(connection.recv(65536))[0] in (400, 422)
    wait_until(lambda: not refused_for_bytes(service))


def test_a_bomb_without_token_is_not_unpacked(service: Service) -> None:
    pack = zlib.compressobj(1, wbits=31)
    bomb = b"".join([*(pack.compress(bytes(2**20)) for _ in range(256)), pack.flush()])
    unpacking = time.process_time()
    assert len(zlib.decompress(bomb, 31)) == 2**28
    unpacking = time.process_time() - unpacking
    before, memory = cpu_seconds(service), resident_bytes(service)
    request = head("Content-Encoding: gzip", f"Content-Length: {len(bomb)}", CLOSE, token="no") + bomb
    assert statuses(exchange(service, [request])) == [401]
    assert cpu_seconds(service) - before < unpacking
    assert resident_bytes(service) < memory + 16 * 2**20


def cpu_seconds(service: Service) -> float:
    assert service.process
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
