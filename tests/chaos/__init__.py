"""The nemesis: random faults under random load, and at the end the check of the whole set. The seed is printed.

    make chaos SEED=7 SECONDS=600

The seed decides which faults come in which order and what the clients send; when exactly they meet is up to the
machine. ``world`` has the machines and their disks, ``client`` the load, ``nemesis`` the faults, ``check`` the end.
"""

import itertools
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.chaos.check import Told, check
from tests.chaos.client import OUTCOMES, Client, Sent
from tests.chaos.nemesis import TABLE_RULES, VIEW_RULES, Nemesis
from tests.chaos.world import OtherWriter, World

CLIENTS = 4
#: A disk in memory, where it has room for both images: that of the machine may be too slow to go through much.
_MEMORY, _IMAGES_BYTES = Path("/dev/shm"), 4 * 2**30


def make_folder() -> Path:
    """A folder for one run."""
    fits = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _IMAGES_BYTES
    return Path(tempfile.mkdtemp(prefix="chaos-", dir=_MEMORY if fits else None))


def run(folder: Path, seed: int, seconds: float) -> str:
    """The report of a run that ended well; AssertionError tells what did not."""
    chance = random.Random(seed)
    settings = {"FLUSH_INTERVAL": chance.choice([0.2, 0.5, 1]), "BATCH_SIZE": chance.choice([250, 1000, 10_000])}
    window = chance.choice([100, 100, 10_000])
    world = World(folder, {f"ANALYTICS_{name}": str(value) for name, value in settings.items()})
    stop, numbers, again = threading.Event(), itertools.count(), Sent()
    clients = [Client(world, f"{seed}/{number}", stop, numbers, again) for number in range(CLIENTS)]
    other = OtherWriter(world, stop)
    nemesis = Nemesis(world, chance)
    try:
        world.begin(chance.randint(1, 3), window, chance.sample(TABLE_RULES + VIEW_RULES, 2))
        for thread in (*clients, other):
            thread.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            nemesis.strike()
        stop.set()
        for thread in (*clients, other):
            thread.join(60)
            assert not thread.is_alive()
        world.settle()
        acknowledged, refused, unknown = (set().union(*(one.outcomes[kind] for one in clients)) for kind in OUTCOMES)
        told = Told(acknowledged, refused, unknown, sum((one.by_port for one in clients), Counter()))
        report = check(world, told)
        return f"{report}; {again.times} sent again; window {window}, {settings}; {dict(sorted(world.faults.items()))}"
    finally:
        stop.set()
        world.end()
