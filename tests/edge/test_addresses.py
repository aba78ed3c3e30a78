"""Where the service listens, and what it says of that; and folders with names that mean something elsewhere."""

import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_start import NOWHERE, refused, run
from tests.support.service import Service

Make = Callable[..., Service]
LOOPBACKS = {"4": "127.0.0.1", "6": "::1"}


def reached(service: Service) -> str:
    """The families by which it is reached."""
    found = ""
    for family, address in LOOPBACKS.items():
        try:
            with socket.create_connection((address, service.port), 10) as client:
                client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                found += family if client.recv(1000).startswith(b"HTTP/1.1 200") else ""
        except ConnectionRefusedError:
            pass
    return found


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("host", "families", "shown"),
    [
        ("::", "46", "[::1]"),
        ("0.0.0.0", "4", "127.0.0.1"),  # noqa: S104
        ("localhost", "46", "localhost"),
        ("::1", "6", "[::1]"),
        ("127.0.0.1", "4", "127.0.0.1"),
    ],
)
def test_the_host_says_which_families_are_taken_and_the_address_shown_works(
    make_service: Make, server_dsn: str, host: str, families: str, shown: str, workers: int
) -> None:
    if workers > 1 and host not in ("::", "localhost"):
        return
    service = make_service(server_dsn, ANALYTICS_HOST=host, ANALYTICS_WORKERS=workers).start()
    if host == "localhost":
        families = "".join("6" if ":" in one[4][0] else "4" for one in socket.getaddrinfo(host, 1, type=1))
    assert sorted(reached(service)) == sorted(families)
    assert f"takes events at http://{shown}:{service.port}\n" in service.log()


def test_an_ipv6_address_that_is_not_there_is_told(tmp_path: Path) -> None:
    line = refused(run(tmp_path, "serve", ANALYTICS_HOST="2001:db8::1", ANALYTICS_CLICKHOUSE_DSN=NOWHERE))
    assert "this machine has no such IPv6 address" in line


@pytest.mark.parametrize(
    "environment", [{"ANALYTICS_DATA_DIR": "a?b=c"}, {"ANALYTICS_CLICKHOUSE_DSN": "chdb:///x/a%3Fb"}]
)
def test_a_folder_that_the_embedded_clickhouse_takes_for_another_is_refused(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    line = refused(run(tmp_path, "serve", **{"ANALYTICS_CLICKHOUSE_DSN": "chdb://", **environment}))
    assert "with a question mark in its path" in line
    assert list(tmp_path.iterdir()) == []


def test_a_dsn_with_a_fragment_is_refused(tmp_path: Path) -> None:
    assert "it has a #" in refused(run(tmp_path, "serve", ANALYTICS_CLICKHOUSE_DSN="chdb:///folder#more"))


def test_tables_are_in_the_data_folder_whatever_its_name_is(make_service: Make) -> None:
    name = "a%41 #&'\"\\ äö\nb=c"
    service = make_service(ANALYTICS_DATA_DIR=name)
    service.data = service.folder / name
    service.start()
    assert service.post({"event_name": "e"}).status == 200
    service.wait_for_total(1)
    assert re.search(r"  data       .*\\xe4\\xf6\\nb=c\n|  data       .*äö\\nb=c\n", service.log())
    assert {path.name for path in service.folder.iterdir()} == {name, "output.log"}
    folders = [service.data, *(path for path in service.data.iterdir() if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert list((service.data / "clickhouse").iterdir())
    assert service.stop() == 0
