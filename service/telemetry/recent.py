"""Values measured in the last minutes, for a current median: counts since the start would not show it."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence


class Recent:
    """Values of the last ``seconds``, at most the ``most`` latest."""

    def __init__(self, seconds: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._values: deque[tuple[float, float]] = deque(maxlen=most)  # when, what

    def add(self, value: float) -> None:
        """Remember a value."""
        self._values.append((self._clock(), value))

    def values(self) -> list[float]:
        """Those that are still recent, oldest first."""
        since = self._clock() - self._seconds
        while self._values and self._values[0][0] < since:
            self._values.popleft()
        return [value for _, value in self._values]


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` of the values don't exceed; None if there are none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None
