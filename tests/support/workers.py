"""A service of several workers, and its processes."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.support import wait_until
from tests.support.service import HEALTH, Service


def pids(service: Service) -> list[int]:
    """The processes of the workers, the oldest first."""
    assert service.process
    return children_of(service.process.pid)


def children_of(parent: int) -> list[int]:
    """The processes that a process is the parent of, the oldest first."""
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


def spools(service: Service) -> list[Path]:
    """The spools of all workers that there ever were, that of worker 0 first."""
    return [service.data / "spool", *sorted((service.data / "workers").glob("*/spool"))]


def segments(service: Service) -> dict[str, Path]:
    """Every segment on disk by its token."""
    found = [path for spool in spools(service) for path in spool.iterdir() if path.suffix in (".open", ".sealed")]
    tokens = {path.name.split(".")[0]: path for path in found}
    assert len(tokens) == len(found), "a token twice"
    return tokens
