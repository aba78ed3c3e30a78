"""A service of several workers, and its processes."""

import http.client
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support import wait_until
from tests.support.service import BATCH, HEALTH, WRITE, Service


def pids(service: Service) -> list[int]:
    """The processes of the workers, the oldest first."""
    assert service.process
    return children_of(service.process.pid)


def children_of(parent: int) -> list[int]:
    """The child processes of a process, the oldest first."""
    return [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def kill_worker(service: Service, pid: int) -> None:
    """kill -9 a worker, and wait until all answer again."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in pids(service))
    wait_for_all(service)


def wait_for_all(service: Service) -> dict[str, Any]:
    """The health once every worker is well."""

    def found() -> dict[str, Any] | None:
        health: dict[str, Any] = service.get(HEALTH).json
        return health if health["status"] == "ok" and not health.get("workers", {}).get("silent") else None

    return wait_until(found, 20, lambda: f"{service.get(HEALTH)} {service.log()[-3000:]}")


@contextmanager
def posting_to(service: Service, number: int) -> Iterator[Callable[[list[Any]], None]]:
    """Posts batches to the worker of this number, one of the first: the kernel deals connections out."""
    pid = pids(service)[number]
    connection = wait_until(lambda: _connected_to(service, pid))

    def post(events: list[Any]) -> None:
        connection.request("POST", BATCH, json.dumps({"events": events}), {"Authorization": f"Bearer {WRITE}"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()

    try:
        yield post
    finally:
        connection.close()


def _connected_to(service: Service, pid: int) -> http.client.HTTPConnection | None:
    """A connection, if this process has taken it."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    connection.request("GET", "/livez")
    connection.getresponse().read()
    ends = f":{service.port:04X}", f":{connection.sock.getsockname()[1]:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    sockets = {f"socket:[{line[9]}]" for line in lines if line[1].endswith(ends[0]) and line[2].endswith(ends[1])}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if str(path.readlink()) in sockets:
                return connection
    connection.close()
    return None


def spools(service: Service) -> list[Path]:
    """The spools of all workers that ever existed, that of worker 0 first."""
    return [service.data / "spool", *sorted((service.data / "workers").glob("*/spool"))]


def segments(service: Service) -> dict[str, Path]:
    """Every segment on disk by its name."""
    found = [path for spool in spools(service) for path in spool.iterdir() if path.suffix in (".open", ".sealed")]
    names = {path.name.split(".")[0]: path for path in found}
    assert len(names) == len(found), "a name twice"
    return names
