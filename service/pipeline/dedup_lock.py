"""The lock under which events with ids that clients made are inserted: one INSERT at a time, over all workers.

Repeats are looked up right before an INSERT (``dedup``). If two workers did that at the same time, neither would see
the other's events, and an event that a client sent to both would be stored twice. For the same reason no INSERT may
begin while an earlier one without an answer may still reach the table. So the lock notes which INSERT is in flight.
Whoever has the lock sends that one again first, with the same token, so that ClickHouse stores it once.

The lock is ``flock`` on the folder: the kernel releases it when a worker dies, and nobody deletes it. The INSERT in
flight is noted in memory that the workers share, so that a disk that takes no writes stops nobody, and in a file, so
that the note survives a kill -9 of all workers.
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

#: Seconds between two attempts to take the lock; an INSERT takes ten times that.
LOOK_EVERY = 0.005
#: The shared counter that says whether a worker waits.
WAITING = "waiting for the lock"
_log = logging.getLogger(__name__)


class DedupLock:
    """A worker's handle of the lock. ``path`` is the file with the note, one for all workers. Raises StartError."""

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
        """The token of the INSERT that may still reach the table; empty if there is none."""
        return self.attempt.split(" ")[0]

    @property
    def attempt(self) -> str:
        """The same, and a text that tells each try from the others."""
        return bytes(self._memory).decode(errors="replace").strip("\0 -")

    def begin(self, token: str) -> None:
        """Note, before it is sent, that this INSERT is in flight. Needs the lock."""
        self._note(f"{token} {secrets.token_hex(4)}")

    def end(self) -> None:
        """Note that it has been answered. Needs the lock."""
        self._note("-")

    def _note(self, text: str) -> None:
        note = text.encode().ljust(NOTE_BYTES)
        self._memory[:] = note
        try:
            if not os.fstat(self._fd).st_nlink:  # somebody has deleted it
                deleted, self._fd = self._fd, self._open()
                os.close(deleted)
            os.pwrite(self._fd, note, 0)  # the file does not grow: this works on a full disk
            os.fdatasync(self._fd)
        except OSError as error:
            _log.warning("the INSERT in flight can't be noted on disk: %s", error)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the lock. It is released in any case; the INSERT in flight stays noted until it is answered."""
        if self._worker.publish(WAITING, 1):
            await asyncio.sleep(2 * LOOK_EVERY)  # if we had the lock last, let them take it now
        try:
            while not self._take():  # noqa: ASYNC110  # a lock of other processes sends no event
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
        """Stop using the lock."""
        for fd in (self._lock, self._fd):
            with suppress(OSError):  # it is closed, whatever the disk says
                os.close(fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def last_note(path: Path) -> bytes:
    """What an earlier run of the service had in flight, according to the file. Raises StartError."""
    try:
        return path.read_bytes()[:NOTE_BYTES].ljust(NOTE_BYTES)
    except FileNotFoundError:
        return b" " * NOTE_BYTES
    except OSError as error:
        raise StartError(f"{path} can't be read ({error.strerror or error}): mend the disk") from None
