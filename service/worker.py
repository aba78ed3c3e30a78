"""A worker: one of the processes that take events on one port. Usually it is the only one."""

import mmap
from collections.abc import Iterable
from dataclasses import dataclass

#: Bytes of the note on the board.
NOTE_BYTES = 64


class SharedCounters:
    """Whole numbers that each worker tells the others, in memory that all of them share.

    Made before the workers, which inherit it. Each number has one writer, so nothing needs a lock; what a worker
    wrote stays when it dies.
    """

    def __init__(self, workers: int, names: Iterable[str], note: bytes = b"") -> None:
        self.names = tuple(dict.fromkeys(names))
        self._workers = workers
        self._rows = {name: row * workers for row, name in enumerate(self.names)}
        self._numbers = memoryview(mmap.mmap(-1, max(1, 8 * workers * len(self._rows)))).cast("q")
        #: A text of whoever has the dedup lock.
        self.note = memoryview(mmap.mmap(-1, NOTE_BYTES))
        self.note[: len(note)] = note

    def put(self, name: str, worker: int, number: int) -> None:
        """Tell the others."""
        self._numbers[self._rows[name] + worker] = number

    def get(self, name: str, worker: int) -> int:
        """What that worker told last, be it before it died; 0 if it told nothing yet."""
        return self._numbers[self._rows[name] + worker]

    def of_others(self, name: str, worker: int) -> int:
        """The sum of what all but that worker told."""
        row = self._rows[name]
        return sum(self._numbers[row : row + self._workers]) - self._numbers[row + worker]


@dataclass(frozen=True)
class Worker:
    """Which worker a process is: its number, from 0, of how many; and the board, if it is not the only one."""

    number: int = 0
    count: int = 1
    counters: SharedCounters | None = None

    def publish(self, name: str, number: int) -> int:
        """Tell the others a number of ours; the sum of theirs."""
        if self.counters is None:
            return 0
        self.counters.put(name, self.number, number)
        return self.counters.of_others(name, self.number)


ALONE = Worker()
#: Names of numbers on the board; the events taken with each access token are there too, by the token's name.
SPOOL_BYTES, CONNECTIONS = "spool bytes", "connections"


def taken_with(token: str) -> str:
    """The name, on the board, of how many events were taken with that access token."""
    return f"taken with {token}"
