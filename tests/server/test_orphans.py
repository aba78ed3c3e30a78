"""The service as process 1 of a container, which inherits what loses its parent there; and as an exec of a shell."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.service import Service
from tests.support.workers import children_of, pids, wait_for_all

Make = Callable[..., Service]
#: A process 1 that is killed with what started it.
PROCESS_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
#: Orphans at a time.
ORPHANS = 50


def orphans(process_1: int, count: int) -> set[int]:
    """Start so many processes in its namespace, whose parent ends at once."""
    before = set(children_of(process_1))
    inside = ["nsenter", f"--target={process_1}", "--pid"]
    leave = f"for n in $(seq {count}); do setsid sleep 1000 <&- >&- 2>&- & done"
    subprocess.run([*inside, "sh", "-c", leave], check=True)
    made = wait_until(lambda: len(found := set(children_of(process_1)) - before) == count and found)
    assert made
    return made


def process_1_of(service: Service) -> int:
    assert service.process
    [pid] = children_of(service.process.pid)
    assert "NSpid:" in (status := Path(f"/proc/{pid}/status").read_text())
    assert next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == "1"
    return pid


@pytest.mark.parametrize("workers", [1, 2])
def test_process_1_of_a_container_reaps_orphans_and_forgets_them(
    make_service: Make, server_dsn: str, workers: int
) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=workers).start(prefix=PROCESS_1)
    one = process_1_of(service)
    ours = set(children_of(one))
    found = orphans(one, ORPHANS)
    for pid in list(found)[::2]:
        os.kill(pid, signal.SIGSTOP)  # a child that is stopped has not ended
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: set(children_of(one)) == ours, say=lambda: f"{children_of(one)} {service.log()[-2000:]}")
    assert service.post({"event_name": "e"}).status == 200
    assert "ended" not in service.log()
    service.wait_for_total(1)


def test_orphans_that_end_during_a_stop_change_nothing(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2).start(prefix=PROCESS_1)
    wait_for_all(service)
    one = process_1_of(service)
    found = orphans(one, ORPHANS)
    os.kill(one, signal.SIGTERM)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    assert service.process
    assert service.process.wait(40) == 0, service.log()
    assert "Traceback" not in service.log()


def test_a_child_from_before_the_exec_is_no_worker(make_service: Make, server_dsn: str) -> None:
    shell = ("sh", "-c", 'sleep 1000 & exec "$@"', "sh")
    service = make_service(server_dsn, ANALYTICS_WORKERS=2).start(prefix=shell)
    everyone = set(pids(service))
    [strange] = (pid for pid in everyone if "sleep" in Path(f"/proc/{pid}/comm").read_text())
    os.kill(strange, signal.SIGKILL)
    wait_until(lambda: set(pids(service)) == everyone - {strange}, say=service.log)
    assert service.post({"event_name": "e"}).status == 200
    assert service.stop() == 0


def test_a_worker_that_a_signal_without_a_name_ends_is_started_anew(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2).start()
    first = pids(service)[0]
    number = signal.SIGRTMIN + 5
    os.kill(first, number)
    wait_until(lambda: first not in pids(service) and len(pids(service)) == 2, say=service.log)
    wait_for_all(service)
    assert f"was ended by signal {number}; it will be restarted" in service.log()
    assert service.stop() == 0
