"""A worker: one of the processes that take events on one port. Usually it is the only one."""

import mmap
from collections.abc import Iterable
from dataclasses import dataclass

#: Bytes of the shared note.
NOTE_BYTES = 64


class SharedCounters:
    """Whole numbers that each worker publishes to the others, in memory that all of them share.

    Made before the workers, which inherit it. Each number has one writer, so no lock is needed. What a worker wrote
    stays when it dies.
    """

    def __init__(self, workers: int, names: Iterable[str], note: bytes = b"") -> None:
        self.names = tuple(dict.fromkeys(names))
        self._workers = workers
        self._rows = {name: row * workers for row, name in enumerate(self.names)}
        self._numbers = memoryview(mmap.mmap(-1, max(1, 8 * workers * len(self._rows)))).cast("q")
        #: A text written by whoever holds the dedup lock.
        self.note = memoryview(mmap.mmap(-1, NOTE_BYTES))
        self.note[: len(note)] = note

    def put(self, name: str, worker: int, number: int) -> None:
        """Publish a number of that worker."""
        self._numbers[self._rows[name] + worker] = number

    def get(self, name: str, worker: int) -> int:
        """The last number of that worker, even if it has died; 0 if there is none yet."""
        return self._numbers[self._rows[name] + worker]

    def of_others(self, name: str, worker: int) -> int:
        """The sum of the numbers of all other workers."""
        row = self._rows[name]
        return sum(self._numbers[row : row + self._workers]) - self._numbers[row + worker]


@dataclass(frozen=True)
class Worker:
    """Which worker a process is: its number, from 0; how many there are; and their counters, if there are several."""

    number: int = 0
    count: int = 1
    counters: SharedCounters | None = None

    def publish(self, name: str, number: int) -> int:
        """Publish a number of ours; return the sum of the others'."""
        if self.counters is None:
            return 0
        self.counters.put(name, self.number, number)
        return self.counters.of_others(name, self.number)


ALONE = Worker()
#: Names of shared numbers. The events taken with each access token are shared too, under the token's name.
SPOOL_BYTES, CONNECTIONS = "spool bytes", "connections"


def taken_with(token: str) -> str:
    """The name of the shared number of events taken with that access token."""
    return f"taken with {token}"
