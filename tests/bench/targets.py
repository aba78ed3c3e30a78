"""What benchmarks share: servers pinned to one core, what they use, and wrk and ClickHouse on the other."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from tests.bench.corpus import EVENTS_PER_BATCH, batch_bodies, single_bodies, write_wrk_script
from tests.machine import find
from tests.support import wait_until
from tests.support.clickhouse import ClickHouseServer, free_port
from tests.support.service import BATCH, EVENTS, WRITE, Service

SERVER_CORE, LOAD_CORE = 0, 1
SEED = 20_260_921


class Kind(NamedTuple):
    """A kind of load: where it goes, and how many events a request has."""

    name: str
    path: str
    events: int


SINGLE, BATCHES = Kind("single", EVENTS, 1), Kind("batch", BATCH, EVENTS_PER_BATCH)
KINDS = (SINGLE, BATCHES)


class Target(NamedTuple):
    """A running server; ``service`` if it is ours."""

    name: str
    pid: int
    port: int
    service: Service | None = None

    def rss(self) -> int:
        """Resident memory in bytes; of several workers, of all."""
        lines = [line for pid in family(self.pid) for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

    def cpu(self) -> float:
        """Seconds of CPU used so far; of several workers, by all."""
        return cpu_seconds(self.pid)


def family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU that a process and its children have used, of user and system."""
    stats = (Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in family(pid))
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


def stay_on_load_core() -> None:
    """Pin this process, and all that it starts without ``on_server_core``, to the load's core, if there are two."""
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {LOAD_CORE})


def on_server_core() -> tuple[str, ...]:
    """The command that pins another to the servers' core."""
    return ("taskset", "--cpu-list", str(SERVER_CORE)) if (os.cpu_count() or 1) > 1 else ()


@contextmanager
def peer(kind: str) -> Iterator[Target]:
    """A running peer: fastapi or bare."""
    port = free_port()
    process = subprocess.Popen([*on_server_core(), sys.executable, "-m", "tests.bench.peers", kind, str(port)])

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            assert process.poll() is None, f"{kind} ended with {process.returncode}"
            return False
        return True

    try:
        wait_until(answers, 30)
        yield Target("peer" if kind == "fastapi" else kind, process.pid, port)
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def clickhouse(folder: Path) -> Iterator[ClickHouseServer]:
    """A running ClickHouse server, on the core of this process."""
    server = ClickHouseServer(folder / "clickhouse").start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def service(folder: Path, name: str, dsn: str, workers: int = 1) -> Iterator[Target]:
    """The running service with its default settings; if it has several workers, on all cores."""
    environment = {"ANALYTICS_FLUSH_INTERVAL": "1.0", "ANALYTICS_WORKERS": workers}
    ours = Service(folder / name, ANALYTICS_CLICKHOUSE_DSN=dsn, **environment)
    everywhere = ("taskset", "--cpu-list", f"0-{(os.cpu_count() or 1) - 1}")
    try:
        ours.start(prefix=on_server_core() if workers == 1 else everywhere)
        assert ours.process
        yield Target(name, ours.process.pid, ours.port, ours)
        ours.stop()
    finally:
        ours.end()


@contextmanager
def all_targets(folder: Path, names: list[str]) -> Iterator[dict[str, Target]]:
    """The servers of these names, running."""
    with ExitStack() as stack:
        started: dict[str, Target] = {}
        server: ClickHouseServer | None = None
        for name in names:
            if name in ("peer", "bare"):
                started[name] = stack.enter_context(peer("fastapi" if name == "peer" else name))
            elif name in ("server", "workers"):
                server = server or stack.enter_context(clickhouse(folder))
                workers = 2 if name == "workers" else 1
                started[name] = stack.enter_context(service(folder, name, server.dsn(f"bench_{name}"), workers))
            else:
                started[name] = stack.enter_context(service(folder, name, "chdb://"))
        yield started


def write_scripts(folder: Path, bodies: int = 2000) -> dict[str, Path]:
    """The wrk script of each kind of load."""
    made = {SINGLE: single_bodies(bodies, SEED), BATCHES: batch_bodies(max(1, bodies // 10), SEED)}
    return {kind.name: write_wrk_script(folder, kind.path, made[kind], WRITE) for kind in KINDS}


def wrk(target: Target, script: Path, seconds: float, connections: int) -> dict[str, Any]:
    """Load a target as fast as it answers; what wrk counted. Every answer must be 2xx."""
    command = [find("wrk"), "--threads=1", f"--connections={connections}", f"--duration={max(1, round(seconds))}s"]
    command += ["--timeout=10s", f"--script={script}", f"http://127.0.0.1:{target.port}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not found["refused"], f"{target.name} refused {found['refused']} requests: {done.stdout}"
    assert not found["broken"], f"{target.name} broke {found['broken']} connections: {done.stdout}"
    return found


def percentiles(values: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def markdown(head: list[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
