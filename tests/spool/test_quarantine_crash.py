"""kill -9 of the command and of the service at each step of a retry: no row is lost, none is stored twice.

The steps are those at the head of ``service/spool/quarantine.py``; strace kills at the n-th call of one kind.
"""

import os
import random
import subprocess
from collections import Counter
from collections.abc import Callable

import pytest

from tests.spool.test_crash import injection
from tests.support import wait_until
from tests.support.quarantine import Rig
from tests.support.service import ANALYTICS, Service

Make = Callable[..., Service]
ROWS = ("poison-1", "poison-2", "poison-3")
#: fsync: the spool's folder, the new file, the folder `retry`, the quarantine. rename: the retry. unlink: the entries.
STEPS_OF_RETRY = [*(("fsync", n) for n in (1, 2, 3, 4)), ("rename", 1), *(("unlink", n) for n in (1, 2, 3))]
#: fsync: the folder `retry`, the quarantine, the segment, the spool, the folder `retry`. rename: the segment into the
#: spool. unlink: the entries that the command has left, the file in `retry`.
STEPS_OF_TAKING = [*(("fsync", n) for n in (1, 2, 3, 4, 5)), ("rename", 1), *(("unlink", n) for n in (1, 3, 4))]


@pytest.fixture
def rig(make_service: Make, server_dsn: str) -> Rig:
    # without bytecode files, so that the n-th rename is one of its own
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=0.05, PYTHONDONTWRITEBYTECODE=1)
    rig = Rig(service.start(), server_dsn)
    rig.post(*ROWS, "good")
    rig.settle(3)
    rig.mend()
    return rig


def check_all_are_stored_once(rig: Rig) -> None:
    rig.run_again()
    rig.settle(0)
    assert rig.stored() == Counter([*ROWS, "good"])


@pytest.mark.parametrize(
    ("state", "call", "number"),
    [*(("running", *step) for step in STEPS_OF_RETRY), *(("stopped", *step) for step in STEPS_OF_RETRY[2:6])],
)
def test_the_command_killed_at_any_step_of_a_retry(rig: Rig, state: str, call: str, number: int) -> None:
    if state == "stopped":
        rig.service.stop()
    killed = rig.command("retry", "--all", prefix=injection(call, number, "signal=KILL"))
    assert killed.returncode == -9
    assert rig.command("retry", "--all").returncode == 0
    assert rig.listed() == []
    check_all_are_stored_once(rig)


@pytest.mark.parametrize(("call", "number"), [("unlink", 1), ("unlink", 3), ("fsync", 2)])
def test_the_command_killed_while_it_drops_has_named_what_is_gone(rig: Rig, call: str, number: int) -> None:
    before = rig.names()
    killed = rig.command("drop", "--all", prefix=injection(call, number, "signal=KILL"))
    assert killed.returncode == -9
    assert set(before) - set(rig.names()) <= set(killed.stdout.splitlines())
    left = len(rig.names())
    assert rig.command("retry", "--all").returncode == 0
    rig.settle(0)
    assert rig.stored().total() == 1 + left


@pytest.mark.parametrize(("call", "number"), STEPS_OF_TAKING)
def test_the_service_killed_at_any_step_of_taking_rows_back_at_its_start(rig: Rig, call: str, number: int) -> None:
    rig.service.stop()
    killed = rig.command("retry", "--all", prefix=injection("unlink", 1, "signal=KILL"))
    assert killed.returncode == -9
    assert len(rig.names()) == 3
    assert rig.listed() == [], "they are on their way, though the command could not delete them"
    assert rig.command("drop", "--all").stdout == ""
    rig.service.start(wait=False, prefix=injection(call, number, "signal=KILL"))
    assert rig.service.process
    assert rig.service.process.wait(30) == -9
    assert rig.command("retry", "--all").returncode == 0
    check_all_are_stored_once(rig)


# Each thread's calls are counted apart; a first fsync would end the start. The second rename is that of the count.
@pytest.mark.parametrize(("call", "number"), [*(("fsync", n) for n in (2, 3, 4, 5)), ("rename", 1), ("rename", 2)])
def test_the_service_killed_at_any_step_of_taking_rows_back_as_it_runs(rig: Rig, call: str, number: int) -> None:
    rig.service.stop()
    rig.service.start(prefix=injection(call, number, "signal=KILL"))
    assert rig.command("retry", "--all").returncode == 0
    process = rig.service.process
    assert process
    wait_until(lambda: process.poll() is not None, 15, lambda: f"never came to {call} {number}")
    assert rig.command("retry", "--all").returncode == 0
    check_all_are_stored_once(rig)


@pytest.mark.parametrize("call", ["unlink", "rename", "fsync"])
def test_a_disk_that_refuses_while_rows_are_taken_back_only_delays_them(rig: Rig, call: str) -> None:
    rig.service.stop()
    number = 1 if call == "rename" else 2  # else the start's own
    rig.service.start(prefix=injection(call, number, "error=ENOSPC"))
    assert rig.command("retry", "--all").returncode == 0
    check_all_are_stored_once(rig)
    assert "rows that return from the quarantine must wait: [Errno 28]" in rig.service.log()


def test_a_command_waits_for_one_that_is_at_work(rig: Rig) -> None:
    environment = os.environ | {"ANALYTICS_DATA_DIR": str(rig.service.data), "PYTHONDONTWRITEBYTECODE": "1"}
    before = rig.names()
    slow = [*injection("rename", 1, "delay_enter=2000000"), ANALYTICS, "quarantine", "retry", "--all"]
    retry = subprocess.Popen(slow, env=environment, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: list((rig.service.data / "retry").iterdir()))
    assert rig.command("drop", "--all").stdout == ""
    assert retry.communicate()[0].split() == before
    check_all_are_stored_once(rig)


@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_moments_while_rows_go_back_and_forth(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)
    environment = os.environ | {"ANALYTICS_DATA_DIR": str(rig.service.data)}
    rig.refuse()
    sent = [*ROWS, "good"]
    for number in range(8):
        names = [f"{dice.choice(('poison', 'good'))}-{number}-{index}" for index in range(20)]
        rig.post(*names)
        sent += names
        command = subprocess.Popen([ANALYTICS, "quarantine", "retry", "--all"], env=environment, stdout=-1, stderr=-1)
        try:
            command.communicate(timeout=dice.uniform(0.2, 0.8))
        except subprocess.TimeoutExpired:
            command.kill()
            command.communicate()
        if dice.random() < 0.6:
            rig.service.kill()
            rig.service.start()
    rig.mend()
    wait_until(lambda: rig.command("retry", "--all").returncode == 0 and not rig.listed())
    rig.settle(0)
    assert rig.stored() == Counter(sent)
