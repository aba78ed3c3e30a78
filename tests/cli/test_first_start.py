"""A first start makes access tokens when it takes events: one that failed makes none, and the next shows them."""

import re
import socket
import stat
import sys
from collections.abc import Callable

import pytest

from tests.cli.test_start import NOWHERE
from tests.support import wait_until
from tests.support.clickhouse import ClickHouseServer, free_port
from tests.support.service import Service

Make = Callable[..., Service]
NO_TOKENS = {"ANALYTICS_WRITE_TOKENS": "", "ANALYTICS_READ_TOKENS": ""}
ON_A_TERMINAL = (
    sys.executable,
    "-c",
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
)


def fail(service: Service, prefix: tuple[str, ...] = ()) -> str:
    """A start that ends with 1; its last line."""
    service.start(wait=False, prefix=prefix)
    process = service.process
    assert process
    assert process.wait(30) == 1, service.log()
    assert not (service.data / "tokens.json").exists()
    assert not (service.data / "first-tokens.txt").exists()
    assert "token" not in service.log()
    return service.log().splitlines()[-1]


def shown(service: Service) -> str:
    """The token to write, as the start showed it."""
    if (service.data / "first-tokens.txt").exists():
        return (service.data / "first-tokens.txt").read_text().split()[1]
    found = re.search(r"write token, shown only now: (\S+)", service.log())
    assert found, service.log()
    return found[1]


@pytest.mark.parametrize("prefix", [(), ON_A_TERMINAL], ids=["no terminal", "terminal"])
def test_a_start_on_a_port_that_is_taken_makes_none_and_the_next_start_shows_them(
    make_service: Make, prefix: tuple[str, ...]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = make_service(NOWHERE, ANALYTICS_PORT=taken.getsockname()[1], **NO_TOKENS)
        assert "can't listen on" in fail(service, prefix)
    service.environment["ANALYTICS_PORT"] = "0"
    service.start(prefix=prefix)
    assert service.post({"event_name": "hello"}, token=shown(service)).status == 200
    assert stat.S_IMODE((service.data / "tokens.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("workers", [1, 2])
def test_a_start_that_clickhouse_refuses_makes_none_and_the_next_start_shows_them(
    make_service: Make, own_server: ClickHouseServer, workers: int
) -> None:
    wrong = own_server.dsn("analytics", "writer", "wrong")
    service = make_service(wrong, ANALYTICS_WORKERS=workers, **NO_TOKENS)
    assert "AUTHENTICATION_FAILED" in fail(service)
    service.environment["ANALYTICS_CLICKHOUSE_DSN"] = own_server.dsn("analytics")
    service.start()
    token = shown(service)
    for _ in range(10):  # some for each worker
        assert service.post({"event_name": "hello"}, token=token).status == 200
    assert service.stop() == 0
    service.start()
    assert service.post({"event_name": "hello"}, token=token).status == 200
    assert service.log().count("first access tokens") == 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("file", ["tokens.json", "first-tokens.txt"])
def test_tokens_that_cannot_be_handed_over_end_the_start_and_the_next_one_makes_others(
    make_service: Make, server_dsn: str, workers: int, file: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=workers, **NO_TOKENS)
    in_the_way = service.data / f".{file}.tmp"
    in_the_way.mkdir(parents=True)
    service.start(wait=False)
    assert service.process
    assert service.process.wait(30) == 1
    line = service.log().splitlines()[-1]
    assert line.startswith("analytics: ")
    assert f"{file} can't be written" in line
    assert "Traceback" not in service.log()
    assert not (service.data / "tokens.json").exists()
    in_the_way.rmdir()
    service.start()
    assert service.post({"event_name": "hello"}, token=shown(service)).status == 200


def test_a_first_start_that_is_killed_before_it_takes_events_has_made_none(make_service: Make) -> None:
    service = make_service(NOWHERE, **NO_TOKENS)
    service.start(wait=False)
    wait_until(lambda: (service.data / "lock").exists())
    service.kill()
    service.start()
    assert service.post({"event_name": "hello"}, token=shown(service)).status == 200


def test_host_and_port_of_the_command_win_over_the_settings(make_service: Make) -> None:
    port = free_port()
    service = make_service(NOWHERE, ANALYTICS_PORT="wrong", ANALYTICS_HOST="host.invalid")
    service.arguments = ("--host", "127.0.0.1", "--port", str(port))
    service.start()
    assert service.port == port
    assert service.post({"event_name": "hello"}).status == 200
