"""The lock under which events with ids that clients made are inserted: one INSERT at a time, over all workers.

What ClickHouse has already is looked up right before an INSERT (``repeats``). Did two workers do that at the same time,
neither would see the other's events, and an event that a client sent to both would be stored twice. For the same reason
no INSERT may begin while an earlier one, whose answer nobody heard, may still come into the table. So the lock knows
which INSERT is in flight, and whoever has the lock settles that one first: with the same token, so that ClickHouse
stores it once.

The lock is ``flock`` on the folder: a worker that dies lets go of it, and nobody deletes it. What is in flight is known
in memory that the workers share, so that a disk that takes no writes stops nobody, and in a file, so that it is known
after a kill -9 of all of them.
"""

import asyncio
import fcntl
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from service.errors import StartError
from service.worker import NOTE_BYTES, Worker

#: Seconds between two looks whether the lock is free; an INSERT takes ten times that.
LOOK_EVERY = 0.005
#: On the board: whether a worker waits.
WAITING = "waiting for the lock"
_log = logging.getLogger(__name__)


class DedupLock:
    """The lock of a worker. ``path`` is the file of all of them. Raises StartError."""

    def __init__(self, path: Path, worker: Worker) -> None:
        self._worker = worker
        self._path = path
        self._memory = worker.counters.note if worker.counters else memoryview(bytearray(last_note(path)))
        try:
            self._lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._fd = self._open()
        except OSError as error:
            raise StartError(f"{path} can't be opened ({error.strerror or error}): mend the disk") from None
        worker.publish(WAITING, 0)

    @property
    def in_flight(self) -> str:
        """The token of the INSERT that may still come into the table; empty if there is none."""
        return self.attempt.split(" ")[0]

    @property
    def attempt(self) -> str:
        """The same, and which try of it: each has another text."""
        return bytes(self._memory).decode(errors="replace").strip("\0 -")

    def begin(self, token: str) -> None:
        """Note, before it is sent, that this INSERT is in flight. Needs the lock."""
        self._note(f"{token} {secrets.token_hex(4)}")

    def end(self) -> None:
        """Note that it is answered. Needs the lock."""
        self._note("-")

    def _note(self, text: str) -> None:
        note = text.encode().ljust(NOTE_BYTES)
        self._memory[:] = note
        try:
            if not os.fstat(self._fd).st_nlink:  # somebody has deleted it
                deleted, self._fd = self._fd, self._open()
                os.close(deleted)
            os.pwrite(self._fd, note, 0)  # as many bytes as there are: works on a full disk
            os.fdatasync(self._fd)
        except OSError as error:
            _log.warning("what is in flight can't be noted on disk: %s", error)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Have the lock. It is let go of in any case; what is in flight stays noted until it is answered."""
        if self._worker.publish(WAITING, 1):
            await asyncio.sleep(2 * LOOK_EVERY)  # if we had it last, they take it now
        try:
            while not self._take():  # noqa: ASYNC110  # the lock of other processes has no event
                await asyncio.sleep(LOOK_EVERY)
        finally:
            self._worker.publish(WAITING, 0)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Take the lock no more."""
        for fd in (self._lock, self._fd):
            with suppress(OSError):  # it is closed, whatever the disk says
                os.close(fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def last_note(path: Path) -> bytes:
    """What the last life of the service had in flight, as the file says. Raises StartError."""
    try:
        return path.read_bytes()[:NOTE_BYTES].ljust(NOTE_BYTES)
    except FileNotFoundError:
        return b" " * NOTE_BYTES
    except OSError as error:
        raise StartError(f"{path} can't be read ({error.strerror or error}): mend the disk") from None
