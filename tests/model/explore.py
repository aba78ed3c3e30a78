"""Explores the model at random: many short lives, each with a seed. ``make model SECONDS=3600 SEED=7``."""

import argparse
import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.model.clickhouse import FATES
from tests.model.world import IDS, WORKERS_MAX, World

Action = tuple[str, tuple[Any, ...], dict[str, Any]]
#: A disk in memory: no life needs it to survive.
_QUICK = Path("/dev/shm")
#: What comes how often.
WEIGHTS = {
    "post": 10, "run": 12, "wait": 2, "fates": 5, "land": 2, "forget": 2, "mend": 0.3, "cut_clickhouse_power": 1,
    "kill": 1, "kill_in_flight": 3, "restart": 2, "start": 1, "cut_power": 0.5, "disk": 1,
}  # fmt: skip


def any_action(chance: random.Random) -> Action:
    """One of the actions of ``World``, with what it needs."""
    name = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    arguments: dict[str, Callable[[], tuple[Any, ...]]] = {
        "post": lambda: _events(chance),
        "run": lambda: (chance.choice([1, 3, 10, 40, 200]),),
        "wait": lambda: (chance.choice([0.1, 1.0, 30.0, 100.0]),),
        "fates": lambda: (chance.choices(FATES, k=chance.randint(1, 4)),),
        "forget": lambda: (chance.choice([1, 5]),),
        "land": lambda: (chance.randrange(4),),
        "kill_in_flight": lambda: (chance.choice([0, 0, 1, 2, 3, 4]),),
        "kill": lambda: (chance.randrange(WORKERS_MAX),),
        "restart": lambda: (chance.randrange(WORKERS_MAX),),
        "start": lambda: (chance.randint(1, WORKERS_MAX),),
        "cut_power": lambda: (random.Random(chance.random()),),
    }
    options: dict[str, Callable[[], dict[str, Any]]] = {
        "disk": lambda: {"read_only": chance.random() < 0.4},
        "kill_in_flight": lambda: {"anew": chance.random() < 0.7, "again": chance.randint(1, 3)},
    }
    return name, arguments.get(name, tuple)(), options.get(name, dict)()


def _events(chance: random.Random) -> tuple[int, str, list[int | None], int]:
    count = chance.randint(1, 5)
    names = "".join(chance.choices("gbv", chance.choice([[12, 1, 1], [3, 1, 0]]), k=count))
    with_ids = chance.choice([0.0, 0.0, 0.5, 1.0])
    many = chance.choice(IDS)
    ids = [chance.randint(1, many) if chance.random() < with_ids else None for _ in range(count)]
    return chance.randrange(WORKERS_MAX), names, ids, chance.choice([0, 0, 0, 0, 1, 2])


def live(folder: Path, actions: list[Action]) -> None:
    """One life; AssertionError says what went wrong."""
    world = World(folder)
    try:
        for name, args, options in actions:
            getattr(world, name)(*args, **options)
        world.settle()
        world.check()
    finally:
        world.close()


def life_of(seed: str) -> list[Action]:
    """The actions of a seed."""
    chance = random.Random(seed)
    first: Action = "start", (chance.randint(1, WORKERS_MAX),), {}
    return [first, *(any_action(chance) for _ in range(chance.randint(5, 60)))]


def failure(seed: str, actions: list[Action]) -> str | None:
    """What goes wrong in this life, if anything."""
    folder = Path(tempfile.mkdtemp(prefix="model-", dir=_QUICK if _QUICK.is_dir() else None))
    try:
        live(folder / "data", actions)
    except AssertionError as error:
        return str(error).splitlines()[0] if str(error) else "an assertion failed"
    except Exception as error:  # noqa: BLE001 - the service's own code met what it did not expect
        return repr(error)
    finally:
        shutil.rmtree(folder)
    return None


def shrink(seed: str, actions: list[Action]) -> list[Action]:
    """As few of the actions as still go wrong."""
    size = len(actions) // 2
    while size:
        start = 0
        while start < len(actions):
            fewer = actions[:start] + actions[start + size :]
            if failure(seed, fewer):
                actions = fewer
            else:
                start += size
        size //= 2
    return actions


def explore(seed: int, seconds: float, lives: int = 10**9) -> tuple[int, str | None]:
    """How many lives were lived, and the first that went wrong, in words."""
    until = time.monotonic() + seconds
    for number in range(lives):
        if time.monotonic() > until:
            return number, None
        name = f"{seed}/{number}"
        actions = life_of(name)
        if found := failure(name, actions):
            steps = "\n".join(
                f"  {action} {args or ''} {options or ''}" for action, args, options in shrink(name, actions)
            )
            return number + 1, f"life {name}: {found}\n{steps}"
    return lives, None


def main() -> None:
    """The command behind `make model`."""
    parser = argparse.ArgumentParser(description="random lives of segments, each checked at its end")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    lived, found = explore(arguments.seed, arguments.seconds)
    print(f"seed {arguments.seed}: {lived} lives")
    if found:
        sys.exit(f"FAILED, {found}")


if __name__ == "__main__":
    main()
