"""More clients than the process has descriptors for: refused at once, and spool and ClickHouse keep theirs."""

import resource
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack

from tests.support import wait_until
from tests.support.service import Service
from tests.support.wire import connect, open_files, post, read_to_end, statuses

NOWHERE = "http://127.0.0.1:1/analytics"
#: Runs a command with a small limit of file descriptors, soft and hard.
FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")


def is_refused(connection: socket.socket) -> bool:
    """Whether the service has said no, unasked."""
    poll = select.poll()  # select() takes no descriptor beyond 1023
    poll.register(connection, select.POLLIN)
    if not poll.poll(0):
        return False
    received = read_to_end(connection)
    assert statuses(received) == [503]
    assert b"\r\nRetry-After: 1\r\n" in received
    return True


def test_connections_over_the_cap_are_refused_at_once_until_others_end(make_service: Callable[..., Service]) -> None:
    service = make_service(NOWHERE, ANALYTICS_MAX_CONNECTIONS=3).start()
    with ExitStack() as stack:
        taken = [stack.enter_context(connect(service)) for _ in range(3)]
        for connection in taken:
            connection.sendall(post())
            assert statuses(connection.recv(65536)) == [200]
        for _ in range(50):
            with connect(service) as refused:
                assert statuses(read_to_end(refused)) == [503]
        taken[0].sendall(post())
        assert statuses(taken[0].recv(65536)) == [200]
        taken[1].close()

        def is_taken() -> bool:
            with connect(service) as again:
                again.sendall(post())
                return statuses(again.recv(65536)) == [200]

        wait_until(is_taken)
    assert service.log().count("refused a connection") == 1


def test_clients_cannot_use_up_the_descriptors_of_the_spool_and_of_clickhouse(
    make_service: Callable[..., Service], server_dsn: str
) -> None:
    service = make_service(server_dsn).start(prefix=FEW_DESCRIPTORS)
    with ExitStack() as stack:
        first = stack.enter_context(connect(service))
        first.sendall(post())
        assert statuses(first.recv(65536)) == [200]
        others = [stack.enter_context(connect(service)) for _ in range(400)]
        refused = set()

        def count_refused() -> bool:
            refused.update(one for one in others if one not in refused and is_refused(one))
            return len(refused) == 400 - 127  # half of 256, less the first

        wait_until(count_refused)
        for _ in range(20):
            first.sendall(post())
            assert statuses(first.recv(65536)) == [200]
        assert open_files(service) < 256
    wait_until(lambda: open_files(service) < 128)
    service.wait_for_total(21)
    assert "can be taken" not in service.log()


def test_a_lack_of_descriptors_is_one_line_in_a_while_and_passes(make_service: Callable[..., Service]) -> None:
    service = make_service(NOWHERE).start()
    assert service.process
    with connect(service) as held:
        held.sendall(post())
        assert statuses(held.recv(65536)) == [200]
        soft, hard = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (open_files(service), hard))
        with connect(service) as waiting:
            waiting.sendall(post())
            wait_until(lambda: "no connection can be taken" in service.log())
            held.sendall(post())
            assert statuses(held.recv(65536)) == [200]
            resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
            assert statuses(waiting.recv(65536)) == [200], "it waited, and was taken"
    assert service.log().count("no connection can be taken") == 1
    assert "Traceback" not in service.log()
