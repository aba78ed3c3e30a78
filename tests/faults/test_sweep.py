"""A sample of the sweep over every disk call, by a seed that is printed; `make sweep SEED=…` goes on with it."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.support import seed_of
from tests.support.disk_calls import CALLS, WRITES

ROOT = Path(__file__).parents[2]
#: What strace shows of a call on a file: its name, and the path, of the file or after its descriptor.
SHOWN = re.compile(r'^(\d+) +(\w+)\((?:AT_FDCWD(?:<[^>]*>)?, )?(?:\d+<([^>]*)>|"([^"]*)")(.*)$')
SAME = dict.fromkeys(("lstat", "fstat", "newfstatat", "statx"), "stat")
SAME |= {"mkdirat": "mkdir", "renameat": "rename", "renameat2": "rename", "unlinkat": "unlink", "rmdir": "unlink"}


def sweep(*arguments: str) -> str:
    """What the command prints. It runs apart from the tests: who forks must have no threads."""
    command = [sys.executable, "-m", "tests.sweep", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def test_a_disk_call_that_fails_or_is_the_last_loses_nothing_and_doubles_nothing() -> None:
    seed = seed_of("SWEEP")
    print(sweep(f"--seed={seed}", "--seconds=12"))


def test_the_sweep_knows_every_disk_call_of_the_service(tmp_path: Path) -> None:
    """What strace sees of a life, the sweep counts too: no call could fail unswept."""
    log = tmp_path / "strace.log"
    said = json.loads(sweep(f"--strace={log}").splitlines()[-1])
    counted = Counter((call, path) for call, path in said["calls"])
    seen: Counter[tuple[str, str]] = Counter()
    before: dict[tuple[str, str], str] = {}  # the call before it, by thread and path
    for line in log.read_text(errors="replace").splitlines():
        if not (found := SHOWN.match(line)) or not (path := found[3] or found[4] or "").startswith(f"{said['data']}/"):
            continue
        thread, call, by_descriptor, arguments = found[1], SAME.get(found[2], found[2]), found[3], found[5]
        last = before.get((thread, path))
        if call == "openat" and "O_DIRECTORY" in arguments and "O_NONBLOCK" in arguments:
            call = "list"  # a listing is one call in Python
        elif last in ("list", "listed"):
            if call == "getdents64" and last == "list":
                seen[call, path] += 1
            call = "closed" if call == "close" else "listed" if call == "getdents64" else last
        elif call == "stat" and by_descriptor and last in ("openat", "looked"):
            call = "looked"  # Python itself, which opens or reads a file
        # The count for people is written past `os`: to open its file is what can fail of it.
        elif not (call in WRITES and path.endswith("/flushed.tmp")):
            seen[call, path] += 1
        before[thread, path] = call
    assert set(CALLS.values()) >= {call for call, _ in seen}
    assert {call for call, _ in seen} >= {"close", "stat", "getdents64", "rename"}
    assert len(seen) > 50
    assert not seen - counted
