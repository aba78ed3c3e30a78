"""Turns: of several workers, one at a time inserts events with ids that clients made.

What ClickHouse has already is looked up right before an insert (``repeats``). Did two workers do that at the same
time, neither would see the other's events, and one that a client sent to both would be stored twice. So a worker
takes a turn before it looks up, and gives it back when ClickHouse has answered the insert.

Whose turn it is stands in a file. A worker that dies in its turn keeps it: ClickHouse may still be at its insert.
The worker that is started in its place tries that batch first, with the same token, and gives the turn back then.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from service.errors import StartError
from service.leftovers import adopter_of
from service.worker import Worker

#: Seconds between two looks whether the turn is free; an insert takes ten times that.
LOOK_EVERY = 0.005
#: On the board: whether a worker waits.
WAITING = "waiting for the turn"
_NOBODY = "-"


def prepare(path: Path, count: int) -> None:
    """At a start, before the workers: who has adopted the batches of a worker that is no more has its turn too.

    Raises StartError.
    """
    if count == 1:
        with suppress(OSError):  # a turn that is left over is over when its worker has nothing pending
            path.unlink(missing_ok=True)
        return
    try:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            held = _read(fd)
            _write(fd, str(adopter_of(int(held), count)) if held.isdecimal() else _NOBODY)
        finally:
            os.close(fd)
    except OSError as error:
        raise StartError(f"{path} can't be written ({error.strerror or error}): mend the disk") from None


class Turns:
    """The turns of a worker. ``path`` is the file of all of them."""

    def __init__(self, path: Path, worker: Worker) -> None:
        self._worker = worker
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._perhaps_ours = True
        worker.tell(WAITING, 0)

    @asynccontextmanager
    async def mine(self) -> AsyncIterator[None]:
        """Have the turn. One who is cancelled keeps it: what ClickHouse made of the insert nobody knows."""
        if self._worker.tell(WAITING, 1):
            await asyncio.sleep(2 * LOOK_EVERY)  # if we had it last, they take it now
        try:
            while not self._take():  # noqa: ASYNC110  # the file of others has no event
                await asyncio.sleep(LOOK_EVERY)
        finally:
            self._worker.tell(WAITING, 0)
        try:
            yield
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._write(_NOBODY)
            raise
        self._write(_NOBODY)

    def settle(self) -> None:
        """All batches of this worker are inserted: if it died in its turn, that is over."""
        if self._perhaps_ours:
            self._perhaps_ours = False
            if self._read() == str(self._worker.number):
                self._write(_NOBODY)

    def close(self) -> None:
        """Take no more turns."""
        os.close(self._fd)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            number = str(self._worker.number)
            if self._read() not in (number, _NOBODY):
                return False
            self._write(number)
            return True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _read(self) -> str:
        return _read(self._fd)

    def _write(self, text: str) -> None:
        _write(self._fd, text)


def _read(fd: int) -> str:
    return os.pread(fd, 16, 0).decode(errors="replace").strip()


def _write(fd: int, text: str) -> None:
    os.pwrite(fd, f"{text:<7}\n".encode(), 0)  # as many bytes as there are: works on a full disk
