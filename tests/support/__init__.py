"""What tests share: waiting, real ClickHouse servers, real service processes."""

import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(
    condition: Callable[[], Result | None], seconds: float = 15, say: Callable[[], str] | None = None
) -> Result:
    """Wait for the first true result of ``condition``; AssertionError if there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            raise AssertionError(say() if say else f"not within {seconds} s: {condition}")
        time.sleep(0.02)


def seed_of(test: str) -> int:
    """The seed of a random test: ANALYTICS_TEST_<test>_SEED; without it a fixed one in CI, elsewhere a new one."""
    drawn = 1 if os.environ.get("CI") else random.randrange(10**6)
    return int(os.environ.get(f"ANALYTICS_TEST_{test}_SEED", drawn))
