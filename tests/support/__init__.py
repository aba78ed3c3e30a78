"""What tests share: waiting, real ClickHouse servers, real service processes."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(
    condition: Callable[[], Result | None], seconds: float = 15, say: Callable[[], str] | None = None
) -> Result:
    """The first true result of ``condition``; AssertionError if there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            raise AssertionError(say() if say else f"not within {seconds} s: {condition}")
        time.sleep(0.02)
